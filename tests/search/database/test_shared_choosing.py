"""Two workers of one study in one process, step by step: what each makes of the other's trials."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from libmtl_recon_search.choosing import Chooser
from libmtl_recon_search.config import Config
from libmtl_recon_search.database.address import Address
from libmtl_recon_search.database.beats import Beats
from libmtl_recon_search.database.opening import open_storage
from libmtl_recon_search.database.shared_study import SharedStudy
from libmtl_recon_search.judge import Judge
from libmtl_recon_search.plan import Plan
from libmtl_recon_search.progress import Display
from libmtl_recon_search.space import SearchSpace
from libmtl_recon_search.study import Study
from libmtl_recon_search.training import Trained
from optuna.trial import TrialState

from libmtl_recon import ReconError

Make = Callable[..., Study]


def well(plan: Plan, report: Any) -> Trained:
    return Trained((1.0,))


@pytest.fixture
def worker(sqlite_url: str) -> Iterator[Make]:
    """Makes workers of one study."""
    opened = []

    def make(name: str, train: Any = well, said: Any = None, **changes: Any) -> Study:
        values = {"weighting": ["EW", "UW", "GradOPS"], "alpha": [-1.0, 0.0, 1.0]}
        config = Config.model_validate(
            {"script": "x.py", "space": values, "trials": 5, "workers": 1, **changes}
        )
        storage = open_storage(Address.parse(sqlite_url))
        beats = Beats(storage)
        opened.append((storage, beats))
        judge = Judge(config, {"up": {"acc": True}})
        chooser = Chooser(config, SearchSpace(config), judge, 3, f" {name}")
        say = (lambda _: None) if said is None else said.append
        store = SharedStudy(storage, "study", ["maximize"], beats, say)
        return Study(store, config, chooser, train, say)

    yield make
    for storage, beats in opened:
        beats.close()
        storage.close()


def take(study: Study) -> tuple[int, Plan]:
    found = study._next()
    assert found is not None
    return found


def optimize(study: Study) -> None:
    with Display() as display, display.phase("trials", 5) as phase:
        study.optimize(phase, lambda: None)


def test_the_first_trials_are_all_made_though_workers_choose_at_once(worker: Make) -> None:
    many = [place / 100 for place in range(-100, 101)]
    space = {"weighting": ["EW", "UW", "GradOPS"], "alpha": many}
    # Of one name, so that they choose the same.
    workers = [worker("one", trials=3, space=space) for _ in range(4)]
    # All look at an empty study, and only then add what they chose.
    seen = [study.look() for study in workers]
    for study, then in zip(workers, seen, strict=True):
        found = study._source(then, 0)
        assert found is not None
        study._enter(*found, then.board)
    while workers[0]._next() is not None:
        pass
    plans = {entry.plan.title for entry in workers[0].board.entries.values()}
    assert plans == {"EW, HPS", "UW, HPS", "GradOPS α=0, HPS"}


def test_a_trial_of_the_queue_that_another_worker_just_begins_is_ours(worker: Make) -> None:
    said: list[str] = []
    one, other = worker("one"), worker("other", said=said)
    one.store.study.enqueue_trial({"weighting": "GradOPS", "alpha": 1.0})
    write = one.store._write

    def slowly(*args: Any) -> None:
        assert [trial.number for trial in other.trials] == []
        write(*args)

    one.store._write = slowly  # type: ignore[method-assign]
    number, plan = take(one)
    assert plan.title == "GradOPS α=1, HPS"
    assert [trial.number for trial in other.trials] == [number]
    assert said == []


def test_what_was_cut_off_is_made_again_though_there_was_nothing_left(worker: Make) -> None:
    one, other = worker("one", trials=20), worker("other", trials=20)
    numbers = [take(one)[0] for _ in range(5)]  # all plans there are
    assert other._next() is None
    one.store.tell(numbers[3], TrialState.FAIL)  # as by Ctrl-C, or by a sweep
    number, plan = take(other)
    assert plan.key == one.plan(one.store.study.get_trials()[numbers[3]]).key
    assert other.store.study.get_trials()[number].user_attrs["again"] == numbers[3]


def test_what_is_cut_off_between_two_looks_is_not_left(worker: Make) -> None:
    one, other = worker("one", trials=2), worker("other", trials=2)
    numbers = [take(one)[0] for _ in range(2)]
    assert other._next() is None
    one.store.tell(numbers[0], TrialState.COMPLETE, [1.0])
    one.store.tell(numbers[1], TrialState.FAIL)
    assert other._others_at_work()
    optimize(other)
    assert len(other.board.ended) == 2


def test_a_plan_that_is_trained_here_ends_with_the_trial_that_was_made_for_it_anew(
    worker: Make,
) -> None:
    """A worker that sleeps is taken for dead; awake, it finds its own plan among those cut off."""
    one = worker("one", workers=2, trials=2)
    go_on = threading.Event()

    def sleeping(plan: Plan, report: Any) -> Trained:
        if not go_on.is_set() and plan.weighting == "EW":
            (number,) = (t.number for t in one.trials if one.plan(t).weighting == "EW")
            one.store._storage.set_trial_state_values(one.store._trial(number), TrialState.FAIL)
            while len([t for t in one.trials if one.plan(t).weighting == "EW"]) < 2:
                go_on.wait(0.05)
            go_on.set()
        return Trained((1.0,))

    one._train = sleeping
    one.store.study.enqueue_trial({"weighting": "EW"})
    optimize(one)
    states = [t.state for t in one.trials if one.plan(t).weighting == "EW"]
    assert states == [TrialState.FAIL, TrialState.COMPLETE]
    assert len(one.board.ended) == 2


def test_a_worker_that_is_stopped_leaves_no_trial_that_runs(worker: Make) -> None:
    def stopped(plan: Plan, report: Any) -> Trained:
        if plan.weighting == "UW":
            raise KeyboardInterrupt
        ended.wait(10)
        return Trained((1.0,))

    one, ended = worker("one", stopped, workers=2), threading.Event()
    # The second repeats the first, and waits for it.
    for weighting in ("EW", "EW", "UW"):
        one.store.study.enqueue_trial({"weighting": weighting})
    with (
        Display() as display,
        display.phase("trials", 5) as phase,
        pytest.raises(KeyboardInterrupt),
    ):
        one.optimize(phase, ended.set)
    states = [trial.state for trial in one.store.study.get_trials()]
    assert states == [TrialState.FAIL] * 3


def test_failures_here_do_not_end_a_search_that_goes_well_elsewhere(worker: Make) -> None:
    def fails(plan: Plan, report: Any) -> Trained:
        raise ReconError("No such file.")

    one, other = worker("one"), worker("other", fails)  # neither has seen anything end
    number, _ = take(one)
    one.store.tell(number, TrialState.COMPLETE, [1.0])
    optimize(other)
    assert len(other.board.failures) == 4
