"""``--recon_gradients``: what it refuses, and when a step's graph is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from small_problem import batches, make_trainer

# isort: split
import LibMTL.weighting as weightings
import pytest
import torch
from LibMTL.config import LibMTL_args, prepare_args
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.gradients import Record
from libmtl_recon.integrations.libmtl import prepared_arguments
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.integrations.libmtl.planning import PlanningHook
from libmtl_recon.integrations.libmtl.scoring import ScoringHook
from libmtl_recon.integrations.libmtl.step import step_of
from libmtl_recon.integrations.libmtl.step.way import OF_GRADIENTS, OF_GRAMIANS

WIDE = 240


class Wide(nn.Module):
    """Of which products are the better way."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = (
            nn.Linear(5, WIDE),
            nn.Linear(WIDE, WIDE),
            nn.Linear(WIDE, 6),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.last(torch.tanh(self.two(torch.tanh(self.one(x))))))


class Broken(Wide):
    """Whose gradients are not finite."""

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        return z + (z * 0).sqrt()


class Reentrant(Wide):
    def forward(self, x: Tensor) -> Tensor:
        block: Tensor = checkpoint(self.two, torch.tanh(self.one(x)), use_reentrant=True)
        return torch.tanh(self.last(block))


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    prepared_arguments.forget()


def trained(weighting: Any, way: str, **changes: Any) -> Any:
    prepared_arguments.forget()
    prepared_arguments.keep_training({"recon_gradients": way})
    trainer = make_trainer(weighting, **{"encoder_class": Wide, **changes})
    data = batches(2)
    trainer.train(data, data, epochs=1)
    return trainer


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """The records of which a Gramian was computed."""
    found: list[Record] = []
    own = Record.gramian_as_it_is

    def noted(record: Record, *args: Any) -> Tensor:
        found.append(record)
        return own(record, *args)

    monkeypatch.setattr(Record, "gramian_as_it_is", noted)
    return found


def test_the_flag_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    params = LibMTL_args.parse_args(["--weighting", "EW", "--recon_gradients", "gost"])
    with pytest.raises(SystemExit):
        prepare_args(params)
    assert "--recon_gradients must be one of auto, stored, ghost" in capsys.readouterr().err


def test_the_flag_reaches_the_step() -> None:
    for way in ("auto", "stored", "ghost"):
        prepare_args(LibMTL_args.parse_args(["--weighting", "PCGrad", "--recon_gradients", way]))
        assert step_of(make_trainer("PCGrad").model).way == way
    prepare_args(LibMTL_args.parse_args(["--weighting", "PCGrad"]))
    assert step_of(make_trainer("PCGrad").model).way == "auto"


def test_a_weighting_of_the_gradients_themselves_refuses_ghost() -> None:
    with pytest.raises(UsageError, match=r"GradDrop, which drops single entries"):
        trained("GradDrop", "ghost", rep_grad=True)
    trained("GradDrop", "auto", rep_grad=True)


def test_gradients_of_representations_refuse_ghost() -> None:
    with pytest.raises(UsageError, match=r"ghost with --rep_grad, which weighs"):
        trained("MGDA", "ghost", rep_grad=True)
    with pytest.raises(UsageError, match=r"ghost with --weighting RotoGrad"):
        trained("RotoGrad", "ghost")
    trained("MGDA", "auto", rep_grad=True)


def test_the_same_seed_gives_the_same_weights() -> None:
    for way in ("ghost", "auto"):
        one, other = (trained("PCGrad", way).model.state_dict() for _ in range(2))
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_page_of_what_goes_with_what_tells_the_same() -> None:
    page = (Path(__file__).parents[3] / "docs" / "compatibility.md").read_text(encoding="utf-8")
    section = page.partition("## How the tasks' gradients are computed")[2]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    assert set(re.findall(r"\b[A-Z]\w+", rows[1])) == OF_GRAMIANS
    rest = " ".join(rows[2:])
    assert set(OF_GRADIENTS) <= set(re.findall(r"\b[A-Z]\w+", rest))
    assert not set(OF_GRADIENTS) & OF_GRAMIANS


def test_products_where_they_pay(recorded: list[Record]) -> None:
    trained("PCGrad", "auto")
    assert len(recorded) == len(batches(2))
    assert {way.layer: way.way for way in recorded[0].ways}["two"] == "products"


def test_stored_is_what_it_says(recorded: list[Record]) -> None:
    trained("PCGrad", "stored")
    assert not recorded


def test_stored_notes_no_forward_passes() -> None:
    hooks: list[int] = []

    class Looking(Wide):
        def forward(self, x: Tensor) -> Tensor:
            hooks.append(len(self.one._forward_hooks))
            return super().forward(x)

    for way, noted in (("stored", False), ("ghost", True)):
        trained("PCGrad", way, encoder_class=Looking)
        assert any(hooks) == noted
        hooks.clear()


def test_small_networks_are_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []
    plan = Record.plan
    monkeypatch.setattr(Record, "plan", lambda *args: plans.append(0) or plan(*args))
    prepared_arguments.keep_training({"recon_gradients": "auto"})
    trainer = make_trainer("PCGrad")
    one = batches(2)
    other = [(x.repeat(2, 1), {t: y.repeat(2) for t, y in own.items()}) for x, own in one]
    for data, looked in ((one, 1), (one, 1), (other, 2)):
        trainer.train(data, data, epochs=1)
        assert len(plans) == looked
    # What begins to train may change what is the better way.
    trainer.model.encoder.one.weight.requires_grad_(False)
    trainer.train(one, one, epochs=1)
    assert len(plans) == 3


def test_forward_passes_leave_no_hooks() -> None:
    trainer = trained("PCGrad", "ghost")
    assert not any(module._forward_hooks for module in trainer.model.modules())
    assert step_of(trainer.model).calls.together is None


@pytest.mark.parametrize("weighting", ["EW", "UW"])
def test_unscored_weightings_of_losses_note_nothing(weighting: str, recorded: list[Record]) -> None:
    trained(weighting, "ghost")
    assert not recorded


@pytest.mark.parametrize("name", ["_compute_grad", "_reset_grad"])
def test_a_scripts_own_plumbing_is_asked(
    name: str, recorded: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, libmtls = [], weightings.PCGrad

    def own(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return getattr(libmtls, name)(self, *args, **kwargs)

    monkeypatch.setattr(weightings, "PCGrad", type("PCGrad", (weightings.PCGrad,), {name: own}))
    trained("PCGrad", "auto")
    assert calls
    assert not recorded
    with pytest.raises(ReconError, match=f"ghost is not possible here: {name} is the script's own"):
        trained("PCGrad", "ghost")


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # in evaluation
def test_reentrant_checkpoints_train_as_ever(recorded: list[Record]) -> None:
    stored = trained("PCGrad", "stored", encoder_class=Reentrant).model.state_dict()
    auto = trained("PCGrad", "auto", encoder_class=Reentrant).model.state_dict()
    assert not recorded
    for key, value in stored.items():
        torch.testing.assert_close(auto[key], value)
    with pytest.raises(ReconError, match="use_reentrant=True"):
        trained("PCGrad", "ghost", encoder_class=Reentrant)


def test_gradients_that_are_not_finite_name_the_task() -> None:
    for way in ("stored", "ghost"):
        with pytest.raises(ReconError, match="task 't0', 't1' is not finite"):
            trained("GradOPS", way, encoder_class=Broken)


def test_scoring_by_ghost_names_task_and_layer() -> None:
    for weighting in ("EW", "PCGrad"):
        with (
            trainer_hooks(ScoringHook()),
            pytest.raises(ReconError, match=r"not finite .* while scoring"),
        ):
            trained(weighting, "ghost", encoder_class=Broken)


@pytest.mark.parametrize(
    ("weighting", "way", "changes", "what", "plans"),
    [
        ("PCGrad", "auto", {}, "uses the Gramian", True),
        ("EW", "auto", {}, "while it is scored", True),
        ("PCGrad", "stored", {}, "--recon_gradients stored", False),
        ("EW", "stored", {}, "takes one backward pass; while it is scored, the rows", False),
        ("MGDA", "auto", {"rep_grad": True}, "of the representation", False),
        ("PCGrad", "auto", {"encoder_class": Reentrant}, "use_reentrant=True", False),
    ],
)
def test_the_plan_is_shown_before_the_first_step(
    weighting: str, way: str, changes: dict[str, Any], what: str, *, plans: bool
) -> None:
    from libmtl_recon.integrations.libmtl.hooks import StopRun

    hook = PlanningHook()
    with trainer_hooks(hook), pytest.raises(StopRun):
        trained(weighting, way, **changes)
    assert hook.found is not None
    assert hook.found.weighting == weighting
    assert hook.found.tasks == 2
    assert what in hook.found.what
    assert (hook.found.plan is not None) == plans
    if hook.found.plan is not None:
        found = {way.layer: way.way for way in hook.found.plan.ways}
        assert found == {"one": "rows", "two": "products", "last": "products"}
        assert hook.found.plan.held < hook.found.plan.numbers


@pytest.mark.parametrize("group_type", [1, 2])
def test_the_plan_of_gradvac_by_groups(group_type: int) -> None:
    from libmtl_recon.integrations.libmtl.hooks import StopRun

    arguments = {"beta": 0.5, "GradVac_beta": 0.5, "GradVac_group_type": group_type}
    hook = PlanningHook()
    with trainer_hooks(hook), pytest.raises(StopRun):
        trained("GradVac", "auto", weight_args=arguments)
    assert hook.found is not None
    # The release does not know of groups.
    if not hasattr(weightings.GradVac, "_init_rho"):
        assert hook.found.plan is not None
        return
    assert hook.found.plan is None
    assert "keeps the rows of all layers: the weighting weighs each group" in hook.found.what
    with trainer_hooks(PlanningHook()), pytest.raises(ReconError, match="weighs each group"):
        trained("GradVac", "ghost", weight_args=arguments)


def test_bilevel_methods_have_no_plan() -> None:
    from libmtl_recon.integrations.libmtl.hooks import StopRun

    model = SimpleNamespace(task_num=2)
    hook = PlanningHook()
    with pytest.raises(StopRun):
        hook.built(SimpleNamespace(weighting="FORUM", bilevel_methods=["FORUM"], model=model))
    assert hook.found is not None
    assert (hook.found.weighting, hook.found.plan) == ("FORUM", None)
    assert "its own backward passes" in hook.found.what


def test_ghost_names_losses_that_are_not_the_trainers() -> None:
    prepared_arguments.keep_training({"recon_gradients": "ghost"})
    trainer = make_trainer("PCGrad", encoder_class=Wide)
    x, labels = batches(2)[0]
    losses = trainer._compute_loss(trainer.model(x), labels)
    with pytest.raises(ReconError, match=r"not those that Trainer\._compute_loss returned"):
        trainer.model.backward(2 * losses)


def test_scoring_leaves_training_alone_where_hooks_are_not_linear() -> None:
    class Clipping(Wide):
        def __init__(self) -> None:
            super().__init__()
            self.two.register_full_backward_hook(
                lambda module, below, above: (below[0].clamp(-1e-3, 1e-3),)
            )

    plain = trained("EW", "auto", encoder_class=Clipping).model.state_dict()
    with trainer_hooks(ScoringHook()):
        scored = trained("EW", "auto", encoder_class=Clipping).model.state_dict()
    for name, value in plain.items():
        torch.testing.assert_close(scored[name], value)
