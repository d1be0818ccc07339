"""Gradients: the mean over the ranks of those that each has computed from its part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.integrations.libmtl.data_parallel.fillers import forget_passes
from libmtl_recon.integrations.libmtl.data_parallel.group import ranks
from libmtl_recon.integrations.libmtl.data_parallel.predictions import refuse_other_losses
from libmtl_recon.integrations.libmtl.data_parallel.randomness import drawing_as_first
from libmtl_recon.integrations.libmtl.wrapper import Call

_NONE, _DENSE, _SPARSE = 0, 1, 2


def average_gradients(
    proceed: Callable[..., Any], model: Any, /, losses: Any, **kwargs: Any
) -> Any:
    """Wrap a model's ``backward``: use the same weights on all ranks, and average the ``.grad``s.

    What a weighting computes from averaged rows is the same on all ranks and is kept.
    """
    group = ranks()
    if group is None:
        return proceed(model, losses, **kwargs)
    refuse_other_losses(model)
    device = next(model.parameters()).device
    with drawing_as_first(group, device):
        weights = proceed(model, losses, **kwargs)
    forget_passes()
    average_grad(list(model.parameters()), group)
    return weights


def average_representations(call: Call) -> None:
    """Average the gradients that ``rep_grad`` weights: one per task, summed over the batch."""
    group, model = ranks(), call.owner
    if group is not None and model.rep_grad:
        own, rows = call.result
        rows = rows.contiguous()
        with group.sending("rows"):
            group.average([rows])
        call.result = [own, rows]


def average_grad(parameters: Sequence[Tensor], group: Ranks) -> None:
    """Replace each parameter's ``.grad`` by the mean over the ranks.

    A parameter with a gradient on some ranks gets one on all; missing gradients count as zero.

    Args:
        parameters: The same on all ranks, in the same order.
        group: The ranks.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        return
    kinds = torch.tensor([_kind(parameter) for parameter in trained], dtype=torch.uint8)
    with group.sending("gradients"):
        kinds = group.largest(kinds)
        dense = []
        for parameter, kind in zip(trained, kinds.tolist(), strict=True):
            if kind == _NONE:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
                if kind == _SPARSE:
                    parameter.grad = parameter.grad.to_sparse(1)
            if kind == _SPARSE:
                parameter.grad = _sparse_mean(parameter.grad, group)
            else:
                dense.append(parameter.grad)
        group.average(dense)


def _kind(parameter: Tensor) -> int:
    if parameter.grad is None:
        return _NONE
    return _SPARSE if parameter.grad.is_sparse else _DENSE


def _sparse_mean(gradient: Tensor, group: Ranks) -> Tensor:
    own = gradient.coalesce() if gradient.is_sparse else gradient.to_sparse(1)
    # Indices are [axes, entries]; the axis that may differ between ranks comes first.
    everyone = group.gather_all([own.indices().T.contiguous(), own.values()])
    indices = torch.cat([of_rank[0] for of_rank in everyone]).T
    values = torch.cat([of_rank[1] for of_rank in everyone]) / group.size
    found = torch.sparse_coo_tensor(indices, values, own.shape, check_invariants=False)
    return found.coalesce()
