"""The choice of how each layer's Gramian is computed: by stored rows, or by products of its inputs.

Costs are given in multiplications of a matrix product, on one device type. A number that is written
to memory and read again counts as several.
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
    """The costs of operations relative to one multiplication, on one device type.

    Attributes:
        stored: Writing an entry of a gradient, reading it for the Gramian and combining it.
        moved: Copying an entry once.
        exact: A multiplication in float64.
        weight: A multiplication of the pass that computes a weight's gradient.
        sent: Sending an entry from one rank to another.
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
    """The way in which one shared layer is computed.

    Attributes:
        layer: The name of the layer.
        way: ``rows`` or ``products``.
        reason: The reason for it.
    """

    layer: str
    way: str
    reason: str


class Costs(NamedTuple):
    """The costs of the T gradients of a layer's weight in either way, in multiplications."""

    rows: float
    products: float


def costs(calls: Sequence[tuple[Call, int]], device: str, ranks: int = 1) -> Costs:
    """Estimate the costs of both ways for the calls of one layer.

    Args:
        calls: All calls, each with the number of tasks that reach it.
        device: The type of the device.
        ranks: The number of ranks, each of which has this number of positions. One rank multiplies
            for all, each for some of the layers: the costs are the mean per rank.
    """
    rates = RATES.get(device, _ELSEWHERE)
    groups, _, a, b = calls[0][0].numbers
    most = max(tasks for _, tasks in calls)
    rows = most * groups * a * b * (rates.stored + rates.exact * most)
    products = 0.0
    # Sums over this call and the calls after it, with which it has products as well: positions,
    # tasks, and positions times tasks.
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
    """Estimate the cost of one more backward pass.

    Args:
        calls: The calls that the pass goes through.
        others: Other modules, with the number of positions at which each is applied. Their
            operations are not known, but rarely take less than one multiplication per weight entry.
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
    """Return the number of free bytes on a device; None if it is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
