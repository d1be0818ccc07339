"""Theorem 4.1 on real data: one step of the split network compared with one of the plain one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon.problems import multi_fashion_mnist as problem
from libmtl_recon.splitting import (
    is_split,
    shared_parameters,
    split_layers,
    task_parameters,
)

_BATCHES = 20
_RATES = (1e-3, 1e-4, 1e-5)


def one_step(width: int, loader: Any, layers: Sequence[str]) -> list[dict[str, float]]:
    """Take one step of each network, from the same point, on several batches, in float64.

    With weights 1/T the update of the plain network is that of Eq. 4, and that of the split one is
    Eq. 3: its copies get the whole gradient of their own task. To first order in the learning rate,
    the summed loss of the split network is then lower by the rate times
    Σᵢ ‖gᵢ‖² - Σᵢ gᵢ · Σⱼ gⱼ / T, over the split layers.

    Returns:
        For each batch and learning rate: ``rate``, ``difference`` (the summed loss of the split
        network minus that of the plain one, after the step), ``predicted``, and ``condition``, the
        fraction of split layers that satisfy Eq. 6.
    """
    found = []
    tasks = tuple(problem.PAIRS["digit+article"])
    for number, (images, labels) in zip(range(_BATCHES), loader, strict=False):
        torch.manual_seed(number)
        plain = problem.ResNet18(width).double().train()
        heads = nn.ModuleDict({task: problem.make_head("two") for task in tasks}).double()
        split = split_layers(copy.deepcopy(plain), layers, tasks)
        x = images.double()
        gradients = _gradients(plain, heads, x, labels, tasks)
        predicted, condition = _first_order(plain, gradients, layers)
        for rate in _RATES:
            lower = _after_step(split, heads, x, labels, tasks, rate)
            upper = _after_step(plain, heads, x, labels, tasks, rate)
            found.append(
                {
                    "rate": rate,
                    "difference": lower - upper,
                    "predicted": -rate * predicted,
                    "condition": condition,
                }
            )
    return found


def _losses(net: nn.Module, heads: Any, x: Tensor, labels: Any, tasks: Sequence[str]) -> list[Any]:
    encoded = net(x)
    parts = getattr(encoded, "parts", [encoded] * len(tasks))
    return [
        nn.functional.cross_entropy(heads[task](part), labels[task])
        for task, part in zip(tasks, parts, strict=True)
    ]


def _gradients(
    net: nn.Module, heads: Any, x: Tensor, labels: Any, tasks: Sequence[str]
) -> list[dict[str, Tensor]]:
    names, parameters = zip(*net.named_parameters(), strict=True)
    return [
        dict(
            zip(
                names,
                torch.autograd.grad(loss, parameters, retain_graph=True),
                strict=True,
            )
        )
        for loss in _losses(net, heads, x, labels, tasks)
    ]


def _first_order(
    net: nn.Module, gradients: Sequence[dict[str, Tensor]], layers: Sequence[str]
) -> tuple[float, float]:
    total, fulfilled = 0.0, 0
    for layer in layers:
        names = [f"{layer}.{name}" for name in net.get_submodule(layer)._parameters]
        own = [torch.cat([g[n].flatten() for n in names if n in g]) for g in gradients]
        mean = torch.stack(own).mean(0)
        total += float(sum(g @ g - g @ mean for g in own))
        one, other = own
        cosine = float(torch.cosine_similarity(one, other, dim=0))
        norms = float(one.norm()), float(other.norm())
        fulfilled += cosine * norms[0] < norms[1] and cosine * norms[1] < norms[0]
    return total, fulfilled / len(layers)


def _after_step(
    net: nn.Module, heads: Any, x: Tensor, labels: Any, tasks: Sequence[str], rate: float
) -> float:
    """Return the summed loss after one step with the mean gradient, or the task's own if split."""
    net, heads = copy.deepcopy(net), copy.deepcopy(heads)
    shared = shared_parameters(net)
    own = [task_parameters(net, task) if is_split(net) else {} for task in tasks]
    wanted = [*shared, *(p for values in own for p in values.values() if p.requires_grad)]
    wanted += heads.parameters()
    total = torch.stack(_losses(net, heads, x, labels, tasks)).sum()
    gradients = torch.autograd.grad(total, wanted)
    with torch.no_grad():
        for index, (parameter, gradient) in enumerate(zip(wanted, gradients, strict=True)):
            weight = 1 / len(tasks) if index < len(shared) else 1.0
            parameter -= rate * weight * gradient
    return float(torch.stack(_losses(net, heads, x, labels, tasks)).detach().sum())
