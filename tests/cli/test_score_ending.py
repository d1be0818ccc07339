"""What becomes of scored steps, however scoring ends, and of two that score at once."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from forks import python
from scored_script import kept

from libmtl_recon import ProfileCache
from libmtl_recon.cli import main
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.profiles.cache import read_profile
from libmtl_recon.profiles.scoring_lock import ScoringLock
from libmtl_recon.profiles.stores import FolderStore


def test_a_crash_keeps_the_steps_before_it(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", script, "--step_size", "1"]) == 1
    said = capsys.readouterr()
    assert "ValueError: a mishap of the script's own" in said.err
    assert "(exit status 1); the profile contains the 3 steps before that" in said.err
    assert kept().steps == 3


def test_ctrl_c_keeps_the_steps_before_it(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", script, "--step_size", "2"]) == 130
    assert "the profile contains the 3 steps before that" in capsys.readouterr().err
    assert kept().steps == 3


@pytest.mark.parametrize("weighting", ["EW", "PCGrad"])
def test_what_is_not_finite_is_said_once_and_not_kept(
    script: str, capsys: pytest.CaptureFixture[str], weighting: str
) -> None:
    assert main(["score", script, "--step_size", "3", "--weighting", weighting]) == 1
    said = capsys.readouterr().err
    assert said.count("The loss of task 'left', 'right' was not finite") == 1
    assert "Kept" not in said
    assert ProfileCache().list() == []


def test_of_two_that_score_one_network_the_second_waits(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["score", script, "--weighting", "EW"])
    first = kept()
    capsys.readouterr()
    cache = ProfileCache()
    lock = ScoringLock(cache, print)
    assert lock.acquire(first.architecture) is None
    environment = {**os.environ, "LIBMTL_RECON_CACHE": str(cache.folder)}
    command = [*python(), "-m", "libmtl_recon", "score", script, "--weighting", "EW"]
    other = subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert other.stderr is not None
    assert "Another process is scoring this architecture" in other.stderr.readline()
    found = dataclasses.replace(first, provenance={"dataset": "found meanwhile"})
    name = cache.save(found)
    lock.release()
    out, err = other.communicate(timeout=120)
    assert other.returncode == 0, err
    assert f"Kept as profile {name} by the other process" in out
    assert "Epoch" not in out


def test_a_turn_that_ends_without_a_profile_goes_to_the_next(tmp_path: Path) -> None:
    cache = ProfileCache(tmp_path)
    layers = (Layer("l", "Linear", ((1,),)),)
    first, second, said = ScoringLock(cache, print), ScoringLock(cache, print), []
    first.acquire(layers)
    other = ScoringLock(cache, said.append)
    waiting = threading.Thread(target=lambda: said.append(other.acquire(layers)))
    waiting.start()
    while not said:
        time.sleep(0.01)
    first.release()
    waiting.join(timeout=60)
    assert said[1:] == [None]
    other.release()
    assert second.acquire(layers) is None
    second.release()


@pytest.mark.parametrize("out", [True, False])
def test_what_was_scored_outlives_a_full_disk(
    script: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    out: bool,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FolderStore, "write", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    flags = ["--out", str(tmp_path / "mine.json")] if out else []
    assert main(["score", *flags, script, "--weighting", "EW"]) == 1
    said = capsys.readouterr()
    assert "No space left on device" in said.err
    assert "Layers by conflict score" in said.out
    assert "Kept" not in said.out
    (file,) = tmp_path.glob("mine.json" if out else "libmtl-recon-*.json")
    assert f"libmtl-recon layers import {file}" in said.err
    assert read_profile(file).steps == 4


def test_a_job_that_is_ended_keeps_the_steps_before_it(script: str, tmp_path: Path) -> None:
    endless = Path(script).read_text().replace("else 1)", "else 10**5)")
    Path(script).write_text(endless)
    command = [*python(), "-u", "-m", "libmtl_recon", "score", "--score-until-stable", "off"]
    process = subprocess.Popen(
        [*command, script], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert any(line.startswith("Epoch") for line in process.stdout)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "Kept as profile" in out
    assert "the script failed (exit status 130)" in err
    assert kept().steps >= 4


def test_a_killed_job_keeps_what_it_has_written(
    script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = Path(script).read_text().replace("else 1)", "else 10**5)")
    slow = tmp_path / "endless.py"
    slow.write_text(
        "import libmtl_recon.profiles.recovery as recovery\nrecovery._SECONDS = 0.0\n" + endless
    )
    command = [*python(), "-u", "-m", "libmtl_recon", "score", "--score-until-stable", "off"]
    process = subprocess.Popen([*command, str(slow)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = (line for line in process.stdout if line.startswith("Epoch"))
    next(lines)
    # The first minute is over when the process begins, and each step is the last of one.
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cache").glob(".*.unfinished")) and time.monotonic() < deadline:
        next(lines)
    process.kill()
    process.communicate(timeout=60)
    assert main(["score", script, "--weighting", "EW"]) == 0
    assert "A run that was killed had scored" in capsys.readouterr().err
    by_end = {entry.profile.provenance.get("ended"): entry for entry in ProfileCache().list()}
    assert by_end["killed"].profile.steps >= 1
    assert by_end[None].profile.steps == 4
