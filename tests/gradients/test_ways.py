"""What the ways of a layer are held to cost."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest
import torch
from torch import nn

from libmtl_recon.gradients import gramian, task_gradients
from libmtl_recon.gradients.calls import noted
from libmtl_recon.gradients.recording import record_afterwards
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


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_modules_are_found_after_the_forward_pass(kind: str) -> None:
    """No gradient of the wide layer's weight is kept, though nothing was noted of it."""
    torch.manual_seed(0)
    wide: nn.Module = nn.Sequential(nn.Linear(6, 64), nn.Linear(64, 64), nn.Linear(64, 6))
    if kind == "convolution":
        wide = nn.Sequential(nn.Conv2d(6, 64, 1), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 6, 1))
    wide.double()
    x = torch.randn(2, 6, *([1, 1] if kind == "convolution" else []), dtype=torch.float64)
    heads = [nn.Linear(6, 1).double() for _ in range(3)]
    z = wide(x).flatten(1)
    losses = [head(z).square().mean() for head in heads]
    expected = gramian(task_gradients(losses, list(wide.parameters()), retain_graph=True))
    record = record_afterwards(wide)
    torch.testing.assert_close(record.gramian(losses), expected, rtol=1e-10, atol=1e-12)
    assert {way.layer: way.way for way in record.ways}["1"] == "products"
