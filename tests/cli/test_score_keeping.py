"""What was scored is kept once, before anything is said, and whatever fails afterwards."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from scored_script import SCRIPT, kept

from libmtl_recon import ProfileCache
from libmtl_recon.cli import main
from libmtl_recon.cli.score_ending import ended_like_interrupted, held_back
from libmtl_recon.conflicts.merge import add_profiles
from libmtl_recon.profiles import recovery
from libmtl_recon.profiles.recovery import RecoveryFile, recover_all


@pytest.fixture(autouse=True)
def every_step_is_the_last_of_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_SECONDS", 0.0)


def left_behind() -> list[str]:
    return [name for name in ProfileCache().store.names() if name.endswith(".unfinished")]


class ClosedAtTheReport(io.TextIOBase):
    """A pipe whose reader goes away when the script has ended."""

    encoding = "utf-8"

    def __init__(self, number: int) -> None:
        self.number = number

    def write(self, text: str) -> int:
        if "Layers by conflict score" in text:
            raise OSError(self.number, os.strerror(self.number))
        return len(text)


@pytest.mark.parametrize(("number", "status"), [(errno.EPIPE, 141), (errno.ENOSPC, 1)])
@pytest.mark.parametrize("interrupted", [False, True])
def test_output_that_fails_after_the_training(
    script: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: int,
    interrupted: bool,
) -> None:
    monkeypatch.setattr(sys, "stdout", ClosedAtTheReport(number))
    ended = main(["score", script, *(["--step_size", "2"] if interrupted else [])])
    assert ended == (130 if interrupted else status)
    (entry,) = ProfileCache().list()
    assert entry.profile.steps == (3 if interrupted else 4)
    assert left_behind() == []
    assert f"the scored steps are kept as profile {entry.id}." in capsys.readouterr().err
    assert recover_all(ProfileCache()) == []


def test_a_run_killed_between_keeping_and_tidying_is_there_once(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RecoveryFile, "end", lambda _: None)
        assert main(["score", script]) == 0
    assert len(left_behind()) == 1
    assert main(["layers", "list"]) == 0
    assert kept().steps == 4
    assert left_behind() == []
    assert "killed" not in capsys.readouterr().err


def test_each_run_has_a_name_of_its_own(script: str) -> None:
    for _ in range(2):
        assert main(["score", script, "--seed", "1"]) == 0
    entries = ProfileCache().list()
    assert len({entry.profile.provenance["run"] for entry in entries}) == len(entries) == 2
    assert add_profiles([entry.profile for entry in entries]).steps == 8


@pytest.mark.parametrize(
    ("what", "says"),
    [("--out", "Cannot write the profile"), ("--plot", "--plot must be the name of a file")],
)
def test_a_file_that_cannot_be_written_costs_only_itself(
    script: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    says: str,
) -> None:
    target = tmp_path / "taken.png"
    write = Path(script).read_text("utf-8")
    # Free at the start, taken when the script ends.
    Path(script).write_text(f"{write}\nimport os\nos.mkdir({str(target)!r})\n", "utf-8")
    assert main(["score", what, str(target), script]) == 1
    said = capsys.readouterr()
    assert f"Kept as profile {ProfileCache().list()[0].id}" in said.out
    assert says in said.err
    assert said.err.endswith(
        f"The scored steps are kept as profile {ProfileCache().list()[0].id}.\n"
    )
    assert kept().steps == 4
    assert left_behind() == []


def test_matplotlib_may_fail_as_it_likes(
    script: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise TypeError("no font")

    monkeypatch.setattr("libmtl_recon.conflicts.plot.draw_profile", fail)
    assert main(["score", "--plot", str(tmp_path / "a.png"), script, "--step_size", "1"]) == 1
    said = capsys.readouterr()
    assert "Cannot draw" in said.err
    assert "TypeError: no font" in said.err
    assert "the profile contains the 3 steps" in said.err
    assert "Drawn in" not in said.out
    assert kept().steps == 3
    assert left_behind() == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_the_profile_is_written_waits(
    script: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save = ProfileCache.save

    def interrupted(self: Any, profile: Any) -> str:
        signal.raise_signal(getattr(signal, name))
        return save(self, profile)

    monkeypatch.setattr(ProfileCache, "save", interrupted)
    before = signal.getsignal(getattr(signal, name))
    assert main(["score", script]) == 130
    assert signal.getsignal(getattr(signal, name)) == before
    assert kept().steps == 4
    assert left_behind() == []


def test_a_second_signal_does_not_wait() -> None:
    with held_back() as came:
        signal.raise_signal(signal.SIGINT)
        assert came == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_the_end_of_a_job_or_a_terminal_is_like_ctrl_c(name: str) -> None:
    number = getattr(signal, name)
    with ended_like_interrupted(True), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    before = signal.signal(number, signal.SIG_IGN)  # as under nohup
    try:
        with ended_like_interrupted(True), held_back():
            signal.raise_signal(number)
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)
    found = []
    # Signals are set in the main thread only.
    thread = threading.Thread(target=lambda: found.append(_enter()))
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def _enter() -> Any:
    with ended_like_interrupted(True), held_back():
        return signal.getsignal(signal.SIGTERM)


@pytest.fixture
def folds(script: str) -> str:
    """The script with two Trainers, one after the other."""
    text = SCRIPT.replace("\ntrainer = ", "\nfor fold in range(2):\n    trainer = ")
    Path(script).write_text(text.replace("\ntrainer.train", "\n    trainer.train"))
    return script


def test_of_several_models_the_first_is_scored_which_is_said_once(
    folds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", folds]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "several models" in line] == [
        "libmtl-recon: the script trains several models; the first one is scored, the others "
        "are only trained (--score-trainer N scores the N-th)."
    ]
    assert kept().steps == 4
    assert "trainer" not in kept().provenance


def test_another_trainer_can_be_chosen(folds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--score-trainer", "2", folds]) == 0
    assert "several models" not in capsys.readouterr().err
    assert (kept().steps, kept().provenance["trainer"]) == (4, 2)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        ("0", "--score-trainer must be a whole number from 1 up (got 0)"),
        ("3", "--score-trainer must be at most 2, the number of Trainers that"),
    ],
)
def test_a_trainer_that_there_is_not_is_named(
    folds: str, capsys: pytest.CaptureFixture[str], number: str, says: str
) -> None:
    assert main(["score", "--score-trainer", number, folds]) == 2
    assert says in capsys.readouterr().err
    assert ProfileCache().list() == []


def test_several_trainers_with_a_loop_of_their_own_are_told_of_at_the_end(
    folds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(folds).read_text()
    loop = """
    for x, y in Data():
        trainer.optimizer.zero_grad()
        trainer.model.backward(trainer._compute_loss(trainer.model(x), y))
        trainer.optimizer.step()
"""
    head, _, tail = text.partition("\n    trainer.train")
    Path(folds).write_text(head + loop + tail.partition("\n")[2])
    assert main(["score", folds]) == 0
    assert capsys.readouterr().err.count("several models") == 1
    assert kept().steps == 4


def test_a_first_model_of_which_no_step_is_seen_leads_to_another(
    folds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(folds).read_text()
    Path(folds).write_text(text.replace("    trainer.train", "    if fold: trainer.train"))
    assert main(["score", folds]) == 1
    assert "built 2 Trainers, but no training step of the one" in capsys.readouterr().err
