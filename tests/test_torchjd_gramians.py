"""TorchJD's weightings of our Gramians: those of its own aggregators, of the matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchjd import aggregation
from torchjd.aggregation import (
    Aggregator,
    CRMOGMWeighting,
    GradDrop,
    GradVac,
    GradVacWeighting,
    GramianWeightedAggregator,
    Mean,
    MeanWeighting,
    MGDAWeighting,
    MoDoWeighting,
    PCGradWeighting,
    SDMGradWeighting,
    WeightedAggregator,
    Weighting,
)
from torchjd.linalg import PSDMatrix

from libmtl_recon import ReconError, UsageError
from libmtl_recon.gradients import recording, task_gradients
from libmtl_recon.torchjd import GradOPS, GradOPSWeighting, gramian_weights

TASKS = 4
ARGUMENTS: dict[str, dict[str, Any]] = {
    "CAGrad": {"c": 0.5},
    "FairGrad": {"alpha": 1.0},
    "Krum": {"n_byzantine": 1},
    "GradOPS": {"alpha": -1.0},
}


def gramian_aggregators() -> list[str]:
    """All of TorchJD's, and ours."""
    found = (getattr(aggregation, name) for name in aggregation.__all__)
    kinds = [one for one in found if issubclass(one, GramianWeightedAggregator)]
    return ["GradOPS", *(one.__name__ for one in kinds if one is not GramianWeightedAggregator)]


def make(name: str) -> GramianWeightedAggregator:
    if name == "GradOPS":
        return GradOPS(**ARGUMENTS[name])
    try:
        found: GramianWeightedAggregator = getattr(aggregation, name)(**ARGUMENTS.get(name, {}))
    except ImportError as error:
        pytest.skip(str(error))
    return found


def seeded(call: Callable[[], Tensor]) -> Tensor:
    """Call a function with the same random orders of the tasks for PCGrad and GradVac."""
    torch.manual_seed(5)
    return call()


def rows_in_conflict() -> Tensor:
    torch.manual_seed(2)
    rows = torch.randn(TASKS, 6, dtype=torch.float64)
    assert (rows @ rows.T).min() < 0
    return rows


def test_there_are_all_the_aggregators() -> None:
    known = {"AlignedMTL", "CAGrad", "DualProj", "FairGrad", "GradVac", "IMTLG", "Krum", "MGDA"}
    assert known | {"PCD", "PCGrad", "UPGrad", "GradOPS"} <= set(gramian_aggregators())


@pytest.mark.parametrize("name", gramian_aggregators())
def test_the_weights_are_those_of_the_aggregator(name: str) -> None:
    of_rows, of_gramian = make(name), make(name).gramian_weighting
    for step in range(3):  # some keep a state
        rows = rows_in_conflict() + 0.1 * step
        weights = seeded(lambda rows=rows: gramian_weights(of_gramian, rows @ rows.T))
        assert weights.dtype == torch.float64
        expected = seeded(lambda rows=rows: of_rows(rows))
        torch.testing.assert_close(weights @ rows, expected, rtol=1e-10, atol=1e-12)


def test_a_smoothed_weighting_keeps_its_state() -> None:
    weighting = CRMOGMWeighting(MGDAWeighting(), alpha=0.5)
    rows = rows_in_conflict()
    first = gramian_weights(weighting, rows @ rows.T)
    other = gramian_weights(MGDAWeighting(), rows.flip(0) @ rows.flip(0).T)
    second = gramian_weights(weighting, rows.flip(0) @ rows.flip(0).T)
    torch.testing.assert_close(second, (first + other) / 2)
    weighting.reset()
    torch.testing.assert_close(gramian_weights(weighting, rows @ rows.T), first)


class Branches(nn.Module):
    """Convolutions, norms, and a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.fc1 = nn.Linear(8 * 9, 16)
        self.fc2 = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(torch.relu(self.norm(self.conv(x))).flatten(1)).tanh()
        return self.fc2(self.fc2(hidden).tanh())


@pytest.mark.parametrize("name", gramian_aggregators())
@pytest.mark.parametrize("way", ["auto", "ghost"])
def test_a_network_gets_the_update_of_the_aggregator(name: str, way: str) -> None:
    aggregator, weighting = make(name), make(name).gramian_weighting
    torch.manual_seed(0)
    network = Branches().double()
    heads = [nn.Linear(16, 3).double() for _ in range(TASKS)]
    x, labels = torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.randint(3, (TASKS, 5))

    def losses() -> list[Tensor]:
        z = network(x)
        return [cross_entropy(head(z), y) for head, y in zip(heads, labels, strict=True)]

    expected = seeded(lambda: aggregator(task_gradients(losses(), list(network.parameters()))))
    with recording(network, way=way) as record:
        found = losses()
    weights = seeded(lambda: gramian_weights(weighting, record.gramian(found)))
    record.backward(weights)
    update = torch.cat([p.grad.flatten() for p in network.parameters()])
    torch.testing.assert_close(update, expected, rtol=1e-7, atol=1e-10)
    assert all(head.weight.grad is not None for head in heads)


def test_a_gramian_in_float32_has_weights_in_float64() -> None:
    rows = rows_in_conflict()
    weights = gramian_weights(MGDAWeighting(), (rows @ rows.T).float())
    assert weights.dtype == torch.float64
    torch.testing.assert_close(weights, MGDAWeighting()(rows @ rows.T), rtol=1e-4, atol=1e-4)


def test_there_is_no_graph_behind_the_weights() -> None:
    gramian = torch.eye(3, dtype=torch.float64, requires_grad=True)
    assert not gramian_weights(MGDAWeighting(), gramian).requires_grad


@pytest.mark.parametrize(
    ("given", "way_out"),
    [
        (GradVac(), r"Pass the aggregator's `gramian_weighting`, which is a GradVacWeighting"),
        (GradVac().weighting, "`gramian_weighting` instead of its `weighting`"),
        (GradOPS().weighting, "`gramian_weighting` instead of its `weighting`"),
        (CRMOGMWeighting(GradVac().weighting), "`gramian_weighting` instead of"),
        (Mean(), "no weighting of the Gramian"),
        (GradDrop(), "no weighting of the Gramian"),
        (MeanWeighting(), "MeanWeighting takes a matrix .* such as UPGradWeighting"),
        (CRMOGMWeighting(MeanWeighting()), "MeanWeighting takes a matrix"),
        (MoDoWeighting(), "MoDoWeighting takes a matrix"),
        (SDMGradWeighting(), "SDMGradWeighting takes a matrix"),
        (GradVacWeighting, r"such as UPGradWeighting\(\)"),
        (None, r"such as UPGradWeighting\(\)"),
    ],
)
def test_what_is_no_weighting_of_the_gramian_is_refused(given: Any, way_out: str) -> None:
    with pytest.raises(UsageError, match=f"^weighting must be a TorchJD weighting.*{way_out}"):
        gramian_weights(given, torch.eye(3))


def test_what_is_no_gramian_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^gramian must be a square matrix"):
        gramian_weights(PCGradWeighting(), torch.ones(2, 3))
    with pytest.raises(UsageError, match=r"^gramian must hold finite numbers"):
        gramian_weights(PCGradWeighting(), torch.full((2, 2), float("nan")))


class Own(Weighting[PSDMatrix]):
    """A user's."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        return self.weights


def test_a_user_s_weighting_is_taken_and_its_weights_checked() -> None:
    torch.testing.assert_close(
        gramian_weights(Own(torch.tensor([1.0, 2.0])), torch.eye(2)),
        torch.tensor([1.0, 2.0], dtype=torch.float64),
    )
    with pytest.raises(ReconError, match=r"Own returned \[2\] for the Gramian of 3 tasks"):
        gramian_weights(Own(torch.ones(2)), torch.eye(3))
    with pytest.raises(ReconError, match="Own returned weights that are not finite"):
        gramian_weights(Own(torch.tensor([1.0, float("inf")])), torch.eye(2))


def test_a_weighting_around_a_gramian_of_the_user_s_is_taken() -> None:
    scaled = GradOPSWeighting() << (lambda gramian: 4 * gramian)
    torch.testing.assert_close(
        gramian_weights(scaled, torch.eye(2)), torch.ones(2, dtype=torch.float64)
    )
    assert isinstance(WeightedAggregator(scaled), Aggregator)
