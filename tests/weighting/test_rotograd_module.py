"""RotoGrad as a module of PyTorch: what is refused, copies, dtypes, devices and states."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from rotograd_tasks import Problem, rotated_rotograd, train

from libmtl_recon import ReconError, RotoGrad, UsageError
from libmtl_recon.weighting.leader import Leader


def test_no_graph_is_kept() -> None:
    problem = Problem(2)
    rotograd = RotoGrad(problem.tasks, 8).double()
    losses = problem.losses(rotograd)
    rotograd.backward(losses)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        losses["t0"].backward()


def test_gradients_accumulate_as_they_do_in_torch() -> None:
    problem = Problem(2)
    rotograd = RotoGrad(problem.tasks, 8, burn_in=0).double()
    rotograd.backward(problem.losses(rotograd))
    once = problem.encoder_gradient().clone()
    pull = rotograd.rotations["t0"].parameter.grad.clone()
    rotograd.backward(problem.losses(rotograd))
    torch.testing.assert_close(problem.encoder_gradient(), 2 * once)
    torch.testing.assert_close(rotograd.rotations["t0"].parameter.grad, 2 * pull)


def test_a_gradient_that_is_not_finite_names_its_task() -> None:
    problem = Problem(3)
    rotograd = RotoGrad(problem.tasks, 8).double()
    with pytest.raises(ReconError, match="'t1' is not finite"):
        rotograd.backward(problem.losses(rotograd, {"t1": math.nan}))
    assert rotograd.steps == 0


def test_a_negative_loss_is_refused_by_gradnorm_alone() -> None:
    problem = Problem(2)
    for mode in ("full", "gradnorm"):
        rotograd = RotoGrad(problem.tasks, 8, mode=mode).double()
        losses = {task: loss - 100 for task, loss in problem.losses(rotograd).items()}
        if mode == "full":
            rotograd.backward(losses)
        else:
            with pytest.raises(ReconError, match="'t0', 't1' is negative"):
                rotograd.backward(losses)


def test_a_second_call_of_a_head_is_refused_where_it_matters() -> None:
    problem = Problem(2)
    rotograd = RotoGrad(problem.tasks, 8).double()
    problem.losses(rotograd)  # a step that was given up
    rotograd.backward(problem.losses(rotograd))
    z = problem.encoder(problem.x)
    twice = sum(rotograd.rotate(z, "t0").sum() for _ in range(2))
    with pytest.raises(ReconError, match="several calls of the head of task 't0'"):
        rotograd.backward({"t0": twice})
    with pytest.raises(ReconError, match="received no input"):
        rotograd.backward({"t1": twice})


def test_nothing_is_cut_outside_of_training() -> None:
    problem = Problem(2)
    rotograd = rotated_rotograd(problem.tasks, 8)
    z = problem.encoder(problem.x)
    with torch.inference_mode():
        inferred = rotograd.rotate(z, "t0")
    rotograd.eval()
    turned = rotograd.rotate(z, "t0")
    assert torch.equal(turned, inferred)
    torch.testing.assert_close(turned, z @ rotograd.rotation("t0").T)
    turned.sum().backward()
    assert problem.encoder[0].weight.grad.any()
    rotograd.train()
    problem.clear()
    rotograd.backward(problem.losses(rotograd))  # after an inference, too


def test_a_copy_goes_on_by_itself() -> None:
    problem = Problem(2)
    rotograd = RotoGrad(problem.tasks, 8).double()
    train(rotograd, problem, 3)
    problem.losses(rotograd)  # while a step is under way
    twin = copy.deepcopy(rotograd)
    before = twin.rotation("t0").clone()
    train(rotograd, problem, 3)
    assert torch.equal(twin.rotation("t0"), before)
    assert not torch.equal(rotograd.rotation("t0"), before)
    train(twin, problem, 3)
    torch.testing.assert_close(twin.rotation("t0"), rotograd.rotation("t0"), rtol=0.1, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_the_model_is_followed_but_to_half_precision(dtype: torch.dtype) -> None:
    problem = Problem(2, dtype)
    rotograd = RotoGrad(problem.tasks, 8).to(dtype)
    train(rotograd, problem, 2)
    kept = rotograd.rotation("t0").clone()
    for half in (torch.bfloat16, torch.float16):
        rotograd.to(half)
        assert rotograd.rotation("t0").dtype == dtype
        assert torch.equal(rotograd.rotation("t0"), kept)
        assert rotograd.history.first_norms.dtype == dtype
    rotograd.double()
    torch.testing.assert_close(rotograd.rotation("t0"), kept.double(), rtol=0, atol=1e-6)
    double = Problem(2)
    train(rotograd, double, 2)
    assert rotograd.steps == 4


def test_half_precision_is_computed_in_float32_and_handed_on_as_it_was() -> None:
    problem = Problem(2, torch.bfloat16)
    rotograd = RotoGrad(problem.tasks, 8)
    weights = rotograd.backward(problem.losses(rotograd))
    assert torch.isfinite(weights).all()
    assert rotograd.rotations["t0"].parameter.grad.dtype == torch.float32
    assert problem.encoder_gradient().dtype == torch.bfloat16
    z = problem.encoder(problem.x)
    assert rotograd.rotate(z, "t0").dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rotograd.rotate(z.float(), "t0").dtype == torch.float32
        assert rotograd.rotation("t0").dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_moves_to_a_gpu_and_back() -> None:
    problem = Problem(3)
    rotograd = RotoGrad(problem.tasks, None, mode="gradnorm").double()
    train(rotograd, problem, 2)
    rotograd.cuda()
    problem.encoder.cuda(), problem.heads.cuda()
    problem.x = problem.x.cuda()
    problem.wanted = {task: wanted.cuda() for task, wanted in problem.wanted.items()}
    leader = Leader()
    for _ in range(3):
        rotograd.backward(problem.losses(rotograd))
        leader.step(rotograd.named_parameters(), 1e-2)
    assert rotograd.rotation("t0").is_cuda
    assert rotograd.cpu().steps == 5


def test_the_state_can_be_loaded_into_a_new_module() -> None:
    problem = Problem(3)
    rotograd = RotoGrad(problem.tasks, 4, mode="gradnorm", map="matrix_exp").double()
    train(rotograd, problem, 3)
    new = RotoGrad(problem.tasks, mode="gradnorm", map="matrix_exp").double()
    new.load_state_dict(rotograd.state_dict())
    for task in problem.tasks:
        assert torch.equal(new.rotation(task), rotograd.rotation(task))
    assert new.steps == 3
    train(new, problem, 1)
    other = RotoGrad(problem.tasks, 4).double()
    with pytest.raises(UsageError, match="map must be the other one"):
        other.load_state_dict(rotograd.state_dict())
    with pytest.raises(ReconError, match="rotations for the tasks t0, t1, t2, but"):
        RotoGrad(["t0", "other"]).load_state_dict(rotograd.state_dict())


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"map": "cayley"}, "map must be matrix_exp"),
        ({"map": "matrix_exp", "size": 5}, "size must be 4"),
        ({"map": "matrix_exp", "mode": "scale"}, "mode must be full"),
    ],
)
def test_other_settings_than_those_of_the_loaded_rotations_are_refused(
    settings: dict[str, object], wrong: str
) -> None:
    problem = Problem(2)
    rotograd = RotoGrad(problem.tasks, 4, map="matrix_exp").double()
    new = RotoGrad(problem.tasks).double()
    new.load_state_dict(rotograd.state_dict())
    new.settings = RotoGrad(problem.tasks, **settings).settings
    with pytest.raises(UsageError, match=wrong):
        new.backward(problem.losses(new))


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"mode": "both"}, "mode must be one of full, rotate, scale, gradnorm"),
        ({"map": "householder"}, "map must be one of cayley, matrix_exp"),
        ({"objective": "mine"}, "objective must be one of"),
        ({"size": 1}, "size must be a whole number from 2 up"),
        ({"every": 0}, "every must be a whole number from 1 up"),
        ({"burn_in": -1}, "burn_in must be a whole number from 0 up"),
        ({"burn_in": 1.5}, "burn_in must be a whole number"),
        ({"alpha": -1.0}, "alpha must be a finite number from 0 up"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        RotoGrad(["a", "b"], **settings)


def test_a_representation_that_cannot_be_rotated_is_refused() -> None:
    rotograd = RotoGrad(["a", "b"], 6)
    for wrong in (torch.zeros(3, 5), torch.zeros(3), torch.zeros(3, 8, dtype=torch.int64)):
        with pytest.raises(UsageError, match="channels"):
            rotograd.rotate(wrong, "a")
    with pytest.raises(UsageError, match="must be a rotation"):
        rotograd.rotations["a"].start_at(torch.eye(6).roll(1, 0))  # its determinant is -1


def test_a_task_that_there_is_not_is_named() -> None:
    problem = Problem(2)
    rotograd = RotoGrad(problem.tasks, 8)
    z = problem.encoder(problem.x).float()
    for ask in (rotograd.rotation, lambda task: rotograd.rotate(z, task)):
        with pytest.raises(UsageError, match=r"task must be one of 't0', 't1' \(got 'digitt'\)"):
            ask("digitt")


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        (torch.ones(2), "losses must be a dict .*'Tensor of 2'"),
        ([torch.ones(())] * 3, "losses must be a dict .*'list of 3'"),
        (torch.ones(()), "losses must be a dict .*'Tensor of 1'"),
        ({}, "losses must hold at least one"),
        ({"t0": torch.ones(()), "t7": torch.ones(())}, "task must be one of 't0', 't1'"),
        ({"t0": torch.ones(3)}, "the loss of task 't0' must be a tensor of one number"),
        ({"t0": 1.0}, "the loss of task 't0' must be a tensor of one number"),
    ],
)
def test_losses_that_are_not_one_per_task_are_named(losses: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        RotoGrad(["t0", "t1"], 8).backward(losses)  # type: ignore[arg-type]


@pytest.mark.parametrize("tasks", [[], "depth", ["a", "a"], [1, 2]])
def test_tasks_must_have_names(tasks: list[str]) -> None:
    with pytest.raises(UsageError, match="tasks must be a list of the tasks' names"):
        RotoGrad(tasks, 8)
