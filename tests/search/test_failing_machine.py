"""A search's folder on machines that fail: full disks, locked and damaged files, others' trials."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from libmtl_recon_search import storage
from libmtl_recon_search.choosing import Chooser
from libmtl_recon_search.config import Config
from libmtl_recon_search.config_parts import Finalists
from libmtl_recon_search.config_space import Space
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.judge import Judge
from libmtl_recon_search.plan import Plan
from libmtl_recon_search.process import RunError
from libmtl_recon_search.progress import Display
from libmtl_recon_search.ranges import Range
from libmtl_recon_search.space import Network, SearchSpace
from libmtl_recon_search.storage import StudyFile
from libmtl_recon_search.study import Study
from libmtl_recon_search.training import Trained
from libmtl_recon_search.trials import in_words
from libmtl_recon_search.trouble import MachineError, explained
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from libmtl_recon import ConflictProfile, ReconError
from libmtl_recon.conflicts.grid import BINS
from libmtl_recon.conflicts.layers import Layer

Report = Callable[[int, float, int], bool]


def outcomes(study: Study) -> list[tuple[Plan, list[float]]]:
    return [(study.plan(trial), trial.values) for trial in study.board.ended]


def value_of(plan: Plan) -> float:
    """A Δm that tells plans apart."""
    return len(plan.layers) - (plan.alpha or 0.0) / 7 + (plan.weighting == "EW") / 3


@pytest.fixture(scope="module")
def profile() -> ConflictProfile:
    """Five layers, each in conflict in one step more than the one before."""
    layers = tuple(Layer(name, "Linear", ((2, 2),)) for name in "abcde")
    counts = np.zeros((1, 5, BINS), np.int64)
    for place in range(5):
        counts[0, place, [0, -1]] = place, 9 - place
    nothing = np.zeros((1, 5), np.int64)
    return ConflictProfile(layers, ("up", "down"), counts, nothing, np.array([9]))


class Folder:
    """A study whose trainings are a function, in a folder that can be opened again and again."""

    def __init__(self, home: Path, profile: ConflictProfile) -> None:
        self.file = home / "study.db"
        self.profile = profile
        self.trained: list[Plan] = []
        self.said: list[str] = []
        self._opened: list[Study] = []

    def train(self, plan: Plan, report: Report) -> Trained:
        self.trained.append(plan)
        report(0, value_of(plan), 1)
        return Trained((value_of(plan),), said=f"Δm {value_of(plan):+.2f} %")

    def open(self, trials: int = 6, train: Any = None, identity: str = "") -> Study:
        space = Space(alpha=Range(low=-1.0, high=1.0, step=1.0), k=Range(low=0, high=4))
        config = Config(
            script="x.py", space=space, trials=trials, workers=1, finalists=Finalists(seeds=[])
        )
        train, say = train or self.train, self.said.append
        judge, choices = Judge(config, {"up": {"acc": True}}), SearchSpace(config)
        choices.network = Network(self.profile.architecture, self.profile)
        chooser = Chooser(config, choices, judge, 3)
        store = StudyFile(self.file, identity, say, name="libmtl-recon")
        self._opened.append(Study(store, config, chooser, train, say))
        return self._opened[-1]

    def search(self, trials: int = 6, train: Any = None, **more: Any) -> Study:
        study = self.open(trials, train, **more)
        with Display() as display, display.phase("trials", trials) as phase:
            study.optimize(phase, lambda: None)
        return study

    def close(self) -> None:
        for study in self._opened:
            study.close()

    @contextmanager
    def optuna(self) -> Iterator[optuna.Study]:
        """The study as another program sees it."""
        kept = optuna.storages.RDBStorage(f"sqlite:///{self.file}")
        yield optuna.load_study(study_name="libmtl-recon", storage=kept)
        kept.remove_session()
        kept.engine.dispose()

    @property
    def trials(self) -> list[FrozenTrial]:
        with self.optuna() as study:
            return study.get_trials()

    def table(self) -> list[tuple[Any, ...]]:
        return [(t.number, t.state, t.value, tuple(t.params.items())) for t in self.trials]


@pytest.fixture
def folder(tmp_path: Path, profile: ConflictProfile) -> Iterator[Folder]:
    folder = Folder(tmp_path, profile)
    yield folder
    folder.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, profile: ConflictProfile) -> Folder:
    """A study of six trials that nothing disturbed."""
    folder = Folder(tmp_path_factory.mktemp("alone"), profile)
    folder.search()
    return folder


@contextmanager
def locked(file: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield connection
    finally:
        connection.close()


# A disk that is full, and a database that somebody holds.


def test_a_locked_study_is_waited_for(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.search(trials=2)
    monkeypatch.setattr(storage, "_TURN", 0.05)
    with locked(folder.file) as connection:
        timer = threading.Timer(0.3, connection.close)
        timer.start()
        study = folder.open(trials=2)
        timer.join()
    assert study.finished == 2
    assert len(folder.said) == 1
    assert "is locked by another program; waiting" in folder.said[0]


def test_a_study_that_stays_locked_is_not_called_damaged(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.search(trials=2)
    monkeypatch.setattr(storage, "_TURN", 0.02)
    monkeypatch.setattr(storage, "_WAIT", 0.1)
    with (
        locked(folder.file),
        pytest.raises(MachineError, match=r"locked by another program.*not damaged.*resumes"),
    ):
        folder.open(trials=2)
    assert [file.name for file in folder.file.parent.glob("*damaged*")] == []
    assert folder.search(trials=3).finished == 3


def test_a_lock_in_the_middle_of_a_study_stops_it_and_loses_nothing(
    tmp_path: Path, folder: Folder, alone: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_HELD", 0.1)

    def train(plan: Plan, report: Report) -> Trained:
        result = folder.train(plan, report)
        if len(folder.trained) == 3:
            blocker = sqlite3.connect(folder.file, isolation_level=None, check_same_thread=False)
            blocker.execute("BEGIN EXCLUSIVE")
            blockers.append(blocker)
        return result

    blockers: list[sqlite3.Connection] = []
    with pytest.raises(MachineError, match="locked by another program"), explained(tmp_path):
        folder.search(train=train)
    blockers[0].close()
    # The third was trained but could not be told: it is gone on with.
    assert [t.state for t in folder.trials].count(TrialState.RUNNING) == 1
    folder.search()
    assert folder.table() == alone.table()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EFBIG, os.strerror(errno.EFBIG)),
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_no_room_stops_the_study_and_the_same_command_goes_on(
    error: Exception, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(storage.StudyFile, "report", full)
        said = r"(No space left|File too large|disk is full).*[Mm]ake room.*same command"
        with pytest.raises(MachineError, match=said), explained(folder.file):
            folder.search()
    assert [t.state for t in folder.trials] == [TrialState.RUNNING]
    study = folder.search()
    assert (study.finished, study.board.failures) == (6, [])
    assert {t.state for t in folder.trials} == {TrialState.COMPLETE}


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="the system has no such limit")
def test_a_limit_of_file_sizes_is_no_damage_of_the_study(folder: Folder, tmp_path: Path) -> None:
    folder.search(trials=2)
    before = folder.table()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        said = r"study.*(disk I/O|disk is full).*resumes"
        with pytest.raises(MachineError, match=said), explained(tmp_path):
            folder.search(trials=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.glob("*damaged*")) == []
    assert folder.search(trials=4).finished == 4
    assert folder.table()[: len(before)] == before


def test_a_full_disk_is_said_of_the_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "out"))

    monkeypatch.setattr(Path, "mkdir", full)
    config = Config(script="multidigits", space=Space(k=Range(low=0, high=3)))
    opened = SearchFolder(tmp_path / "out").opened(config)
    with pytest.raises(MachineError, match=r"No space left on device\. Make room"), opened:
        pass


def test_a_run_that_finds_no_room_is_no_failed_trial(folder: Folder) -> None:
    def train(plan: Plan, report: Report) -> Trained:
        raise MachineError("no room")

    with pytest.raises(MachineError, match="no room"):
        folder.search(train=train)
    assert [t.state for t in folder.trials] == [TrialState.RUNNING]


# A damaged study.


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lambda content: bytes(len(content)),
        lambda _: b"not a database\n" * 50,
        lambda content: content[:4096] + bytes(len(content) - 4096),
    ],
    ids=["cut", "zeros", "text", "zeros behind the first page"],
)
def test_a_damaged_study_is_set_aside_and_made_again(
    damage: Callable[[bytes], bytes], folder: Folder
) -> None:
    folder.search()
    folder.close()
    table, content = folder.table(), folder.file.read_bytes()
    folder.file.write_bytes(damage(content))
    folder.search()
    # The runs are there: in a search the trainings are read, not made.
    assert folder.table() == table
    assert len(folder.said) == 1
    assert "is damaged" in folder.said[0]
    assert "study.db.damaged-1" in folder.said[0]
    assert (folder.file.parent / "study.db.damaged-1").read_bytes() == damage(content)


def test_an_empty_study_is_begun_again(folder: Folder) -> None:
    folder.search()
    folder.close()
    table = folder.table()
    folder.file.write_bytes(b"")
    folder.search()
    assert folder.table() == table
    assert [text for text in folder.said if "is empty" in text] == folder.said
    assert len(folder.said) == 1


def test_a_study_in_which_optuna_stumbles_is_set_aside(folder: Folder) -> None:
    folder.search()
    table = folder.table()
    with sqlite3.connect(folder.file) as connection:
        connection.execute("UPDATE trial_params SET distribution_json = '{}' WHERE param_id = 2")
    connection.close()
    folder.search()
    assert folder.table() == table
    assert "study.db.damaged-1" in folder.said[0]


def test_damage_a_second_time_keeps_the_first(folder: Folder) -> None:
    for text in (b"first" * 100, b"second" * 100):
        folder.close()
        folder.file.write_bytes(text)
        folder.open()
    for number, text in ((1, b"first" * 100), (2, b"second" * 100)):
        assert (folder.file.parent / f"study.db.damaged-{number}").read_bytes() == text


def test_the_study_of_another_search_is_set_aside(folder: Folder) -> None:
    folder.search(identity="this")
    folder.open(identity="this")
    assert folder.said == []
    folder.open(identity="other")
    assert folder.trials == []
    assert "belongs to another search" in folder.said[0]


# Trials of other programs.


def a_trial(state: TrialState = TrialState.COMPLETE, **params: Any) -> FrozenTrial:
    kinds: dict[type, Any] = {
        str: lambda value: CategoricalDistribution(list(dict.fromkeys(["EW", "GradOPS", value]))),
        int: lambda value: IntDistribution(-100, 100),
        float: lambda value: FloatDistribution(-100.0, 100.0),
    }
    distributions = {name: kinds[type(value)](value) for name, value in params.items()}
    return create_trial(
        state=state,
        value=99.0 if state == TrialState.COMPLETE else None,
        params=params,
        distributions=distributions,
    )


OTHERS = {
    "other names": a_trial(lr=0.1),
    "no values": a_trial(),
    "some values": a_trial(k=2),
    "ours, never trained": a_trial(weighting="EW", k=2),
    "all values, never trained": create_trial(
        value=99.0,
        params={"weighting": "EW", "k": 4, "s": -0.2},
        distributions={
            "weighting": CategoricalDistribution(["EW", "GradOPS"]),
            "k": IntDistribution(0, 4),
            "s": CategoricalDistribution([-0.2, -0.1, -0.05, -0.02, 0.0]),
        },
    ),
    "pruned": a_trial(TrialState.PRUNED, k=3),
    "running": a_trial(TrialState.RUNNING, lr=0.2),
    "running, without values": a_trial(TrialState.RUNNING),
    "failed": a_trial(TrialState.FAIL, lr=0.2),
}


@pytest.mark.parametrize("first", [0, 3, 6])
def test_trials_of_other_programs_are_left_out_and_said(
    first: int, folder: Folder, alone: Folder
) -> None:
    if first:
        folder.search(trials=first)
    else:
        folder.open()
    with folder.optuna() as study:
        study.add_trials(OTHERS.values())
    found, undisturbed = folder.search(), alone.open()
    assert outcomes(found) == outcomes(undisturbed)
    # Chosen as if they were not there, and never trained twice.
    assert folder.trained == alone.trained
    numbers = range(first, first + len(OTHERS))
    said = f"not created by this search, or do not fit it: {in_words(numbers)}."
    assert len(folder.said) == 1
    assert said in folder.said[0]
    kept = folder.trials
    assert [kept[n].state for n in numbers] == [other.state for other in OTHERS.values()]


def test_a_trial_that_takes_a_name_of_ours_for_something_else_is_set_aside(
    folder: Folder, tmp_path: Path, alone: Folder
) -> None:
    folder.search(trials=1)  # EW: without alpha
    with folder.optuna() as study:
        study.add_trial(a_trial(alpha="much"))
    folder.search()
    assert folder.table() == alone.table()
    assert folder.trained == alone.trained
    assert any("uses the name 'alpha' differently" in text for text in folder.said)
    assert (tmp_path / "study.db.damaged-1").exists()


def test_a_name_that_is_taken_while_the_search_goes_on_stops_it_and_loses_nothing(
    folder: Folder, alone: Folder
) -> None:
    def train(plan: Plan, report: Report) -> Trained:
        with folder.optuna() as study:
            if not any("lr" in trial.params for trial in study.get_trials(deepcopy=False)):
                study.add_trial(a_trial(alpha="much", lr=0.1))
        return folder.train(plan, report)

    with pytest.raises(ReconError, match=r"just added trials to .* renames that study"):
        folder.search(train=train)
    folder.close()
    trained = len(folder.trained)
    assert 1 <= trained < 6
    folder.search()
    assert folder.table() == alone.table()
    assert folder.trained == alone.trained


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.FAIL])
def test_a_trial_that_another_program_ends_is_left_as_it_is(
    state: TrialState, folder: Folder
) -> None:
    def train(plan: Plan, report: Report) -> Trained:
        with folder.optuna() as study:
            if not study.get_trials(deepcopy=False, states=(state,)):
                study.tell(0, 50.0 if state == TrialState.COMPLETE else None, state=state)
        return folder.train(plan, report)

    study = folder.search(train=train)
    first, *others = folder.trials
    assert first.state == state
    assert [trial.state for trial in others] == [TrialState.COMPLETE] * len(others)
    said = [text for text in folder.said if "was ended by another program" in text]
    assert [text.split(" was ")[0] for text in said] == ["Trial 0"]
    assert study.finished == (6 if state == TrialState.COMPLETE else 5)


def test_what_a_user_puts_into_the_queue_is_trained(folder: Folder) -> None:
    folder.open()
    with folder.optuna() as other:
        other.enqueue_trial({"weighting": "GradOPS", "alpha": 1.0, "k": 3, "s": -0.05})
        other.enqueue_trial({"k": 1})
    study = folder.search()
    first, second = folder.trained[:2]
    assert (first.weighting, first.alpha, first.S, len(first.layers)) == ("GradOPS", 1.0, -0.05, 3)
    assert len(second.layers) == 1
    assert [t.state for t in folder.trials[:2]] == [TrialState.COMPLETE] * 2
    assert study.finished == 6
    assert folder.said == []


def test_what_does_not_fit_the_space_is_taken_out_of_the_queue(folder: Folder) -> None:
    folder.open()
    asked: list[dict[str, Any]] = [
        {"weighting": "NoSuch"},
        {"weighting": "EW", "k": 77, "s": -0.1},
        {"weighting": "EW", "k": "three"},
        {"weighting": "GradOPS", "alpha": 0.4, "k": 0},
        {"weighting": "EW", "k": 2, "s": -0.33},
        {"weighting": "EW", "k": -1, "s": -0.1},
        {"weighting": ["EW"], "k": None},
        {"weighting": "GradOPS", "alhpa": 1.0},
    ]
    with folder.optuna() as study:
        for values in asked:
            study.enqueue_trial(values)
    found = folder.search()
    assert {trial.state for trial in folder.trials[:8]} == {TrialState.FAIL}
    assert len(folder.said) == 8
    for number, text in enumerate(folder.said):
        assert f"Trial {number}, enqueued by another program, is left out" in text
    assert (found.finished, found.board.failures) == (6, [])


def test_other_studies_in_the_same_file_are_their_own_business(folder: Folder) -> None:
    folder.open()
    url = f"sqlite:///{folder.file}"
    other = optuna.create_study(study_name="mine", storage=url, directions=["minimize"] * 2)
    other.enqueue_trial({"x": 1})
    other.ask()
    study = folder.search()
    assert study.finished == 6
    assert folder.said == []
    assert [t.state for t in other.get_trials()] == [TrialState.RUNNING]


# Interruptions.


def test_it_remembers_how_often_in_a_row_it_chose_what_was_trained(
    folder: Folder, tmp_path: Path, profile: ConflictProfile
) -> None:
    (tmp_path / "whole").mkdir()
    whole = Folder(tmp_path / "whole", profile)
    whole.search(17)
    again = ["same_as" in trial.user_attrs for trial in whole.trials]
    # After three in a row it takes one of those that are left.
    at = next(n for n in range(3, len(again)) if all(again[n - 3 : n]))
    assert not again[at]
    study = folder.open(17)
    enter = study._enter

    def until_then(*chosen: Any) -> Any:
        if len(study.trials) == at:
            raise KeyboardInterrupt
        return enter(*chosen)

    study._enter = until_then  # type: ignore[method-assign]
    with (
        Display() as display,
        display.phase("trials", 17) as phase,
        pytest.raises(KeyboardInterrupt),
    ):
        study.optimize(phase, lambda: None)
    assert len(folder.trials) == at
    folder.search(17)
    assert folder.table() == whole.table()
    whole.close()


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_search_that_was_cut_off_goes_on_as_if_it_had_not_been(
    at: int, folder: Folder, alone: Folder
) -> None:

    def train(plan: Plan, report: Report) -> Trained:
        if len(folder.trained) + 1 == at:
            report(0, -50.0, 1)  # what it had reached is no reason to end it
            raise KeyboardInterrupt
        return folder.train(plan, report)

    with pytest.raises(KeyboardInterrupt):
        folder.search(train=train)
    folder.search()
    assert folder.table() == alone.table()
    assert folder.trained == alone.trained


def test_cut_off_while_it_is_written_down_a_trial_is_there_or_not(
    folder: Folder, alone: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write of the study in turn is the last one of a session."""
    names = ("add", "note", "tell", "report")
    whole = {name: getattr(storage.StudyFile, name) for name in names}
    for last in range(40):
        left = [last % 4 + 1]

        def limited(name: str, left: list[int] = left) -> Callable[..., Any]:
            def call(*given: Any) -> Any:
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                return whole[name](*given)

            return call

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(storage.StudyFile, name, limited(name))
            try:
                folder.search()
            except KeyboardInterrupt:
                continue
        break
    else:
        pytest.fail("the search never came to its end")
    assert last > 5
    assert folder.table() == alone.table()


def test_trials_left_over_when_fewer_are_wanted_do_not_stay_running(folder: Folder) -> None:
    def train(plan: Plan, report: Report) -> Trained:
        if len(folder.trained) == 3:
            raise KeyboardInterrupt
        return folder.train(plan, report)

    with pytest.raises(KeyboardInterrupt):
        folder.search(train=train)
    assert folder.search(trials=3).finished == 3
    assert [t.state for t in folder.trials].count(TrialState.FAIL) == 1
    assert [t.state for t in folder.trials].count(TrialState.RUNNING) == 0


# Failures.


def failing(folder: Folder, of: Callable[[Plan], bool], reasons: list[str]) -> Any:
    def train(plan: Plan, report: Report) -> Trained:
        if of(plan):
            folder.trained.append(plan)
            reason = reasons[len(folder.trained) % len(reasons)]
            raise RunError(f"The run failed: {reason}. Its log is x.log.", reason)
        return folder.train(plan, report)

    return train


@pytest.mark.parametrize(
    ("reasons", "same"), [(["no data"], True), (["no data", "too hot"], False)]
)
def test_a_study_ends_when_the_first_trials_fail(
    reasons: list[str], same: bool, folder: Folder
) -> None:
    text = ", all for the same reason. The last:" if same else r"\. The last:"
    with pytest.raises(ReconError, match=f"The first 3 trials failed{text}.*x.log"):
        folder.search(trials=20, train=failing(folder, lambda _: True, reasons))
    assert len(folder.trained) == 3
    # They may go well once what was in the way is gone: the same plans, then the others.
    before = folder.trained[:]
    study = folder.search(trials=5)
    assert folder.trained[3:6] == before
    assert (study.finished, study.board.failures) == (5, [])


def test_a_study_in_which_nothing_worked_is_an_error(folder: Folder) -> None:
    def open_with_baseline() -> None:
        study = folder.open(2, failing(folder, lambda _: True, ["no data"]))
        study.know(
            Plan("EW"), Trained((0.0,))
        )  # plain sharing is told by the baseline, and was not trained
        with Display() as display, display.phase("trials", 2) as phase:
            study.optimize(phase, lambda: None)

    with pytest.raises(ReconError, match=r"All 2 trials failed.*no data.*x\.log"):
        open_with_baseline()


def test_a_failure_is_said_counts_and_is_not_made_again(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    train = failing(folder, lambda plan: len(plan.layers) == 2, ["no data"])
    study = folder.search(trials=6, train=train)
    said = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
    assert len(study.board.failures) == len(said) == 2
    assert all("failed: The run failed: no data. Its log is x.log." in line for line in said)
    assert study.finished == len(folder.trained) == 6
    assert folder.search(trials=6, train=train).finished == 6
    assert len(folder.trained) == 6


def test_a_search_goes_on_when_its_terminal_is_gone(folder: Folder) -> None:
    class Gone:
        encoding = "utf-8"

        def write(self, _: str) -> int:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

        def flush(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

        def isatty(self) -> bool:
            return False

    study = folder.open()
    display = Display()
    display.console.file = Gone()  # type: ignore[assignment]
    with display, display.phase("trials", 6) as phase:
        study.optimize(phase, lambda: None)
    assert study.finished == 6
