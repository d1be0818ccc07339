"""The backward pass of a sum of losses as one pass per loss, with the Gramians per layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from libmtl_recon.gradients import columns
from libmtl_recon.gradients.accumulate import deliver, sum_of
from libmtl_recon.gradients.calls import Calls
from libmtl_recon.gradients.dominators import Walk
from libmtl_recon.gradients.gramian import exact_device, layer_gramians
from libmtl_recon.gradients.plan import Plan, make_plan
from libmtl_recon.gradients.recomputed import RecomputedBuffers
from libmtl_recon.gradients.recording import (
    REENTRANT,
    custom_functions,
    reentrant_checkpoint,
)
from libmtl_recon.gradients.rows import TaskRows
from libmtl_recon.gradients.sweep import Sweep

# The number of entries that are copied at a time, so that no second matrix [T, d] is held; on a CPU
# it is so small that they stay in the cache.
_CACHED, _ELSEWHERE = 1 << 17, 1 << 24


class SummedLosses:
    """The graph of P losses, and the backward pass of their sum.

    Args:
        losses: P scalars, each with a graph.

    Attributes:
        tasks: For each leaf that they reach, by its id: the places of the losses, as bits.
        nodes: The number of nodes of the graph.
        by_rows: Whether all gradients were computed, since no products of inputs are cheaper.

    Raises:
        ReconError: The graph has a reentrant checkpoint.
    """

    def __init__(self, losses: Sequence[Tensor]) -> None:
        self._losses = list(losses)
        self._nodes = [get_gradient_edge(loss).node for loss in losses]
        walk = Walk(self._nodes)
        self.nodes = len(walk.order)
        self._leaves: dict[int, Tensor] = {}
        self.tasks: dict[int, int] = {}
        for node, leaf in walk.leaves():
            self._leaves[id(leaf)] = leaf
            self.tasks[id(leaf)] = self.tasks.get(id(leaf), 0) | walk.bits_of(node)
        custom = custom_functions(walk)
        if REENTRANT in custom:
            raise reentrant_checkpoint()
        # Neither custom functions nor hooks need be linear in the gradient.
        self._linear = not custom and not any(
            leaf._backward_hooks for leaf in self._leaves.values()
        )
        self._kept = _kept_graphs(walk, self._leaves)
        self.by_rows = False

    def backward(
        self,
        layers: Sequence[Sequence[Tensor]],
        *,
        modules: Iterable[nn.Module] = (),
        linear: bool = True,
        products: bool = True,
        retain_graph: bool = False,
    ) -> Tensor:
        """Add to all leaves' ``.grad`` what the backward pass of the sum of the losses would add.

        This takes P passes, one per loss, whose gradients are summed before they arrive at the
        leaves, so that accumulation hooks see the sum, once. If a leaf has a hook on its gradient,
        or the graph has a custom ``autograd.Function``, which need not be linear in the gradient,
        the pass of the sum follows those P passes. The same is done where P passes that need not
        compute all gradients cost less together with it; see :func:`recording`.

        Args:
            layers: The leaves of each of the L layers whose Gramians are computed; the Gramian of a
                layer without leaves is zero.
            modules: The modules whose buffers checkpoints may change; they change once.
            linear: Whether nothing else is known to be nonlinear in the gradient.
            products: Consider products of inputs as well as rows.
            retain_graph: Keep the graph, as for :meth:`torch.Tensor.backward`.

        Returns:
            ``[L, P, P]``, float64, on the device of the first layer's leaves (see
            :func:`exact_device`): the inner products of the losses' gradients, layer by layer.
        """
        linear = linear and self._linear
        buffers = RecomputedBuffers(modules)
        plan = self._plan(layers, linear=linear) if products else None
        self.by_rows = plan is None
        if plan is not None:
            buffers.keep()
            gramians = self._products(plan, len(layers))
            buffers.after_pass()
            buffers.forget()
        else:
            found = self._pass_each(layers, buffers, linear=linear, retain_graph=retain_graph)
            with torch.no_grad():
                gramians = self._gramians(layers, found)
            if linear:
                self._deliver(found)
                return gramians
            found.clear()
        torch.autograd.backward(self._losses, retain_graph=retain_graph)
        buffers.after_pass()
        return gramians

    def _plan(self, layers: Sequence[Sequence[Tensor]], *, linear: bool) -> Plan | None:
        """Return the plan by products; None if they do not cost less."""
        names = {id(leaf): str(row) for row, layer in enumerate(layers) for leaf in layer}
        leaves = [leaf for layer in layers for leaf in layer]
        # Inside autocast the products would be computed in half precision.
        if not leaves or torch.is_autocast_enabled(leaves[0].device.type):
            return None
        # If the pass of the sum is needed anyway, products pay off whenever they are cheaper.
        plan = make_plan(self._nodes, Calls(), names, leaves, "auto" if linear else "ghost")
        plan.specific = []
        return plan if plan.calls else None

    def _products(self, plan: Plan, layers: int) -> Tensor:
        sweep = Sweep(plan, self._losses, TaskRows())
        sweep.run()
        found = sweep.layers()
        rows = [int(name) for name in dict.fromkeys(name for name, _ in plan.shared)]
        total = found.new_zeros(layers, *found.shape[1:])
        total[rows] = found
        return total

    def _pass_each(
        self,
        layers: Sequence[Sequence[Tensor]],
        buffers: RecomputedBuffers,
        *,
        linear: bool,
        retain_graph: bool,
    ) -> dict[int, list[Tensor | None]]:
        """Return each loss's gradients by leaf; only the layers' ones if another pass follows."""
        wanted = {id(leaf) for layer in layers for leaf in layer}
        found: dict[int, list[Tensor | None]] = {}
        for place, loss in enumerate(self._losses):
            leaves = [
                leaf
                for identity, leaf in self._leaves.items()
                if self.tasks[identity] >> place & 1 and (linear or identity in wanted)
            ]
            keep = retain_graph or not linear or bool(self._kept >> place & 1)
            for leaf, gradient in _gradients(loss, leaves, keep):
                found.setdefault(id(leaf), [None] * len(self._losses))[place] = gradient
            buffers.after_pass()
        return found

    def _deliver(self, found: dict[int, list[Tensor | None]]) -> None:
        """Deliver to each leaf the sum of its gradients, as at the end of one backward pass."""
        leaves, sums = [], []
        with torch.no_grad():
            for identity in list(found):
                leaves.append(self._leaves[identity])
                sums.append(sum_of(found.pop(identity)))
        deliver(leaves, sums)

    def _gramians(
        self, layers: Sequence[Sequence[Tensor]], found: Mapping[int, Sequence[Tensor | None]]
    ) -> Tensor:
        losses = len(self._losses)
        first = next((leaf for leaves in layers for leaf in leaves), None)
        device = torch.device("cpu") if first is None else exact_device(first.device)
        total = torch.zeros(len(layers), losses, losses, dtype=torch.float64, device=device)
        for own, leaves in zip(total, layers, strict=True):
            for leaf in leaves:
                gradients = found.get(id(leaf), ())
                if any(gradient is not None for gradient in gradients):
                    # Inside autocast the products must not be computed in half precision.
                    with torch.autocast(leaf.device.type, enabled=False):
                        own += _gramian(gradients, leaf).to(device)
        return total


def _gradients(loss: Tensor, leaves: list[Tensor], keep: bool) -> list[tuple[Tensor, Tensor]]:
    """Return the gradients of a loss that exist, with their leaves."""
    if not leaves:
        return []
    found = torch.autograd.grad(loss, leaves, retain_graph=keep, allow_unused=True)
    pairs = zip(leaves, found, strict=True)
    return [(leaf, gradient) for leaf, gradient in pairs if gradient is not None]


def _gramian(gradients: Sequence[Tensor | None], leaf: Tensor) -> Tensor:
    """Return the inner products ``[P, P]`` of a leaf's gradients; None stands for zeros."""
    rows = [None if one is None else columns.flat(one) for one in gradients]
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=exact_device(leaf.device))
    width = columns.width(leaf)
    most = (_CACHED if leaf.device.type == "cpu" else _ELSEWHERE) // len(rows)
    for start in range(0, width, most):
        some = min(most, width - start)
        zeros = leaf.new_zeros(some, dtype=leaf.dtype.to_real())
        part = [zeros if row is None else row[start : start + some] for row in rows]
        total += layer_gramians(torch.stack(part), [some])[0]
    return total


def _kept_graphs(walk: Walk, leaves: Mapping[int, Tensor]) -> int:
    """Return the losses, as bits, whose graph a later loss needs as well."""
    kept = 0
    for node in walk.order:
        if id(getattr(node, "variable", None)) not in leaves:
            reached = walk.bits_of(node)
            kept |= reached ^ 1 << reached.bit_length() - 1
    return kept
