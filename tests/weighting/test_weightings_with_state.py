"""GradNorm, GradVac and Nash-MTL over the steps of a training loop."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gramian_methods import SEEDS, draw, gramian_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from libmtl_recon import UsageError
from libmtl_recon.weighting import (
    GradNorm,
    GradVac,
    NashMTL,
    gradvac_weights,
    nash_mtl_weights,
    pcgrad_weights,
)


class Problem:
    """Three tasks on one small layer, whose losses differ in size."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layer = nn.Linear(5, 3).double()
        self.x = torch.randn(8, 5, dtype=torch.float64)
        self.goals = torch.randn(8, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.2])

    def losses(self) -> Tensor:
        return (torch.tanh(self.layer(self.x)) - self.goals).square().mean(0)

    def rows(self, losses: Tensor) -> Tensor:
        own = list(self.layer.parameters())
        found = [torch.autograd.grad(one, own, retain_graph=True) for one in losses]
        return torch.stack([torch.cat([g.flatten() for g in one]) for one in found])

    def move(self, update: Tensor) -> None:
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(self.layer.parameters()) - 0.1 * update,
            self.layer.parameters(),
        )


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_gradnorm_is_the_papers_algorithm_by_autograd(alpha: float) -> None:
    ours, theirs = Problem(), Problem()
    norm = GradNorm(alpha, lr=0.025)
    weights = nn.Parameter(torch.ones(3, dtype=torch.float64))
    adam = torch.optim.Adam([weights], lr=0.025)
    first = theirs.losses().detach()
    for _ in range(30):
        losses = ours.losses()
        rows = ours.rows(losses)
        found = norm.weights(rows @ rows.T, losses)
        ours.move(found @ rows)

        # Algorithm 1, whose lengths are differentiated through the gradients of the network.
        losses = theirs.losses()
        own = list(theirs.layer.parameters())
        lengths = []
        for weight, loss in zip(weights, losses, strict=True):
            parts = torch.autograd.grad(weight * loss, own, create_graph=True)
            lengths.append(torch.cat([part.flatten() for part in parts]).norm())
        norms = torch.stack(lengths)
        ratios = losses.detach() / first
        wanted = (norms.mean() * (ratios / ratios.mean()) ** alpha).detach()
        (weights.grad,) = torch.autograd.grad((norms - wanted).abs().sum(), weights)
        update = weights.detach() @ theirs.rows(losses)
        torch.testing.assert_close(found, weights.detach(), rtol=1e-6, atol=1e-9)
        adam.step()
        theirs.move(update)
        with torch.no_grad():
            weights *= 3 / weights.sum()
    assert (found - 1).abs().max() > 0.2


@pytest.mark.parametrize("scale", [1e-24, 1.0, 1e24])
def test_gradnorm_does_not_depend_on_the_gradients_size(scale: float) -> None:
    matrix = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))
    one, other = GradNorm(), GradNorm()
    for step in range(5):
        losses = [1.0 / (1 + step), 1.0]
        found = one.weights(scale * matrix, losses)
        torch.testing.assert_close(found, other.weights(matrix, losses), rtol=1e-6, atol=0)
    assert found[0] < 1 < found[1]


def test_gradnorm_takes_losses_by_task_and_first_losses_of_the_users() -> None:
    matrix = torch.eye(2)
    by_name, by_tensor = (GradNorm(first_losses=[2.0, 1.0]) for _ in range(2))
    for _ in range(3):
        named = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(2.0)}
        found = by_name.weights(matrix, named)
        wanted = by_tensor.weights(matrix, torch.tensor([1.0, 2.0]))
        assert torch.equal(found, wanted)
    # The second has become worse, and gains.
    assert found[1] > 1.04
    by_name.reset()
    assert by_name.weights(matrix, [1.0, 2.0]).tolist() == [1, 1]
    assert by_name.state_dict()["first_losses"].tolist() == [2, 1]


def test_gradnorm_keeps_weights_at_zero_or_above_with_the_sum_of_the_tasks() -> None:
    norm = GradNorm(alpha=0.0, lr=0.5)
    for _ in range(50):
        found = norm.weights(torch.diag(torch.tensor([1e6, 1.0, 1e-6])), [1.0, 1.0, 1.0])
        assert found.min() >= 0
        assert float(found.sum()) == pytest.approx(3)
    zeros = GradNorm()
    for _ in range(3):
        assert torch.isfinite(zeros.weights(torch.zeros(2, 2), [0.0, 0.0])).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: GradNorm(-1.0), "alpha must be a finite number of at least 0"),
        (lambda: GradNorm(lr=float("inf")), "lr must be a finite number of at least 0"),
        (lambda: GradNorm(first_losses=[1.0, -1.0]), "first_losses must be T finite numbers"),
        (lambda: GradNorm().weights(torch.eye(2), [1.0]), "losses must be 2 finite numbers"),
        (lambda: GradNorm().weights(torch.eye(2), 1.0), "losses must be 2 finite numbers"),
        (lambda: GradNorm().weights(torch.eye(2), [1.0, float("nan")]), "losses must be 2 finite"),
        (lambda: GradNorm().weights(torch.eye(2), {"a": 1.0, "b": "c"}), "losses must be 2 finite"),
        (
            lambda: GradNorm(first_losses=[1.0]).weights(torch.eye(2), [1.0, 1.0]),
            "gramian must have",
        ),
        (lambda: GradVac(2.0), "beta must be a finite number from 0 to 1"),
        (lambda: GradVac(guard=-1), "guard must be a finite number of at least 0"),
        (lambda: GradVac(generator=1).weights(torch.eye(2)), "generator must be a torch.Generator"),
        (lambda: NashMTL(0), "update_weights_every must be a whole number of at least 1"),
        (lambda: NashMTL(2.5), "update_weights_every must be a whole number of at least 1"),
        (lambda: NashMTL(max_norm=-1), "max_norm must be a finite number of at least 0"),
    ],
)
def test_what_cannot_be_is_named(call: Any, says: str) -> None:
    with pytest.raises(UsageError, match=f"^{says}"):
        call()


@pytest.mark.parametrize("make", [GradVac, NashMTL, GradNorm])
def test_the_tasks_stay_the_same_until_the_state_is_reset(make: Any) -> None:
    weighting = make()
    more = {"losses": [1.0, 1.0]} if make is GradNorm else {}
    weighting.weights(torch.eye(2), **more)
    more = {"losses": [1.0] * 3} if make is GradNorm else {}
    with pytest.raises(UsageError, match=r"^gramian must have the shape \[2, 2\].*reset\(\)"):
        weighting.weights(torch.eye(3), **more)
    weighting.reset()
    assert len(weighting.weights(torch.eye(3), **more)) == 3


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.integers(1, 5), st.floats(0.0, 1.0))
def test_gradvac_goes_on_with_the_targets_of_the_step_before(
    seed: int, tasks: int, beta: float
) -> None:
    vaccine = GradVac(beta, generator=torch.Generator().manual_seed(seed))
    drawing = torch.Generator().manual_seed(seed)
    targets = torch.zeros(tasks, tasks)
    for step in range(4):
        matrix = gramian_of(draw(seed + step, tasks))
        orders = []
        for task in range(tasks):
            drawn = torch.randperm(tasks, generator=drawing).tolist()
            orders.append([other for other in drawn if other != task])
        wanted, targets = gradvac_weights(matrix, targets, orders, beta)
        torch.testing.assert_close(vaccine.weights(matrix), wanted, rtol=0, atol=0)
        assert vaccine.targets is not None
        torch.testing.assert_close(vaccine.targets, targets, rtol=0, atol=0)


def test_gradvacs_first_step_is_pcgrads_and_later_ones_ask_for_more() -> None:
    rows = np.array([[1.0, 0.0], [0.8, 0.6]])
    vaccine = GradVac(beta=0.5)
    assert vaccine.weights(gramian_of(rows)).tolist() == [1.0, 1.0]
    rows[1] = [0.0, 1.0]
    second = vaccine.weights(gramian_of(rows)).numpy()
    assert (second > 1.4).all()  # the cosine of 0 is raised to 0.4
    assert pcgrad_weights(gramian_of(rows)).tolist() == [1.0, 1.0]
    vaccine.reset()
    assert vaccine.weights(gramian_of(rows)).tolist() == [1.0, 1.0]


def test_gradvac_takes_groups_of_parameters() -> None:
    matrices = torch.stack([gramian_of(draw(seed, 3)) for seed in (1, 2)])
    weights = GradVac(generator=torch.Generator().manual_seed(1)).weights(matrices)
    for matrix, own in zip(matrices, weights, strict=True):
        alone = GradVac(generator=torch.Generator().manual_seed(1)).weights(matrix)
        torch.testing.assert_close(own, alone, rtol=1e-12, atol=0)


def test_nash_mtl_keeps_its_weights_between_updates_and_where_there_is_no_solution() -> None:
    first, second = (gramian_of(draw(seed, 3)) for seed in (1, 2))
    nash = NashMTL(update_weights_every=2, max_norm=None)
    wanted = nash_mtl_weights(first)
    for matrix in (first, second):
        torch.testing.assert_close(nash.weights(matrix), wanted)
    torch.testing.assert_close(nash.weights(second), nash_mtl_weights(second))
    every = NashMTL(max_norm=None)
    every.weights(first)
    opposite = gramian_of(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(every.weights(opposite), wanted)


def test_nash_mtl_cuts_what_is_longer_than_its_limit_in_every_step() -> None:
    nash = NashMTL(update_weights_every=5, max_norm=1.0)
    for seed in range(4):
        rows = 10**seed * draw(seed, 3)
        update = nash.weights(gramian_of(rows)).numpy() @ rows
        assert np.linalg.norm(update) == pytest.approx(1, rel=1e-9) or seed == 0
        assert np.linalg.norm(update) <= 1 + 1e-9


@pytest.mark.parametrize("make", [GradVac, NashMTL, GradNorm])
def test_a_state_that_was_saved_goes_on_as_before(make: Any, tmp_path: Any) -> None:
    def step(weighting: Any, seed: int) -> Tensor:
        more = {"losses": [1.0 + seed, 2.0, 3.0]} if make is GradNorm else {}
        torch.manual_seed(seed)
        found: Tensor = weighting.weights(gramian_of(draw(seed, 3)), **more)
        return found

    one, other = make(), make()
    fresh = copy.deepcopy(one.state_dict())
    for seed in range(3):
        step(one, seed)
    torch.save(one.state_dict(), tmp_path / "state.pt")
    later = [step(one, seed) for seed in range(3, 6)]
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    torch.testing.assert_close([step(other, seed) for seed in range(3, 6)], later, rtol=0, atol=0)
    other.load_state_dict(fresh)
    torch.testing.assert_close(step(other, 0), step(make(), 0), rtol=0, atol=0)
