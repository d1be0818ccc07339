"""Whose turn it is to score an architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from libmtl_recon import ConflictProfile, ProfileCache
from libmtl_recon.profiles.scoring_lock import ScoringLock


def test_the_turn_is_free_again_once_it_is_left(tmp_path: Path, profile: ConflictProfile) -> None:
    said: list[str] = []
    for _ in range(2):
        lock = ScoringLock(ProfileCache(tmp_path), said.append)
        assert lock.acquire(profile.architecture) is None
        lock.release()
    assert said == []


@pytest.mark.parametrize(
    "error",
    [NotImplementedError("no flock here"), PermissionError(13, "Permission denied")],
)
def test_a_folder_that_knows_no_locks_keeps_nobody_from_scoring(
    tmp_path: Path, profile: ConflictProfile, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", fail)
    said: list[str] = []
    lock = ScoringLock(ProfileCache(tmp_path), said.append)
    assert lock.acquire(profile.architecture) is None
    lock.release()
    assert len(said) == 1
    assert "this one does not wait" in said[0]
    assert str(getattr(error, "strerror", None) or error) in said[0]
