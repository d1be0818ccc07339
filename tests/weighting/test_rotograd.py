"""RotoGrad outside LibMTL: the paper's formulas, and its properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rotograd_tasks import Problem, a_rotation, randn, rotated_rotograd, train
from torch import Tensor, nn

import libmtl_recon
from libmtl_recon import RotoGrad
from libmtl_recon.weighting.leader import Leader
from libmtl_recon.weighting.rotation import Rotation
from libmtl_recon.weighting.rotograd_formulas import (
    gradnorm_gradient,
    gradnorm_weights,
    scaling_weights,
    training_rates,
)

# The norm from which on PyTorch's matrix exponential is exact to rounding in float64.
SMALL = 0.05
SHAPES = {"flat": (6, 5), "tokens": (2, 3, 5), "images": (3, 5, 2, 2), "volumes": (2, 5, 2, 1, 2)}


@settings(deadline=None)
@given(arrays(np.float64, 6, elements=st.floats(1e-6, 1e6)))
def test_scaling_is_the_papers_formula(numbers: np.ndarray) -> None:
    norms, first = (torch.from_numpy(part.copy()) for part in np.split(numbers, 2))
    ratios = [float(n / f) for n, f in zip(norms, first, strict=True)]
    alphas = [ratio / sum(ratios) for ratio in ratios]
    common = sum(a * float(n) for a, n in zip(alphas, norms, strict=True))
    expected = torch.tensor([common / float(n) for n in norms], dtype=torch.float64)
    torch.testing.assert_close(scaling_weights(norms, first), expected, rtol=1e-12, atol=0.0)


@settings(deadline=None)
@given(
    arrays(np.float64, 4, elements=st.floats(1e-3, 1e3)),
    arrays(np.float64, 4, elements=st.floats(-3, 3)),
    st.floats(0, 3),
)
def test_gradnorms_gradient_is_that_of_its_loss(
    numbers: np.ndarray, logs: np.ndarray, alpha: float
) -> None:
    norms, losses = torch.from_numpy(numbers), torch.from_numpy(numbers[::-1].copy())
    rates = training_rates(losses, torch.ones_like(losses), alpha)
    omega = torch.from_numpy(logs).requires_grad_()
    normaliser = (len(omega) / omega.exp().sum()).detach()
    loss = (omega.exp() * normaliser * norms - 0.7 * rates).abs().sum()
    (expected,) = torch.autograd.grad(loss, omega)
    found = gradnorm_gradient(
        gradnorm_weights(omega.detach()), norms, torch.tensor(0.7, dtype=torch.float64), rates
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [5, 3])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("mode", ["full", "rotate", "gradnorm"])
def test_the_rotations_get_the_gradient_of_the_papers_loss(mode: str, kind: str, size: int) -> None:
    tasks, shape = ["a", "b", "c"], SHAPES[kind]
    ours = rotated_rotograd(tasks, size, mode=mode, alpha=0.5)
    z = randn(*shape, seed=5).requires_grad_()
    factors = {task: randn(*shape, seed=7 + i) for i, task in enumerate(tasks)}
    r = {task: ours.rotate(z, task) for task in tasks}
    # Losses of r alone, whose gradients for r are the factors times 2 r.
    losses = {task: (factors[task] * r[task].square()).sum().abs() for task in tasks}
    signs = {t: torch.sign((factors[t] * r[t].square()).sum()).item() for t in tasks}
    tilde = {t: (2 * signs[t] * factors[t] * r[t]).detach() for t in tasks}
    ours.backward(losses)

    def as_rows(tensor: Tensor) -> Tensor:
        return tensor.movedim(1, -1).flatten(0, -2) if tensor.ndim > 3 else tensor.flatten(0, -2)

    matrices = {t: ours.rotations[t].weight for t in tasks}
    whole = {}
    for task, matrix in matrices.items():
        whole[task] = torch.eye(5, dtype=torch.float64)
        whole[task][:size, :size] = matrix.detach()
    g = {t: as_rows(tilde[t]) @ whole[t] for t in tasks}
    units = {t: g[t] / g[t].norm() for t in tasks}
    if mode == "gradnorm":
        # At the first step each loss is its first value, so that all rates are 1.
        target = sum(units.values()) / 3 * (sum(g.values()) / 3).norm()
    else:
        target = sum(units.values()) / 3
    for task, matrix in matrices.items():
        turned = as_rows(tilde[task])[:, :size]
        if mode == "gradnorm":
            loss = (target[:, :size] @ matrix.T - turned).square().sum() / shape[0]
        else:
            loss = -((turned @ matrix) * target[:, :size]).sum()
        parameter = ours.rotations[task].parameter
        (expected,) = torch.autograd.grad(loss, parameter)
        # The squared distance has a part for |Rv|², which a rotation does not change.
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-11, atol=1e-12)
    weights = dict.fromkeys(tasks, 1.0)
    if mode == "full":  # at the first step all alphas are 1/3
        mean = sum(g[t].norm() for t in tasks) / 3
        weights = {t: mean / g[t].norm() for t in tasks}
    expected = sum(weights[t] * g[t] for t in tasks)
    torch.testing.assert_close(as_rows(z.grad), expected, rtol=1e-11, atol=1e-12)


def test_rows_of_different_inputs_are_summed_before_they_are_compared() -> None:
    ours = rotated_rotograd(["a", "b"], 4)
    reps = {"a": randn(6, 4, seed=1).requires_grad_(), "b": randn(3, 4, seed=2).requires_grad_()}
    factors = {"a": randn(6, 4, seed=3), "b": randn(3, 4, seed=4)}
    weights = ours.backward(
        {t: (ours.rotate(reps[t], t) * factors[t]).sum() for t in reps}, same_rows=False
    )
    summed = {t: factors[t].sum(0) @ ours.rotation(t) for t in reps}
    target = sum(s / s.norm() for s in summed.values()) / 2
    for task in reps:
        matrix = ours.rotations[task].weight
        loss = -(factors[task].sum(0) @ (matrix @ target))
        (expected,) = torch.autograd.grad(loss, ours.rotations[task].parameter)
        torch.testing.assert_close(ours.rotations[task].parameter.grad, expected)
    common = (factors["a"].norm() + factors["b"].norm()) / 2
    for place, task in enumerate(reps):
        expected = common / factors[task].norm() * factors[task] @ ours.rotation(task)
        torch.testing.assert_close(reps[task].grad, expected)
        torch.testing.assert_close(weights[place], common / factors[task].norm())


def cosine_of_rotated_gradients(rotograd: RotoGrad, problem: Problem) -> float:
    z = problem.encoder(problem.x).detach().requires_grad_()
    found = []
    with torch.no_grad():
        turned = {task: rotograd.rotate(z, task) for task in problem.tasks}
    for task, head in problem.heads.items():
        r = turned[task].requires_grad_()
        loss = (head(r) - problem.wanted[task]).square().mean()
        (gradient,) = torch.autograd.grad(loss, r)
        found.append((gradient @ rotograd.rotation(task)).flatten())
    return float(torch.cosine_similarity(found[0], found[1], dim=0))


@pytest.mark.parametrize("rotation_map", ["cayley", "matrix_exp"])
@pytest.mark.parametrize("mode", ["full", "gradnorm"])
def test_the_angle_between_rotated_gradients_falls(mode: str, rotation_map: str) -> None:
    problem = Problem(2)
    rotograd = RotoGrad(problem.tasks, 8, mode=mode, map=rotation_map).double()
    before = cosine_of_rotated_gradients(rotograd, problem)
    train(rotograd, problem, 60)
    assert before < 0
    assert cosine_of_rotated_gradients(rotograd, problem) > 0.1


def drift(size: int, steps: int) -> tuple[float, float]:
    torch.manual_seed(0)
    rotation, leader = Rotation(size), Leader()
    wanted = a_rotation(size, 4).float() if size < 100 else torch.eye(size).roll(2, 0)
    for step in range(steps):
        x = torch.randn(8, size, generator=torch.Generator().manual_seed(step))
        rotation.pull((x @ rotation.matrix().T - x @ wanted.T).T @ x)
        leader.step([("r", rotation.parameter)], 5e-3)
    matrix = rotation.matrix()
    off = float((matrix @ matrix.T - torch.eye(size)).abs().max())
    return off, float(torch.linalg.det(matrix.double()))


def test_stays_a_rotation_for_a_thousand_steps() -> None:
    off, determinant = drift(64, 1000)
    assert off < 1e-5
    assert determinant == pytest.approx(1.0, abs=1e-4)


@pytest.mark.slow
def test_stays_a_rotation_for_a_thousand_steps_in_512_dimensions() -> None:
    off, determinant = drift(512, 1000)
    assert off < 1e-5
    assert determinant == pytest.approx(1.0, abs=1e-3)


def test_the_size_of_a_loss_does_not_change_the_direction() -> None:
    directions, pulls = [], []
    for scale in (1.0, 1000.0):
        problem = Problem(3)
        rotograd = rotated_rotograd(problem.tasks, 8)
        rotograd.backward(problem.losses(rotograd, {"t1": scale}))
        directions.append(nn.functional.normalize(problem.encoder_gradient(), dim=0))
        pulls.append(rotograd.rotations["t0"].parameter.grad)
    torch.testing.assert_close(*directions, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*pulls, rtol=1e-10, atol=1e-12)


def test_a_task_without_a_gradient_is_treated_as_not_there() -> None:
    whole, part = Problem(3), Problem(3)
    with_zero, without = (rotated_rotograd(whole.tasks, 8) for _ in range(2))
    weights = with_zero.backward(whole.losses(with_zero, {"t2": 0.0}))
    losses = part.losses(without)
    del losses["t2"]
    few = without.backward(losses)
    torch.testing.assert_close(weights, torch.tensor([*few.tolist(), 0.0], dtype=torch.float64))
    torch.testing.assert_close(whole.encoder_gradient(), part.encoder_gradient())
    for task in whole.tasks[:2]:
        pulls = [r.rotations[task].parameter.grad for r in (with_zero, without)]
        torch.testing.assert_close(*pulls)
    assert with_zero.rotations["t2"].parameter.grad is None
    assert math.isnan(with_zero.history.first_norms[2])


def test_first_norms_are_taken_again_at_the_end_of_the_burn_in() -> None:
    problem = Problem(2)
    rotograd = RotoGrad(problem.tasks, 8, mode="scale", burn_in=2).double()
    seen = []
    for step in range(5):
        scales = {"t0": 10.0**step}
        losses = problem.losses(rotograd, scales)
        if step == 2:  # t1 is absent at the end of the burn-in
            del losses["t1"]
        rotograd.backward(losses)
        seen.append(rotograd.history.first_norms.clone())
    assert torch.equal(seen[0], seen[1])
    assert seen[2][0] == pytest.approx(float(seen[0][0]) * 100)
    assert seen[2][1] == seen[0][1]
    assert bool(rotograd.history.settled.all())
    assert torch.equal(seen[3], seen[4])


def test_one_task_is_trained_as_it_would_be_alone() -> None:
    problem = Problem(1)
    rotograd = RotoGrad(problem.tasks, 8).double()
    plain = (problem.heads["t0"](problem.encoder(problem.x)) - problem.wanted["t0"]).square().mean()
    expected = torch.autograd.grad(plain, list(problem.encoder.parameters()))
    assert rotograd.backward(problem.losses(rotograd)).tolist() == [1.0]
    found = [p.grad for p in problem.encoder.parameters()]
    torch.testing.assert_close(found, list(expected))
    assert rotograd.rotations["t0"].parameter.grad is None


def test_rotations_are_updated_every_so_many_steps() -> None:
    problem = Problem(2)
    rotograd = RotoGrad(problem.tasks, 8, every=3).double()
    pulled = []
    for _ in range(7):
        rotograd.zero_grad()
        rotograd.backward(problem.losses(rotograd))
        pulled.append(rotograd.rotations["t0"].parameter.grad is not None)
    assert pulled == [True, False, False, True, False, False, True]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10_000), st.sampled_from(["cayley", "matrix_exp"]))
def test_any_parameters_make_a_rotation(size: int, seed: int, rotation_map: str) -> None:
    rotation = Rotation(size, rotation_map, dtype=torch.float64)
    with torch.no_grad():
        rotation.parameter.copy_(2 * randn(size, size, seed=seed))
    if rotation_map == "matrix_exp":
        # What PyTorch makes of a smaller one is the next test's.
        skew = rotation.parameter.detach().tril(-1)
        assume(float((skew - skew.T).abs().sum(dim=0).max()) >= SMALL)
    matrix = rotation.matrix()
    eye = torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(matrix @ matrix.T, eye, rtol=0, atol=1e-12)
    assert float(torch.linalg.det(matrix)) == pytest.approx(1.0)


def test_small_parameters_make_a_rotation_as_far_as_pytorchs_exponential_goes() -> None:
    """In float64 it is off by 2e-10 below a norm of 0.05 (`torch-matrix-exp-small-norm.sh`)."""
    off = {}
    for turn in (0.01, 0.049, SMALL):
        rotation = Rotation(2, "matrix_exp", dtype=torch.float64)
        with torch.no_grad():
            rotation.parameter.copy_(torch.tensor([[0.0, 0.0], [turn, 0.0]]))
        matrix = rotation.matrix()
        off[turn] = float((matrix @ matrix.T - torch.eye(2)).abs().max())
    assert max(off.values()) < 1e-9
    assert off[SMALL] < 1e-14


def test_the_names_are_public() -> None:
    assert libmtl_recon.RotoGrad is RotoGrad
    assert {"RotoGrad", "fold_rotation"} <= set(libmtl_recon.__all__)
