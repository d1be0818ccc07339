"""Python command lines that run as forks of a server which has PyTorch and LibMTL in memory.

Python takes seconds to import both, a fork a tenth of one. All else is as in a process of its own:
arguments, working folder, environment, streams, signals, exit status. What is about a fresh
interpreter (what is imported, in which order, under which of Python's flags or our switches) needs
`sys.executable`.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

_SERVER, _CLIENT = Path(__file__).with_name("fork_server.py"), Path(__file__).with_name("fork.py")


@cache
def python(first_on_path: str = "", *, libmtl: bool = True) -> list[str]:
    """Return the replacement of ``sys.executable`` in the command line of a subprocess.

    Args:
        first_on_path: A folder from which to import before others, as by PYTHONPATH. A server has
            imported LibMTL, so another LibMTL needs another server.
        libmtl: Whether LibMTL is in memory. What this package does when LibMTL is imported may
            depend on the environment of the process: whether it is one of several ranks.
    """
    if not sys.platform.startswith("linux"):  # where forks of what has threads are not safe
        return [sys.executable]
    folder = tempfile.mkdtemp(prefix="forks-")
    place = str(Path(folder) / "socket")
    without = [] if libmtl else ["without LibMTL"]
    path = filter(None, [first_on_path, os.environ.get("PYTHONPATH", "")])
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place)
        listening.listen(64)
        server = subprocess.Popen(
            [sys.executable, str(_SERVER), str(listening.fileno()), *without],
            stdin=subprocess.PIPE,  # by whose end it knows that the tests have ended
            pass_fds=[listening.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )

    def end() -> None:
        server.communicate()
        shutil.rmtree(folder)

    atexit.register(end)
    return [sys.executable, "-IS", str(_CLIENT), place]
