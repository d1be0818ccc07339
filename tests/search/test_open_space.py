"""What a search may choose and by what it compares: flags, selections, objectives, constraints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import libmtl_recon_search.run
import optuna
import pytest
from fake_runs import LAYERS, TASKS, Asked, Curves, FakeRunner, World, write_search
from libmtl_recon_search import load_config, write_report
from libmtl_recon_search.curves import curve_of
from libmtl_recon_search.paging import make_page
from libmtl_recon_search.report import Report
from libmtl_recon_search.run import run
from optuna.trial import FrozenTrial, TrialState

from libmtl_recon import ReconError


def level(asked: Asked, task: str) -> Curves:
    """Better with a larger batch, a learning rate near 0.01, and more split layers."""
    found = 0.5
    if "lr" in asked.flags:
        found -= 0.02 * abs(math.log10(float(asked.flags["lr"])) + 2)
    if "bs" in asked.flags:
        found += 0.0001 * int(asked.flags["bs"])
    if asked.alone is None:
        found += 0.01 * asked.K + 0.001 * TASKS.index(task)
    return [found - 0.01, found], [found - 0.01, found]


class Searched:
    """A search that was made with fake runs."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        folder: Path,
        world: World = level,
        runner: FakeRunner | None = None,
        page: bool = False,
        **changes: Any,
    ) -> None:
        self.runner = runner or FakeRunner(world)
        monkeypatch.setattr(libmtl_recon_search.run, "Runner", self.runner)
        monkeypatch.setattr(libmtl_recon_search.run, "_draw", lambda *_: ())
        if not page:
            monkeypatch.setattr(libmtl_recon_search.run, "write_page", lambda *_: [])
        config = load_config(write_search(folder, **changes))
        self.report: Report = run(config, folder / "out").report
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'out' / 'study.db'}")
        self.study = optuna.load_study(study_name="study", storage=storage)
        self.trials: list[FrozenTrial] = self.study.get_trials()
        storage.remove_session()
        storage.engine.dispose()

    @property
    def plans(self) -> list[Asked]:
        """What was trained with all tasks, but for scoring."""
        pairs = zip(self.runner.trained, self.runner.asked, strict=True)
        return [asked for job, asked in pairs if not job.task and job.profile is None]


WIDE: dict[str, Any] = {"low": 1e-4, "high": 1.0, "log": True}


def test_flags_are_searched_where_they_have_lists_or_ranges(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flags = {"epochs": 2, "lr": WIDE, "bs": [64, 128]}
    found = Searched(monkeypatch, tmp_path, flags=flags, trials=8)
    values = {(asked.flags["lr"], asked.flags["bs"]) for asked in found.plans if asked.seed == 0}
    assert {bs for _, bs in values} == {"64", "128"}
    assert len({lr for lr, _ in values}) > 4
    assert all(1e-4 <= float(lr) <= 1.0 for lr, _ in values)
    assert {asked.flags["epochs"] for asked in found.runner.asked} == {"2"}
    # Runs that are not tuned take the first of a list, and the middle of a range.
    others = [a for j, a in zip(found.runner.trained, found.runner.asked, strict=True) if j.task]
    assert {(a.flags["lr"], a.flags["bs"]) for a in others} == {("0.01", "64")}
    assert "the baselines are not tuned" in found.report.notes[0]
    assert set(found.trials[0].params) == {"weighting", "k", "s", "flags.lr", "flags.bs"}
    best = found.report.best
    assert f"--lr {dict(best.flags)['lr']}" in found.report.command


def test_flags_of_a_weighting_are_searched_for_it_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    space = {
        "weighting": ["EW", "UW"],
        "flags": {"UW": {"lr": WIDE}},
        "s": [-0.1],
        "k": {"low": 0, "high": LAYERS - 1},
    }
    found = Searched(monkeypatch, tmp_path, space=space, trials=8)
    own = [trial for trial in found.trials if "UW.lr" in trial.params]
    assert {trial.params["weighting"] for trial in own} == {"UW"}
    assert len(own) > 2
    for asked in found.plans:
        assert ("lr" in asked.flags) == (asked.weighting == "UW")


def test_a_list_is_one_value_of_a_flag_that_takes_several(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runner = FakeRunner(level)
    runner.several = ("sizes",)
    found = Searched(
        monkeypatch, tmp_path, runner=runner, flags={"sizes": [1, 2], "bs": [64, 128]}, trials=4
    )
    assert all("--sizes 1 2" in " ".join(job.arguments) for job in found.runner.trained)
    assert not any("sizes" in name for trial in found.trials for name in trial.params)
    assert any("flags.bs" in trial.params for trial in found.trials)


def test_without_k_nothing_is_split_and_nothing_is_scored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    space = {"weighting": ["GradOPS"], "alpha": [-1.0, 0.0, 1.0]}
    found = Searched(monkeypatch, tmp_path, page=True, space=space, trials=5)
    assert not any(job.profile for job in found.runner.trained)
    assert {(a.alpha, a.K) for a in found.plans if a.weighting == "GradOPS"} == {
        (-1.0, 0),
        (0.0, 0),
        (1.0, 0),
    }
    assert not (tmp_path / "out" / "profile.json").exists()
    assert (tmp_path / "out" / "report.html").exists()


def test_the_way_layers_are_chosen_is_a_dimension(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    space = {
        "weighting": ["EW"],
        "select": ["conflict", "first", "last", "random_params"],
        "s": [-0.1, -0.05],
        "k": {"low": 1, "high": LAYERS - 1},
    }
    found = Searched(monkeypatch, tmp_path, space=space, trials=16)
    lines = {job.arguments for job in found.runner.trained if "--recon_k" in job.arguments}
    chosen = {asked.select for asked in found.plans if asked.K}
    assert chosen == {"conflict", "first", "last", "random_params"}
    for line in lines:
        measured = "first" not in line and "last" not in line
        assert ("--recon_layers" in line) == measured
        assert ("--recon_select_seed" in line) == ("random_params" in line)
    for trial in found.trials:
        assert ("s" in trial.params) == (trial.params["select"] in ("conflict", "random_params"))


def test_scores_are_not_needed_where_no_selection_looks_at_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    space = {"weighting": ["EW"], "select": ["first", "norms"], "k": [0, 2, 4]}
    found = Searched(monkeypatch, tmp_path, space=space, trials=4)
    assert not any(job.profile for job in found.runner.trained)
    assert {asked.select for asked in found.plans if asked.K} <= {"first", "norms"}
    # A network without norms has the first layers first: the same plans.
    assert len([a for a in found.plans if a.K and a.seed == 0]) == 2


def test_several_objectives_have_a_front(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    objectives = ["delta_m", "parameters", "worst_task", "a.Acc"]
    found = Searched(monkeypatch, tmp_path, objectives=objectives, trials=8)
    assert [d.name for d in found.study.directions] == [
        "MAXIMIZE",
        "MINIMIZE",
        "MAXIMIZE",
        "MAXIMIZE",
    ]
    assert found.study.metric_names == objectives
    for trial in found.trials:
        # 0.5 alone; task b is 0.001 better in all of these plans.
        K = (trial.values[1] - 100) / 10
        gains = [100 * (0.01 * K + 0.001 * place) / 0.5 for place in (0, 1)]
        expected = [sum(gains) / 2, 100 + 10 * K, min(gains), 0.5 + 0.01 * K]
        assert trial.values == pytest.approx(expected)
    # More layers are better and cost more, so every plan is on the front.
    assert len(found.report.front) == len({t.values[1] for t in found.trials})


def test_a_constraint_keeps_the_best_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # EW has 100 parameters, and each split layer 10 more.
    limits = {"parameters": {"at_most": 1.4}}
    found = Searched(monkeypatch, tmp_path, constraints=limits, trials=10)
    assert len(found.report.best.layers) <= 4
    assert all(row.values["parameters"] <= 140 for row in found.report.front)
    broken = [trial for trial in found.trials if trial.constraints["parameters"] > 0]
    assert broken
    for trial in broken:
        K = len(trial.user_attrs["layers"])
        assert trial.constraints["parameters"] == pytest.approx(0.1 * K - 0.4)


def test_each_task_is_to_gain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def one_pays(asked: Asked, task: str) -> Curves:
        found = 0.5
        if asked.alone is None:
            found += 0.01 * asked.K if task == "a" else 0.001 * (3 - asked.K)
        return [found], [found]

    limits = {"each_task": {"not_below": 0.0}}
    found = Searched(monkeypatch, tmp_path, one_pays, constraints=limits, trials=10)
    assert 1 <= len(found.report.best.layers) <= 3
    for trial in found.trials:
        K = len(trial.user_attrs["layers"])
        assert trial.constraints["each_task.b"] == pytest.approx(-0.2 * (3 - K))


def test_the_smallest_of_those_that_are_as_good_is_picked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pick = {"best": "delta_m", "within": 5.0}  # 2 points for each layer
    finalists = {"count": 4, "seeds": [9]}
    found = Searched(monkeypatch, tmp_path, pick=pick, finalists=finalists, trials=10)
    counts = [len(t.user_attrs["layers"]) for t in found.trials]
    near = [K for K in counts if max(counts) - 2 <= K]
    assert len(near) > 1
    assert len(found.report.best.layers) == min(near)


def test_metrics_have_weights_and_may_be_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def differ(asked: Asked, task: str) -> Curves:
        gain = 0.0 if asked.alone else (0.05 if task == "a" else 0.1)
        return [0.5 + gain], [0.5 + gain]

    metrics: dict[str, Any] = {"weights": {"b": 3.0}}
    found = Searched(monkeypatch, tmp_path, differ, metrics=metrics, trials=2)
    assert found.trials[0].value == pytest.approx((10 + 3 * 20) / 4)
    (tmp_path / "more").mkdir()
    metrics = {"leave_out": ["a"]}
    found = Searched(monkeypatch, tmp_path / "more", differ, metrics=metrics, trials=2)
    assert found.trials[0].value == pytest.approx(20)


def zero_alone(asked: Asked, task: str) -> Curves:
    value = 0.0 if task == "b" and asked.alone else 0.5 + 0.01 * asked.K
    return [value], [value]


def test_an_undefined_metric_ends_a_search_at_its_beginning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ReconError, match=r"'Acc' of task 'b' is 0 .*leave_out: \[b\.Acc\]"):
        Searched(monkeypatch, tmp_path, zero_alone, trials=3)


def test_a_search_goes_on_without_what_may_be_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {"undefined": "leave_out"}
    found = Searched(monkeypatch, tmp_path, zero_alone, metrics=metrics, trials=3)
    assert "b.Acc is left out" in capsys.readouterr().err
    assert "b.Acc is left out" in found.report.notes[0]
    for trial in found.trials:
        K = len(trial.user_attrs["layers"])
        assert trial.value == pytest.approx(100 * 0.01 * K / 0.5)


def test_what_is_undefined_with_a_fresh_seed_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nan_later(asked: Asked, task: str) -> Curves:
        if asked.seed == 2 and task == "b":
            return [math.nan], [math.nan]
        return [0.5 + 0.01 * asked.K], [0.5 + 0.01 * asked.K]

    found = Searched(monkeypatch, tmp_path, nan_later, trials=3)
    assert any("with seed 2, b.Acc is left out" in note for note in found.report.notes)
    gain = 100 * 0.01 * len(found.report.best.layers) / 0.5
    assert found.report.gain.values == pytest.approx((gain, gain))


def test_an_epoch_without_a_metric_is_not_the_best(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nan_once(asked: Asked, task: str) -> Curves:
        if asked.K:
            return [0.6, math.nan, 0.55], [0.6, 0.7, 0.55]
        return [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]

    found = Searched(monkeypatch, tmp_path, nan_once, trials=3)
    values = [trial.value for trial in found.trials if trial.params["k"]]
    assert values == pytest.approx([20.0] * len(values))
    assert values
    assert {trial.user_attrs["outcome"]["epoch"] for trial in found.trials} == {0}


def test_baselines_are_tuned_over_the_same_flags(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = Searched(
        monkeypatch, tmp_path, flags={"lr": WIDE}, tune_baselines=True, trials=6, confirm=[5]
    )
    pairs = list(zip(found.runner.trained, found.runner.asked, strict=True))
    alone = {
        task: {a.flags["lr"] for j, a in pairs if j.task == task and a.seed == 0} for task in TASKS
    }
    assert {len(values) for values in alone.values()} == {6}
    # The learning rate that is nearest to 0.01 was the best one, also for fresh seeds.
    best = min(alone["a"], key=lambda lr: abs(math.log10(float(lr)) + 2))
    fresh = {a.flags["lr"] for j, a in pairs if a.seed == 5 and j.task}
    assert fresh == {best}
    plain = {a.flags["lr"] for j, a in pairs if a.seed == 0 and not j.task and not a.K}
    assert len(plain) >= 6
    assert "6 random runs each" in found.report.notes[0]


def test_a_study_ends_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Searched(monkeypatch, tmp_path, timeout={"study": 1e-6}, trials=1000)
    assert len(found.trials) < 10
    assert "1e-06 s" in capsys.readouterr().err
    assert found.report.trials == len(found.trials)


def test_scores_are_fresh_on_demand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = Searched(monkeypatch, tmp_path, score={"reuse": False}, trials=2)
    assert [job.reuse for job in found.runner.trained if job.profile] == [False]


def test_a_smaller_network_is_not_ended_for_a_larger_ones_sake(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def larger_is_better(asked: Asked, task: str) -> Curves:
        found = 0.5 + (0.0 if asked.alone else 0.01 * asked.K)
        return [found] * 4, [found] * 4

    pruner = {"name": "MedianPruner", "args": {"n_startup_trials": 2, "n_warmup_steps": 1}}
    changes: dict[str, Any] = {"pruner": pruner, "trials": 11}
    one = Searched(monkeypatch, tmp_path, larger_is_better, **changes)
    assert any(trial.state == TrialState.PRUNED for trial in one.trials)
    (tmp_path / "two").mkdir()
    two = Searched(
        monkeypatch,
        tmp_path / "two",
        larger_is_better,
        objectives=["delta_m", "parameters"],
        **changes,
    )
    assert not any(trial.state == TrialState.PRUNED for trial in two.trials)
    # A user's own trials are chosen by Optuna's samplers, which know no curves there.
    assert not any(trial.intermediate_values for trial in two.trials)
    own = [trial for trial in two.trials if "same_as" not in trial.user_attrs]
    assert {tuple(curve_of(trial)) for trial in own} == {(0, 1, 2, 3)}


@pytest.mark.parametrize("name", ["SuccessiveHalvingPruner", "HyperbandPruner"])
def test_a_pruner_that_keeps_rungs_ends_what_a_search_of_optunas_own_would(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Later trials are worse, so that a good one is never behind its rung.
    def worse_with_more_layers(asked: Asked, task: str) -> Curves:
        curve = [
            0.5 + (0.0 if asked.alone else 0.01 * (12 - asked.K) + 0.001 * e) for e in range(9)
        ]
        return curve, curve

    args = {"min_resource": 2, "reduction_factor": 2}
    if name == "HyperbandPruner":
        args["max_resource"] = 9
    found = Searched(
        monkeypatch,
        tmp_path,
        worse_with_more_layers,
        pruner={"name": name, "args": args},
        trials=10,
    )
    # The same by Optuna alone: the same numbers, values and epochs.
    expected = []
    pruner = getattr(optuna.pruners, name)(**args)
    oracle = optuna.create_study(study_name="search", direction="maximize", pruner=pruner)
    for trial in found.trials:
        own = oracle.ask()
        state = TrialState.COMPLETE
        if "same_as" in trial.user_attrs:  # it was not trained
            oracle.tell(own, state=TrialState.FAIL)
            continue
        for epoch in range(9):
            best = 100 * (0.01 * (12 - trial.params["k"]) + 0.001 * epoch) / 0.5
            own.report(best, epoch)
            if own.should_prune() and epoch < 8:
                state = TrialState.PRUNED
                break
        oracle.tell(own, best if state == TrialState.COMPLETE else None, state=state)
        expected.append((trial.number, state))
    assert [(t.number, t.state) for t in found.trials if "same_as" not in t.user_attrs] == expected
    assert {state for _, state in expected} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_optuna_says_as_much_after_a_search_as_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        Searched(monkeypatch, tmp_path, trials=2)
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(before)
    assert "study created" not in capfd.readouterr().err


def test_a_trial_that_breaks_a_constraint_is_no_finalist(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Two plans have 15 % more parameters at most: of K = 0 and K = 1.
    limits = {"parameters": {"at_most": 1.15}}
    finalists = {"count": 5, "seeds": [9]}
    space = {"weighting": ["EW"], "s": [-0.1], "k": [0, 1, 6, 8, 10]}
    found = Searched(
        monkeypatch, tmp_path, constraints=limits, finalists=finalists, space=space, trials=5
    )
    assert [len(one.plan.layers) for one in found.report.finalists] == [1, 0]
    assert len(found.report.best.layers) == 1
    assert found.report.notes == ()


def test_of_trials_that_all_break_constraints_the_nearest_is_taken_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limits = {"parameters": {"at_most": 1.15}}
    finalists = {"count": 5, "seeds": [9]}
    space = {"weighting": ["EW"], "s": [-0.1], "k": [4, 6, 8, 10]}
    found = Searched(
        monkeypatch, tmp_path, constraints=limits, finalists=finalists, space=space, trials=4
    )
    assert len(found.report.best.layers) == 4
    assert "no trial satisfies the constraints" in found.report.notes[0]


def test_the_smallest_of_those_that_are_as_good_is_picked_as_the_only_finalist(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pick = {"best": "delta_m", "within": 5.0}  # 2 points for each layer
    space = {"weighting": ["EW"], "s": [-0.1], "k": [0, 5, 7, 8, 9]}
    found = Searched(monkeypatch, tmp_path, pick=pick, space=space, trials=5)
    assert len(found.report.best.layers) == 7


@pytest.mark.parametrize("objectives", [["a.Acc"], ["a.Acc", "delta_m"], ["delta_m", "b.Acc"]])
def test_an_epoch_in_which_something_that_is_judged_is_undefined_is_not_the_best(
    objectives: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nan_at_its_best(asked: Asked, task: str) -> Curves:
        if asked.K:
            curve = [0.6, 0.9 if task == "a" else math.nan, 0.55]
            return curve, curve
        return [0.5] * 3, [0.5] * 3

    changes: dict[str, Any] = {"objectives": objectives}
    if objectives == ["delta_m", "b.Acc"]:
        changes["metrics"] = {"leave_out": ["b"]}  # Δm is defined without it
    found = Searched(monkeypatch, tmp_path, nan_at_its_best, trials=3, **changes)
    split = [trial for trial in found.trials if trial.params["k"]]
    assert split
    assert {trial.user_attrs["outcome"]["epoch"] for trial in split} == {0}
    expected = [20.0 if name == "delta_m" else 0.6 for name in objectives]
    assert [t.values for t in split] == [pytest.approx(expected)] * len(split)


def test_report_and_page_have_the_same_front(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for objectives in (["delta_m"], ["parameters"], ["worst_task", "a.Acc"]):
        folder = tmp_path / objectives[0]
        folder.mkdir()
        found = Searched(monkeypatch, folder, objectives=objectives, trials=5)
        page = make_page(found.study, folder, "study", None)
        shown = {trial.number for trial in page.trials if trial.on_front}
        in_report = {row.number for row in found.report.front}
        repeated = {t.number for t in found.trials if "same_as" in t.user_attrs}
        assert in_report - repeated == shown
        assert len(shown) == (1 if len(objectives) == 2 else 5)


def test_a_baseline_that_breaks_a_constraint_is_not_on_the_front(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limits = {"each_task": {"not_below": 1.0}}
    found = Searched(monkeypatch, tmp_path, constraints=limits, trials=4)
    reference = make_page(found.study, tmp_path, "study", None).reference
    assert reference is not None
    assert not reference.feasible
    assert not reference.on_front
    assert reference.violated == "each_task.a by 1, each_task.b by 0.8"


def test_a_grid_is_gone_through_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    space = {
        "weighting": ["EW", "GradOPS"],
        "alpha": [-1.0, 0.0, 1.0],
        "s": [-0.1, -0.05],
        "k": {"low": 0, "high": LAYERS - 1},
    }
    grid = {"weighting": ["GradOPS"], "alpha": [-1.0, 1.0], "k": [2, 3, 4], "s": [-0.1]}
    sampler = {"name": "GridSampler", "args": {"search_space": grid}}
    found = Searched(monkeypatch, tmp_path, space=space, sampler=sampler, trials=6)
    # What begins other searches is not in the grid.
    chosen = [
        (t.params["alpha"], t.params["k"]) for t in found.trials if "grid_id" in t.system_attrs
    ]
    assert sorted(chosen) == [(a, k) for a in (-1.0, 1.0) for k in (2, 3, 4)]
    assert len(found.trials) == 6


def test_a_sampler_keeps_its_state_from_trial_to_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sampler = {"name": "NSGAIISampler", "args": {"population_size": 4}}
    flags = {"lr": WIDE}
    found = Searched(monkeypatch, tmp_path, flags=flags, sampler=sampler, trials=12)
    generations = [
        value for t in found.trials for k, value in t.system_attrs.items() if "generation" in k
    ]
    assert set(generations) >= {0, 1, 2}
    assert generations == sorted(generations)


def test_a_sampler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runner, sampler = FakeRunner(level), {"name": "own_samplers:Tired"}
    with pytest.raises(ReconError, match=r"sampler own_samplers:Tired could not .*LookupError"):
        Searched(monkeypatch, tmp_path, runner=runner, sampler=sampler, flags={"lr": WIDE})
    assert runner.trained != []


DISCRETE: dict[str, Any] = {"weighting": ["EW", "GradOPS"], "alpha": [-1.0, 0.0, 1.0]}


def test_a_grid_is_trained_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    grid = {"weighting": ["GradOPS"], "alpha": [-1.0, 1.0], "flags.bs": [64, 256]}
    sampler = {"name": "GridSampler", "args": {"search_space": grid}}
    flags = {"bs": [64, 128, 256]}
    found = Searched(monkeypatch, tmp_path, space=DISCRETE, sampler=sampler, flags=flags, trials=4)
    trained = [(a.alpha, a.flags["bs"]) for a in found.plans if a.seed == 0 and a.alpha is not None]
    assert sorted(trained) == [(-1.0, "256"), (-1.0, "64"), (1.0, "256"), (1.0, "64")]


def test_brute_force_tries_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sampler = {"name": "BruteForceSampler"}
    found = Searched(monkeypatch, tmp_path, space=DISCRETE, sampler=sampler, trials=9)
    assert {(a.weighting, a.alpha) for a in found.plans if a.seed == 0} == {
        ("EW", None),
        *(("GradOPS", alpha) for alpha in (-1.0, 0.0, 1.0)),
    }


def test_a_sampler_that_cannot_choose_from_the_space_is_refused_before_a_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Whether a list is searched is not known before the script was started.
    grid = {"weighting": ["EW", "GradOPS"], "alpha": [-1.0, 0.0]}
    sampler = {"name": "GridSampler", "args": {"search_space": grid}}
    changes: dict[str, Any] = {"space": DISCRETE, "flags": {"bs": [64, 128]}, "sampler": sampler}
    runner = FakeRunner(level)
    with pytest.raises(ReconError, match=r"^sampler must choose .*flags\.bs, is not found"):
        Searched(monkeypatch, tmp_path, runner=runner, **changes)
    assert runner.trained == []


def long(asked: Asked, task: str) -> Curves:
    """Nine epochs."""
    (_, top), _ = level(asked, task)
    return [top] * 9, [top] * 9


def test_a_pruner_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runner = FakeRunner(long)
    with pytest.raises(ReconError, match=r"The pruner Late could not .*LookupError: too late"):
        Searched(monkeypatch, tmp_path, runner=runner, pruner={"name": "own_samplers:Late"})


def test_a_queued_trial_with_a_name_that_there_is_not_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changes: dict[str, Any] = {"space": DISCRETE, "flags": {"bs": [64, 128]}}
    found = Searched(monkeypatch, tmp_path, trials=2, **changes)
    found.study.enqueue_trial({"alpha": 1.0, "batch": 128})
    found.study.enqueue_trial({"weighting": "GradOPS", "alpha": -1.0, "flags.bs": 128})
    again = Searched(monkeypatch, tmp_path, trials=3, **changes)
    wrong, right = again.trials[-2:]
    assert (wrong.state, right.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert right.params == {"weighting": "GradOPS", "alpha": -1.0, "flags.bs": 128}
    assert f"Trial {wrong.number}, enqueued by another program" in capfd.readouterr().err


def test_the_report_of_a_database_is_written_to_a_folder_that_is_not_there_yet(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Searched(monkeypatch, tmp_path, space=DISCRETE, trials=2)
    url, folder = f"sqlite:///{tmp_path / 'out' / 'study.db'}", tmp_path / "new" / "reports"
    assert folder / "report.html" in write_report(tmp_path / "study.yaml", folder, storage=url)
    assert (folder / "report.html").exists()
    with pytest.raises(ReconError, match=r"^Cannot use .*main\.py"):
        write_report(tmp_path / "study.yaml", tmp_path / "main.py", storage=url)
    other = tmp_path / "other.yaml"
    other.write_bytes((tmp_path / "study.yaml").read_bytes())
    with pytest.raises(ReconError, match=r"contains no search 'other' .*It contains 'study';"):
        write_report(other, folder, storage=url)
