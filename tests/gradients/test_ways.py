"""What the ways of a layer are held to cost."""

from __future__ import annotations

from itertools import combinations_with_replacement

import torch
from torch import nn

from libmtl_recon.gradients.calls import noted
from libmtl_recon.gradients.ways import RATES, costs


def test_each_call_of_a_layer_meets_each() -> None:
    layer, reaching = nn.Linear(5, 4), [3, 1, 2]
    with noted(layer) as calls:
        outputs = [layer(torch.randn(n, 5)) for n in (6, 2, 7)]
    there = [(calls.calls[z.grad_fn], t) for z, t in zip(outputs, reaching, strict=True)]
    rates = RATES["cpu"]
    sizes = [(len(z), t) for z, t in zip(outputs, reaching, strict=True)]
    wanted = sum(rates.moved * n * (5 + 2 * tasks * 4) for n, tasks in sizes)
    for (n, tasks), (m, others) in combinations_with_replacement(sizes, 2):
        wanted += n * m * (5 + others * 4) + rates.exact * n * 4 * tasks * others
    found = costs(there, "cpu")
    assert found.products == wanted
    assert found.rows == 3 * 20 * (rates.stored + 3 * rates.exact) + sum(
        rates.weight * tasks * n * 20 for n, tasks in sizes
    )
