"""What a search compares with what: the worlds in which each wrong pairing gives another number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import libmtl_recon_search.run
import pytest
from fake_runs import TASKS, Asked, Curves, FakeRunner, World, write_search
from libmtl_recon_search import load_config, run_search
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.plan import REFERENCE, Plan
from libmtl_recon_search.progress import Display
from libmtl_recon_search.report import Report
from libmtl_recon_search.session import Session
from libmtl_recon_search.training import Pruned


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, world: World, **changes: Any) -> Report:
    monkeypatch.setattr(libmtl_recon_search.run, "Runner", FakeRunner(world))
    monkeypatch.setattr(libmtl_recon_search.run, "_draw", lambda *_: ())
    monkeypatch.setattr(libmtl_recon_search.run, "write_page", lambda *_: [])
    return run_search(load_config(write_search(folder, **changes)), folder / "out")


def telling(asked: Asked, task: str) -> Curves:
    """Every seed, task, half of the data and epoch has another accuracy; the best are 1 and 2."""
    own = 0.03 * TASKS.index(task) + 0.001 * asked.seed
    if asked.alone is not None:
        return [0.40 + own, 0.50 + own, 0.45 + own], [0.61 + own, 0.70 + 2 * own, 0.72 + own]
    own += 0.02 * min(asked.K, 4) * (1 + 0.1 * asked.seed)
    return [0.42 + own, 0.53 + own, 0.51 + own], [0.65 + own, 0.71 + 3 * own, 0.95 + own]


def delta(asked: Asked, place: int) -> float:
    """Δm of a run at its best epoch (1) against single-task networks of the same seed at theirs."""
    gains = []
    for task in TASKS:
        alone = Asked("EW", None, 0, asked.seed, task)
        value, base = telling(asked, task)[place][1], telling(alone, task)[place][1]
        gains.append(100 * (value - base) / base)
    return sum(gains) / len(gains)


def test_each_seed_is_compared_with_its_own_baseline_on_the_same_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = run(monkeypatch, tmp_path, telling, confirm=[11, 12, 13], trials=4)
    K = len(report.best.layers)
    assert K >= 4
    seeds = (11, 12, 13)
    _, ew, best = report.rows
    for row, layers in ((ew, 0), (best, K)):
        asked = [Asked("EW", None, layers, seed, None) for seed in seeds]
        assert row.val is not None
        assert row.test is not None
        assert row.val.values == pytest.approx([delta(one, 0) for one in asked])
        assert row.test.values == pytest.approx([delta(one, 1) for one in asked])
    wanted = [
        delta(Asked("EW", None, K, seed, None), 1) - delta(Asked("EW", None, 0, seed, None), 1)
        for seed in seeds
    ]
    assert report.gain.values == pytest.approx(wanted)
    assert len(set(report.gain.values)) == 3


def test_the_comparison_is_trained_with_its_own_seeds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runner = FakeRunner(telling)
    monkeypatch.setattr(libmtl_recon_search.run, "Runner", runner)
    monkeypatch.setattr(libmtl_recon_search.run, "_draw", lambda *_: ())
    monkeypatch.setattr(libmtl_recon_search.run, "write_page", lambda *_: [])
    file = write_search(tmp_path, seed=5, confirm=[11, 12], trials=3)
    best = run_search(load_config(file), tmp_path / "out").best
    asked = [Asked.by(job) for job in runner.trained if job.profile is None]
    for K in (0, len(best.layers)):
        assert {one.seed for one in asked if one.K == K and not one.alone} == {5, 11, 12}
    for task in TASKS:
        assert [one.seed for one in asked if one.alone == task] == [5, 11, 12]


def test_the_finalist_with_the_highest_mean_is_the_best(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def world(asked: Asked, task: str) -> Curves:
        if asked.alone is not None:
            return [0.5], [0.5]
        # One layer fewer is better with the search's seed, and worse on the average.
        lucky = 0.02 * asked.K if asked.seed == 0 else -0.05 * asked.K
        return [0.5 + lucky], [0.5 + lucky]

    report = run(
        monkeypatch,
        tmp_path,
        world,
        space={"weighting": ["EW"], "s": [-0.1], "k": {"low": 0, "high": 3}},
        trials=3,
        finalists={"count": 3, "seeds": [101, 102]},
    )
    found = [(len(one.plan.layers), one.val.values) for one in report.finalists]
    # In percent of 0.5: 4 a layer with seed 0, -10 with the two others.
    assert [layers for layers, _ in found] == [1, 2, 3]
    for layers, values in found:
        assert values == pytest.approx([4.0 * layers, -10.0 * layers, -10.0 * layers])
    assert report.best == report.finalists[0].plan


def test_the_layers_that_the_best_splits_are_marked_in_the_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[tuple[Any, ...]] = []
    monkeypatch.setattr(libmtl_recon_search.run, "Runner", FakeRunner(telling))
    monkeypatch.setattr(libmtl_recon_search.run, "draw_profile", lambda *given: drawn.append(given))
    monkeypatch.setattr(libmtl_recon_search.run, "draw_improvement", lambda *_: None)
    best = run_search(load_config(write_search(tmp_path, trials=3)), tmp_path / "out").best
    [(profile, file, S, K)] = drawn
    assert best.layers
    assert (S, profile.ranking(S)[:K]) == (best.S, list(best.layers))
    assert file == tmp_path / "out" / "conflicts.png"


def session(folder: Path, runner: FakeRunner, **changes: Any) -> Session:
    config = load_config(write_search(folder, **changes))
    return Session(config, SearchFolder(folder / "out"), runner, Display())


def falling(asked: Asked, task: str) -> Curves:
    if asked.alone is not None or asked.K == 0:
        return [0.5] * 4, [0.5] * 4
    return [0.55, 0.6, 0.4, 0.3], [0.5] * 4


@pytest.mark.parametrize("killed_after", [0, 6])  # events; the run is then made once more
def test_the_pruner_is_told_the_best_so_far_once(tmp_path: Path, killed_after: int) -> None:
    runner = FakeRunner(falling)
    own = session(tmp_path, runner)
    own.prepare()
    runner.killed_after = killed_after
    told: list[tuple[int, float]] = []

    def report(epoch: int, gain: float, _: int) -> bool:
        told.append((epoch, gain))
        return True

    (value,) = own.train(Plan("EW", None, -0.1, ("l0",)), report).values
    assert [epoch for epoch, _ in told] == [0, 1, 2, 3]
    assert [gain for _, gain in told] == pytest.approx([10.0, 20.0, 20.0, 20.0])
    assert value == pytest.approx(20.0)


def test_a_run_is_ended_early_in_any_epoch_but_the_last(tmp_path: Path) -> None:
    runner = FakeRunner(falling)
    own = session(tmp_path, runner)
    own.prepare()
    for epoch in range(3):
        with pytest.raises(Pruned):
            own.train(Plan("EW", None, -0.1, ("l0",)), lambda at, *_, end=epoch: at < end)
        assert len(runner.early) == epoch + 1
    (value,) = own.train(Plan("EW", None, -0.1, ("l0",)), lambda at, *_: at < 3).values
    assert value == pytest.approx(20.0)
    assert len(runner.early) == 3


def test_a_run_is_known_by_its_weightings_flags(tmp_path: Path) -> None:
    def trained(flags: dict[str, Any]) -> tuple[list[tuple[str, ...]], int]:
        """The command lines of what was trained for these flags, and how many were scored."""
        runner = FakeRunner(falling)
        space = {
            "weighting": ["EW", "UW"],
            "s": [-0.1],
            "k": {"low": 0, "high": 3},
            "flags": flags,
        }
        own = session(tmp_path, runner, space=space)
        own.prepare()
        for plan in (REFERENCE, Plan("UW")):
            own.outcomes([plan], [0], "again")
        plans = [job for job in runner.trained if job.task is None and job.profile is None]
        scored = sum(job.profile is not None for job in runner.trained)
        return [job.arguments for job in plans], scored

    first, scored = trained({})
    assert [len(first), scored] == [2, 1]
    # EW's flags change the runs by EW, and the scores, which are counted under EW.
    again, scored = trained({"EW": {"lr": 0.5}})
    assert [line[line.index("--weighting") + 1] for line in again] == ["EW"]
    assert again[0][:2] == ("--lr", "0.5")
    assert scored == 1
    other, scored = trained({"EW": {"lr": 0.5}, "UW": {"lr": 0.25}})
    assert [line[line.index("--weighting") + 1] for line in other] == ["UW"]
    assert other[0][:2] == ("--lr", "0.25")
    assert scored == 0
    # What is there is not trained again.
    assert trained({"EW": {"lr": 0.5}, "UW": {"lr": 0.25}}) == ([], 0)


def test_positional_arguments_stand_before_the_flags_of_every_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runner = FakeRunner(telling)
    monkeypatch.setattr(libmtl_recon_search.run, "Runner", runner)
    monkeypatch.setattr(libmtl_recon_search.run, "_draw", lambda *_: ())
    monkeypatch.setattr(libmtl_recon_search.run, "write_page", lambda *_: [])
    flags = {"epochs": 3}
    file = write_search(tmp_path, arguments=["train", "a b"], flags=flags, trials=2)
    report = run_search(load_config(file), tmp_path / "out")
    starts = {job.arguments[:4] for job in runner.trained}
    assert starts == {("train", "a b", "--epochs", "3")}
    assert f"run {tmp_path / 'main.py'} train 'a b' --epochs 3 " in report.command


def test_a_run_is_known_by_its_positional_arguments(tmp_path: Path) -> None:
    counts = []
    for arguments in (["fast"], ["slow"], ["fast"]):
        runner = FakeRunner(falling)
        session(tmp_path, runner, arguments=arguments).prepare()
        counts.append(len(runner.trained))
    # EW, the scores and each of two tasks alone.
    assert counts == [4, 4, 0]
