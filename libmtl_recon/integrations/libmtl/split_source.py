"""The checkpoint that describes how ``--arch Recon`` splits: of ``extract``, or of a flag."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from libmtl_recon.conflicts.layers import ROOT
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.splitting.checkpoint import Checkpoint, read_checkpoint
from libmtl_recon.splitting.spec import SplitSpec
from libmtl_recon.texts import shorten

LOAD = "--load_path"
START = "--recon_from"

# The checkpoint for which the next model is built; set by `extract`.
_expected: list[Checkpoint] = []


@dataclass(frozen=True)
class SplitSource:
    """The specification of a network's split, and the checkpoint that contains it.

    Attributes:
        source: The flag and the file, for messages.
        spec: The checkpoint's specification.
    """

    source: str
    spec: SplitSpec

    def __str__(self) -> str:
        return f"as {self.source} says"  # shown where LibMTL prints the arguments of a run


@contextmanager
def building_for(checkpoint: Checkpoint) -> Iterator[None]:
    """Split the first model that a script builds in the block as a checkpoint was split."""
    _expected.append(checkpoint)
    try:
        yield
    finally:
        _expected.clear()


def model_built() -> None:
    """End :func:`building_for` for its first model; the script decides about the next ones."""
    _expected.clear()


def split_source(load_path: Any, start: Any) -> SplitSource | None:
    """Return the description of how a run's network is split; None if no checkpoint has one.

    Args:
        load_path: The Trainer's ``load_path``, or None.
        start: The file of ``--recon_from``, or None.

    Raises:
        UsageError: There is no file at ``load_path``.
        ReconError: A file cannot be read or is damaged, or holds several split networks.
    """
    checkpoint = _checkpoint(load_path, start)
    if checkpoint is None or checkpoint.split is None:
        return None
    return SplitSource(checkpoint.source, checkpoint.split)


def refuse_unsaid(load_path: Any, start: Any) -> None:
    """Refuse a checkpoint of a split network without a description of the split or flags for it.

    Args:
        load_path: See :func:`split_source`.
        start: See :func:`split_source`.

    Raises:
        ReconError: It is of a split network, and does not describe how that was split.
    """
    checkpoint = _checkpoint(load_path, start)
    if checkpoint is not None and checkpoint.unsaid:
        raise unsaid(checkpoint)


def unsaid(checkpoint: Checkpoint) -> ReconError:
    """Return the error about a checkpoint of a split network without a description."""
    names = checkpoint.unsaid
    if all(f"{name}.".startswith("encoder.") for name in names):
        names = [name.removeprefix("encoder").removeprefix(".") or ROOT for name in names]
    return ReconError(
        f"{checkpoint.source} is of a network that is already split, but does not contain how: it "
        "was written by a tool that keeps only the tensors, or by an older libmtl-recon. Put the "
        f"{os.path.basename(checkpoint.source)}.split.json of the original next to it, or pass "  # noqa: PTH119
        f"--recon_k {len(names)} --recon_layers {shlex.quote(','.join(names))}, with the other "
        "flags with which it was trained."
    )


def _checkpoint(load_path: Any, start: Any) -> Checkpoint | None:
    checkpoint = next(iter(_expected), None)
    if checkpoint is None and load_path is not None:
        return read_checkpoint(LOAD, checkpoint_file(load_path))
    if checkpoint is None and start is not None:
        return read_checkpoint(START, start)
    return checkpoint


def checkpoint_file(given: str | os.PathLike[str]) -> str:
    """Return the file to load for a ``load_path``, which may be a folder with a ``best.pt``.

    Raises:
        UsageError: There is no such file.
    """
    from libmtl_recon.files import is_file, is_folder

    path = os.path.join(given, "best.pt") if is_folder(given) else os.fspath(given)  # noqa: PTH118
    if not is_file(path):
        raise UsageError(
            LOAD,
            "must be a checkpoint, or a folder with a best.pt",
            os.fspath(given),
            "Use the --save_path of the run that saved it.",
        )
    return path


def loads_models() -> bool:
    """Return whether ``--load_path`` is LibMTL's own flag, as on its main branch."""
    from libmtl_recon.integrations.libmtl.features import detect

    libmtl = sys.modules.get("LibMTL")
    return hasattr(libmtl, "Trainer") and detect(libmtl).saves_models  # type: ignore[arg-type]  # a module


def refuse_plain(split: SplitSource, architecture: str) -> None:
    """Refuse the checkpoint of a split network for an architecture that splits nothing.

    Raises:
        ReconError: Always.
    """
    spec = split.spec
    names = [f"{spec.root}.{name}" if spec.root else name for name in spec.layers]
    raise ReconError(
        f"{split.source} is of a network with {len(names)} task-specific layers "
        f"({shorten(names)}), all of which --arch {architecture} shares. Use --arch Recon, which "
        "splits them as described in the checkpoint, without further flags of Recon."
    )


def refuse_unloaded(split: SplitSource, load_path: Any) -> None:
    """Refuse to build a network from a ``--load_path`` that is not passed to the Trainer.

    Raises:
        UsageError: The Trainer is not given it.
    """
    if split.source.startswith(f"{LOAD} ") and load_path is None:
        raise UsageError(
            LOAD,
            "must be passed to LibMTL's Trainer by the script, but was not",
            split.source.removeprefix(f"{LOAD} "),
            "Write Trainer(..., load_path=params.load_path).",
        )
