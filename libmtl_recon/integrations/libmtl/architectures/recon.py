"""Recon as a LibMTL architecture: any architecture of LibMTL with the conflicting layers split."""

from __future__ import annotations

import logging
from typing import Any

import LibMTL.architecture
from LibMTL.architecture import HPS, AbsArchitecture
from torch import Tensor, nn

from libmtl_recon.conflicts.layers import layers_of
from libmtl_recon.errors import UsageError, naming, renamed
from libmtl_recon.integrations.libmtl.architectures.branches import (
    TaskByTask,
    find_branches,
    keep_to_their_task,
)
from libmtl_recon.integrations.libmtl.architectures.choosing import (
    as_asked,
    as_saved,
    matching_of,
)
from libmtl_recon.integrations.libmtl.architectures.task_parts import places_of_tasks
from libmtl_recon.integrations.libmtl.shared_layers import COLUMNS, sharing_root
from libmtl_recon.splitting.entries import only_entry
from libmtl_recon.splitting.layer_lookup import find_layers
from libmtl_recon.splitting.per_task_output import is_per_task, keep_entries_apart
from libmtl_recon.splitting.replacements import per_task_calls
from libmtl_recon.splitting.split import mark_split, split_beside
from libmtl_recon.splitting.task_selection import TaskSelection
from libmtl_recon.splitting.task_specific import Copies, TaskValues
from libmtl_recon.splitting.task_tensor import pick, task_tensors_in
from libmtl_recon.splitting.ties import own_modules, part_ways, tie
from libmtl_recon.texts import did_you_mean

_logger = logging.getLogger(__name__)

# The names under which the user gave the arguments of the functions called here.
_FLAGS = {
    "K": "--recon_k",
    "S": "--recon_s",
    "source": "--recon_layers",
    "layers": "--recon_layers",
    "select": "--recon_select",
    "bn": "--recon_bn",
    "init": "--recon_init",
    "match": "--recon_match",
    "skip_missing": "--recon_skip_missing",
}


class Splitting(AbsArchitecture):  # type: ignore[misc]  # LibMTL is untyped
    """Mixin before a LibMTL architecture: each task has its own copy of some shared layers.

    The network is built by the architecture behind it, its worst layers are split, and it is
    trained with any weighting. Split layers, like decoders, are updated by their own task's
    gradient.
    """

    def __init__(
        self,
        task_name: list[str],
        encoder_class: type[nn.Module],
        decoders: nn.ModuleDict,
        rep_grad: bool,
        multi_input: bool,
        device: Any,
        **kwargs: Any,
    ) -> None:
        if len(task_name) < 2:
            raise UsageError(
                "--arch Recon",
                "needs two or more tasks, since only between tasks can layers conflict",
                ", ".join(task_name),
                "Train a single task with --arch HPS.",
            )
        tasks = TaskByTask(task_name)
        super().__init__(tasks, encoder_class, decoders, rep_grad, multi_input, device, **kwargs)
        # The base's own attributes, needed to extract a task's network.
        self.base_attributes = tuple(vars(self))
        shared = list(super().get_share_params())
        root = sharing_root(self, shared)
        layers = layers_of(root, shared)
        split = kwargs.get("recon_split")
        if split is not None:
            path = "" if root is self else "encoder"
            asked = kwargs.get("recon_layers"), matching_of(kwargs)
            chosen, made = as_saved(split, layers, task_name, path, *asked)
        else:
            with naming(**_FLAGS):
                chosen, made = as_asked(layers, task_name, kwargs)
        before = _count(root)
        self._selection = TaskSelection(tasks)
        places = places_of_tasks(self, task_name, shared)
        ties = part_ways(self, root, find_layers(root, chosen.names), places)
        # The input of a decoder, and so its output, belongs to its task alone.
        heads = {id(part) for part in self.decoders.modules()}
        branches = [b for b in find_branches(root, shared) if id(b) not in heads]
        copies: Copies = {}
        with naming(**_FLAGS):
            split_beside(
                root,
                chosen.names,
                self._selection,
                bn=made.bn,
                # The values of a checkpoint are loaded into them.
                init=made.init if split is None else "copy",
                besides=[
                    *(m for branch in branches for m in branch.modules()),
                    *own_modules(self, places),
                ],
                copies=copies,
            )
        self._selection.spec = made
        tie(ties, copies)
        if root is not self:
            mark_split(self, self._selection)
        keep_to_their_task(branches, self._selection)
        # LibMTL passes entry t of an encoder's list to decoder t.
        if getattr(super().forward, "__func__", None) is AbsArchitecture.forward:
            keep_entries_apart(root, self._selection, declared=False)
        tasks.selection = self._selection
        # The weighting adds its own afterwards.
        self._parts = frozenset(key.partition(".")[0] for key in self.state_dict())
        _logger.info("=" * 40)
        _logger.info("Recon: %s", renamed(chosen.note, _FLAGS))
        for theirs, ours in chosen.places:
            _logger.info("\t%s -> %s", theirs, ours)
        if chosen.doubt:
            _logger.info("Recon: %s", chosen.doubt)
        _logger.info(
            "Recon: %d of %d layers are task-specific now:", len(chosen.names), len(layers)
        )
        _logger.info("\t%s", ", ".join(chosen.names))
        _logger.info("Recon: encoder parameters %s -> %s", f"{before:,}", f"{_count(root):,}")

    def forward(self, inputs: Tensor, task_name: str | None = None) -> dict[str, Tensor]:
        """Compute the predictions.

        Args:
            inputs: One batch.
            task_name: The only task wanted (``multi_input``, or one that ``only_task`` chose); only
                its branch is computed.

        Returns:
            The predictions of the tasks wanted, by name.
        """
        task_name = self._selection.chosen if task_name is None else task_name
        only = self._selection.choosing_in_loops
        chosen = only() if task_name is None else self._selection.only(task_name)
        with chosen, per_task_calls():  # some bases call the encoder's layers without the encoder
            predictions: dict[str, Tensor] = super().forward(inputs, task_name)
        # A decoder may have used parts of the encoder for its task.
        return {
            task: pick(found, self.task_name.index(task)) for task, found in predictions.items()
        }

    def get_share_params(self) -> list[nn.Parameter]:
        """Return the parameters that are still shared."""
        own = {
            id(parameter)
            for values in self.modules()
            if isinstance(values, TaskValues)
            for parameter in values.parameters()
        }
        return [p for p in super().get_share_params() if id(p) not in own]

    def zero_grad_share_params(self) -> None:
        """Zero the gradients of the parameters that are still shared, in place."""
        for parameter in self.get_share_params():
            if parameter.grad is not None:
                parameter.grad = parameter.grad.detach().zero_()

    def is_architectures(self, key: str) -> bool:
        """Return whether a state dict's key is the architecture's, and not the weighting's."""
        return key.partition(".")[0] in self._parts

    def _prepare_rep(self, rep: Any, task: str, same_rep: bool | None = None) -> Any:
        for each in task_tensors_in(rep):
            each.parts  # noqa: B018  # refuses what is cut off from its gradient
        if is_per_task(self._modules.get("encoder")):
            rep = only_entry(rep, task, self._selection.tasks)
        return super()._prepare_rep(pick(rep, self.task_name.index(task)), task, same_rep=False)


class Recon(Splitting, HPS):  # type: ignore[misc]  # LibMTL is untyped
    """``--arch Recon``: hard parameter sharing with the K most conflicting layers split.

    Source: Algorithm 1 of the Recon paper.
    """


def recon_over(base: str) -> type[Splitting]:
    """Return the class ``Recon`` over another of LibMTL's architectures.

    Args:
        base: Its name.

    Raises:
        UsageError: LibMTL has no such architecture, or the architecture shares no layer.
    """
    if base in COLUMNS:
        raise UsageError(
            "--recon_base",
            "must be an architecture in which the tasks share layers",
            base,
            f"In {base} each task has its own network by construction, mixed with learned "
            "weights, so there is no layer left to split. Use HPS with the same encoder.",
        )
    known: dict[str, type] = {
        name: value
        for name, value in vars(LibMTL.architecture).items()
        if isinstance(value, type)
        and issubclass(value, AbsArchitecture)
        and not issubclass(value, Splitting)
        and value is not AbsArchitecture
    }
    if base not in known:
        offered = sorted(set(known) - set(COLUMNS))
        raise UsageError(
            "--recon_base",
            "must be one of LibMTL's architectures",
            base,
            f"{did_you_mean(base, offered)}There are: {', '.join(offered)}.",
        )
    return Recon if base == "HPS" else _over(known[base])


_made: dict[type, type[Splitting]] = {}


def _over(base: type) -> type[Splitting]:
    if base not in _made:
        # With the same name: LibMTL and this package identify architectures by it.
        own = {"__module__": __name__, "__doc__": Recon.__doc__}
        _made[base] = type("Recon", (Splitting, base), own)
    return _made[base]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
