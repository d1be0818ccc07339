"""The layers of a network that tasks share, found step by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon.conflicts.layers import Layer, layer_of, owned_parameters
from libmtl_recon.conflicts.profile import check_count
from libmtl_recon.conflicts.stability import numbers_of_layers
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.gradients import exact_device

# Wrappers whose only child is the network.
_AROUND = (nn.DataParallel, nn.parallel.DistributedDataParallel)
# Wrappers and tensors that hold only a part of each parameter.
_SHARDED = {"FullyShardedDataParallel", "FSDPModule", "DTensor"}


class ReachedLayers:
    """The layers of a network, one per row, and the tasks that have reached them so far.

    Every module with its own parameters has a row, even if it is frozen or belongs to one task,
    since either may change.

    Args:
        network: The network.
        tasks: The number of tasks T.
        shared: Its shared parameters; None: those that at least two tasks reach.

    Attributes:
        network: The name of the network's class.

    Raises:
        UsageError: As for :class:`~libmtl_recon.ConflictProbe`.
    """

    def __init__(
        self, network: nn.Module, tasks: int, shared: Iterable[nn.Parameter] | None
    ) -> None:
        self._network = _plain(network)
        self.network = type(getattr(self._network, "_orig_mod", self._network)).__name__
        held = owned_parameters(self._network, frozen=True)
        if not held:
            raise UsageError(
                "network", "must have parameters", self.network, "Pass the network itself."
            )
        self._tasks = tasks
        self._names = [name for name, _, _ in held]
        self._wanted = None if shared is None else _rows_of(shared, held)
        # For each row's parameters: the tasks that reached it, as bits, and whether it trained.
        self._reached = [[0] * len(parameters) for _, _, parameters in held]
        self._trained = [[False] * len(parameters) for _, _, parameters in held]
        self._layers = [layer_of(name, owner, []) for name, owner, _ in held]
        # [L, T]: the layers in which a task's gradient has been nonzero.
        self._nonzero: Tensor | None = None

    @property
    def layers(self) -> list[Layer]:
        """Return one layer per row, of the parameters that have trained so far."""
        return list(self._layers)

    @property
    def names(self) -> list[str]:
        """The names of the rows' layers."""
        return list(self._names)

    @property
    def sizes(self) -> list[int]:
        """The rows' numbers of parameters."""
        return [len(row) for row in self._reached]

    @property
    def modules(self) -> Iterable[nn.Module]:
        """The modules of the network, including itself."""
        return self._network.modules()

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self._network.parameters()).device

    @property
    def linear(self) -> bool:
        """Whether no module has a backward hook."""
        everywhere = nn.modules.module
        if everywhere._global_backward_hooks or everywhere._global_backward_pre_hooks:
            return False
        return not any(m._backward_hooks or m._backward_pre_hooks for m in self.modules)

    def check_count(self, parameter: str, K: int | range | None) -> None:
        """Check numbers of layers against the number of shared layers, as far as that is known.

        It is known once all tasks have reached the network: from then on, layers that two tasks
        have reached count.

        Raises:
            UsageError: One is not a valid number of layers.
            ReconError: No layer is shared.
        """
        layers = len(self._names if self._wanted is None else self._wanted)
        what = "the number of layers of the network; those that tasks share are known after a step"
        seen = {bits for row in self._reached for bits in row}
        if reduce(or_, seen, 0) == (1 << self._tasks) - 1:
            layers = sum(map(self._is_shared, range(len(self._names))))
            what = "the number of layers that two tasks share so far"
            if not layers:
                raise _none_shared()
        for count in numbers_of_layers(parameter, K):
            check_count(parameter, count, layers, what)

    def reached(self, tasks: Mapping[int, int], present: Sequence[int]) -> list[list[nn.Parameter]]:
        """Record which tasks reach each parameter in a step.

        Args:
            tasks: For each parameter that is reached, by its id: the places among the present
                tasks, as bits.
            present: The places of the present tasks among all T.

        Returns:
            For each row, the parameters that are reached; empty for a layer that only one task has
            reached in earlier steps as well.

        Raises:
            ReconError: The network has other layers than before, or no layer is reached.
        """
        held = owned_parameters(self._network, frozen=True)
        names, sizes = [name for name, _, _ in held], [len(p) for *_, p in held]
        if names != self._names or sizes != self.sizes:
            raise ReconError(
                "The layers or parameters of the network have changed since this ConflictProbe was "
                "created, so they cannot be counted together. Create a new ConflictProbe after the "
                "network is changed, e.g. by split_layers."
            )
        found: list[list[nn.Parameter]] = []
        for row, (name, owner, parameters) in enumerate(held):
            bits = [_among_all(tasks.get(id(p), 0), present) for p in parameters]
            before = self._reached[row]
            self._reached[row] = [a | b for a, b in zip(before, bits, strict=True)]
            trained = [
                was or p.requires_grad
                for was, p in zip(self._trained[row], parameters, strict=True)
            ]
            if trained != self._trained[row]:
                self._trained[row] = trained
                own = [p for p, one in zip(parameters, trained, strict=True) if one]
                self._layers[row] = layer_of(name, owner, own)
            there = [p for p in parameters if id(p) in tasks]
            # The first step in which a task reaches a layer counts, since another task may follow.
            new = self._wanted is None and self._reached[row] != before
            found.append(there if new or self._is_shared(row) else [])
        if not any(map(any, self._reached)) and any(map(any, self._trained)):
            raise ReconError(
                "No loss reaches a trainable parameter of the network, so there is nothing to "
                "count. Pass the network from whose output the losses are computed, not a copy."
            )
        return found

    def note(self, gramians: Tensor, present: Sequence[int]) -> Tensor:
        """Record the layers in which the gradients of a step are nonzero.

        Args:
            gramians: ``[L, P, P]``, finite.
            present: The places of the P tasks among all T.

        Returns:
            ``[L]``, bool: the layers that at least two tasks have reached so far.
        """
        if self._nonzero is None:
            shape = len(self._names), self._tasks
            self._nonzero = torch.zeros(shape, dtype=torch.bool, device=gramians.device)
        self._nonzero[:, list(present)] |= gramians.diagonal(dim1=1, dim2=2) > 0
        return self._counted(self._nonzero)

    def shared(self) -> tuple[list[int], tuple[Layer, ...]]:
        """Return the rows of the layers that at least two tasks have reached, and these layers.

        Raises:
            ReconError: There are none.
        """
        counted = [] if self._nonzero is None else self._counted(self._nonzero).tolist()
        rows = [row for row, one in enumerate(counted) if one and self._is_shared(row)]
        if not rows:
            raise _none_shared()
        return rows, tuple(self._layers[row] for row in rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the layers, of plain values and tensors."""
        return {
            "names": list(self._names),
            "reached": [list(row) for row in self._reached],
            "trained": [list(row) for row in self._trained],
            "nonzero": None if self._nonzero is None else self._nonzero.to("cpu", copy=True),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state that :meth:`state_dict` returned.

        It must have passed :func:`~libmtl_recon.conflicts.probe_state.checked_probe_state`.
        """
        self._reached = [list(row) for row in state["reached"]]
        self._trained = [list(row) for row in state["trained"]]
        nonzero = state["nonzero"]
        self._nonzero = (
            None if nonzero is None else nonzero.to(exact_device(self.device), copy=True)
        )
        held = owned_parameters(self._network, frozen=True)
        for row, (name, owner, parameters) in enumerate(held):
            own = [p for p, one in zip(parameters, self._trained[row], strict=True) if one]
            self._layers[row] = layer_of(name, owner, own)

    def _counted(self, nonzero: Tensor) -> Tensor:
        if self._wanted is None:
            # For stacked losses, and in compiled networks, the graph leads from each loss to all
            # heads: zero gradients then show which layers do not belong to a task.
            return nonzero.sum(dim=1) > 1
        wanted = [row in self._wanted for row in range(len(nonzero))]
        return torch.tensor(wanted, device=nonzero.device)

    def _is_shared(self, row: int) -> bool:
        if self._wanted is not None:
            return row in self._wanted and any(self._trained[row])
        counts = [bits.bit_count() for bits in self._reached[row]]
        return max(counts, default=0) > 1 and 1 not in counts


def _among_all(bits: int, present: Sequence[int]) -> int:
    return sum(1 << place for at, place in enumerate(present) if bits >> at & 1)


def _none_shared() -> ReconError:
    return ReconError(
        "No layer of the network has been reached by two tasks so far, so there is no conflict to "
        "count. Pass the network whose layers the tasks share, and the losses of at least two "
        "tasks."
    )


def _plain(network: nn.Module) -> nn.Module:
    if not isinstance(network, nn.Module):
        raise UsageError(
            "network", "must be a torch.nn.Module", network, "Pass the network itself."
        )
    parts = [*network.modules(), *network.parameters()]
    for part in parts:
        for kind in type(part).__mro__:
            if kind.__name__ in _SHARDED:
                raise UsageError(
                    "network",
                    f"must have whole parameters, but {kind.__name__} keeps a part of each in each "
                    "process",
                    type(network).__name__,
                    "Count conflicts in one process, before the network is wrapped: the layers "
                    "belong to the network, however it is trained.",
                )
    if getattr(network, "static_graph", False):
        raise UsageError(
            "network",
            "must not be wrapped with static_graph=True, which requires every backward pass to "
            "compute all gradients",
            type(network).__name__,
            "Leave static_graph out while conflicts are counted.",
        )
    return network.module if isinstance(network, _AROUND) else network


def _rows_of(
    shared: Iterable[nn.Parameter], held: Sequence[tuple[str, nn.Module, list[nn.Parameter]]]
) -> set[int]:
    given = list(shared)
    for one in given:
        if not isinstance(one, Tensor):
            raise UsageError(
                "shared", "must be parameters", one, "Pass e.g. network.encoder.parameters()."
            )
    wanted, known = {id(one) for one in given}, {id(p) for *_, own in held for p in own}
    if not wanted or not wanted <= known:
        raise UsageError(
            "shared",
            "must be parameters of `network`, at least one",
            f"{len(wanted - known)} of {len(wanted)} that are not its parameters",
            "Leave it out to use the parameters that two tasks reach.",
        )
    rows = set()
    for row, (name, _, own) in enumerate(held):
        inside = [id(p) in wanted for p in own]
        if all(inside):
            rows.add(row)
        elif any(inside):
            raise UsageError(
                "shared",
                "must have all parameters of a layer or none",
                f"some of those of {name!r}",
                "A layer is split as a whole: add the others, or leave these out.",
            )
    return rows
