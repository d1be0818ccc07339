"""Gramians of task gradients, computed in the cheapest exact way per layer, and the update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.gradients import columns
from libmtl_recon.gradients.calls import Calls, has_hooks, noted
from libmtl_recon.gradients.dominators import Walk
from libmtl_recon.gradients.plan import WAYS, Plan, make_plan
from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.gradients.rows import TaskRows
from libmtl_recon.gradients.sweep import Sweep
from libmtl_recon.gradients.ways import Way
from libmtl_recon.module_names import layer_name, plain_name

REENTRANT = "CheckpointFunctionBackward"


@contextmanager
def recording(
    network: nn.Module, *, shared: Iterable[nn.Parameter] | None = None, way: str = "auto"
) -> Iterator[Record]:
    """Record, inside the ``with`` block, what the Gramian needs of a network's forward pass.

    Methods that weight T tasks by the inner products of their gradients need T backward passes and
    a matrix ``[T, d]``. For a layer that is applied at fewer positions N than it has inputs, the
    inner products follow from its inputs and the gradients of its outputs. The passes then do not
    compute the gradients of its weight, and no tensor of the size of the weight is kept. The update
    is one ordinary backward pass.

    Experimental: this is new in 0.2.0, and may change without notice.

    Args:
        network: Any module; it may be called several times, and the tasks' heads may be part of it.
            It is not changed, but has hooks inside the block.
        shared: The shared parameters; None: those of the network that at least two losses reach.
        way: ``auto`` uses the fastest way; ``stored`` keeps the rows ``[T, d]``, and ``ghost``
            never does, unless weighted gradients cancel. The update of ``ghost`` is one backward
            pass. Where backward hooks, or a custom ``autograd.Function``, may not be linear in the
            gradient, ``auto`` stores the rows.

    Yields:
        The record.

    Raises:
        UsageError: There is no such way, ``network`` is not a module, or ``shared`` is empty.

    Example:
        >>> import torch
        >>> from libmtl_recon import gradops_weights
        >>> from libmtl_recon.gradients import recording
        >>> encoder = torch.nn.Linear(8, 4)
        >>> heads = [torch.nn.Linear(4, 1) for _ in range(3)]
        >>> with recording(encoder) as record:
        ...     z = encoder(torch.randn(2, 8))
        ...     losses = [head(z).square().mean() for head in heads]
        >>> M = record.gramian(losses)
        >>> record.backward(gradops_weights(M, alpha=-1.0))
        >>> M.shape, encoder.weight.grad.shape
        (torch.Size([3, 3]), torch.Size([4, 8]))
    """
    if way not in WAYS:
        raise UsageError(
            "way", f"must be one of {', '.join(WAYS)}", way, "Leave it out to use auto."
        )
    given = _checked(network, shared)
    with noted(network) as calls:
        yield Record(network, calls, given, way)


def record_afterwards(
    network: nn.Module,
    *,
    shared: Iterable[nn.Parameter] | None = None,
    way: str = "auto",
    rows: TaskRows | None = None,
) -> Record:
    """Return the record of a forward pass that has already run, made from its graph.

    Products are computed for the operations found in the graph: see
    :mod:`libmtl_recon.gradients.graph_operations`. The passes are not cut, since the modules'
    outputs are not known.

    Args:
        network: As for :func:`recording`.
        shared: As for :func:`recording`.
        way: As for :func:`recording`.
        rows: The memory for rows, which is overwritten.

    Raises:
        UsageError: As for :func:`recording`.
    """
    return Record(network, Calls(), _checked(network, shared), way, rows)


def _checked(
    network: nn.Module, shared: Iterable[nn.Parameter] | None
) -> list[nn.Parameter] | None:
    if not isinstance(network, nn.Module):
        raise UsageError(
            "network", "must be a torch.nn.Module", network, "Pass the network itself."
        )
    if shared is None:
        return None
    given = list(shared)
    columns.check_shared(given)
    for one in given:
        if not isinstance(one, Tensor):
            raise UsageError("shared", "must be parameters", one, "Pass e.g. network.parameters().")
    return given


class Record:
    """The record of a forward pass, created by :func:`recording`.

    With ``ranks`` the losses are those of the whole batch, of which each rank has recorded its
    part; the gradients are the rank's own, and their mean over the ranks is that of the batch.

    Attributes:
        layers: The names of the shared layers that the losses reach, after :meth:`gramian`.
        ways: The way in which each of them was computed, with the reason.
        exact: Whether products were computed in float64: from the start, or because the errors of
            float32 could have changed a conflict, or been magnified by solving for weights.
    """

    def __init__(
        self,
        network: nn.Module,
        calls: Calls,
        shared: list[nn.Parameter] | None,
        way: str,
        rows: TaskRows | None = None,
        *,
        exact: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        self._ranks = ranks
        self._network, self._calls, self._shared, self._way = network, calls, shared, way
        self._rows = TaskRows() if rows is None else rows
        self._sweep: Sweep | None = None
        # The losses whose gradients were added.
        self._spent: list[ref[Tensor]] = []
        self.exact = exact
        self.layers: tuple[str, ...] = ()
        self.ways: tuple[Way, ...] = ()

    def gramian(self, losses: Sequence[Tensor | None]) -> Tensor:
        """Compute the Gramian of the losses' gradients with respect to the shared parameters.

        Args:
            losses: T scalars, with their graph, which stays for :meth:`backward`. The gradient of
                None, and of a loss without a graph, is zero. Pass the losses as they were computed:
                an entry of ``torch.stack(losses)`` reaches what any of them reaches, including the
                heads, which then count as shared if they are part of the network and ``shared`` is
                not given.

        Returns:
            ``[T, T]``, float64, symmetric, on the parameters' device (on the CPU for MPS).

        Raises:
            UsageError: A loss is not a scalar, or there is none.
            ReconError: A gradient is not finite, a layer's input was changed in place, or freed, or
                :meth:`backward` has been called for these losses.
        """
        losses = list(losses)
        spent = [loss() for loss in self._spent]
        if any(loss is not None and any(loss is one for one in spent) for loss in losses):
            raise ReconError(
                "The gradients of these losses were already added by record.backward(weights), "
                "which frees the graph. Record the next forward pass, or call record.gramian once."
            )
        total = self.gramian_as_it_is(self.plan(losses), losses)
        if not bool(total.isfinite().all()):
            self._refuse_not_finite()
        return total

    def gramian_as_it_is(
        self, plan: Plan, losses: Sequence[Tensor | None], *, retain_graph: bool = True
    ) -> Tensor:
        """Compute the Gramian by a plan; it may hold NaN or infinity.

        Args:
            plan: The result of :meth:`plan` for these losses. Without its ``specific`` parameters,
                :meth:`backward` only reaches the shared ones.
            losses: As for :meth:`gramian`.
            retain_graph: Keep the graph where the rows are stored; elsewhere :meth:`backward` frees
                it.

        Raises:
            ReconError: A layer's input was changed in place, or freed.
        """
        self._sweep = Sweep(
            plan,
            losses,
            self._rows,
            exact=self.exact,
            ranks=self._ranks,
            retain_graph=retain_graph,
        )
        total = self._sweep.run()
        self.exact = self._sweep.exact
        self.ways, self.layers = tuple(plan.ways), tuple(way.layer for way in plan.ways)
        if total is None:
            total = torch.zeros(len(losses), len(losses), dtype=torch.float64)
        return total

    @property
    def layer_gramians(self) -> Tensor:
        """Return the Gramians of the :attr:`layers`, ``[L, T, T]``, float64, in that order.

        Raises:
            ReconError: :meth:`gramian` was not called yet, or :meth:`backward` was called after it.
        """
        return self._last().layers()

    def backward(self, weights: Tensor, specific: Tensor | None = None) -> None:
        """Add the weighted gradient Σ w_t ∇L_t to the shared parameters, and the others' gradients.

        Gradients accumulate in ``.grad``. The graph is freed; where rows were stored, it is when
        the losses are. Post-accumulate hooks run once, with the final gradient.

        Args:
            weights: ``[T]``.
            specific: ``[T]``: the factors of the losses for the parameters that are not shared;
                None: 1.

        Raises:
            UsageError: There are not T finite weights.
            ReconError: :meth:`gramian` was not called before, or the graph was already freed.
        """
        tasks = len(self._last().losses)
        _check_factors("weights", weights, tasks)
        if specific is not None:
            _check_factors("specific", specific, tasks)
        self.backward_as_it_is(weights, specific)

    def backward_as_it_is(self, weights: Tensor, specific: Tensor | None = None) -> None:
        """Run :meth:`backward` with T weights that may be NaN or infinite."""
        sweep = self._last()
        sweep.update(weights, specific)
        self._sweep = None
        self._spent = [ref(loss) for loss in sweep.losses if loss is not None]

    def _last(self) -> Sweep:
        if self._sweep is None:
            raise ReconError(
                "There is no Gramian for this update. Call record.gramian(losses) first."
            )
        return self._sweep

    def plan(self, losses: Sequence[Tensor | None]) -> Plan:
        """Plan the computation of the Gramian, without a backward pass.

        Args:
            losses: As for :meth:`gramian`.

        Raises:
            UsageError: As for :meth:`gramian`.
            ReconError: There is a reentrant checkpoint.
        """
        _check_losses(losses)
        nodes = [None if loss is None else loss.grad_fn for loss in losses]
        names, way = self._names(), self._way
        unsure = self._hooked() if way == "auto" else ""
        first = "stored" if unsure else way
        plan = make_plan(nodes, self._calls, names, self._shared, first, self._ranks)
        custom = custom_functions(plan.walk)
        if REENTRANT in custom:
            raise reentrant_checkpoint()
        if way == "auto" and custom and not plan.stored:
            unsure = f"the autograd.Function {custom[0]}"
            plan = make_plan(nodes, self._calls, names, self._shared, "stored", self._ranks)
        if unsure:
            why = f"{unsure} may not be linear in the gradient"
            plan.ways = [one._replace(reason=why) for one in plan.ways]
            plan.unsure = unsure
        return plan

    def _hooked(self) -> str:
        """Return the name of a hook that may change gradients; empty if there is none."""
        for path, module in self._network.named_modules():
            if module._backward_hooks or module._backward_pre_hooks:
                return f"a backward hook of {path or 'the network'}"
            for parameter in module._parameters.values():
                if parameter is not None and has_hooks(parameter):
                    return f"a hook of a parameter of {path or 'the network'}"
        found = self._calls.find_hooked()
        return f"a hook of an input or an output of {found}" if found else ""

    def _names(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for path, module in self._network.named_modules():
            name = layer_name(plain_name(path))
            for parameter in module._parameters.values():
                if parameter is not None:
                    found.setdefault(id(parameter), name)
        return found

    def _refuse_not_finite(self) -> None:
        found = self.layer_gramians
        bad = ~found.diagonal(dim1=1, dim2=2).isfinite()
        if not bool(bad.any()):
            bad = ~found.isfinite().all(dim=2)
        layer, task = (int(one) for one in bad.nonzero()[0])
        raise ReconError(
            f"The gradient of loss {task} is not finite in the layer {self.layers[layer]}. Look at "
            "that loss and its inputs; a smaller learning rate, or clipping, may keep it finite."
        )


def custom_functions(walk: Walk) -> list[str]:
    """Return the names of the graph's custom functions, which may not be linear in the gradient."""
    return [
        node.name()
        for node in walk.order
        if isinstance(node, BackwardCFunction) and not hasattr(node._forward_cls, "is_linear")
    ]


def reentrant_checkpoint() -> ReconError:
    """Return the error for a graph that contains :data:`REENTRANT`."""
    return ReconError(
        "The network has a checkpoint with use_reentrant=True, which hides the parameters "
        "inside it from autograd's graph. Use torch.utils.checkpoint with "
        "use_reentrant=False."
    )


def _check_factors(parameter: str, given: object, tasks: int) -> None:
    way_out = "Pass one number per task, such as torch.ones(T)."
    if not isinstance(given, Tensor):
        raise UsageError(parameter, "must be a tensor", given, way_out)
    if given.shape != (tasks,):
        raise UsageError(parameter, f"must have the shape [{tasks}]", list(given.shape), way_out)
    if given.is_complex() or not bool(given.isfinite().all()):
        raise UsageError(
            parameter,
            "must be finite real numbers",
            given.tolist(),
            "Look for a gradient that is zero or not finite in the Gramian.",
        )


def _check_losses(losses: Sequence[Tensor | None]) -> None:
    for loss in losses:
        if loss is not None and (not isinstance(loss, Tensor) or loss.numel() != 1):
            raise UsageError(
                "losses",
                "must be scalars, one per task",
                list(loss.shape) if isinstance(loss, Tensor) else loss,
                "Pass the mean over the samples, or a list of the entries.",
            )
    if not losses:
        raise UsageError(
            "losses", "must have at least one entry", losses, "Pass one loss per task."
        )
