"""LibMTL's members have one wrapper of ours each, which does what the table says, in its order."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from small_problem import Encoder, batches, make_trainer

# isort: split
import LibMTL
import torch
from LibMTL import Trainer
from torch import nn

import libmtl_recon
from libmtl_recon import ReconError, SingleTask, TrainerHook, UsageError
from libmtl_recon.integrations.libmtl import hook_table
from libmtl_recon.integrations.libmtl.hook_table import RANKS, ROWS
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.integrations.libmtl.wrapper import (
    Call,
    Hook,
    Row,
    hook_names,
    wrap,
    wrap_member,
)

OURS = str(Path(libmtl_recon.__file__).parent)
BY_MEMBER = {row.member: row for row in (*hook_table.ROWS, hook_table.BACKWARD)}


def owner_of(member: str) -> Any:
    return functools.reduce(getattr, member.split(".")[:-1], LibMTL)


def ours(function: Any) -> list[FunctionType]:
    """The function and all that it wraps, as far as they are ours."""
    found = []
    while function is not None:
        if function.__code__.co_filename.startswith(OURS):
            found.append(function)
        function = getattr(function, "__wrapped__", None)
    return found


def in_force(row: Row) -> tuple[str, ...]:
    return tuple(hook.name for hook in row.in_force(hook_table.applied(LibMTL)).hooks)


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if any(hook.patch != RANKS for hook in row.hooks)],
    ids=lambda row: row.member,
)
def test_each_member_has_one_wrapper_with_the_hooks_of_its_row(row: Row) -> None:
    member = getattr(owner_of(row.member), row.member.rpartition(".")[2])
    assert len(ours(member)) == 1
    assert hook_names(member) == in_force(row)
    assert list(inspect.signature(member).parameters) == list(
        inspect.signature(inspect.unwrap(member)).parameters
    )
    assert member.__qualname__ == row.member.rpartition("_record.")[2].removeprefix("architecture.")


@pytest.mark.parametrize("path", ["Trainer", "_record._PerformanceMeter"])
def test_no_other_member_is_wrapped(path: str) -> None:
    members = vars(owner_of(f"{path}.member")).items()
    found = {
        f"{path}.{name}" for name, one in members if isinstance(one, FunctionType) and ours(one)
    }
    assert found == {member for member in BY_MEMBER if member.startswith(f"{path}.")}


def test_each_models_backward_has_one_wrapper_of_its_own() -> None:
    one, other = make_trainer("EW").model, make_trainer("PCGrad").model
    for model in (one, other, copy.deepcopy(one)):
        backward = vars(type(model))["backward"]
        assert hook_names(backward) == in_force(hook_table.BACKWARD)
        assert len([f for f in ours(backward) if hook_names(f)]) == 1
    assert type(one).backward is not type(other).backward


def test_one_process_has_none_of_the_hooks_of_several_ranks() -> None:
    model = type(make_trainer("EW").model)
    rows = [(row, getattr(owner_of(row.member), row.member.rpartition(".")[2])) for row in ROWS]
    for name in ("forward", "backward", "_get_grads"):
        row = getattr(hook_table, {"_get_grads": "REPRESENTATIONS"}.get(name, name.upper()))
        rows.append((row, getattr(model, name)))
    looked_at = set()
    for row, member in rows:
        own = {hook.name for hook in (*row.before, *row.around, *row.after) if hook.patch == RANKS}
        looked_at |= {row.member} if own else set()
        assert own.isdisjoint(hook_names(member)), row.member
    assert {"Trainer._compute_loss", "model.forward", "model.backward"} <= looked_at


def test_a_second_registration_wraps_nothing_again() -> None:
    before = {row.member: dict(vars(owner_of(row.member))) for row in hook_table.ROWS}
    hook_table.install(LibMTL)
    assert before == {row.member: dict(vars(owner_of(row.member))) for row in hook_table.ROWS}


def test_a_libmtl_without_a_member_is_refused_and_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = LibMTL.Trainer.__init__
    monkeypatch.delattr(LibMTL.Trainer, "_compute_loss")
    with pytest.raises(ReconError, match=r"unknown version: it has no Trainer\._compute_loss"):
        hook_table.install(LibMTL)
    assert LibMTL.Trainer.__init__ is before


def test_what_must_come_later_is_there() -> None:
    for row in BY_MEMBER.values():
        for hooks in (row.before, row.around, row.after):
            names = [hook.name for hook in hooks]
            for hook in hooks:
                assert set(hook.ahead_of) <= set(names), f"{row.member}: {hook.name}"


CONSTRAINTS = [
    (row.member, kind, hook.name, later)
    for row in BY_MEMBER.values()
    for kind in ("before", "around", "after")
    for hook in getattr(row, kind)
    for later in hook.ahead_of
]


@pytest.mark.parametrize(("member", "kind", "first", "later"), CONSTRAINTS)
def test_an_order_that_matters_cannot_be_turned_round(
    member: str, kind: str, first: str, later: str
) -> None:
    hooks = list(getattr(BY_MEMBER[member], kind))
    names = [hook.name for hook in hooks]
    hooks.insert(names.index(first), hooks.pop(names.index(later)))
    with pytest.raises(ValueError, match=rf"{first} must come before .*{later}"):
        replace(BY_MEMBER[member], **{kind: tuple(hooks)})


# What the order of the table is for, seen from outside.


class Unbuildable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        raise AssertionError("something was built")


def refused(weighting: str = "EW", **changes: Any) -> None:
    with pytest.raises(UsageError):
        make_trainer(weighting, **{"encoder_class": Unbuildable, "rep_grad": False, **changes})


def test_what_is_refused_is_refused_before_anything_is_built() -> None:
    refused(decoders=3)
    refused(rep_grad=True)
    refused("GradOPS", weight_args={"gradops_alph": 1.0})
    refused(multi_input=True, architecture=architecture("Cross_stitch"))


def architecture(name: str) -> Any:
    return name if by_name() else vars(LibMTL.architecture)[name]


def by_name() -> bool:
    from libmtl_recon.integrations.libmtl.features import detect

    return detect(LibMTL).by_name


def test_tasks_are_chosen_before_they_are_looked_at() -> None:
    decoders = nn.ModuleDict({"t0": nn.Linear(6, 2)})  # none for t1, which is not to train
    with trainer_hooks(SingleTask("t0")):
        assert make_trainer("EW", decoders=decoders).task_name == ["t0"]
    with pytest.raises(UsageError, match="none for t1"):
        make_trainer("EW", decoders=decoders)


def test_a_hook_that_is_told_of_a_trainer_finds_it_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from libmtl_recon.integrations.libmtl import precision

    monkeypatch.setattr(precision, "prepared_training", lambda: {"recon_amp": "bf16"})

    found: list[bool] = []

    class Looks(TrainerHook):
        def built(self, trainer: Any) -> None:
            found.append("forward" in vars(trainer.model))

    with trainer_hooks(Looks()):
        make_trainer("EW")
    assert found == [True]


def test_a_models_base_class_is_chosen_before_it_is_built() -> None:
    arguments = {"recon_layers": "one", "recon_base": "HPS", "recon_k": 1}
    trainer = make_trainer("EW", architecture=architecture("Recon"), arch_args=arguments)
    assert issubclass(type(trainer.model), LibMTL.architecture.HPS)
    assert hook_names(vars(type(trainer.model))["backward"])


# One wrapper, by itself.


class Owner:
    """What is wrapped here."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def member(self, one: int, two: int = 2, **more: int) -> int:
        """Return what LibMTL's own member returns."""
        self.told.append((one, two, more))
        if one < 0:
            raise KeyError(one)
        return one + two


def noting(name: str) -> Callable[[Call], None]:
    return lambda call: call.owner.told.append((name, call.result))


def around(name: str) -> Callable[..., Any]:
    def hook(proceed: Callable[..., Any], owner: Owner, *args: Any, **kwargs: Any) -> Any:
        owner.told.append(f"{name} in")
        try:
            return proceed(owner, *args, **kwargs)
        finally:
            owner.told.append(f"{name} out")

    return hook


def full_row() -> Row:
    return Row(
        "Owner.member",
        before=(Hook("a", noting("a"), ""), Hook("b", noting("b"), "")),
        around=(Hook("c", around("c"), ""), Hook("d", around("d"), "")),
        after=(Hook("e", noting("e"), ""), Hook("f", noting("f"), "")),
    )


def wrapped(row: Row, owner: type = Owner) -> Any:
    found = type(owner.__name__, (), dict(vars(owner)))
    wrap_member(found, row)
    return found()


def test_hooks_happen_from_top_to_bottom() -> None:
    owner = wrapped(full_row())
    assert owner.member(1, more=4) == 3
    told: list[Any] = [("a", None), ("b", None), "c in", "d in", (1, 2, {"more": 4})]
    assert owner.told == [*told, "d out", "c out", ("e", 3), ("f", 3)]


def test_an_error_of_the_member_passes_through_and_ends_the_row() -> None:
    owner = wrapped(full_row())
    with pytest.raises(KeyError, match="-1") as raised:
        owner.member(-1)
    assert raised.value.__context__ is None
    assert owner.told[-2:] == ["d out", "c out"]


@pytest.mark.parametrize("kind", ["before", "around", "after"])
def test_an_error_of_a_hook_passes_through_and_ends_the_row(kind: str) -> None:
    def fail(*_: Any) -> None:
        raise ReconError("No.")

    row = full_row()
    owner = wrapped(replace(row, **{kind: (Hook("fails", fail, ""), *getattr(row, kind))}))
    with pytest.raises(ReconError, match="No"):
        owner.member(1)
    assert (
        owner.told
        == {
            "before": [],
            "around": [("a", None), ("b", None)],
            "after": [("a", None), ("b", None), "c in", "d in", (1, 2, {}), "d out", "c out"],
        }[kind]
    )


def test_a_hook_sees_what_was_given_by_name_and_may_change_it_and_the_result() -> None:
    def change(call: Call) -> None:
        assert call.arguments == {"self": call.owner, "one": 1, "two": 5, "more": {"x": 7}}
        call.arguments.update(one=10, more={"y": 8})

    def square(call: Call) -> None:
        call.result **= 2

    row = Row("O.member", before=(Hook("b", change, ""),), after=(Hook("a", square, ""),))
    owner = wrapped(row)
    assert owner.member(1, x=7, two=5) == 225
    assert owner.told == [(10, 5, {"y": 8})]


def test_a_hook_around_may_go_on_never_or_twice() -> None:
    def twice(proceed: Callable[..., int], owner: Owner, one: int) -> int:
        return proceed(owner, one) + proceed(owner, one, 3) if one else 0

    owner = wrapped(Row("O.member", around=(Hook("twice", twice, ""),)))
    assert (owner.member(0), owner.told) == (0, [])
    assert (owner.member(1), owner.told) == (7, [(1, 2, {}), (1, 3, {})])


@pytest.mark.parametrize("kinds", [("before",), ("around",), ("before", "around", "after")])
def test_a_wrapper_looks_like_what_it_wraps(kinds: tuple[str, ...]) -> None:
    row = replace(
        full_row(), **{kind: () for kind in ("before", "around", "after") if kind not in kinds}
    )
    wrapper = wrap(Owner.member, row)
    assert wrapper.__doc__ == Owner.member.__doc__
    assert inspect.signature(wrapper) == inspect.signature(Owner.member)
    assert wrapper.__wrapped__ is Owner.member  # type: ignore[attr-defined]


def test_a_call_that_does_not_fit_names_the_argument_and_the_member() -> None:
    owner = wrapped(full_row())
    with pytest.raises(TypeError, match=r"missing .* 'one' \(of Owner\.member\)"):
        owner.member()
    assert owner.told == []


def test_an_inherited_member_is_looked_up_in_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    class Heir(Owner):
        pass

    wrap_member(Heir, full_row())
    assert "member" in vars(Heir)
    monkeypatch.setattr(Owner, "member", lambda self, one: 40 + one)
    assert Heir().member(2) == 42


def test_hooks_of_patches_that_are_not_applied_are_left_out() -> None:
    hooks = tuple(Hook(name, noting(name), "", patch=name) for name in "xy")
    row = Row("O.member", before=(Hook("z", noting("z"), ""), *hooks))
    assert [hook.name for hook in row.in_force(["y"]).hooks] == ["z", "y"]
    bare = Row("O.member", around=(Hook("x", around("x"), "", patch="x"),))
    owner = wrapped(bare.in_force([]))
    assert type(owner).member is Owner.member


def test_two_hooks_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two hooks of one name: a, a"):
        Row("O.member", before=(Hook("a", noting("a"), ""), Hook("a", noting("a"), "")))


# Scripts' own Trainers.


class BuildsItself(Trainer):
    """Builds all by itself, as scripts with an optimiser or a meter of their own do."""

    def __init__(self, **given: Any) -> None:
        nn.Module.__init__(self)
        self.device = torch.device("cpu")
        self.kwargs = {"weight_args": {}, "arch_args": {}}
        self.task_dict, self.task_name = given["task_dict"], list(given["task_dict"])
        self.task_num, self.rep_grad, self.multi_input = len(self.task_name), False, False
        self.scheduler = self.scheduler_param = self.save_path = self.load_path = None
        self.weighting, self.bilevel_methods = given["weighting"], []
        self._prepare_model(
            given["weighting"], given["architecture"], given["encoder_class"], given["decoders"]
        )
        self._prepare_optimizer(given["optim_param"], None)
        self.meter = LibMTL._record._PerformanceMeter(self.task_dict, False)


class Notes(TrainerHook):
    def __init__(self) -> None:
        self.told: list[str] = []

    def built(self, trainer: Any) -> None:
        self.told.append("built")

    def training(self, trainer: Any) -> None:
        self.told.append("training")

    def measured(self, trainer: Any, measurement: Any) -> None:
        self.told.append(measurement.mode)

    def trained(self, trainer: Any) -> None:
        self.told.append("trained")


def test_a_trainer_that_builds_itself_is_wrapped_all_the_same() -> None:
    with trainer_hooks(notes := Notes()):
        trainer = make_trainer("EW", trainer_class=BuildsItself)
        assert notes.told == []
        trainer.train(batches(2), batches(2), epochs=1)
    assert notes.told == ["built", "training", "train", "test", "trained"]
    assert hook_names(vars(type(trainer.model))["backward"]) == in_force(hook_table.BACKWARD)


def test_trainers_and_their_copies_each_train_by_themselves() -> None:
    data = batches(2)
    first, second = make_trainer("PCGrad"), make_trainer("PCGrad")
    copied = copy.deepcopy(first)
    trained = []
    for trainer in (first, second, copied):
        trainer.train(data, data, epochs=1)
        trained.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    start = torch.cat([p.flatten() for p in make_trainer("PCGrad").model.parameters()])
    assert not torch.equal(start, trained[0])
    for one, other in itertools.pairwise(trained):
        assert torch.equal(one, other)


def test_a_training_that_fails_is_not_told_as_trained() -> None:
    class Failing(Encoder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ArithmeticError("in the script's own code")

    with trainer_hooks(notes := Notes()):
        trainer = make_trainer("EW", encoder_class=Failing)
        with pytest.raises(ArithmeticError, match="script's own"):
            trainer.train(batches(2), batches(2), epochs=1)
    assert notes.told == ["built", "training"]
