"""The pruning study: tables of learning curves made up for it, and what replayed searches lose."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import optuna
import pytest
from libmtl_recon_search.recorder import Recorder
from optuna.trial import TrialState, create_trial

from libmtl_recon import UsageError
from libmtl_recon.search import load_config

Load = Callable[[str], ModuleType]
EPOCHS = 4


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports a file of the study."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return import_module


@pytest.fixture
def problem(load: Load) -> Any:
    """EW and GradOPS (α = 0) with K = 0, 1, 2: six plans."""
    return replace(
        load("pruning_table").PROBLEMS["multidigits"],
        epochs=EPOCHS,
        ks=(0, 1, 2),
        alphas=(0.0,),
        seeds=2,
    )


@pytest.fixture
def table(load: Load, problem: Any) -> Any:
    """Two seeds. K = 2 is best by a point, but is the last until the fourth epoch."""
    curve = load("pruning_table").Curve
    found = {}
    for seed in (0, 1):
        found[seed] = {}
        for plan in problem.plans:
            own = plan.k + (0.25 if plan.weighting == "EW" else 0.0)
            early = -20.0 - 5 * plan.k
            test = own - seed * (plan.weighting == "EW")
            found[seed][plan] = curve((early, early + 1, early + 2, own), test)
    return found


class EndsSplits(optuna.pruners.BasePruner):
    """Ends what has come to the second epoch below -24, which is K = 1 and K = 2."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Return whether to end the trial."""
        return trial.last_step == 1 and trial.intermediate_values[1] <= -24


class EndsAll(optuna.pruners.BasePruner):
    """Ends everything once it has come to its last epoch."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Return whether to end the trial."""
        return trial.last_step == EPOCHS - 1


@pytest.mark.parametrize("sampler", ["TPE", "random"])
def test_a_search_of_the_whole_grid_without_pruning_has_no_regret(
    load: Load, problem: Any, table: Any, sampler: str
) -> None:
    replays, measures = load("pruning_replay"), load("pruning_measures")
    none = replays.RECIPES[0]
    assert none.title == "none"
    trainings = replays.replay(problem, table[0], none, sampler, 0, 5)
    # Six plans, of which EW with all layers shared is known before; each of the others once.
    assert sorted(one.plan.name for one in trainings) == sorted(
        plan.name for plan in problem.plans if plan != measures.REFERENCE
    )
    found = measures.measure(table, 0, trainings, 5, 5 * EPOCHS)
    assert (found.epochs, found.ended, found.lost, found.val, found.more) == (20, 0, 0, 0, 5)
    assert found.loses == 0
    assert math.isnan(found.good)
    # The best with seed 0 is EW with K = 2; with seed 1 it is on test data 0.75 below GradOPS.
    assert found.test == found.test_equal == 0.75


def test_a_pruner_that_ends_the_best_has_the_regret_that_the_table_says(
    load: Load, problem: Any, table: Any
) -> None:
    replays, measures = load("pruning_replay"), load("pruning_measures")
    recipe = replays.Recipe("ends splits", lambda _: EndsSplits())
    trainings = replays.replay(problem, table[0], recipe, "random", 0, 5)
    ended = {one.plan.name: one.epochs for one in trainings if one.ended_early}
    assert ended == {"EW-k1": 2, "EW-k2": 2, "GradOPS+0-k1": 2, "GradOPS+0-k2": 2}
    found = measures.measure(table, 0, trainings, 5, 5 * EPOCHS)
    # Chosen is EW with K = 0 (0.25) instead of K = 2 (2.25); three of the four are the best three.
    assert (found.epochs, found.ended, found.good) == (4 * 2 + EPOCHS, 0.8, 0.75)
    assert (found.lost, found.loses, found.val, found.val_equal) == (2, 1, 2, 2)
    assert (
        found.test == 2.75
    )  # GradOPS with K = 2 has 2 with the other seed, EW with K = 0 has -.75


def test_only_what_the_epochs_allow_counts_at_equal_epochs(
    load: Load, problem: Any, table: Any
) -> None:
    replays, measures = load("pruning_replay"), load("pruning_measures")
    plan = load("pruning_table").Plan
    trainings = [
        replays.Training(plan("EW", None, 1), 2, ended_early=True),
        replays.Training(plan("GradOPS", 0.0, 0), EPOCHS, ended_early=False),
        replays.Training(plan("EW", None, 2), EPOCHS, ended_early=False),
    ]
    found = measures.measure(table, 0, trainings, 1, 9)
    # In nine epochs the third is not finished; at one trial nothing but the reference is.
    assert (found.more, found.val_equal, found.val, found.lost) == (2, 2, 2, 1)
    assert measures.measure(table, 0, trainings, 1, 10).val_equal == 0


def test_no_training_is_ended_in_its_last_epoch(load: Load, problem: Any, table: Any) -> None:
    replays = load("pruning_replay")
    recipe = replays.Recipe("ends all", lambda _: EndsAll())
    trainings = replays.replay(problem, table[0], recipe, "random", 0, 5)
    assert [(one.epochs, one.ended_early) for one in trainings] == [(EPOCHS, False)] * 5


def test_what_is_reported_is_the_best_so_far(load: Load, problem: Any, table: Any) -> None:
    replays = load("pruning_replay")
    seen: list[list[float]] = []

    class Looks(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            seen.append(list(trial.intermediate_values.values()))
            return False

    curve = load("pruning_table").Curve
    falling = {plan: curve((3.0, 1.0, 4.0, 2.0), 0.0) for plan in problem.plans}
    replays.replay(problem, falling, replays.Recipe("looks", lambda _: Looks()), "random", 0, 1)
    assert seen[EPOCHS - 1] == [3, 3, 4, 4]


def test_the_bar_of_the_median_of_all_does_not_rise_with_what_is_ended(load: Load) -> None:
    replays = load("pruning_replay")
    study = optuna.create_study(direction="maximize")
    for value, state in ((5, "COMPLETE"), (4, "COMPLETE"), (1, "PRUNED"), (2, "PRUNED")):
        ended = value if state == "COMPLETE" else None
        study.add_trial(
            create_trial(state=TrialState[state], value=ended, intermediate_values={0: 0, 1: value})
        )
    running = create_trial(state=TrialState.RUNNING, intermediate_values={0: 0, 1: 3.5})
    # The median of 5 and 4 is 4.5, that of all four is 3.
    assert optuna.pruners.MedianPruner(2, 1).prune(study, running)
    assert not replays.MedianOfAll(2, 1).prune(study, running)
    low = create_trial(state=TrialState.RUNNING, intermediate_values={0: 0, 1: 2.5})
    assert replays.MedianOfAll(2, 1).prune(study, low)
    assert not replays.MedianOfAll(5, 1).prune(study, low)
    assert not replays.MedianOfAll(2, 2).prune(study, low)


def test_repeats_can_be_left_out_of_what_a_pruner_counts(load: Load) -> None:
    replays = load("pruning_replay")
    study = optuna.create_study(direction="maximize")
    study.add_trial(create_trial(value=5, intermediate_values={0: 5, 1: 5}))
    study.add_trial(create_trial(value=5))
    running = create_trial(state=TrialState.RUNNING, intermediate_values={0: 0, 1: 1})
    pruner = optuna.pruners.MedianPruner(2, 1)
    assert pruner.prune(study, running)
    assert not replays.WithoutRepeats(pruner).prune(study, running)


def test_warm_ups_are_whole_epochs(load: Load) -> None:
    warm_up = load("pruning_replay").warm_up
    assert [warm_up(10, 1 / 3), warm_up(10, 1 / 2), warm_up(9, 1 / 3)] == [3, 5, 3]
    assert [warm_up(10, 0.4), warm_up(1, 1 / 3)] == [4, 1]


def test_the_agreement_of_orders_is_that_of_the_ranks(load: Load, table: Any) -> None:
    # K = 0, 1, 2 twice each: reversed before the last epoch, but for ties.
    *before, last = load("pruning_measures").agreement(table)
    assert before == [pytest.approx(before[0])] * 3
    assert before[0] < -0.9
    assert last == pytest.approx(1)


def test_problems_are_those_of_the_shipped_configurations(load: Load) -> None:
    problems = load("pruning_table").PROBLEMS
    configurations = ("multidigits", "multi_fashion_mnist-small")
    for one, name in zip(problems.values(), configurations, strict=True):
        flags = one.flags.split()
        assert flags[flags.index("--epochs") + 1] == str(one.epochs)
        config = load_config(name)
        assert (config.script, config.flags["epochs"]) == (one.name, one.epochs)
    assert problems["multidigits"].flags == "--epochs 10"
    assert load_config("multidigits").flags == {"epochs": 10}


class FakeRunner:
    """Writes records at once, and says what was asked for."""

    asked: ClassVar[list[str]] = []

    def __init__(self, threads: int, say: Callable[[str], None]) -> None:
        assert threads == 1

    def run(self, job: Any) -> None:
        """A record with one metric; a task alone has 50 %, a plan with K layers 50 + 5 K %."""
        if job.events.is_file():
            return
        self.asked.append(job.events.stem)
        job.events.parent.mkdir(parents=True, exist_ok=True)
        recorder = Recorder(job.events)
        recorder.write("started", after=0, search=job.search)
        tasks = [job.task] if job.task else ["first", "second"]
        higher = {task: {"Acc": True} for task in tasks}
        recorder.write("built", higher_is_better=higher, parameters=1, weightings=["EW"])
        flags = list(job.arguments)
        split = int(flags[flags.index("--recon_k") + 1]) if "--recon_k" in flags else 0
        for epoch in range(EPOCHS):
            accuracy = 0.5 + 0.05 * split - 0.01 * (EPOCHS - 1 - epoch)
            for mode in ("train", "val", "test"):
                metrics = {task: {"Acc": accuracy - 0.1 * (mode == "test")} for task in tasks}
                recorder.write("measured", epoch=epoch, mode=mode, losses={}, metrics=metrics)
        recorder.end(0)


@pytest.fixture
def fakes(load: Load, monkeypatch: pytest.MonkeyPatch) -> type[FakeRunner]:
    module = load("pruning_table")
    monkeypatch.setattr(module, "Runner", FakeRunner)
    monkeypatch.setattr(module.Collection, "check_profile", lambda _: None)
    monkeypatch.setattr(FakeRunner, "asked", [])
    return FakeRunner


def test_each_run_is_made_once_and_seeds_without_all_runs_are_left_out(
    load: Load, problem: Any, fakes: type[FakeRunner], tmp_path: Path
) -> None:
    module = load("pruning_table")
    collection = module.Collection(problem, tmp_path)
    assert collection.read() == {}
    module.collect([collection], time.monotonic() - 1, print)
    assert fakes.asked == []  # there is no time left
    module.collect([collection], math.inf, lambda _: None)
    assert len(fakes.asked) == len(set(fakes.asked)) == 1 + 2 * (2 + 6)
    assert fakes.asked[:4] == [
        "score-seed0",
        "single-first-seed0",
        "single-second-seed0",
        "EW-k0-seed0",
    ]
    module.collect([collection], math.inf, lambda _: None)
    assert len(fakes.asked) == 17
    table = collection.read()
    assert list(table) == [0, 1]
    curve = table[1][module.Plan("GradOPS", 0.0, 2)]
    # Alone 0.5 and 0.4; split twice 0.6 and 0.5, three, two, one points less before.
    assert curve.val == pytest.approx([14, 16, 18, 20])
    assert curve.test == pytest.approx(25)
    (tmp_path / "multidigits" / "runs" / "EW-k1-seed1.jsonl").unlink()
    assert list(collection.read()) == [0]


def test_the_command_prints_and_draws_and_goes_on(
    load: Load,
    problem: Any,
    fakes: type[FakeRunner],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = load("pruning")
    monkeypatch.setitem(study.PROBLEMS, "multidigits", problem)
    monkeypatch.setattr(study, "RECIPES", study.RECIPES[:2])
    monkeypatch.setattr(study.os, "environ", dict(study.os.environ))
    flags = ["pruning.py", "--out", str(tmp_path), "--problem", "multidigits", "--searches", "2"]
    monkeypatch.setattr("sys.argv", [*flags, "--trials", "5"])
    assert study.main() == 0
    text = capsys.readouterr().out
    assert (tmp_path / "report.md").read_text("utf-8") == text
    (none,) = [line for line in text.splitlines() if line.startswith("| none | 100 %")][:1]
    assert none.split(" | ")[2:6] == ["0 %", "–", "0 %", "0.00"]
    assert (tmp_path / "pruning.png").read_bytes().startswith(b"\x89PNG")
    assert list(json.loads((tmp_path / "figures.json").read_text("utf-8"))) == [
        "multidigits, TPE",
        "multidigits, random",
    ]
    monkeypatch.setattr(study, "replay", None)  # what was replayed is kept
    monkeypatch.setattr("sys.argv", [*flags, "--trials", "5", "--minutes", "0"])
    assert study.main() == 0
    assert capsys.readouterr().out == text


def test_two_studies_cannot_share_a_folder(load: Load, tmp_path: Path) -> None:
    study = load("pruning")
    with study.FileLock(tmp_path / ".lock"), pytest.raises(UsageError, match="no other study"):
        study.study(study.argparse.Namespace(out=tmp_path))


@pytest.mark.slow
def test_a_small_grid_is_really_trained(
    load: Load, problem: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("pruning_table")
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    sizes = "--train_size 64 --val_size 64 --test_size 64 --bs 16"
    small = replace(problem, flags=f"--epochs {EPOCHS} {sizes}", scored=2, seeds=1, alphas=())
    collection = module.Collection(small, tmp_path)
    module.collect([collection], math.inf, lambda _: None)
    curves = collection.read()[0]
    assert [plan.name for plan in curves] == ["EW-k0", "EW-k1", "EW-k2"]
    assert {len(curve.val) for curve in curves.values()} == {EPOCHS}
