"""Where the specification of a split lies: in its network's state dict, and beside the file.

In the state dict it is metadata, as PyTorch keeps the versions of modules: ``torch.save`` writes
it along, and ``load_state_dict`` passes it by. Tools that make a plain dict of a state dict lose
it; for these it lies in ``FILE.split.json`` beside the file.
"""

from __future__ import annotations

import functools
import os
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from libmtl_recon.conflicts.layers import ROOT, plain_name
from libmtl_recon.errors import ReconError
from libmtl_recon.files import is_file, read_text, refusal, write_atomically
from libmtl_recon.splitting.per_task_output import entries_apart
from libmtl_recon.splitting.spec import SplitSpec
from libmtl_recon.splitting.task_selection import TaskSelection
from libmtl_recon.splitting.task_specific import CHILD

# The key in the metadata of a state dict.
KEY = "libmtl_recon_split"
_ENDING = ".split.json"
_OUT = "Remove it to split by other means, or put the right one in its place."


def keep_in_state_dicts(network: nn.Module, selection: TaskSelection) -> None:
    """Have every state dict of a split network, or of what holds it, say how it was split.

    Args:
        network: The one whose layers the names in the specification are of.
        selection: Has the specification.
    """
    network.register_state_dict_post_hook(functools.partial(_note, selection))


def spec_of(network: nn.Module) -> SplitSpec | None:
    """How a network was split, or the one part of it that was; None if none or several were."""
    found = specs_in("The network", network.state_dict())
    return next(iter(found.values())) if len(found) == 1 else None


def specs_in(source: str, state_dict: Any) -> dict[str, SplitSpec]:
    """How the networks in a state dict were split, by their paths in it.

    Args:
        source: What it is called in messages.
        state_dict: A state dict; of one without metadata it is not known.

    Raises:
        ReconError: What it says of it is damaged, or of a newer version of this package.
    """
    metadata = getattr(state_dict, "_metadata", {})
    found: dict[str, SplitSpec] = {}
    for path, local in metadata.items() if isinstance(metadata, Mapping) else ():
        if isinstance(local, Mapping) and KEY in local:
            spec = SplitSpec.from_dict(local[KEY], f"The metadata of {source}")
            root = plain_name(_joined(str(path), spec.root))
            spec = replace(spec, root=root)
            if not found.setdefault(root, spec).same_network(spec):
                raise ReconError(
                    f"The metadata of {source} says of {root or 'the network'} in two ways how it "
                    "was split. Save it anew."
                )
    return found


def carry_over(state_dict: Any, made: Any) -> None:
    """Have what was made of a state dict say how its network was split, as that does.

    Args:
        state_dict: A state dict.
        made: An ``OrderedDict``, which has no metadata yet.
    """
    kept = {path: {KEY: local[KEY]} for path, local in state_dict._metadata.items() if KEY in local}
    if kept:
        made._metadata = OrderedDict(kept)


def file_beside(file: str | os.PathLike[str]) -> Path:
    """The file in which a checkpoint's split is kept beside it."""
    return Path(f"{os.fspath(file)}{_ENDING}")


def write_beside(file: str | os.PathLike[str], spec: SplitSpec) -> None:
    """Write ``FILE.split.json``, as a whole, unless it says the same already.

    Raises:
        ReconError: It cannot be written.
    """
    beside, text = file_beside(file), spec.to_json()
    try:
        if is_file(beside) and beside.read_bytes() == text.encode():
            return
        write_atomically(beside, text)
    except (OSError, ValueError) as error:
        raise ReconError(f"Cannot write {beside}: {refusal(error)}.") from error


def read_beside(file: str | os.PathLike[str]) -> SplitSpec | None:
    """What ``FILE.split.json`` says; None if there is none.

    Raises:
        ReconError: It cannot be read, is damaged, or of a newer version of this package.
    """
    beside = file_beside(file)
    if not is_file(beside):
        return None
    try:
        text = read_text(beside)
    except (OSError, ValueError) as error:
        reason = "it is no text" if isinstance(error, UnicodeDecodeError) else refusal(error)
        raise ReconError(f"{beside} cannot be read: {reason}. {_OUT}") from error
    try:
        return SplitSpec.from_json(text, str(beside))
    except ReconError as error:
        raise ReconError(f"{error} {_OUT}") from error


def agreed(
    source: str,
    keys: Iterable[str],
    inside: Mapping[str, SplitSpec],
    beside: SplitSpec | None,
) -> dict[str, SplitSpec]:
    """How the networks in a checkpoint were split, by both that say it.

    Args:
        source: What the checkpoint is called in messages.
        keys: Of its state dict.
        inside: What its metadata says.
        beside: What the file beside it says.

    Raises:
        ReconError: They contradict each other, or the keys.
    """
    if beside is not None and inside and not _agree(beside, inside):
        raise ReconError(
            f"{source} says in its metadata how its network was split, and {_ENDING} beside it "
            "says otherwise: that is of another file. Remove it, or put the right one in its place."
        )
    found = dict(inside) if inside or beside is None else {plain_name(beside.root): beside}
    plain = {plain_name(key) for key in keys}
    for root, spec in found.items():
        amiss = _without_values(root, spec, plain)
        if amiss:
            where = "its metadata" if inside else f"{_ENDING} beside it"
            raise ReconError(
                f"{source} is not the checkpoint that {where} tells of: that names "
                f"{len(spec.layers)} task-specific layers, and {amiss[0]} has no values of its own "
                f"for the task {amiss[1]!r}. "
                + ("Save it anew." if inside else "Remove that, or put the right one in its place.")
            )
    return found


def _without_values(root: str, spec: SplitSpec, keys: Collection[str]) -> tuple[str, str] | None:
    """A layer and a task of which there is no value; None if there are all."""
    holders = {key.rpartition(".")[0] for key in keys}
    for layer in spec.layers:
        path = _joined(root, "" if layer == ROOT else layer)
        for task in spec.tasks:
            if _joined(path, f"{CHILD}.{task}") not in holders:
                return layer, task
    return None


def _agree(beside: SplitSpec, inside: Mapping[str, SplitSpec]) -> bool:
    root = plain_name(beside.root)
    return root in inside and replace(beside, root=root).same_network(inside[root])


def _note(
    selection: TaskSelection,
    network: nn.Module,
    state_dict: Any,
    prefix: str,
    local: dict[str, Any],
) -> None:
    metadata = getattr(state_dict, "_metadata", None)
    spec: SplitSpec | None = selection.spec
    if metadata is None or spec is None:
        return
    spec = replace(spec, per_task_output=entries_apart(network), root="")
    local[KEY] = spec.to_dict()
    path = prefix.removesuffix(".")
    if not path:
        return
    # Whoever has the whole finds it in one place, if one network in it is split.
    others = [name for name, held in metadata.items() if name not in ("", path) and KEY in held]
    whole = metadata.setdefault("", {})
    if others:
        whole.pop(KEY, None)
    else:
        whole[KEY] = replace(spec, root=path).to_dict()


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
