"""Rebuild a split network exactly as recorded in its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from libmtl_recon.conflicts.layers import layer_name, plain_name
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.splitting.arguments import checked_module
from libmtl_recon.splitting.checkpoint import (
    STATISTICS,
    Checkpoint,
    checkpoint_in,
    load_model,
    read_checkpoint,
)
from libmtl_recon.splitting.layer_lookup import checked_tasks, find_layers
from libmtl_recon.splitting.per_task_output import keep_entries_apart
from libmtl_recon.splitting.spec import SplitSpec
from libmtl_recon.splitting.split import split_beside
from libmtl_recon.splitting.task_selection import TaskSelection
from libmtl_recon.splitting.task_specific import CHILD, TaskSpecific
from libmtl_recon.splitting.torch_files import refuse_other_numbers

_SHOWN = 3  # differences; a network has hundreds of names


def split_from(
    checkpoint: str | os.PathLike[str] | Mapping[str, Any], network: nn.Module
) -> nn.Module:
    """Split a network, in place, in the same way as that of a checkpoint, and load the checkpoint.

    The split is read from the checkpoint: from the metadata of its state dict, or from
    ``FILE.split.json`` next to the file. Newer profiles have no effect.

    Args:
        checkpoint: A file written by ``torch.save``, or a state dict; in both cases the state dict
            may also be the entry ``model`` of a dict.
        network: An unsplit network of the same architecture: the module that was saved (it may
            also have been saved inside ``DataParallel``, ``torch.compile`` or an average of
            weights), or the part of it that was split, for which only its own values are loaded.
            It may be on any device.

    Returns:
        The network itself. Create the optimiser afterwards.

    Raises:
        UsageError: ``network`` is not a network, or is split already.
        ReconError: The checkpoint cannot be read, does not record how it was split, or does not fit
            the network, which is then unchanged.

    Example:
        >>> import torch
        >>> from libmtl_recon import split_layers
        >>> split = split_layers(torch.nn.Linear(2, 1), ["(root)"], ["left", "right"])
        >>> again = split_from(split.state_dict(), torch.nn.Linear(2, 1))
        >>> x = torch.ones(3, 2)
        >>> torch.equal(again(x)["left"], split(x)["left"])
        True
    """
    return rebuilt(given_checkpoint(checkpoint), network)


def given_checkpoint(checkpoint: Any) -> Checkpoint:
    """Return the checkpoint that a caller gave as a file name or as a state dict.

    Raises:
        UsageError: It is neither.
        ReconError: It cannot be read, or is damaged.
    """
    if isinstance(checkpoint, str | os.PathLike):
        return read_checkpoint("checkpoint", checkpoint)
    if isinstance(checkpoint, Mapping):
        return checkpoint_in("The checkpoint", checkpoint)
    raise UsageError(
        "checkpoint",
        "must be the name of a file or a state dict",
        checkpoint,
        "Give a file written by torch.save(network.state_dict(), FILE), or network.state_dict().",
    )


def rebuilt(checkpoint: Checkpoint, network: nn.Module, *, part_only: bool = False) -> nn.Module:
    """Implement :func:`split_from`.

    Args:
        checkpoint: The checkpoint.
        network: The network, as for :func:`split_from`.
        part_only: Whether the network must be the split part itself, not a module that contains it.

    Raises:
        UsageError: As for :func:`split_from`.
        ReconError: As for :func:`split_from`.
    """
    network = checked_module(network, "network")
    if any(isinstance(part, TaskSpecific) for part in network.modules()):
        raise UsageError(
            "network",
            "must be a network that is not split",
            type(network).__name__,
            "Build it again; to load a state dict of the same split, use load_state_dict.",
        )
    if not checkpoint.splits:
        raise _unsaid(checkpoint)
    chosen = _matching(checkpoint, network, part_only=part_only)
    own = _plain_state(network)
    for key, values in chosen.plain(own).items():
        for value in values.values():
            refuse_other_numbers(checkpoint.source, own, {key: value})
    for path, spec in chosen.splits.items():
        part = network.get_submodule(path)
        try:
            _split(part, spec)
        except ReconError as error:
            raise ReconError(f"{checkpoint.source} does not fit this network. {error}") from error
    load_model(network, Checkpoint(checkpoint.source, chosen.values, None), lambda _: False)
    return network


@dataclass(frozen=True)
class _Part:
    """Return the values of one module in a checkpoint.

    Attributes:
        values: The state dict of the module.
        splits: The specifications of the splits of the networks in it, by their paths.
    """

    values: dict[str, Tensor]
    splits: dict[str, SplitSpec]

    def plain(self, own: Mapping[str, Tensor]) -> dict[str, dict[str | None, Tensor]]:
        """Return the values under each key of the unsplit network, by task; None for shared values.

        Args:
            own: The network's state dict; keys in it are not values of single tasks.
        """
        found: dict[str, dict[str | None, Tensor]] = {}
        for key, value in self.values.items():
            name, task = (key, None) if key in own else self._taken_apart(key)
            found.setdefault(name, {})[task] = value
        return found

    def tasks_at(self, key: str) -> tuple[str, ...]:
        """Return the tasks of the network that has a key."""
        return self._split_of(key)[1].tasks

    def kept_apart(self, key: str) -> bool:
        """Return whether a shared norm has a value per task, contrary to its split."""
        path, spec = self._split_of(key)
        layer = layer_name(key.rpartition(".")[0][len(f"{path}.") if path else 0 :])
        return spec.bn == "mixed" and layer not in spec.layers and key.endswith(STATISTICS)

    def _split_of(self, key: str) -> tuple[str, SplitSpec]:
        return next(
            (path, spec)
            for path, spec in self.splits.items()
            if not path or key.startswith(f"{path}.")
        )

    def _taken_apart(self, key: str) -> tuple[str, str | None]:
        parts = key.split(".")
        for path, spec in self.splits.items():
            inside = not path or key.startswith(f"{path}.")
            if inside and parts[-3:-2] == [CHILD] and parts[-2] in spec.tasks:
                return ".".join([*parts[:-3], parts[-1]]), parts[-2]
        return key, None


def _matching(checkpoint: Checkpoint, network: nn.Module, *, part_only: bool) -> _Part:
    """Return the values of a network in a checkpoint.

    Raises:
        ReconError: The checkpoint does not contain the network.
    """
    own = _plain_state(network)
    nearest: list[str] = []
    for path in _paths(checkpoint.splits, part_only=part_only):
        part = _part_at(checkpoint, path)
        amiss = _differences(part, own)
        if not amiss:
            return part
        if not nearest or len(amiss) < len(nearest):
            nearest = amiss
    raise ReconError(
        f"{checkpoint.source} does not fit this network: {'; '.join(nearest[:_SHOWN])}"
        f"{f'; and {len(nearest) - _SHOWN} more' if len(nearest) > _SHOWN else ''}. It must be of "
        "the same architecture, and from before its split."
    )


def _paths(splits: Iterable[str], *, part_only: bool) -> Sequence[str]:
    """Return the paths in a checkpoint at which a network may be: the split module or around it."""
    found: list[str] = []
    for path in splits:
        parts = path.split(".") if path else []
        first = len(parts) if part_only else 0
        found += [".".join(parts[:end]) for end in range(first, len(parts) + 1)]
    return list(dict.fromkeys(found))


def _part_at(checkpoint: Checkpoint, path: str) -> _Part:
    prefix = f"{path}." if path else ""
    values = {plain_name(key): value for key, value in checkpoint.model.items()}
    return _Part(
        {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)},
        {
            place[len(prefix) :]: spec
            for place, spec in checkpoint.splits.items()
            if f"{place}.".startswith(prefix)
        },
    )


def _differences(part: _Part, own: Mapping[str, Tensor]) -> list[str]:
    given = part.plain(own)
    found = [f"it has no {key}" for key in own if key not in given]
    found += [f"it has {key}, which the network lacks" for key in given if key not in own]
    for key, values in given.items():
        if None not in values and len(values) < len(part.tasks_at(key)):
            lacking = next(task for task in part.tasks_at(key) if task not in values)
            found.append(f"it has no {key} of the task {lacking!r}")
        if None not in values and part.kept_apart(key):
            found.append(f"it has {key} per task, which a split with bn='mixed' keeps for all")
        for value in values.values():
            if key in own and not is_lazy(own[key]) and _shape(value) != _shape(own[key]):
                shapes = f"{_shape(value)} in it and {_shape(own[key])} here"
                found.append(f"{key} has the shape {shapes}")
                break
    return found


def _shape(value: Any) -> list[int] | None:
    return list(value.shape) if isinstance(value, Tensor) else None


def _plain_state(network: nn.Module) -> dict[str, Tensor]:
    return {plain_name(key): value for key, value in network.state_dict().items()}


def _split(part: nn.Module, spec: SplitSpec) -> None:
    find_layers(part, spec.layers)  # refuses, before anything is changed
    selection = TaskSelection(checked_tasks(spec.tasks))
    split_beside(part, spec.layers, selection, bn=spec.bn)
    if spec.per_task_output is not False:
        keep_entries_apart(part, selection, declared=spec.per_task_output is True)
    selection.spec = replace(spec, root="")


def _unsaid(checkpoint: Checkpoint) -> ReconError:
    if not any(f".{CHILD}." in f".{key}" for key in checkpoint.model):
        return ReconError(
            f"{checkpoint.source} has no record of a split and no values per task. Load it with "
            "load_state_dict; split_layers splits the network."
        )
    return ReconError(
        f"{checkpoint.source} does not record how its network was split: it was saved by an "
        "older version of libmtl-recon, or by a tool that keeps only tensors, and there is no "
        "FILE.split.json next to it. Split the network with split_layers in the same way, and "
        "load the state dict into it."
    )
