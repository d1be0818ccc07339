"""The columns of the benchmarks, which replace a weighting of LibMTL.

Each function takes LibMTL's model, whose weighting is EW, and returns its new ``backward``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from libmtl_recon.integrations.libmtl.step.step import step_of, task_scalars

Backward = Callable[..., None]

# Modules that a network may apply to its inputs first.
_FIRST = (nn.Conv2d, nn.Linear, nn.Embedding)

#: TorchJD's weightings that are equal to LibMTL's of the same name.
TORCHJD_WEIGHTINGS = ("GradOPS", "PCGrad", "MGDA")


def bare(model: Any) -> Backward:
    """Return a step of T backward passes, each followed by one read of its gradients."""

    def backward(losses: Tensor, **_: Any) -> None:
        shared = list(model.get_share_params())
        scalars = task_scalars(model, losses)
        for index, scalar in enumerate(scalars):
            for parameter in shared:
                parameter.grad = None
            scalar.backward(retain_graph=index + 1 < len(scalars))
            for parameter in shared:
                if parameter.grad is not None:
                    parameter.grad.sum()
        step_of(model).close()

    return backward


def limit(model: Any) -> Backward:
    """Return a step of T passes without the weights' gradients, and an ordinary pass."""
    first = next(one for one in model.encoder.modules() if isinstance(one, _FIRST))
    edges: list[GradientEdge] = []
    first.register_forward_hook(lambda _, __, output: edges.append(get_gradient_edge(output)))

    def backward(losses: Tensor, **_: Any) -> None:
        scalars, edge = task_scalars(model, losses), edges.pop()
        for scalar in scalars:
            torch.autograd.grad(scalar, [edge], retain_graph=True)
        torch.autograd.backward(scalars)
        step_of(model).close()

    return backward


def autojac(model: Any, weighting: str, *, sequential: bool = False) -> Backward:
    """Return a step with TorchJD's ``mtl_backward`` and ``jac_to_grad``.

    Args:
        model: The model of LibMTL.
        weighting: One of :data:`TORCHJD_WEIGHTINGS`.
        sequential: One task after the other, without concatenation of the Jacobians; otherwise the
            default arguments, which differentiate for all tasks at once (``torch.vmap``).
    """
    from torchjd.autojac import jac_to_grad, mtl_backward

    aggregator, features = _aggregator(weighting), _features(model)

    def backward(losses: Tensor, **_: Any) -> None:
        shared = list(model.get_share_params())
        mtl_backward(
            task_scalars(model, losses),
            features=features.pop(),
            tasks_params=[list(head.parameters()) for head in model.decoders.values()],
            shared_params=shared,
            parallel_chunk_size=1 if sequential else None,
        )
        jac_to_grad(shared, aggregator, optimize_gramian_computation=sequential)
        step_of(model).close()

    return backward


def autogram(model: Any, weighting: str) -> Backward:
    """Return a step with TorchJD's ``Engine`` and one backward pass before the heads.

    The heads get their own gradients. The engine's argument ``batch_dim`` cannot be used if the
    network has batch norms, or a task's loss is a mean over the samples.
    """
    from torchjd.autogram import Engine

    weigh, features = _aggregator(weighting).gramian_weighting, _features(model)
    engine = Engine(model.encoder, batch_dim=None)

    def backward(losses: Tensor, **_: Any) -> None:
        scalars, representation = task_scalars(model, losses), features.pop()
        weights = weigh(engine.compute_gramian(torch.stack(scalars)))
        update = torch.zeros_like(representation)
        for weight, scalar, head in zip(weights, scalars, model.decoders.values(), strict=True):
            own = list(head.parameters())
            *grads, of_features = torch.autograd.grad(
                scalar, [*own, representation], retain_graph=True
            )
            update += weight * of_features
            for parameter, grad in zip(own, grads, strict=True):
                parameter.grad = grad
        representation.backward(update)
        step_of(model).close()

    return backward


def recorded(model: Any, weighting: str) -> Backward:
    """Return a step with ``libmtl_recon.gradients.recording``, used as outside LibMTL."""
    from libmtl_recon.gradients import recording
    from libmtl_recon.torchjd import gramian_weights

    weigh, forward, records = _aggregator(weighting).gramian_weighting, model.forward, []

    def recorded_forward(*args: Any, **kwargs: Any) -> Any:
        with recording(model.encoder) as record:
            found = forward(*args, **kwargs)
        records.append(record)
        return found

    def backward(losses: Tensor, **_: Any) -> None:
        record = records.pop()
        record.backward(gramian_weights(weigh, record.gramian(task_scalars(model, losses))))
        step_of(model).close()

    model.forward = recorded_forward
    return backward


def _aggregator(weighting: str) -> Any:
    from torchjd import aggregation

    from libmtl_recon.torchjd import GradOPS

    return GradOPS(alpha=-1.0) if weighting == "GradOPS" else getattr(aggregation, weighting)()


def _features(model: Any) -> list[Tensor]:
    """Return a list that receives the encoder's output in each step."""
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        found.append(output)

    model.encoder.register_forward_hook(keep)
    return found
