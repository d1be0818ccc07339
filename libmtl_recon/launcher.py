"""Running a LibMTL script, unmodified, in this process, with the plugin registered."""

from __future__ import annotations

import builtins
import difflib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import libmtl_recon.plugin
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.plugin import arguments, parser
from libmtl_recon.plugin.observing import Observer, observe
from libmtl_recon.plugin.spawning import known_to_spawned_processes
from libmtl_recon.problems import BUILT_IN, path_of

_INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C
# Between the frames of a script and those of LibMTL, ours only pass calls on.
_OURS = os.path.join(os.path.dirname(__file__), "")  # noqa: PTH118, PTH120  # a prefix of file names


class StopRun(BaseException):
    """Raised by an observer to end the script early; the run counts as a success."""


class _TrainerSeen(Observer):
    def __init__(self) -> None:
        self.seen = False

    def built(self, trainer: Any) -> None:
        self.seen = True


def run_script(
    script: str | Path, args: Sequence[str] = (), *, observers: Sequence[Observer] = ()
) -> int:
    """Run a LibMTL script as ``python SCRIPT ARGS…`` would, with the plugin registered.

    ``sys.argv``, ``sys.path[0]``, ``__file__`` and ``__main__`` are the script's while it runs.
    Errors are printed on stderr: those of this package as one paragraph, those of the script
    with the script's own frames.

    Args:
        script: A path, or the name of a built-in problem.
        args: Its command-line arguments.
        observers: Told what happens in LibMTL's Trainer.

    Returns:
        The exit status: the script's own; 0 if an observer ended the run by :class:`StopRun`;
        130 after Ctrl-C; an error's :attr:`~libmtl_recon.ReconError.exit_status`; 1 for any
        other exception.

    Example:
        >>> run_script("main.py", ["--weighting", "GradOPS"])  # doctest: +SKIP
        0
    """
    libmtl_recon.plugin.activate()
    trainer = _TrainerSeen()
    hook = sys.excepthook
    try:
        path = find_script(script)
        # As its own source says and not as ours does, which postpones annotations.
        code = compile(path.read_bytes(), os.path.abspath(path), "exec", dont_inherit=True)  # noqa: PTH100  # as Python: links are kept
        with (
            observe(trainer, *observers),
            known_to_spawned_processes(),
            parser.put_back(),
            _as_main(path, args) as main,
        ):
            exec(code, vars(main))
        if not trainer.seen:
            raise ReconError(
                f"{path} ran to its end without building a LibMTL Trainer, so nothing was "
                "trained. A LibMTL script builds one with LibMTL.Trainer(...) and calls its "
                "train; see `libmtl-recon run multidigits` for a script that does."
            )
    except StopRun:
        return 0
    except SystemExit as request:
        return _status(request)
    except KeyboardInterrupt:
        print("libmtl-recon: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except ReconError as error:
        print(f"libmtl-recon: error: {error}", file=sys.stderr)
        return error.exit_status
    except BaseException as error:  # noqa: BLE001  # whatever the script raised, shown as Python does
        _strip_our_frames(error)
        # The script may have replaced the hook; by default it prints the traceback.
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    finally:
        sys.excepthook = hook
        arguments.forget_prepared()
    return 0


def find_script(script: str | Path) -> Path:
    """The file of a script given by its path or, for a built-in problem, by its name.

    Raises:
        UsageError: There is no such file or problem, or it is not Python source.
    """
    path = Path(script)
    if path.is_file():
        _refuse_what_is_no_source(path)
        return path
    name = str(script)
    if name in BUILT_IN:
        return path_of(name)
    if path.is_dir():
        raise UsageError(
            "SCRIPT",
            "must be a Python source file",
            name,
            "This is a folder: name the script in it, e.g. its main.py.",
        )
    close = difflib.get_close_matches(name, BUILT_IN, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    raise UsageError(
        "SCRIPT",
        "must be the path of a LibMTL script or the name of a built-in problem",
        name,
        f"{hint}There is no such file here; the built-in problems are {', '.join(BUILT_IN)}.",
    )


def _refuse_what_is_no_source(path: Path) -> None:
    try:
        text = importlib.util.decode_source(path.read_bytes())
    except OSError as error:
        raise UsageError(
            "SCRIPT",
            "must be a file that can be read",
            str(path),
            f"The system says: {error.strerror}.",
        ) from error
    except (SyntaxError, UnicodeDecodeError):  # an unknown encoding is a SyntaxError
        text = "\0"
    if "\0" in text:
        raise UsageError(
            "SCRIPT",
            "must be a Python source file",
            str(path),
            "This is no text in UTF-8 or in the encoding that it declares: name the script's "
            ".py file.",
        )


@contextmanager
def _as_main(path: Path, args: Sequence[str]) -> Iterator[ModuleType]:
    """A fresh ``__main__`` for the script, with its ``sys.argv`` and ``sys.path[0]``."""
    file = os.path.abspath(path)  # noqa: PTH100  # as Python: links are kept in __file__
    main = ModuleType("__main__")
    vars(main).update(
        __file__=file,
        __builtins__=builtins,
        __loader__=SourceFileLoader("__main__", file),
        __cached__=None,
    )
    saved = sys.argv, sys.path[:], sys.modules["__main__"]
    sys.argv = [str(path), *args]
    if not sys.flags.safe_path:  # with `python -P` no script's folder is on the path
        sys.path[:] = [str(path.resolve().parent), *sys.path[1:]]
    sys.modules["__main__"] = main
    try:
        yield main
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"] = saved


def _status(request: SystemExit) -> int:
    """The exit status that Python itself would give for this ``SystemExit``."""
    if request.code is None:
        return 0
    if isinstance(request.code, int):
        return request.code
    print(request.code, file=sys.stderr)
    return 1


def _strip_our_frames(error: BaseException) -> None:
    """Take the frames that only pass calls on out of an exception and those that led to it."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        found.__traceback__ = _without_our_frames(found.__traceback__)
        waiting += [found.__cause__, found.__context__]


def _without_our_frames(frames: TracebackType | None) -> TracebackType | None:
    every: list[TracebackType] = []
    while frames is not None:
        every.append(frames)
        frames = frames.tb_next
    # What was raised in our own code is a fault of ours and must be seen, with all that led to it.
    fault = bool(every) and _file(every[-1]) != __file__ and _file(every[-1]).startswith(_OURS)
    kept: TracebackType | None = None
    for frame in reversed(every):
        if _file(frame) != __file__ and (fault or not _passes_on(_file(frame))):
            kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept


def _passes_on(file: str) -> bool:
    """Whether this is a file of ours that is no script."""
    return file.startswith(_OURS) and not file.startswith(os.path.join(_OURS, "problems"))  # noqa: PTH118


def _file(frame: TracebackType) -> str:
    return frame.tb_frame.f_code.co_filename
