"""The LibMTL class: the paper's update reaches the shared parameters, decoders keep their own."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import numpy as np
import pytest
import torch
from LibMTL.architecture import HPS
from torch import nn

from libmtl_recon import ReconError, UsageError, gradops_weights
from libmtl_recon.integrations.libmtl.weightings.gradops import GradOPS

TASKS = ["left", "right", "middle"]


class Model(HPS, GradOPS):
    """What LibMTL's Trainer makes: the architecture first, then the weighting."""


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def make(rep_grad: bool = False) -> Model:
    torch.manual_seed(0)
    decoders = nn.ModuleDict({task: nn.Linear(3, 1) for task in TASKS})
    return Model(TASKS, Encoder, decoders, rep_grad, False, torch.device("cpu")).double()


def losses_of(model: Model) -> torch.Tensor:
    torch.manual_seed(1)
    x = torch.randn(8, 4, dtype=torch.float64)
    predictions = model(x)
    targets = {"left": x[:, :1], "right": -x[:, :1], "middle": x[:, 1:2]}
    return torch.stack([(predictions[t] - targets[t]).square().mean() for t in TASKS])


@pytest.mark.parametrize("alpha", [-2.0, 0.0, 1.0])
def test_a_step_is_the_combination_of_the_tasks_gradients(alpha: float) -> None:
    model = make()
    shared = list(model.get_share_params())
    losses = losses_of(model)
    rows = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, shared, retain_graph=True)])
            for loss in losses
        ]
    )
    heads = [
        torch.autograd.grad(loss, list(model.decoders[task].parameters()), retain_graph=True)
        for task, loss in zip(TASKS, losses, strict=True)
    ]
    weights = gradops_weights(rows @ rows.T, alpha)
    assert (rows @ rows.T).min() < 0, "the problem must have a conflict"

    returned = model.backward(losses, gradops_alpha=alpha)

    np.testing.assert_allclose(returned, weights.numpy(), rtol=1e-12)
    update = torch.cat([p.grad.flatten() for p in shared])
    torch.testing.assert_close(update, weights @ rows, rtol=1e-12, atol=1e-14)
    for task, expected in zip(TASKS, heads, strict=True):
        found = [p.grad for p in model.decoders[task].parameters()]
        torch.testing.assert_close(found, list(expected), rtol=0, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_task_whose_gradient_is_not_finite_is_named(bad: float) -> None:
    model = make()
    losses = losses_of(model) * torch.tensor([1.0, bad, 1.0], dtype=torch.float64)
    with pytest.raises(ReconError, match="'right'"):
        model.backward(losses, gradops_alpha=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_short_parameters_are_weighed_by_a_float64_gramian(dtype: torch.dtype) -> None:
    model = make().to(dtype)
    shared = list(model.get_share_params())
    torch.manual_seed(1)
    x = torch.randn(64, 4).to(dtype)
    out = model(x)
    # The second task wants nearly the opposite of the first.
    targets = {"left": x[:, :1], "right": x[:, :1] + 0.01 * x[:, 1:2], "middle": x[:, 1:2]}
    signs = {"left": 1.0, "right": -1.0, "middle": 1.0}
    losses = torch.stack(
        [signs[t] * (out["left"] - targets[t]).square().mean().float() for t in TASKS]
    )
    grads = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
    rows = torch.stack([torch.cat([g.flatten() for g in one]) for one in grads]).double()
    expected = gradops_weights(rows @ rows.T, -1.0)
    returned = model.backward(losses, gradops_alpha=-1.0)
    np.testing.assert_allclose(returned, expected, rtol=1e-9)
    update = torch.cat([p.grad.flatten() for p in shared])
    torch.testing.assert_close(update, (expected @ rows).to(dtype), rtol=0.01, atol=1e-6)


def test_without_arguments_alpha_is_zero_and_it_stops() -> None:
    model, twin = make(), make()
    np.testing.assert_array_equal(
        model.backward(losses_of(model)), twin.backward(losses_of(twin), gradops_alpha=0.0)
    )


def test_min_norm_reaches_the_shared_parameters() -> None:
    torch.manual_seed(0)

    class Plane(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.where = nn.Parameter(torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.where + 0 * x

    decoders = nn.ModuleDict({task: nn.Linear(2, 1) for task in TASKS})
    model = Model(TASKS, Plane, decoders, False, False, torch.device("cpu")).double()
    angles = torch.deg2rad(torch.tensor([0.0, 100.0, 5.0], dtype=torch.float64))
    directions = torch.stack([angles.cos(), angles.sin()], dim=1)
    for stationary, update in (("stop", [0.0, 0.0]), ("min_norm", [0.5, 0.5])):
        losses = directions @ model.encoder(torch.zeros(2, dtype=torch.float64))
        model.zero_grad()
        model.backward(losses, gradops_stationary=stationary)
        # The middle of the first two.
        expected = torch.tensor(update, dtype=torch.float64) @ directions[:2]
        torch.testing.assert_close(model.encoder.where.grad, expected)


def test_refuses_representation_gradients() -> None:
    with pytest.raises(UsageError, match="--rep_grad"):
        make(rep_grad=True).init_param()


def test_refuses_a_network_with_nothing_shared() -> None:
    model = make()
    for parameter in model.encoder.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ReconError, match="shared parameters"):
        model.init_param()


def test_frozen_shared_parameters_stay_without_gradient() -> None:
    model = make()
    frozen = model.encoder.net[0].weight
    frozen.requires_grad_(False)
    model.init_param()
    model.backward(losses_of(model), gradops_alpha=-1.0)
    assert frozen.grad is None
    assert model.encoder.net[2].weight.grad.any()


def test_losses_must_be_one_per_task() -> None:
    model = make()
    losses = losses_of(model)
    for wrong in (losses[:2], losses[:, None], list(losses)):
        with pytest.raises(UsageError, match=r"losses must be a tensor \[3\], one loss for each"):
            model.backward(wrong, gradops_alpha=0.0)
