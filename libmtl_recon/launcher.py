"""Running a LibMTL script, unmodified, in this process, with the plugin registered."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import libmtl_recon.plugin
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.plugin.observing import Observer, observe
from libmtl_recon.problems import BUILT_IN, path_of

_INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


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
    try:
        path = find_script(script)
        code = compile(path.read_bytes(), str(path), "exec")
        with observe(trainer, *observers), _as_main(path, args) as main:
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
    except Exception as error:  # noqa: BLE001  # whatever the script raised, shown as Python does
        _print_exception(error)
        return 1
    return 0


def find_script(script: str | Path) -> Path:
    """The file of a script given by its path or, for a built-in problem, by its name.

    Raises:
        UsageError: There is no such file or problem, or it is not Python source.
    """
    path = Path(script)
    if path.is_file():
        try:
            path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(
                "SCRIPT",
                "must be a Python source file",
                str(script),
                "Name the script's .py file.",
            ) from error
        return path
    if str(script) in BUILT_IN:
        return path_of(str(script))
    raise UsageError(
        "SCRIPT",
        "must be the path of a LibMTL script or the name of a built-in problem",
        str(script),
        f"There is no such file here; the built-in problems are {', '.join(BUILT_IN)}.",
    )


@contextmanager
def _as_main(path: Path, args: Sequence[str]) -> Iterator[ModuleType]:
    """A fresh ``__main__`` for the script, with its ``sys.argv`` and ``sys.path[0]``."""
    main = ModuleType("__main__")
    main.__file__ = str(path)
    vars(main)["__builtins__"] = __builtins__
    saved = sys.argv, sys.path[:], sys.modules["__main__"]
    sys.argv = [str(path), *args]
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


def _print_exception(error: Exception) -> None:
    frames: TracebackType | None = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    # A syntax error in the script itself has no frame but ours, and shows its own place.
    if isinstance(error, SyntaxError) and frames is not None and "compile" in repr(frames):
        frames = None
    traceback.print_exception(type(error), error, frames)
