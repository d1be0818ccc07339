"""A killed run loses a minute: the rest is found by the next command."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from libmtl_recon import ConflictProfile, ProfileCache
from libmtl_recon.cli import main
from libmtl_recon.conflicts.grid import BINS
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.merge import add_profiles
from libmtl_recon.errors import ReconError
from libmtl_recon.profiles import recovery
from libmtl_recon.profiles.recovery import RecoveryFile, recover, recover_all
from libmtl_recon.profiles.scoring_lock import ScoringLock

LAYERS = (Layer("l", "Linear", ((1,),)),)


def profile(steps: int) -> ConflictProfile:
    counts = np.zeros((1, 1, BINS), np.int64)
    counts[0, 0, 100] = steps
    undefined = np.zeros((1, 1), np.int64)
    return ConflictProfile(LAYERS, ("a", "b"), counts, undefined, np.array([steps]), {"seed": 3})


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(recovery, "time", made)
    return made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProfileCache:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    return ProfileCache()


def refuse(text: str) -> None:
    raise AssertionError(text)


def test_a_killed_run_loses_the_last_minute(cache: ProfileCache, clock: Clock) -> None:
    run = RecoveryFile(cache, LAYERS, refuse)
    for step in range(1, 200):
        clock.now = float(step)
        run.note(lambda steps=step: profile(steps))
    assert cache.list() == []
    found = recover(cache, LAYERS)
    assert found is not None
    assert found.steps == 180
    (entry,) = cache.list()
    assert entry.id == found.id
    assert entry.profile.provenance == {"seed": 3, "ended": "killed"}
    assert recover(cache, LAYERS) is None


def test_a_run_that_ends_leaves_nothing(cache: ProfileCache, clock: Clock) -> None:
    run = RecoveryFile(cache, LAYERS, refuse)
    clock.now = 100.0
    run.note(lambda: profile(1))
    run.end()
    assert recover_all(cache) == []


def test_what_is_being_scored_is_left_alone(cache: ProfileCache, clock: Clock) -> None:
    lock = ScoringLock(cache, refuse)
    lock.acquire(LAYERS)
    assert lock.held
    run = RecoveryFile(cache, LAYERS, refuse)
    clock.now = 100.0
    run.note(lambda: profile(7))
    assert recover_all(cache) == []
    lock.release()
    assert [one.steps for one in recover_all(cache)] == [7]


def test_a_full_disk_is_said_once_and_stops_no_run(
    cache: ProfileCache, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    said: list[str] = []
    run = RecoveryFile(cache, LAYERS, said.append)
    monkeypatch.setattr(cache.store, "write", full)
    for clock.now in (100.0, 200.0):
        run.note(lambda: profile(1))
    assert len(said) == 1
    assert "No space left on device" in said[0]


@pytest.mark.parametrize("content", [b'{"a": 1}', b"\0" * 100, b"\xff\xfe", b"[" * 100_000])
@pytest.mark.usefixtures("shown")
def test_what_is_no_profile_is_named_and_set_aside(
    cache: ProfileCache, clock: Clock, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    run = RecoveryFile(cache, LAYERS, refuse)
    clock.now = 100.0
    run.note(lambda: profile(1))
    (name,) = [name for name in cache.store.names() if name.endswith(".unfinished")]
    Path(cache.store.where(name)).write_bytes(content)
    assert recover(cache, LAYERS) is None
    said = capsys.readouterr().err
    assert f"{name}, left by a killed run, cannot be recovered. The file is" in said
    assert f"It was renamed to {cache.store.where(name)}.damaged." in said
    assert recover_all(cache) == []
    assert capsys.readouterr().err == ""
    assert Path(f"{cache.store.where(name)}.damaged").read_bytes() == content


def of_run(steps: int, run: str) -> ConflictProfile:
    return replace(profile(steps), provenance={"run": run})


def test_what_a_run_has_kept_before_it_was_killed_is_not_kept_twice(
    cache: ProfileCache, clock: Clock
) -> None:
    run = RecoveryFile(cache, LAYERS, refuse)
    clock.now = 100.0
    run.note(lambda: of_run(5, "abc"))
    name = cache.save(of_run(9, "abc"))
    assert recover(cache, LAYERS) is None
    assert [entry.id for entry in cache.list()] == [name]
    assert not [name for name in cache.store.names() if name.endswith(".unfinished")]


def test_nor_is_what_was_added_up_since(cache: ProfileCache, clock: Clock) -> None:
    run = RecoveryFile(cache, LAYERS, refuse)
    clock.now = 100.0
    run.note(lambda: of_run(5, "abc"))
    name = cache.save(add_profiles([of_run(9, "abc"), of_run(9, "def")]))
    assert recover_all(cache) == []
    assert [entry.id for entry in cache.list()] == [name]


def test_a_run_killed_while_another_was_kept_is_kept_too(cache: ProfileCache, clock: Clock) -> None:
    run = RecoveryFile(cache, LAYERS, refuse)
    clock.now = 100.0
    run.note(lambda: of_run(5, "abc"))
    cache.save(of_run(9, "def"))
    assert [one.steps for one in recover_all(cache)] == [5]
    assert sorted(entry.profile.provenance["run"] for entry in cache.list()) == ["abc", "def"]


def test_a_folder_that_cannot_be_read_is_explained(
    cache: ProfileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(cache.store, "names", refused)
    with pytest.raises(ReconError, match="Cannot read the folder of conflict profiles"):
        recover_all(cache)


def test_what_lies_behind_a_url_is_left_alone(clock: Clock) -> None:
    cache = ProfileCache("memory://unfinished")
    cache.store.write(".0123.unfinished", profile(1).to_json())
    assert recover_all(cache) == []


@pytest.mark.usefixtures("shown")
def test_the_list_of_profiles_has_it(
    cache: ProfileCache, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RecoveryFile(cache, LAYERS, refuse)
    clock.now = 100.0
    run.note(lambda: profile(12))
    assert main(["layers", "list"]) == 0
    said = capsys.readouterr()
    (entry,) = cache.list()
    assert f"had scored 12 steps, which are now kept as profile {entry.id}." in said.err
    assert entry.id in said.out
