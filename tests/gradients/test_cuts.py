"""Where the backward passes are cut, and what is held between the cuts."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from libmtl_recon.gradients import gramian, plan, recording, task_gradients
from libmtl_recon.gradients.cuts import chosen
from libmtl_recon.gradients.plan import Segment
from libmtl_recon.gradients.ways import Costs

NUMBERS = st.integers(0, 30)


@given(st.lists(NUMBERS, max_size=6), st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_fewest_cuts_with_about_the_least_memory(cuts: list[int], data: st.DataObject) -> None:
    between = data.draw(st.lists(NUMBERS, min_size=len(cuts) + 1, max_size=len(cuts) + 1))
    nothing = data.draw(st.sampled_from([0, 20]))

    def held(kept: tuple[int, ...]) -> int:
        sizes = [0, *(cuts[place - 1] for place in kept), 0]
        bounds = [0, *kept, len(cuts) + 1]
        return max(
            sizes[i] + sizes[i + 1] + sum(between[bounds[i] : bounds[i + 1]])
            for i in range(len(kept) + 1)
        )

    places = range(1, len(cuts) + 1)
    every = [kept for count in range(len(cuts) + 1) for kept in combinations(places, count)]
    allowed = max(1.25 * min(map(held, every)), nothing)
    found = tuple(chosen(cuts, between, nothing))
    assert held(found) <= allowed
    assert len(found) == min(len(kept) for kept in every if held(kept) <= allowed)


class Ring(nn.Module):
    """A chain whose first layer is its last, too."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(depth)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in [*self.layers, self.layers[0]]:
            x = layer(x)
        return x


class Halves(nn.Module):
    """A module returns one of two outputs of a node, of which the other is used as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.same = nn.Linear(16, 16), nn.Linear(8, 32), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, dim=-1)
        return self.last(self.same(left) * right)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("make", [lambda: Ring(6), Halves])
def test_layers_on_both_sides_of_a_cut(
    make: type[nn.Module], products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = Costs(2.0, 1.0) if products else Costs(1.0, 2.0)
    monkeypatch.setattr("libmtl_recon.gradients.left_out.costs", lambda *_: costs)
    segments: list[Segment] = []
    original = plan._segments

    def noted(*given: object) -> list[Segment]:
        segments.extend(original(*given))  # type: ignore[arg-type]
        return segments

    monkeypatch.setattr(plan, "_segments", noted)
    network = make().double()
    x = torch.randn(1, 16, dtype=torch.float64)

    def losses() -> list[Tensor]:
        z = network(x)
        return [z.sin().sum(), z.square().mean(), z.std()]

    rows = gramian(task_gradients(losses(), list(network.parameters())))
    with recording(network, way="ghost") as record:
        found = losses()
    torch.testing.assert_close(record.gramian(found), rows, rtol=0, atol=1e-10 * float(rows.max()))
    assert {way.way for way in record.ways} == {"products" if products else "rows"}
    assert len(segments) > 1 or products
