"""The server of forks.py: all in memory, nothing run; each request becomes a fork of it.

A fork ends as any Python does (it waits for threads, runs exit handlers, flushes, and dies of a
SIGINT that nobody has caught), except that it frees nothing, which takes longer than all the rest.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import types
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

_LOOK = 0.01  # seconds between looks whether a fork has ended


def serve(listening: socket.socket) -> list[str] | None:
    """Fork for each request until the tests end; in a fork, return its command line."""
    while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            return _watched(connection)
        connection.close()
    return None


def _watched(connection: socket.socket) -> list[str]:
    """Return in one more fork; this process passes signals to it and says how it ended."""
    size, streams, *_ = socket.recv_fds(connection, 4, 3)
    request = connection.makefile("rb").read(int.from_bytes(size, "big"))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    number = os.fork()
    if number == 0:
        connection.close()
        return _become(*json.loads(request), streams)
    for stream in (0, 1, 2, *streams):
        os.close(stream)
    done, status = 0, 0
    while not done:
        if select.select([connection], [], [], _LOOK)[0]:
            # Nothing comes from a client that was killed.
            os.kill(number, ord(connection.recv(1) or bytes([signal.SIGKILL])))
        done, status = os.waitpid(number, os.WNOHANG)
    with suppress(BrokenPipeError):  # of a client that was killed
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(
    words: list[str], folder: str, environment: dict[str, str], streams: list[int]
) -> list[str]:
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.modules["numpy"].random.seed()  # Python's own generator is seeded anew in a fork
    if words[0] == "-u":
        sys.stdout.reconfigure(write_through=True)
        return words[1:]
    return words


def run(words: list[str]) -> None:
    """Run what stands behind ``python`` on a command line."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    first, *rest = words
    if first == "-m":
        sys.argv, sys.path[0] = rest, str(Path.cwd())
        runpy._run_module_as_main(rest[0])
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        exec(compile(rest[0], "<string>", "exec", dont_inherit=True), vars(main))
    else:
        sys.argv, sys.path[0] = words, os.path.realpath(Path(first).parent)
        vars(main)["__file__"] = first
        exec(compile(Path(first).read_bytes(), first, "exec", dont_inherit=True), vars(main))


def end(error: BaseException | None) -> NoReturn:
    """End as Python does, after this was raised."""
    status = 0
    if isinstance(error, SystemExit):
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        place = error.__traceback__
        while place is not None and place.tb_frame.f_code.co_filename == __file__:
            place = place.tb_next
        sys.excepthook(type(error), error.with_traceback(place), place)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = 120
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    listening = socket.socket(fileno=int(sys.argv[1]))
    import libmtl_recon.cli.tables
    import libmtl_recon.conflicts.plot

    if sys.argv[2:] == ["without LibMTL"]:
        import scipy.optimize  # noqa: F401
        import torchvision  # noqa: F401
    else:
        import libmtl_recon.integrations.libmtl.preload
        import libmtl_recon.integrations.libmtl.scoring  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that watch
    gc.collect()
    gc.freeze()
    asked = serve(listening)
    if asked is not None:
        raised: BaseException | None = None
        try:
            run(asked)
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is shown
            raised = error
        end(raised)
