"""Rank 0 alone prints, logs, warns and saves.

On the other ranks everything written to stdout is dropped, including what libraries write there
directly; argument parsers exit silently; and ``torch.save`` writes no file, and returns when rank 0
has written its own.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from libmtl_recon.integrations.libmtl.data_parallel import endings, group
from libmtl_recon.integrations.libmtl.data_parallel.environment import world

_saved = 0
# Seconds that a rank waits for a file of rank 0; a script may save on that rank alone.
_PATIENCE, _LOOK = 600.0, 0.02
_KEY = "libmtl_recon/saved/"
_MARK = "_libmtl_recon_of_ranks"


def be_quiet() -> None:
    """Stop all output of this process if it is not rank 0; calling it again is harmless.

    A single process is left as it is.
    """
    found = world()
    if found is None:
        return
    import torch

    if getattr(torch.save, _MARK, False):
        return
    torch.save = _save_once(torch.save, first=found.rank == 0)
    if found.rank == 0:
        return
    logging.getLogger("libmtl_recon").setLevel(logging.CRITICAL)
    warnings.showwarning = lambda *_, **__: None
    # All ranks get the same arguments, before they meet.
    argparse.ArgumentParser.error = _end_by_error  # type: ignore[assignment, method-assign]
    argparse.ArgumentParser.exit = _end  # type: ignore[assignment, method-assign]
    if sys.stdout is not None:
        sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    # A stdout that has no file descriptor, as in a test runner.
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  # until the end


def _save_once(save: Callable[..., None], *, first: bool) -> Callable[..., None]:
    @functools.wraps(save)
    def saved(*args: Any, **kwargs: Any) -> None:
        global _saved
        if not _is_file(args[1] if len(args) > 1 else kwargs.get("f")):
            save(*args, **kwargs)
            return
        _saved += 1
        if first:
            save(*args, **kwargs)
            if group.store() is not None:
                group.store().set(f"{_KEY}{_saved}", "")
            return
        until = time.monotonic() + _PATIENCE
        while group.store() is not None and not group.store().check([f"{_KEY}{_saved}"]):
            if time.monotonic() > until:
                raise TimeoutError(
                    f"Rank 0 has not saved file number {_saved}, which another rank waits for. "
                    "Save on all ranks, or on rank 0 only: files are written only there."
                )
            time.sleep(_LOOK)

    vars(saved)[_MARK] = True
    return saved


def _end_by_error(_: argparse.ArgumentParser, __: str) -> NoReturn:
    endings.end_along(2)


def _end(_: argparse.ArgumentParser, status: int = 0, message: str | None = None) -> NoReturn:
    endings.end_along(status)


def _is_file(target: Any) -> bool:
    """Return whether ``torch.save`` writes a file, and not into memory as pickling does."""
    if isinstance(target, str | os.PathLike):
        return True
    try:
        return isinstance(target.fileno(), int)
    except (AttributeError, OSError):
        return False
