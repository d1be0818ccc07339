"""GradOPS through TorchJD: the same update as ours, and what TorchJD asks of its aggregators."""

from __future__ import annotations

import pickle
import subprocess

import pytest
import torch
from forks import python
from torch import nn
from torchjd.autogram import Engine
from torchjd.autojac import backward, jac_to_grad, mtl_backward

from libmtl_recon import ReconError, UsageError, gradops_weights, split_layers
from libmtl_recon.errors import MissingPackageError
from libmtl_recon.torchjd import GradOPS, GradOPSWeighting

TASKS = 3


class Problem:
    """Tasks that conflict: targets of opposite sign on one small network."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        self.heads = [nn.Linear(3, 1).double() for _ in range(TASKS)]
        self.x = torch.randn(8, 4, dtype=torch.float64)

    def losses(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        features = self.encoder(self.x)
        targets = self.x[:, :1], -self.x[:, :1], self.x[:, 1:2]
        losses = [
            (head(features) - target).square().mean()
            for head, target in zip(self.heads, targets, strict=True)
        ]
        return features, losses

    def rows(self) -> torch.Tensor:
        """Each task's gradient of the encoder ``[T, d]``."""
        shared = list(self.encoder.parameters())
        _, losses = self.losses()
        grads = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
        rows = torch.stack([torch.cat([g.flatten() for g in one]) for one in grads])
        assert (rows @ rows.T).min() < 0, "the problem must have a conflict"
        return rows

    def update(self) -> torch.Tensor:
        """Return the encoder's ``.grad``."""
        return torch.cat([p.grad.flatten() for p in self.encoder.parameters()])


def test_min_norm_is_ours_too() -> None:
    angles = torch.deg2rad(torch.tensor([0.0, 100.0, 5.0], dtype=torch.float64))
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert not GradOPS()(rows).any()
    torch.testing.assert_close(GradOPS(stationary="min_norm")(rows), (rows[0] + rows[1]) / 2)
    weighting = GradOPSWeighting(stationary="min_norm")
    torch.testing.assert_close(weighting(rows @ rows.T).sum(), torch.tensor(1.0).double())
    assert repr(GradOPS(stationary="min_norm")) == "GradOPS(alpha=0, stationary='min_norm')"
    with pytest.raises(UsageError, match="stationary must be stop or min_norm"):
        GradOPS(stationary="go")  # type: ignore[arg-type]


CHOICES = [{"alpha": -2.0}, {"alpha": 0.0}, {"alpha": 1.0}, {"static": [0.5, 1.0, 1.5]}]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("by_gramian", [False, True])
def test_mtl_backward_gives_our_update(choice: dict, by_gramian: bool) -> None:
    problem = Problem()
    rows = problem.rows()
    expected = gradops_weights(rows @ rows.T, **choice)
    features, losses = problem.losses()
    heads = [
        torch.autograd.grad(loss, list(head.parameters()), retain_graph=True)
        for loss, head in zip(losses, problem.heads, strict=True)
    ]
    mtl_backward(losses, features=features)
    weights = jac_to_grad(
        problem.encoder.parameters(),
        GradOPS(**choice),
        optimize_gramian_computation=by_gramian,
    )
    torch.testing.assert_close(weights, expected, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(problem.update(), expected @ rows, rtol=1e-11, atol=1e-14)
    for head, own in zip(problem.heads, heads, strict=True):
        torch.testing.assert_close([p.grad for p in head.parameters()], list(own))


def test_backward_gives_our_update() -> None:
    problem = Problem()
    rows = problem.rows()
    _, losses = problem.losses()
    backward(losses, inputs=problem.encoder.parameters())
    jac_to_grad(problem.encoder.parameters(), GradOPS(alpha=-1.0))
    expected = gradops_weights(rows @ rows.T, -1.0) @ rows
    torch.testing.assert_close(problem.update(), expected, rtol=1e-11, atol=1e-14)


def test_autogram_takes_the_weighting() -> None:
    problem = Problem()
    rows = problem.rows()
    engine = Engine(problem.encoder, batch_dim=None)
    _, losses = problem.losses()
    vector = torch.stack(losses)
    weights = GradOPSWeighting(alpha=-1.0)(engine.compute_gramian(vector))
    vector.backward(weights)
    expected = gradops_weights(rows @ rows.T, -1.0) @ rows
    torch.testing.assert_close(problem.update(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_short_floats_are_weighed_in_float64(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    first = torch.randn(1, 5000)
    # Nearly opposite: in the gradients' own precision little would be left of the update.
    jacobian = torch.cat([first, -first + 0.05 * torch.randn(1, 5000)]).to(dtype)
    wide = jacobian.double()
    update = GradOPS(alpha=0.0)(jacobian)
    expected = gradops_weights(wide @ wide.T) @ wide
    assert update.dtype == dtype
    torch.testing.assert_close(update, expected.to(dtype), rtol=0, atol=0)
    assert GradOPSWeighting()((wide @ wide.T).to(dtype)).dtype == dtype


def test_a_jacobian_that_is_not_finite_is_refused_by_its_rows() -> None:
    with pytest.raises(UsageError, match=r"tasks \[1\]"):
        GradOPS()(torch.tensor([[1.0, 2.0], [float("nan"), 1.0], [0.0, 1.0]]))


@pytest.mark.parametrize("arguments", [{"alpha": float("inf")}, {"static": [1.0, -1.0]}])
def test_bad_arguments_are_refused_at_once(arguments: dict) -> None:
    with pytest.raises(UsageError):
        GradOPS(**arguments)


def test_it_shows_its_arguments_and_can_be_kept() -> None:
    assert repr(GradOPS(alpha=-2.0)) == "GradOPS(alpha=-2)"
    assert repr(GradOPSWeighting(static=[1.0, 3.0])) == "GradOPSWeighting(static=[1.0, 3.0])"
    aggregator = pickle.loads(pickle.dumps(GradOPS(alpha=-2.0)))
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    torch.testing.assert_close(aggregator(jacobian), GradOPS(alpha=-2.0)(jacobian))


def test_without_torchjd_the_extra_is_named() -> None:
    script = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torchjd':\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import libmtl_recon\n"
        "try:\n    import libmtl_recon.torchjd\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([*python(), "-c", script], capture_output=True, text=True)
    assert "pip install 'libmtl-recon[torchjd]'" in done.stdout, done.stderr
    error = MissingPackageError("a", "b", "c")
    assert isinstance(error, ReconError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def split_problem() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return split_layers(network, ["2"], ["a", "b"]), torch.randn(8, 4, dtype=torch.float64)


@pytest.mark.parametrize("batch_dim", [0, None])
def test_the_engine_would_leave_out_task_specific_layers(batch_dim: int | None) -> None:
    split, x = split_problem()
    with pytest.raises(ReconError, match=r"before the first split, or compute .* torchjd"):
        Engine(split, batch_dim=batch_dim)
    # What it advises first ...
    engine = Engine(split[0], batch_dim=batch_dim)
    losses = torch.stack([out.square().sum(1) for out in split(x).parts], 1)
    losses = losses if batch_dim == 0 else losses.sum(0)
    gramian = engine.compute_gramian(losses)
    shared = list(split[0].parameters())
    rows = [torch.autograd.grad(one, shared, retain_graph=True) for one in losses.flatten()]
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    torch.testing.assert_close(gramian.reshape(len(flat), -1), flat @ flat.T)
    # ... and second.
    split, x = split_problem()
    backward([out.square().sum() for out in split(x).parts])
    for index, task in enumerate("ab"):
        jacobian = dict(split.named_parameters())[f"2.tasks.{task}.weight"].jac
        assert jacobian[index].abs().sum() > 0.1
        assert not jacobian[1 - index].any()


def test_an_engine_from_before_the_split_is_refused_too() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    engine = Engine(network, batch_dim=0)
    split = split_layers(network, ["2"], ["a", "b"])
    with pytest.raises(ReconError, match=r"one grad_fn per task.* Engine .*torchjd\.autojac"):
        split(torch.randn(8, 4))
    del engine


def test_an_engine_over_what_stands_behind_the_split_is_told_what_to_do() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    split = split_layers(network, ["0"], ["a", "b"])
    engine = Engine(split[2], batch_dim=0)
    with pytest.raises(
        ReconError,
        match=r"Engine supports only the modules .*before the first "
        r"split",
    ):
        split(torch.randn(8, 4))
    del engine


def test_other_hooks_may_stand_on_every_module() -> None:
    split, x = split_problem()
    seen = []
    for module in split.modules():
        module.register_forward_hook(lambda *_: seen.append(1))
    split(x)
    assert len(seen) == 4
