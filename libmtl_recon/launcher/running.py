"""One run of a script, from its first line to its exit status."""

from __future__ import annotations

import argparse
import atexit
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import libmtl_recon.integrations.libmtl
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.integrations.libmtl import arguments, parser, spawn
from libmtl_recon.integrations.libmtl.data_parallel import endings, environment, quiet
from libmtl_recon.integrations.libmtl.flags import collisions
from libmtl_recon.integrations.libmtl.hooks import StopRun, TrainerHook, trainer_hooks
from libmtl_recon.launcher.target import Target, as_main
from libmtl_recon.launcher.tracebacks import strip_our_frames
from libmtl_recon.output import INTERRUPTED, OutputError, of_stdout, warn


class _TrainerSeen(TrainerHook):
    on_every_rank = True

    def __init__(self) -> None:
        self.seen = False

    def built(self, trainer: Any) -> None:
        self.seen = True


def run_script(
    script: str | Path,
    args: Sequence[str] = (),
    *,
    hooks: Sequence[TrainerHook] = (),
    observers: Sequence[TrainerHook] | None = None,
) -> int:
    """Run a LibMTL script as ``python SCRIPT ARGS…`` would, with the plugin registered.

    While the script runs, ``sys.argv``, ``sys.path[0]``, ``__file__`` and ``__main__`` are set as
    for a program. Errors are printed on stderr: those of this package as one paragraph, those of
    the script with the script's own frames.

    Args:
        script: A path, or the name of a built-in problem.
        args: Its command-line arguments.
        hooks: Hooks that LibMTL's Trainer calls.
        observers: The deprecated name of ``hooks``.

    Returns:
        The exit status: the script's own; 0 if a hook ended the run by :class:`StopRun`;
        130 after Ctrl-C; 141 if a pipe that it prints to was closed; an error's
        :attr:`~libmtl_recon.ReconError.exit_status`; 1 for any other exception.

    Example:
        >>> run_script("main.py", ["--weighting", "GradOPS"])  # doctest: +SKIP
        0
    """
    return run(Target(str(script)), args, hooks=_hooks_in(hooks, observers))


def run_module(
    module: str,
    args: Sequence[str] = (),
    *,
    hooks: Sequence[TrainerHook] = (),
    observers: Sequence[TrainerHook] | None = None,
) -> int:
    """Run a module as ``python -m MODULE ARGS…`` would; see :func:`run_script`.

    Args:
        module: Its dotted name, or that of a package with a ``__main__``.
        args: Its command-line arguments.
        hooks: Hooks that LibMTL's Trainer calls.
        observers: The deprecated name of ``hooks``.
    """
    return run(Target(module, module=True), args, hooks=_hooks_in(hooks, observers))


def _hooks_in(
    hooks: Sequence[TrainerHook], observers: Sequence[TrainerHook] | None
) -> Sequence[TrainerHook]:
    if observers is None:
        return hooks
    warnings.warn(
        "The argument observers was renamed to hooks, and the old name will be removed in the "
        "next release: write hooks=[...].",
        DeprecationWarning,
        stacklevel=3,
    )
    return [*hooks, *observers]


def run(
    target: Target,
    args: Sequence[str] = (),
    *,
    hooks: Sequence[TrainerHook] = (),
    until_exit: bool = False,
) -> int:
    """Run a script or a module; see :func:`run_script`.

    Args:
        target: What to run.
        args: Its command-line arguments.
        hooks: Hooks that LibMTL's Trainer calls.
        until_exit: Keep the script's environment until this process ends, for the threads and the
        ``atexit`` handlers that it leaves behind.
    """
    quiet.be_quiet()
    libmtl_recon.integrations.libmtl.activate()
    trainer = _TrainerSeen()
    surroundings = ExitStack()
    surroundings.callback(arguments.forget_prepared)
    surroundings.callback(setattr, sys, "excepthook", sys.excepthook)
    surroundings.enter_context(parser.put_back())
    if until_exit:
        # Before those that the script registers, so that it runs after them.
        atexit.register(surroundings.close)
        spawn.start_forkserver_without_main()
    before = set(threading.enumerate())
    try:
        if target.demonstration and environment.world() is not None:
            raise UsageError(
                "SCRIPT",
                "must be a script that trains with LibMTL's Trainer under torchrun",
                target.name,
                f"Run `libmtl-recon run {target}` without torchrun.",
            )
        if target.demonstration and hooks:
            raise UsageError(
                "SCRIPT",
                "must be a script that trains with LibMTL's Trainer here",
                target.name,
                f"This one can only be run as `libmtl-recon run {target}`, without --single-task.",
            )
        surroundings.enter_context(trainer_hooks(trainer, *hooks))
        code, main = surroundings.enter_context(as_main(target, args))
        exec(code, vars(main))
        if not (trainer.seen or target.demonstration or _left_running(before)):
            raise ReconError(
                f"{target} ended without building a LibMTL Trainer, so nothing was trained. A "
                "LibMTL script builds one with LibMTL.Trainer(...), or with a subclass that "
                "calls Trainer's __init__ or train; see `libmtl-recon run multidigits` for an "
                "example."
            )
    except StopRun:
        return 0
    except SystemExit as request:
        return _status(request)
    except KeyboardInterrupt as interrupt:
        if endings.says_why(interrupt):
            warn("libmtl-recon: interrupted")
        return INTERRUPTED
    except endings.EndedElsewhere:
        return 1
    except ReconError as error:
        return _say(error)
    except argparse.ArgumentError as error:
        # From a parser of the script that has LibMTL's as a parent.
        ours = collisions.found_in(error)
        return _report(error) if ours is None else _say(ours)
    except BaseException as error:  # noqa: BLE001  # whatever the script raised, shown as Python does
        failed = of_stdout(error)
        return _report(error) if failed is None else _say(failed)
    finally:
        if not until_exit:
            surroundings.close()
    return 0


def _left_running(before: set[threading.Thread]) -> bool:
    """Return whether the script has left threads for which Python waits before it ends."""
    return any(not t.daemon for t in threading.enumerate() if t not in before)


def _say(error: ReconError | OutputError) -> int:
    if not endings.says_why(error):
        return error.exit_status
    if not (isinstance(error, OutputError) and error.quiet):
        warn(f"libmtl-recon: error: {error}")
    return error.exit_status


def _report(error: BaseException) -> int:
    if not endings.says_why(error):
        return 1
    if endings.is_lost_connection(error):
        warn(f"libmtl-recon: error: {endings.LOST}")
        return 1
    strip_our_frames(error)
    # The script may have replaced the hook; by default it prints the traceback.
    with suppress(OSError):  # stderr, too, may be a pipe that was closed
        sys.excepthook(type(error), error, error.__traceback__)
    return 1


def _status(request: SystemExit) -> int:
    """Return the exit status that Python would use for this ``SystemExit``."""
    if request.code is None or request.code == 0:
        return 0
    if isinstance(request.code, int):
        endings.before_leaving()
        return request.code
    if endings.says_why(request):
        warn(str(request.code))
    return 1
