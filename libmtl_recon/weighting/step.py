"""A backward pass of T losses with weighted gradients, for any training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.gradients.graph_errors import explained
from libmtl_recon.gradients.recording import Record, record_afterwards
from libmtl_recon.gradients.rows import TaskRows
from libmtl_recon.weighting.step_losses import Losses, named_losses
from libmtl_recon.weighting.step_weights import Asked

# Wrappers that send gradients to other processes as soon as a backward pass computes them.
_SENDING = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")

# By network: a large matrix is cheaper to overwrite than to allocate in each step.
_memory: WeakKeyDictionary[nn.Module, TaskRows] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class StepResult:
    """The result of one :func:`step`, for logs.

    Attributes:
        tasks: The T tasks' names: the keys of ``losses``, or ``"0"``, ``"1"``, … of a list.
        weights: ``[T]``, float64, on the CPU: the factor of each task's gradient with respect to
            the shared parameters. It is 0 for an absent task.
        gramian: ``[T, T]``, float64, on the CPU: the inner products of these gradients, with zeros
            for an absent task. It does not contain the scale of a gradient scaler.
        finite: False if a scaled gradient was not finite. The weights are then NaN, and ``.grad``
            is not finite, so that the scaler skips the step.
    """

    tasks: tuple[str, ...]
    weights: Tensor
    gramian: Tensor
    finite: bool = True

    def named_weights(self) -> dict[str, float]:
        """Return the weights by the tasks' names."""
        return dict(zip(self.tasks, self.weights.tolist(), strict=True))


def step(
    losses: Losses,
    network: nn.Module,
    weighting: Any,
    *,
    shared: Iterable[nn.Parameter] | None = None,
    scaler: GradScaler | None = None,
) -> StepResult:
    """Run the backward pass with weighted task gradients, and add the gradients to ``.grad``.

    It replaces ``sum(losses).backward()``. Shared parameters get the gradient Σ w_t ∇L_t, whose
    weights are computed from the Gramian of the gradients ∇L_t. All other parameters (heads, and
    parameters outside the network) get the gradient of Σ L_t, which for a head is that of its own
    task's loss. Gradients accumulate in ``.grad``; post-accumulate hooks run once per parameter,
    with the final gradient. The graph is freed: call it once per forward pass.

    The Gramian is computed from the graph of the forward pass, layer by layer in the cheaper of two
    ways; see ``docs/gradients.md``. If one task is present, the weighting is not called, and the
    step is ``loss.backward()``.

    Args:
        losses: T scalars with their graphs: a dict by task, or a list in the order of the tasks.
            None denotes a task that is absent in this step. Pass the losses as they were computed:
            an entry of ``torch.stack(losses)`` reaches what any of them reaches.
        network: The module that contains the shared parameters. It may contain the heads as well.
            It is not changed.
        weighting: A function of the Gramian ``[T, T]`` (float64, on the gradients' device) that
            returns T weights, such as :func:`libmtl_recon.gradops_weights`; a TorchJD ``Weighting``
            of the Gramian; or an object with such a method ``weights``, which may keep a state,
            and gets the losses ``[T]`` as well if it has a parameter ``losses``. A function gets
            the Gramian of the present tasks only; a method, whose state covers all tasks, gets that
            of all tasks, in which the gradient of an absent task is zero.
        shared: The shared parameters; None: those of the network that at least two losses reach.
        scaler: The gradient scaler of mixed precision, if one is used. Pass the unscaled losses;
            ``.grad`` is scaled, as :meth:`torch.amp.GradScaler.step` expects.

    Returns:
        The weights and the Gramian.

    Raises:
        UsageError: A loss is not a scalar, is not finite or has no graph; no loss is present; or
            ``network``, ``weighting`` or ``shared`` is invalid.
        ReconError: No parameter is shared, a gradient is not finite, the weights are not T finite
            numbers, or the network sends its gradients to other processes.

    Example:
        >>> import torch, libmtl_recon
        >>> encoder = torch.nn.Linear(8, 4)
        >>> heads = torch.nn.ModuleDict({task: torch.nn.Linear(4, 1) for task in ("a", "b")})
        >>> z = encoder(torch.randn(2, 8))
        >>> losses = {task: head(z).square().mean() for task, head in heads.items()}
        >>> found = libmtl_recon.step(losses, encoder, libmtl_recon.gradops_weights)
        >>> found.tasks, encoder.weight.grad.shape
        (('a', 'b'), torch.Size([4, 8]))
    """
    factor = 1.0
    named = named_losses(losses)
    if scaler is not None:
        if not isinstance(scaler, GradScaler):
            raise UsageError(
                "scaler", "must be a torch.amp.GradScaler", scaler, "Leave it out if there is none."
            )
        factor = float(scaler.scale(torch.ones((), device=_device_of(named))))
    return weigh(
        named, network, weighting, shared=shared, factor=factor, may_overflow=scaler is not None
    )


def weigh(
    named: Mapping[str, Tensor | None],
    network: nn.Module,
    weighting: Any,
    *,
    shared: Iterable[nn.Parameter] | None = None,
    factor: float = 1.0,
    may_overflow: bool = False,
) -> StepResult:
    """Run :func:`step` with losses that are already checked, and gradients scaled by a factor.

    Args:
        named: The losses by task.
        network: As for :func:`step`.
        weighting: As for :func:`step`.
        shared: As for :func:`step`.
        factor: The factor by which the losses are multiplied before they are differentiated; the
            Gramian is that of the losses themselves.
        may_overflow: Whether a scaler skips steps whose gradients are not finite.

    Raises:
        UsageError: As for :func:`step`.
        ReconError: As for :func:`step`.
    """
    asked, shared = Asked(weighting), None if shared is None else list(shared)
    present = {name: loss for name, loss in named.items() if loss is not None}
    if not present:
        raise UsageError(
            "losses",
            "must have the loss of at least one task",
            f"None for {', '.join(map(repr, named))}" if named else "no loss",
            "Skip a step in which all tasks are absent.",
        )
    asked.check_tasks(list(named))
    record = record_afterwards(
        network,
        shared=shared,
        way="stored" if len(present) == 1 else "auto",
        rows=_memory_of(network) if isinstance(network, nn.Module) else None,
    )
    losses = list(present.values())
    if factor != 1.0:
        with torch.enable_grad():
            losses = [loss * factor for loss in losses]
    with explained("step"):
        found = record.gramian_as_it_is(record.plan(losses), losses, retain_graph=False)
    matrix = found / factor**2
    finite = bool(matrix.isfinite().all())
    if not finite and not may_overflow:
        raise _not_finite(record, list(present))
    if len(present) > 1 and not record.layers:
        raise ReconError(
            f"No trainable parameter of {'the network' if shared is None else '`shared`'} is "
            f"reached by {'two' if shared is None else 'any'} of the losses of the tasks "
            f"{', '.join(map(repr, present))}, so there are no gradients to weight. Pass the "
            "parameters with which these losses were computed; if they are frozen, call "
            "sum(losses).backward()."
        )
    places = torch.tensor([place for place, loss in enumerate(named.values()) if loss is not None])
    gramian = torch.zeros(len(named), len(named), dtype=torch.float64)
    gramian[places[:, None], places] = matrix.cpu()
    weights = torch.zeros(len(named), dtype=torch.float64)
    weights[places] = 1.0
    if len(present) > 1 and finite:
        weights[places] = asked.weights(gramian.to(matrix.device), named)
    record.backward(weights[places])
    if not finite:
        weights[places] = float("nan")
    return StepResult(tuple(named), weights, gramian, finite)


def _device_of(named: Mapping[str, Tensor | None]) -> torch.device | None:
    return next((loss.device for loss in named.values() if loss is not None), None)


def _memory_of(network: nn.Module) -> TaskRows:
    """Return the memory for a network's rows, which is kept from step to step.

    Raises:
        ReconError: The network sends its gradients to other processes.
    """
    rows = _memory.get(network)
    sending = _found_sending(network) if rows is None else ""
    # Also if the module inside a wrapper was passed.
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        sending = sending or f"This is one of {dist.get_world_size()} processes of a process group"
    if sending:
        raise ReconError(
            f"{sending}, so each process would compute the weights from the gradients of its own "
            "part of a batch. Train in one process, without the wrapper."
        )
    if rows is None:
        rows = _memory[network] = TaskRows()
    rows.begin()
    return rows


def _found_sending(network: nn.Module) -> str:
    where = ""
    for path, module in network.named_modules():
        for kind in type(module).__mro__:
            if kind.__name__ in _SENDING:
                where = f"{f'The module {path!r}' if path else 'The network'} is a {kind.__name__}"
    return where


def _not_finite(record: Record, tasks: Sequence[str]) -> ReconError:
    found = record.layer_gramians
    bad = ~found.diagonal(dim1=1, dim2=2).isfinite()
    bad = bad if bool(bad.any()) else ~found.isfinite().all(dim=2)
    layer, task = (int(one) for one in bad.nonzero()[0])
    return ReconError(
        f"The gradient of task {tasks[task]!r} is not finite in the layer {record.layers[layer]}. "
        "Look at this task's loss and inputs. If the losses are scaled by a gradient scaler, which "
        "leaves such steps out, pass them unscaled, and the scaler as `scaler`."
    )
