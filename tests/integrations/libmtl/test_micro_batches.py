"""Gradients add up over several ``backward`` calls before one step, as torch's own do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import micro_batches
from micro_batches import Encoder, Runs, error, one_by_one, summed, together

# isort: split
import LibMTL
import LibMTL.architecture as architectures
import LibMTL.weighting as weightings
import pytest
import torch
from main_checkout import MAIN, on_main
from test_equal_to_libmtl import OF_MAIN, REPOSITORY
from torch import Tensor, nn

from libmtl_recon import Masked
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.integrations.libmtl.patches import PATCHES
from libmtl_recon.integrations.libmtl.scoring import ScoringHook
from libmtl_recon.integrations.libmtl.step.step import assign_grad, step_of, task_rows

CHILD = Path(micro_batches.__file__)
NAMES = [name for name in weightings.__all__ if not name.startswith("Abs")]
SHARED = ["GradOPS", "PCGrad", "MGDA"]
_ROUNDING = 1e-14


pytestmark = pytest.mark.usefixtures("float64_on_the_cpu")


@pytest.mark.parametrize("name", NAMES)
def test_every_weighting_adds_up(name: str) -> None:
    found = micro_batches.errors(name)
    assert found
    assert max(found.values()) < _ROUNDING, found


def in_a_process(folder: Path, libmtl: str, names: list[str], *without: str) -> dict[str, float]:
    """The errors of these weightings, in another LibMTL or without some patches."""
    python_path = [libmtl, str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "LIBMTL_RECON_PATCHES": ",".join(m.name for m in PATCHES if m.name not in without),
        "LIBMTL_RECON_DEVICE": "cpu",
        "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
    }
    done = subprocess.run(
        [sys.executable, CHILD, folder / "found.json", *names],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    assert {key.split(",")[0] for key in found} == set(names)
    return found


def test_without_the_faster_step_they_add_up_too(tmp_path: Path) -> None:
    found = in_a_process(tmp_path, "", NAMES, "fast-gradients")
    assert max(found.values()) < _ROUNDING, found


@on_main
@pytest.mark.parametrize("without", [(), pytest.param(("fast-gradients",), marks=pytest.mark.slow)])
def test_those_of_the_main_branch_add_up(without: tuple[str, ...], tmp_path: Path) -> None:
    found = in_a_process(tmp_path, MAIN, [*OF_MAIN, "SDMGrad", "GradOPS", "RotoGrad"], *without)
    assert max(found.values()) < _ROUNDING, found


def zeroed(model: nn.Module) -> None:
    """Zero the gradients as LibMTL's main branch does at the beginning of each step."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.SGD(model.parameters(), lr=1.0).zero_grad(set_to_none=False)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_added_to_zeros(name: str) -> None:
    given = {"rep_grad": name == "GradDrop"}
    found = together(Runs(name, **given), zeroed)
    assert error(found, summed(one_by_one(Runs(name, **given)))) < _ROUNDING


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_stays_the_tensor_that_it_is(name: str) -> None:
    runs = Runs(name, rep_grad=name == "GradDrop")
    runs.backward()
    named = [(n, p) for n, p in runs.model.named_parameters() if not n.startswith("rotograd")]
    before = [(p.grad, p.grad.data_ptr()) for _, p in named]
    runs.backward()
    for (_, parameter), (gradient, address) in zip(named, before, strict=True):
        assert parameter.grad is gradient
        assert parameter.grad.data_ptr() == address


@pytest.mark.parametrize("name", [*SHARED, "EW", "RotoGrad"])
def test_what_the_last_batch_does_not_reach_keeps_its_gradient(name: str) -> None:
    runs = Runs(name)
    runs.backward()
    first = runs.model.encoder.sometimes.weight.grad.clone()
    runs.backward()  # without that branch
    assert first.abs().min() > 0
    assert torch.equal(runs.model.encoder.sometimes.weight.grad, first)


@pytest.mark.parametrize("name", SHARED)
def test_what_no_batch_has_reached_has_no_gradient(name: str) -> None:
    # Zeros would be decayed, and carried on by momentum.
    runs = Runs(name)
    runs.model.encoder.calls = 1
    zeroed(runs.model)
    runs.backward()
    assert runs.model.encoder.sometimes.weight.grad is None
    assert runs.model.encoder.one.weight.grad.abs().max() > 0


class Missing(Runs):
    """Of the second micro-batch no sample has the second task's label."""

    def batch(self, number: int) -> tuple[Tensor, dict[str, Any]]:
        x, labels = super().batch(number)
        if number % 3 != 1:
            return x, labels
        absent = torch.zeros(len(x), dtype=torch.bool)
        return x, {**labels, "t1": Masked(labels["t1"], absent)}


# Those that can be without a task for a step, of both LibMTLs.
WITHOUT_A_TASK = ["EW", "UW", "GLS", "GradNorm", "MGDA", "PCGrad", "GradVac", "CAGrad", "IMTL"]


@pytest.mark.parametrize("name", [*WITHOUT_A_TASK, "GradDrop", "GradOPS", "RotoGrad"])
@pytest.mark.parametrize("start", [nn.Module.zero_grad, zeroed])
def test_they_add_up_where_labels_are_missing(name: str, start: Any) -> None:
    given = {"rep_grad": name == "GradDrop"}
    parts = one_by_one(Missing(name, **given))
    assert "decoders.t1.weight" not in parts[1]
    assert error(together(Missing(name, **given), start), summed(parts)) < _ROUNDING


def split(name: str) -> Runs:
    """Return runs in which Recon splits the second layer."""
    by_name = detect(LibMTL).by_name
    return Runs(
        name,
        architecture="Recon" if by_name else vars(architectures)["Recon"],
        arch_args={"recon_k": 1, "recon_s": -0.1, "recon_layers": "two"},
    )


@pytest.mark.parametrize("name", [*SHARED, "EW", "RotoGrad"])
def test_they_add_up_in_a_split_network(name: str) -> None:
    wanted = summed(one_by_one(split(name)))
    assert sum("two" in n for n in wanted) == 2 * 3  # weight and bias, a task
    assert error(together(split(name)), wanted) < _ROUNDING


@pytest.mark.parametrize("name", ["GradOPS", "PCGrad", "EW", "RotoGrad"])
def test_they_add_up_in_bfloat16(name: str) -> None:
    def in_half() -> Runs:
        runs = Runs(name)
        runs.model.bfloat16()
        return runs

    parts = one_by_one(in_half())
    found = together(in_half())
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    wanted = summed([{n: g.double() for n, g in part.items()} for part in parts])
    assert error({n: g.double() for n, g in found.items()}, wanted) < 0.02


def scored(name: str) -> Iterator[Runs]:
    hook = ScoringHook(None)
    with trainer_hooks(hook):
        runs = Runs(name, rep_grad=name == "GradDrop")
    yield runs
    profile = hook.profile()
    assert profile is not None
    assert profile.steps == runs.drawn


@pytest.mark.parametrize("name", [*SHARED, "EW", "UW", "RotoGrad", "GradNorm", "GradDrop"])
def test_they_add_up_while_scored(name: str) -> None:
    parts, whole = scored(name), scored(name)
    wanted = summed(one_by_one(next(parts)))
    assert error(together(next(whole)), wanted) < _ROUNDING
    for runs in (parts, whole):
        assert next(runs, None) is None


def test_the_next_batch_writes_over_no_gradient() -> None:
    class Last(weightings.AbsWeighting):  # type: ignore[misc]
        """Hands out a row of the matrix itself, and then what it keeps for itself."""

        def backward(self, losses: Tensor, **_: Any) -> Any:
            self._compute_grad_dim()
            self.kept = getattr(self, "kept", None)
            rows = self._compute_grad(losses, mode="backward")
            if self.kept is None:
                self.kept = rows.sum(0)
                self._reset_grad(rows[1])
            else:
                self._reset_grad(self.kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weightings, "Last", Last, raising=False)
        runs = Runs("Last")
    runs.backward()
    first = runs.gradients()
    kept = runs.model.kept.clone()
    runs.model.zero_grad()
    runs.backward()
    second = runs.gradients()
    runs.backward()
    assert torch.equal(runs.model.kept, kept)
    found = runs.gradients()
    shared = [n for n in first if n.startswith("encoder.one")]
    assert len(shared) == 2
    for name in shared:
        assert torch.equal(found[name], 2 * second[name])
        assert not torch.equal(first[name], second[name])


def test_what_a_weighting_leaves_itself_is_written_over_as_in_libmtl() -> None:
    class Twice(weightings.AbsWeighting):  # type: ignore[misc]
        def backward(self, losses: Tensor, **_: Any) -> Any:
            losses.sum().backward(retain_graph=True)
            self._compute_grad_dim()
            rows = self._compute_grad(losses, mode="autograd")
            self._reset_grad(rows[0])
            self._reset_grad(rows[1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weightings, "Twice", Twice, raising=False)
        runs, other = Runs("Twice"), Runs("Twice")
    wanted = torch.autograd.grad(other.losses(0)[1], other.model.encoder.one.weight)[0]
    for times in (1, 2):
        runs.drawn, runs.model.encoder.calls = 0, 0
        runs.backward()
        found = runs.model.encoder.one.weight.grad
        torch.testing.assert_close(found, times * wanted, rtol=1e-14, atol=0)


def test_after_an_error_the_gradients_are_those_from_before() -> None:
    class Failing(weightings.PCGrad):  # type: ignore[misc]
        def backward(self, losses: Tensor, **kwargs: Any) -> Any:
            super().backward(losses, **kwargs)
            raise RuntimeError("as asked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weightings, "Failing", Failing, raising=False)
        runs = Runs("Failing")
    shared = list(runs.model.get_share_params())
    before = [torch.full_like(p, 3.0) for p in shared]
    for parameter, gradient in zip(shared, before, strict=True):
        parameter.grad = gradient
    with pytest.raises(RuntimeError, match="as asked"):
        runs.backward()
    for parameter, gradient in zip(shared, before, strict=True):
        assert parameter.grad is gradient
        assert (gradient == 3).all()


@pytest.mark.parametrize("name", SHARED)
def test_without_gradients_from_before_nothing_is_copied(name: str) -> None:
    # All new gradients are views of the one update that the weighting has made.
    runs = Runs(name)
    runs.backward()
    shared = [p.grad for p in runs.model.get_share_params()]
    assert len({gradient.untyped_storage().data_ptr() for gradient in shared}) == 1


@pytest.mark.parametrize("weighting", ["GradOPS", "PCGrad"])
def test_a_model_that_no_trainer_made_adds_up_and_takes_one_matrix(weighting: str) -> None:
    class Model(architectures.HPS, vars(weightings)[weighting]):  # type: ignore[misc]
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self.init_param()

    def make() -> Any:
        torch.manual_seed(0)
        names = ["a", "b"]
        heads = nn.ModuleDict({name: nn.Linear(6, 1) for name in names})
        given = {"rep_grad": False, "multi_input": False, "device": torch.device("cpu")}
        return Model(task_name=names, encoder_class=Encoder, decoders=heads, **given)

    def backward(model: Any, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        predictions = model(torch.randn(4, 5, generator=generator))
        losses = torch.stack([(p - i).square().mean() for i, p in enumerate(predictions.values())])
        model.backward(losses, gradops_alpha=-1.0)
        shared = [p.grad for p in model.get_share_params() if p.grad is not None]
        return torch.cat([g.flatten() for g in shared[:4]])

    both, alone = make(), make()
    first = backward(alone, 1).clone()
    alone.zero_grad()
    second = backward(alone, 2).clone()
    backward(both, 1)
    torch.testing.assert_close(backward(both, 2), first + second, rtol=1e-14, atol=1e-16)
    assert len(step_of(both).rows._matrices) == 1


def test_rows_that_leave_the_graph_alone_are_assigned_on_top() -> None:
    runs = Runs("EW")
    parameter = runs.model.encoder.one.weight
    losses = runs.losses(0)
    wanted = torch.autograd.grad(losses.sum(), parameter, retain_graph=True)[0]
    losses.sum().backward(retain_graph=True)
    rows = task_rows(runs.model, losses, accumulate=False)
    torch.testing.assert_close(parameter.grad, wanted, rtol=1e-14, atol=0)
    assign_grad(runs.model, rows.sum(0))
    torch.testing.assert_close(parameter.grad, 2 * wanted, rtol=1e-13, atol=1e-16)
