"""Read checkpoints and load them strictly into a split network, with the optimiser's state."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon.conflicts.layers import ROOT, plain_name
from libmtl_recon.errors import ReconError
from libmtl_recon.splitting.spec import SplitSpec
from libmtl_recon.splitting.spec_storage import agreed, read_beside, specs_in
from libmtl_recon.splitting.state import plain_names
from libmtl_recon.splitting.task_specific import CHILD
from libmtl_recon.splitting.torch_files import (
    FORMAT,
    read_saved,
    refuse_other_numbers,
    state_dict_in,
)

# What a norm keeps per task behind a split, though it is shared.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# The hyperparameters by which the kinds of optimisers are told from each other.
_KINDS = frozenset({"betas", "momentum", "alpha", "lr_decay", "rho"})
# What SGD keeps of a parameter before its first step with momentum.
_NO_MOMENTUM = ("momentum_buffer", None)


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file.

    Attributes:
        source: The flag and the file, for messages.
        model: A state dict.
        optimizer: The state dict of the optimiser that trained it.
        splits: The specifications of the splits of the networks in the model, by their paths; empty
            if none was split, or if this is unknown.
    """

    source: str
    model: dict[str, Any]
    optimizer: dict[str, Any] | None
    splits: dict[str, SplitSpec] = field(default_factory=dict)

    @property
    def split(self) -> SplitSpec | None:
        """Return how the only network in it was split; None if unknown.

        Raises:
            ReconError: There are several.
        """
        if len(self.splits) > 1:
            raise ReconError(
                f"{self.source} holds {len(self.splits)} split networks "
                f"({', '.join(self.splits)}) instead of one. Save only the one that you need."
            )
        return next(iter(self.splits.values()), None)

    @property
    def unsaid(self) -> list[str]:
        """Return the layers with values per task, if there is no record of the split."""
        parts = [] if self.splits else [plain_name(key).split(".") for key in self.model]
        found = [
            ".".join(names[:-3]) or ROOT
            for names in parts
            if names[-3:-2] == [CHILD] and names[-1] not in STATISTICS
        ]
        return list(dict.fromkeys(found))


def read_checkpoint(parameter: str, file: str | os.PathLike[str]) -> Checkpoint:
    """Read a file written by ``torch.save``, with the record of how its network was split.

    No code in the file is run.

    Args:
        parameter: The name under which the caller gave the file.
        file: Its path.

    Raises:
        ReconError: The file cannot be read, is damaged, or is not a checkpoint; or
            ``FILE.split.json`` next to it is damaged, or belongs to another file.
    """
    source = f"{parameter} {os.fspath(file)}"
    return checkpoint_in(source, read_saved(source, file), lambda: read_beside(file))


def checkpoint_in(
    source: str, found: Any, beside: Callable[[], SplitSpec | None] = lambda: None
) -> Checkpoint:
    """Interpret an object as a checkpoint: one state dict, or those of a model and an optimiser.

    Args:
        source: Its name in messages.
        found: The object.
        beside: A function that reads the record of the split next to the file.

    Raises:
        ReconError: It is not a checkpoint, or contradicts the record of its split.
    """
    optimizer = None
    if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping):
        found, optimizer = found["model"], found.get("optimizer")
    model = state_dict_in(source, found)
    if optimizer is not None and not _is_optimizers(optimizer):
        raise ReconError(f"{source} holds an optimiser's state that is not a state dict. {FORMAT}")
    splits = agreed(source, model, specs_in(source, model), beside())
    return Checkpoint(source, dict(model), optimizer, splits)


def _is_optimizers(state: Any) -> bool:
    if not isinstance(state, dict) or not {"state", "param_groups"} <= set(state):
        return False
    groups, values = state["param_groups"], state["state"]
    return (
        isinstance(groups, list)
        and bool(groups)
        and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups)
        and all(isinstance(number, int) for group in groups for number in group["params"])
        and isinstance(values, dict)
        and all(isinstance(value, dict) for value in values.values())
    )


def load_model(
    model: nn.Module, checkpoint: Checkpoint, left_out: Callable[[str], bool]
) -> list[str]:
    """Load a state dict, split or not, into a model; values without a task are copied to each task.

    Args:
        model: A model with or without split layers.
        checkpoint: The checkpoint with the state dict.
        left_out: A function that returns whether a key may be missing on either side.

    Returns:
        The keys that were missing.

    Raises:
        ReconError: A required key has no counterpart, or has another shape.
    """
    own = model.state_dict()
    by_plain = {plain: own[keys[0]] for plain, keys in plain_names(model).items()}
    refuse_other_numbers(checkpoint.source, {**by_plain, **own}, checkpoint.model)
    try:
        found = model.load_state_dict(checkpoint.model, strict=False)
    except RuntimeError as error:  # shapes, or statistics that stayed shared
        what = " ".join(str(error).split("\n\t")[1:]) or str(error)
        raise ReconError(f"{checkpoint.source} does not fit this network. {what}") from error
    amiss = [key for key in found.missing_keys if not left_out(key)]
    beyond = [key for key in found.unexpected_keys if not left_out(key)]
    if amiss or beyond:
        parts = [
            f"It {verb} {len(keys)} of the network's keys ({', '.join(keys[:3])}, ...)."
            for verb, keys in (("lacks", amiss), ("has beyond", beyond))
            if keys
        ]
        raise ReconError(
            f"{checkpoint.source} does not fit this network. {' '.join(parts)} It must have the "
            "same encoder, decoders and architecture."
        )
    return [*found.missing_keys, *found.unexpected_keys]


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint
) -> None:
    """Load an optimiser's state; the state of an unsplit parameter is copied for each task.

    The optimiser keeps its own hyperparameters.

    Args:
        model: The split model.
        optimizer: The optimiser of its parameters.
        checkpoint: A checkpoint of the whole model, from before or after its split, trained by
            one optimiser with one group of parameters, ``model.parameters()``.

    Raises:
        ReconError: The state belongs to another kind of optimiser, or to other parameters.
    """
    saved = checkpoint.optimizer or {}
    groups = saved["param_groups"]
    kinds = [_KINDS & set(group) for group in (groups[0], optimizer.param_groups[0])]
    if len(groups) != 1 or kinds[0] != kinds[1]:
        raise ReconError(
            f"{checkpoint.source} has the state of another optimiser than this run's "
            f"{type(optimizer).__name__}. Train with the same optimiser, or save the model's state "
            "dict alone."
        )
    places = _saved_parameters(model, checkpoint.model, len(groups[0]["params"]))
    if len(places) != len(groups[0]["params"]):
        raise ReconError(
            f"{checkpoint.source} has the state of an optimiser of {len(groups[0]['params'])} "
            f"parameters, but its model has {len(places)}. Save the optimiser of "
            "model.parameters(), with the whole model's state dict."
        )
    every = [p for group in optimizer.param_groups for p in group["params"]]
    index = {id(parameter): number for number, parameter in enumerate(every)}
    names = {name for values in saved["state"].values() for name in values}
    state: dict[int, Any] = {}
    for key, parameters in zip(groups[0]["params"], places, strict=True):
        if key in saved["state"]:
            for parameter in parameters:
                _refuse_unfit_state(checkpoint.source, parameter, saved["state"][key], names)
                state[index[id(parameter)]] = copy.deepcopy(saved["state"][key])
    own = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})


def _refuse_unfit_state(
    source: str, parameter: nn.Parameter, state: Mapping[str, Any], names: Collection[str]
) -> None:
    """Refuse a parameter's state with which the optimiser's next step would fail or differ.

    Args:
        source: See :class:`Checkpoint`.
        parameter: The parameter that the state belongs to.
        state: The optimiser's state of the parameter.
        names: The names of the entries that the optimiser has for every parameter.

    Raises:
        ReconError: The state has another shape, lacks an entry, or contains a value that is not
            a number.
    """
    fault = ""
    for name in names:
        value = state.get(name, ())
        if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
            fault = f"{name} of the shape {list(value.shape)} for one of {list(parameter.shape)}"
        elif not isinstance(value, Tensor | int | float) and (name, value) != _NO_MOMENTUM:
            fault = f"{name} that is missing or not a number"
    if fault:
        raise ReconError(
            f"{source} has an optimiser's state that does not fit its model: for a parameter, "
            f"{fault}. Save both in the same training run."
        )


def _saved_parameters(
    model: nn.Module, state: Mapping[str, Any], count: int
) -> list[tuple[nn.Parameter, ...]]:
    """Return, for each parameter of the saved model in order, the parameters that replaced it.

    Args:
        model: The split model.
        state: The state dict of the saved model; if that was split, its parameters are the model's.
        count: The expected number of parameters. Modules of a weighting (rotations), which have
            their own optimiser, count if they were created before the network's optimiser.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = {**plain_names(model), **{key: (key,) for key in model.state_dict()}}
    is_architectures: Callable[[str], bool] = getattr(model, "is_architectures", lambda _: True)
    found: list[tuple[bool, tuple[nn.Parameter, ...]]] = []
    for key in state:
        beside = "." in key and not is_architectures(key)
        if key not in names:
            if not beside:  # a parameter of another weighting
                found.append((False, ()))
            continue
        became = tuple(parameters[name] for name in names[key] if name in parameters)
        if not became:
            continue
        # A tied parameter stands in a state dict several times, here of one task, there of all.
        ids = {id(parameter) for parameter in became}
        same = [place for place, (_, others) in enumerate(found) if ids & set(map(id, others))]
        if not same:
            found.append((beside, became))
            continue
        every_copy = {id(p): p for place in same for p in found[place][1]}
        every_copy |= {id(p): p for p in became}
        found[same[0]] = (found[same[0]][0], tuple(every_copy.values()))
        found = [one for place, one in enumerate(found) if place not in same[1:]]
    every = len(found) == count
    return [became for beside, became in found if every or not beside]
