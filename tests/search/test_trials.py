"""How trials are chosen, ended early, and taken up again, with runs that take no time."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import libmtl_recon_search.run
import optuna
import pytest
from fake_runs import LAYERS, Asked, Curves, FakeRunner, World, write_search
from libmtl_recon_search import load_config, run_search
from optuna.trial import TrialState

# So many plans that Optuna does not come upon one twice.
UNREPEATED = {
    "weighting": ["GradOPS"],
    "alpha": {"low": -3.0, "high": 2.0, "step": 0.001},
    "s": [-0.1],
    "k": {"low": 0, "high": LAYERS - 1},
}


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, world: World, **changes: Any) -> FakeRunner:
    """A search with runs of a world; who ran them."""
    runner = FakeRunner(world)
    _run(monkeypatch, folder, runner, **changes)
    return runner


def _run(monkeypatch: pytest.MonkeyPatch, folder: Path, runner: FakeRunner, **changes: Any) -> None:
    monkeypatch.setattr(libmtl_recon_search.run, "Runner", runner)
    monkeypatch.setattr(libmtl_recon_search.run, "_draw", lambda *_: ())
    monkeypatch.setattr(libmtl_recon_search.run, "write_page", lambda *_: [])
    run_search(load_config(write_search(folder, **changes)), folder / "out")


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{folder / 'out' / 'study.db'}"
    return optuna.load_study(study_name="study", storage=storage).get_trials()


def better_with_an_even_k(asked: Asked, task: str) -> Curves:
    if asked.alone is not None or asked.K == 0:
        return [0.5] * 6, [0.5] * 6
    level = 0.6 + 0.001 * asked.K if asked.K % 2 == 0 else 0.4 - 0.001 * asked.K
    return [level] * 6, [level] * 6


@pytest.mark.parametrize("prune", [True, False])
def test_plans_below_the_median_are_ended_early_if_that_is_wanted(
    prune: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runner = run(
        monkeypatch, tmp_path, better_with_an_even_k, space=UNREPEATED, trials=14, prune=prune
    )
    early = [Asked.by(job) for job in runner.early]
    found = trials(tmp_path)
    assert len(found) == 14
    if not prune:
        assert early == []
        assert {trial.state for trial in found} == {TrialState.COMPLETE}
        return
    # Eight trials end well whatever they reach; from then on the median of those decides.
    whole: list[float] = []
    below: list[int] = []
    for trial in found:
        reached = max(trial.intermediate_values.values())
        if len(whole) >= 8 and reached < median(whole):
            below.append(trial.number)
        else:
            whole.append(reached)
    assert 3 <= len(below) < 6
    assert [t.number for t in found if t.state == TrialState.PRUNED] == below
    assert [one.alpha for one in early] == pytest.approx([found[n].params["alpha"] for n in below])
    # In the first half (3 of 6 epochs) nothing is ended.
    assert {max(found[n].intermediate_values) for n in below} == {3}
    assert {max(t.intermediate_values) for t in found if t.number not in below} == {5}


def test_a_search_that_goes_on_draws_new_plans(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Two anchors first, then two draws in each session: too few for any but random ones.
    run(monkeypatch, tmp_path, better_with_an_even_k, space=UNREPEATED, trials=4)
    run(monkeypatch, tmp_path, better_with_an_even_k, space=UNREPEATED, trials=6)
    found = trials(tmp_path)
    assert len(found) == 6
    alphas = [trial.params["alpha"] for trial in found[2:]]
    assert len(set(alphas)) == 4
    assert not any("same_as" in trial.user_attrs for trial in found)


def test_a_trial_that_was_cut_off_is_trained_first_when_the_search_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runner = FakeRunner(better_with_an_even_k)
    asked: list[Asked] = []

    def fourth_trial(one: Asked) -> bool:
        if one.weighting == "GradOPS":
            asked.append(one)
        return len(asked) == 4

    runner.interrupt = fourth_trial
    with pytest.raises(KeyboardInterrupt):
        _run(monkeypatch, tmp_path, runner, space=UNREPEATED, trials=5)
    assert runner.stopped
    *_, cut = trials(tmp_path)
    assert (cut.number, cut.state) == (3, TrialState.RUNNING)

    again = run(monkeypatch, tmp_path, better_with_an_even_k, space=UNREPEATED, trials=5)
    assert Asked.by(again.trained[0]) == asked[3]
    # It is the same trial, which numbers none anew.
    found = trials(tmp_path)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 5
    assert found[3].user_attrs["layers"] == cut.user_attrs["layers"]
    assert found[3].params == cut.params
