"""Store the specification of a split in the network's state dict, and next to the file.

In the state dict it is part of the metadata, in which PyTorch keeps the versions of modules:
``torch.save`` saves it, and ``load_state_dict`` ignores it. Tools that turn a state dict into a
plain dict lose it; for these, it is also in ``FILE.split.json`` next to the file.
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
_OUT = "Remove it to split in another way, or replace it by the right one."


def keep_in_state_dicts(network: nn.Module, selection: TaskSelection) -> None:
    """Add the record of the split to every state dict of a split network or of a module around it.

    Args:
        network: The network to which the layer names in the specification are relative.
        selection: The choice of tasks, which has the specification.
    """
    network.register_state_dict_post_hook(functools.partial(_note, selection))


def spec_of(network: nn.Module) -> SplitSpec | None:
    """Return how a network, or its only split part, was split; None if none or several were."""
    found = specs_in("The network", network.state_dict())
    return next(iter(found.values())) if len(found) == 1 else None


def specs_in(source: str, state_dict: Any) -> dict[str, SplitSpec]:
    """Return how the networks in a state dict were split, by their paths in it.

    Args:
        source: Its name in messages.
        state_dict: A state dict; the result is empty if it has no metadata.

    Raises:
        ReconError: The record is damaged, or of a newer version of this package.
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
                    f"The metadata of {source} contain two contradictory splits of "
                    f"{root or 'the network'}. Save it again."
                )
    return found


def carry_over(state_dict: Any, made: Any) -> None:
    """Copy the record of the split from a state dict to one derived from it.

    Args:
        state_dict: A state dict.
        made: An ``OrderedDict``, which has no metadata yet.
    """
    kept = {path: {KEY: local[KEY]} for path, local in state_dict._metadata.items() if KEY in local}
    if kept:
        made._metadata = OrderedDict(kept)


def file_beside(file: str | os.PathLike[str]) -> Path:
    """Return the file next to a checkpoint that records its split."""
    return Path(f"{os.fspath(file)}{_ENDING}")


def write_beside(file: str | os.PathLike[str], spec: SplitSpec) -> None:
    """Write ``FILE.split.json``, atomically, unless it has the same contents already.

    Raises:
        ReconError: The file cannot be written.
    """
    beside, text = file_beside(file), spec.to_json()
    try:
        if is_file(beside) and beside.read_bytes() == text.encode():
            return
        write_atomically(beside, text)
    except (OSError, ValueError) as error:
        raise ReconError(f"Cannot write {beside}: {refusal(error)}.") from error


def read_beside(file: str | os.PathLike[str]) -> SplitSpec | None:
    """Read ``FILE.split.json``; None if there is none.

    Raises:
        ReconError: The file cannot be read, is damaged, or is of a newer version of this package.
    """
    beside = file_beside(file)
    if not is_file(beside):
        return None
    try:
        text = read_text(beside)
    except (OSError, ValueError) as error:
        reason = (
            "it is not a text file" if isinstance(error, UnicodeDecodeError) else refusal(error)
        )
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
    """Return how the networks in a checkpoint were split, from both records.

    Args:
        source: The checkpoint's name in messages.
        keys: The keys of its state dict.
        inside: The record in its metadata.
        beside: The record in the file next to it.

    Raises:
        ReconError: The records contradict each other, or the keys.
    """
    if beside is not None and inside and not _agree(beside, inside):
        raise ReconError(
            f"{source} records in its metadata how its network was split, and the {_ENDING} file "
            "next to it contradicts this: it belongs to another file. Remove it, or replace it "
            "by the right one."
        )
    found = dict(inside) if inside or beside is None else {plain_name(beside.root): beside}
    plain = {plain_name(key) for key in keys}
    for root, spec in found.items():
        amiss = _without_values(root, spec, plain)
        if amiss:
            where = "its metadata" if inside else f"the {_ENDING} file next to it"
            raise ReconError(
                f"{source} is not the checkpoint that {where} describes: of the "
                f"{len(spec.layers)} task-specific layers listed there, {amiss[0]} has no values "
                f"for the task {amiss[1]!r}. "
                + (
                    "Save it again."
                    if inside
                    else "Remove that file, or replace it by the right one."
                )
            )
    return found


def _without_values(root: str, spec: SplitSpec, keys: Collection[str]) -> tuple[str, str] | None:
    """Return a layer and a task without a value; None if all values are present."""
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
