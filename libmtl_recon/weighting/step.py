"""One training step of any loop: T losses in, weighted gradients in ``.grad``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.gradients.recording import Record, record_afterwards
from libmtl_recon.weighting.step_losses import Losses, named_losses

# Wrappers that send what a backward pass leaves in `.grad`, before it could be weighed for all.
_SENDING = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")


@dataclass(frozen=True, eq=False)
class StepResult:
    """What one :func:`step` weighed, for logs.

    Attributes:
        tasks: The T tasks' names: the keys of ``losses``, or ``"0"``, ``"1"``, … of a list.
        weights: ``[T]``, float64, on the CPU: what each task's gradient of the shared parameters
            was multiplied by. It is 0 for a task that was absent.
        gramian: ``[T, T]``, float64, on the CPU: the inner products of these gradients, with zeros
            for a task that was absent. A gradient scaler's scale is taken out of it.
        finite: False where a scaled gradient was not finite. The weights are then NaN, and
            ``.grad`` is not finite, so that the scaler leaves the step out.
    """

    tasks: tuple[str, ...]
    weights: Tensor
    gramian: Tensor
    finite: bool = True

    def named_weights(self) -> dict[str, float]:
        """The weights by the tasks' names."""
        return dict(zip(self.tasks, self.weights.tolist(), strict=True))


def step(
    losses: Losses,
    network: nn.Module,
    weighting: Any,
    *,
    shared: Iterable[nn.Parameter] | None = None,
    scaler: GradScaler | None = None,
) -> StepResult:
    """Weigh the tasks' gradients of the shared parameters, and fill ``.grad``: a backward pass.

    It stands where ``sum(losses).backward()`` would. Shared parameters get the gradient
    Σ w_t ∇L_t, whose weights follow from the Gramian of the gradients ∇L_t. All other parameters
    (heads, and parameters outside of the network) get that of Σ L_t, which for a head is the
    gradient of its own task's loss. Gradients add to what there is in ``.grad``, and the graph is
    freed.

    The Gramian is computed from the graph that the forward pass has left, layer by layer in the
    cheaper of two ways; see ``docs/gradients.md``. With one task present no weighting is asked, and
    the step is ``loss.backward()``.

    Args:
        losses: A dict by task, or a list in the order of the tasks, of T scalars with their graphs.
            None stands for a task that is absent in this step. Pass them as they were computed: an
            entry of ``torch.stack(losses)`` reaches what any of them does.
        network: The module that has the shared parameters. It may have the heads as well. Not
            changed.
        weighting: A function of the Gramian ``[T, T]`` (float64, of the tasks that are present, on
            the gradients' device) that returns T weights, such as
            :func:`libmtl_recon.gradops_weights`; an object with such a method ``weights``, which
            may keep a state; or a TorchJD ``Weighting`` of the Gramian.
        shared: The shared parameters; None: those of the network that at least two losses reach.
        scaler: The gradient scaler of mixed precision, if there is one. The losses are then given
            unscaled, and ``.grad`` is scaled, as :meth:`torch.amp.GradScaler.step` takes it.

    Returns:
        The weights and the Gramian.

    Raises:
        UsageError: A loss is no scalar, is not finite or has no graph; none is present; or
            ``network``, ``weighting`` or ``shared`` is none.
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
    """As :func:`step`, for losses that are checked already and of which ``.grad`` has a multiple.

    Args:
        named: By task.
        network: As there, as are ``weighting`` and ``shared``.
        weighting: As there.
        shared: As there.
        factor: What the losses are multiplied by before they are differentiated; the Gramian is
            that of the losses themselves.
        may_overflow: Whether a scaler leaves steps out whose gradients are not finite.

    Raises:
        UsageError: As there.
        ReconError: As there.
    """
    function = _function(weighting)
    places = [place for place, loss in enumerate(named.values()) if loss is not None]
    present = {name: loss for name, loss in named.items() if loss is not None}
    if not present:
        raise UsageError(
            "losses", "must be of at least one task", list(named), "Leave such a step out."
        )
    record = record_afterwards(network, shared=shared)
    _refuse_sending(network)
    losses = list(present.values())
    if factor != 1.0:
        losses = [(loss.float() if loss.itemsize < 4 else loss) * factor for loss in losses]
    matrix = _gramian(record, losses) / factor**2
    finite = bool(matrix.isfinite().all())
    if not finite and not may_overflow:
        raise _not_finite(record, list(present))
    if len(present) > 1 and not record.layers:
        raise ReconError(
            f"None of the parameters that train is reached by two of the losses of the tasks "
            f"{', '.join(map(repr, present))}, so that there is nothing to weigh. Pass the network "
            "that these losses were computed with; where its shared layers are frozen, call "
            "sum(losses).backward()."
        )
    if len(present) > 1 and finite:
        weights = _weights(function, matrix, list(present))
    else:
        weights = torch.ones(len(present), dtype=torch.float64)
    record.backward(weights)
    if not finite:
        weights = torch.full_like(weights, float("nan"))
    return _result(tuple(named), places, weights, matrix.cpu(), finite)


def _device_of(named: Mapping[str, Tensor | None]) -> torch.device | None:
    return next((loss.device for loss in named.values() if loss is not None), None)


def _function(weighting: Any) -> Callable[[Tensor], Any]:
    way_out = (
        "Pass a function of the Gramian [T, T], such as libmtl_recon.gradops_weights, or an object "
        "with a method `weights`."
    )
    if isinstance(weighting, type):
        raise UsageError(
            "weighting", "must be an object, not a class", weighting, "Make one before the loop."
        )
    if any(kind.__module__.partition(".")[0] == "torchjd" for kind in type(weighting).__mro__):
        # Looked up by name, for this room knows no adapters: that of TorchJD refuses what takes
        # the matrix of the gradients, which would take the Gramian for one.
        adapter = import_module("libmtl_recon.torchjd")
        return partial(adapter.gramian_weights, weighting)
    method = getattr(weighting, "weights", None)
    found = method if callable(method) else weighting
    if not callable(found):
        raise UsageError("weighting", "must be a function of the Gramian", weighting, way_out)
    return found  # type: ignore[no-any-return]


def _refuse_sending(network: nn.Module) -> None:
    for path, module in network.named_modules():
        for kind in type(module).__mro__:
            if kind.__name__ in _SENDING:
                where = f"Its module {path!r}" if path else "The network"
                raise ReconError(
                    f"{where} is a {kind.__name__}, which averages gradients over processes before "
                    "they could be weighed by what all processes have found. Train in one process. "
                    "LibMTL's weightings train on several by `torchrun -m libmtl_recon run`."
                )


def _gramian(record: Record, losses: Sequence[Tensor]) -> Tensor:
    try:
        return record.gramian_as_it_is(record.plan(losses), losses)
    except RuntimeError as error:
        if "donated buffers" not in str(error):
            raise
        raise ReconError(
            "The network was compiled so that a backward pass may go through its graph once, and "
            "weighing needs one per task. Set torch._functorch.config.donated_buffer = False "
            "before the network is called for the first time."
        ) from error


def _weights(weigh: Callable[[Tensor], Any], gramian: Tensor, tasks: Sequence[str]) -> Tensor:
    with torch.no_grad():
        given = weigh(gramian.clone())
    try:
        if isinstance(given, tuple):
            raise TypeError("a tuple")
        found = torch.as_tensor(given).detach().cpu()
        found = found if found.is_complex() else found.double()
    except (TypeError, ValueError, RuntimeError):
        shown, fit = type(given).__name__, False
    else:
        shown, fit = str(list(found.shape)), found.shape == (len(tasks),)
        shown, fit = (str(found.dtype), False) if found.is_complex() else (shown, fit)
    if not fit:
        raise ReconError(
            f"The weighting must return {len(tasks)} real numbers, one for each of the tasks "
            f"{', '.join(map(repr, tasks))}, and has returned {shown}. If it keeps a state of "
            "another number of tasks, make a new one."
        )
    if not bool(found.isfinite().all()):
        raise ReconError(
            f"The weighting must return finite numbers, and has returned {found.tolist()} for the "
            f"tasks {', '.join(map(repr, tasks))}. Look for gradients in the Gramian that are "
            f"zero, or nearly the same: {gramian.tolist()}."
        )
    return found


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


def _result(
    tasks: tuple[str, ...], places: Sequence[int], weights: Tensor, gramian: Tensor, finite: bool
) -> StepResult:
    if len(places) == len(tasks):
        return StepResult(tasks, weights, gramian, finite)
    of_all = torch.zeros(len(tasks), dtype=torch.float64)
    between = torch.zeros(len(tasks), len(tasks), dtype=torch.float64)
    where = torch.tensor(places)
    of_all[where] = weights
    between[where[:, None], where] = gramian
    return StepResult(tasks, of_all, between, finite)
