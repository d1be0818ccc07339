"""How the Gramian of each layer is computed: by stored rows, or by products of its inputs.

What a way costs is told in multiplications of a matrix product, on one device type. A number that
is written to memory and read again counts as several.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from libmtl_recon.gradients.calls import Call
from libmtl_recon.gradients.operations import Kind


@dataclass(frozen=True)
class Rates:
    """What is counted how, on one device type.

    Attributes:
        stored: A number of a gradient that is written, read for the Gramian and combined.
        moved: A number that is copied once.
        exact: A multiplication in float64.
        weight: A multiplication of the pass that computes a weight's gradient.
        sent: A number that one rank sends to another.
    """

    stored: float
    moved: float
    exact: float
    weight: float
    sent: float


# Measured by benchmarks/gradients.py on one core; a GPU's memory is slower in comparison, and its
# float64 too.
RATES = {"cpu": Rates(stored=70.0, moved=12.0, exact=3.0, weight=1.5, sent=100.0)}
_ELSEWHERE = Rates(stored=200.0, moved=60.0, exact=4.0, weight=1.0, sent=1000.0)


class Way(NamedTuple):
    """How one shared layer is computed.

    Attributes:
        layer: Its name.
        way: ``rows`` or ``products``.
        reason: Why.
    """

    layer: str
    way: str
    reason: str


class Costs(NamedTuple):
    """What the T gradients of a layer's weight cost, in either way, in multiplications."""

    rows: float
    products: float


def costs(calls: Sequence[tuple[Call, int]], device: str, ranks: int = 1) -> Costs:
    """Estimate both ways for the calls of one layer.

    Args:
        calls: All of them, each with the number of tasks that reach it.
        device: The type of its device.
        ranks: How many ranks have as many positions each. One multiplies for all, but each for
            some of the layers: the costs are a rank's mean.
    """
    rates = RATES.get(device, _ELSEWHERE)
    groups, _, a, b = calls[0][0].numbers
    most = max(tasks for _, tasks in calls)
    rows = most * groups * a * b * (rates.stored + rates.exact * most)
    products = 0.0
    # Of this call and those after it, with which it has products, too: positions, tasks, and both.
    positions = reaching = gradients = 0
    for call, tasks in reversed(calls):
        n = call.numbers[1] * ranks
        if call.operation.kind is Kind.EMBEDDING:
            rows += rates.moved * tasks * n * b / ranks
            products += tasks * n * b * (2 * rates.moved + rates.exact * tasks)
            continue
        positions, reaching, gradients = positions + n, reaching + tasks, gradients + n * tasks
        rows += rates.weight * tasks * groups * n * a * b / ranks
        products += rates.moved * groups * n * (a + 2 * tasks * b)
        products += groups * n * (positions * a + gradients * b)
        products += rates.exact * groups * n * b * tasks * reaching
    if ranks > 1:
        away = rates.sent * (ranks - 1) / ranks
        rows += away * most * groups * a * b
        gradients_sent = sum(call.shape.numel() * tasks for call, tasks in calls)
        inputs_sent = sum(call.inputs.numel() for call, _ in calls)
        products = products / ranks + away * (gradients_sent + inputs_sent)
    return Costs(rows, products)


def whole_pass(calls: Sequence[Call], others: Iterable[tuple[nn.Module, int]]) -> float:
    """What one more backward pass costs.

    Args:
        calls: What the passes go through.
        others: Modules besides, and at how many positions each is applied. What they do of their
            weights is not known, but seldom less than one multiplication for each number.
    """
    rates = RATES.get(calls[0].inputs.device.type, _ELSEWHERE)
    known = {id(call.operation.weight) for call in calls}
    found = 0.0
    for call in calls:
        if call.operation.kind is not Kind.EMBEDDING:
            groups, n, a, b = call.numbers
            found += groups * n * a * b
    for module, positions in others:
        for parameter in module._parameters.values():
            if parameter is not None and parameter.ndim > 1 and id(parameter) not in known:
                found += positions * parameter.numel()
    return (1.0 + rates.weight) * found


def free_memory(device: torch.device) -> int | None:
    """How many bytes are free on a device; None if that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
