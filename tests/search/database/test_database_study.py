"""The study of a search at which several workers are."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from libmtl_recon_search.database.claims import Claims
from libmtl_recon_search.database.shared_study import SharedStudy
from libmtl_recon_search.storage import StudyFile
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from libmtl_recon import ReconError

Worker = Callable[..., Claims]
ALPHA = FloatDistribution(-1.0, 1.0)


@pytest.fixture
def join(worker: Worker) -> Callable[..., SharedStudy]:
    def join(url: str, directions: tuple[str, ...] = ("maximize",), **kwargs: float) -> SharedStudy:
        said: list[str] = []
        claims = worker(url, **kwargs)
        study = SharedStudy(claims.storage, "digits", directions, claims.beats, said.append)
        study.said = said  # type: ignore[attr-defined]
        return study

    return join


Join = Callable[..., SharedStudy]


def running(alpha: float = 0.0) -> FrozenTrial:
    return create_trial(
        state=TrialState.RUNNING,
        params={"alpha": alpha},
        distributions={"alpha": ALPHA},
        user_attrs={"plan": f"GradOPS {alpha}"},
    )


def test_trial_goes_its_way_under_the_eyes_of_others(any_url: str, join: Join) -> None:
    one, other = join(any_url), join(any_url)
    assert one.shared
    number = one.add(running(0.5))
    (seen,) = other.study.get_trials()
    assert (seen.number, seen.state, seen.params) == (number, TrialState.RUNNING, {"alpha": 0.5})
    assert seen.user_attrs["plan"] == "GradOPS 0.5"
    one.report(number, 1.5, 0)
    one.note(number, "parameters", 7)
    one.tell(number, TrialState.COMPLETE, [2.5])
    (seen,) = other.study.get_trials()
    assert (seen.state, seen.value) == (TrialState.COMPLETE, 2.5)
    assert (seen.intermediate_values, seen.user_attrs["parameters"]) == ({0: 1.5}, 7)


def test_several_objectives(url: str, join: Join) -> None:
    two = ("maximize", "minimize")
    one, other = join(url, two), join(url, two)
    one.tell(one.add(running()), TrialState.COMPLETE, [2.5, 7.0])
    assert [trial.values for trial in other.study.best_trials] == [[2.5, 7.0]]
    with pytest.raises(ReconError, match="other objectives") as raised:
        join(url)
    assert "(maximize, minimize) than this search (maximize)" in str(raised.value)


def test_numbers_are_given_once(url: str, join: Join) -> None:
    team = [join(url) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        added = list(pool.map(lambda who: [who.add(running()) for _ in range(5)], team))
    assert sorted(number for numbers in added for number in numbers) == list(range(15))
    tokens = {trial.user_attrs["token"] for trial in team[0].study.get_trials()}
    assert len(tokens) == 15


def test_trial_that_runs_has_heartbeats_until_it_is_told(sqlite_url: str, join: Join) -> None:
    one, other = join(sqlite_url, every=0.2, grace=1.2), join(sqlite_url, every=0.2, grace=1.2)
    number = one.add(running())
    until = time.monotonic() + 4.0
    while time.monotonic() < until:
        other.sweep()
        time.sleep(0.05)
    assert other.study.get_trials()[0].state == TrialState.RUNNING
    one.tell(number, TrialState.PRUNED)
    assert not one.lost(number)
    assert not one._beats._held


def test_trial_that_was_ended_by_others_stays_so(url: str, join: Join) -> None:
    one, other = join(url, every=0.1), join(url)
    number = one.add(running())
    other.tell(number, TrialState.FAIL)  # as after the grace
    until = time.monotonic() + 10
    while not one.lost(number) and time.monotonic() < until:
        time.sleep(0.02)
    assert one.lost(number)
    one.report(number, 1.0, 0)
    one.note(number, "parameters", 7)
    one.tell(number, TrialState.COMPLETE, [1.0])
    (trial,) = other.study.get_trials()
    assert (trial.state, trial.values, trial.intermediate_values) == (TrialState.FAIL, None, {})
    assert len(one.said) == 1  # type: ignore[attr-defined]
    assert "was ended by another program" in one.said[0]  # type: ignore[attr-defined]


def test_queued_trial_is_begun_by_one(url: str, join: Join) -> None:
    one, other = join(url), join(url)
    one.study.enqueue_trial({"alpha": 0.5})
    (waiting,) = one.study.get_trials()
    assert other.begin(waiting, running(0.25))
    assert not one.begin(waiting, running(0.75))
    (trial,) = one.study.get_trials()
    assert (trial.state, trial.params) == (TrialState.RUNNING, {"alpha": 0.25})
    assert trial.user_attrs["started"]


def test_trials_of_others_that_do_not_fit_are_refused_in_words(url: str, join: Join) -> None:
    one = join(url)
    other = CategoricalDistribution(["a", "b"])
    one.study.add_trial(
        create_trial(params={"alpha": "a"}, distributions={"alpha": other}, value=1.0)
    )
    with pytest.raises(ReconError, match="incompatible"):
        one.add(running())
    with pytest.raises(ReconError, match=r"'digits' in .* has a trial") as raised:
        one.renew("has a trial (0) of another program", [])
    assert "not changed" in str(raised.value)
    assert len(one.study.get_trials()) == 1


def test_file_of_other_objectives_is_set_aside(tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "study.db"
    StudyFile(file, "", said.append).close()
    two = StudyFile(file, "", said.append, ("maximize", "minimize"))
    assert [d.name for d in two.study.directions] == ["MAXIMIZE", "MINIMIZE"]
    two.tell(two.add(running()), TrialState.COMPLETE, [1.0, 2.0])
    assert two.study.best_trials[0].values == [1.0, 2.0]
    assert not two.shared
    assert not two.lost(0)
    two.close()
    assert len(said) == 1
    assert "has other objectives. It was renamed to study.db.damaged-1." in said[0]
    assert isinstance(two.study, optuna.Study)
