"""Profiles behind a URL, and on a full disk."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libmtl_recon import ConflictProfile, ProfileCache, ReconError
from libmtl_recon.profiles.selection import select_layers


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}/profiles"


def test_a_url_is_as_good_as_a_folder(
    url: str, profile: ConflictProfile, make_profile: Callable[..., ConflictProfile]
) -> None:
    cache = ProfileCache(url)
    assert cache.list() == []
    cache.prepare()
    assert cache.list() == []
    first, second = cache.save(profile), cache.save(make_profile([[0.1], [0.2], [0.3]]))
    assert {entry.id for entry in ProfileCache(url).list()} == {first, second}
    assert cache.load(first[:6]).profile.to_json() == profile.to_json()
    assert select_layers(profile.architecture, 1, -0.1, cache=cache).note.startswith("layers from")
    cache.remove(first)
    assert [entry.id for entry in cache.list()] == [second]


@pytest.mark.usefixtures("shown")
def test_what_is_no_profile_is_set_aside_there_too(
    url: str, profile: ConflictProfile, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ProfileCache(url)
    kept = cache.save(profile)
    cache.store.write("torn.json", "{")
    assert [entry.id for entry in cache.list()] == [kept]
    assert f"{url}/torn.damaged" in capsys.readouterr().err
    assert "torn.damaged" in cache.store.names()


def test_the_variable_may_hold_a_url(
    url: str, monkeypatch: pytest.MonkeyPatch, profile: ConflictProfile
) -> None:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", url)
    ProfileCache().save(profile)
    assert len(ProfileCache(url).list()) == 1
    assert str(ProfileCache().folder) == url


def test_an_unknown_kind_of_url_is_explained() -> None:
    with pytest.raises(ReconError, match=r"nowhere://x, cannot be reached: .*nowhere"):
        ProfileCache("nowhere://x")


def test_a_url_of_this_machine_is_a_folder(tmp_path: Path, profile: ConflictProfile) -> None:
    url = f"file://{tmp_path}/profiles"
    name = ProfileCache(url).save(profile)
    assert (tmp_path / "profiles" / f"{name}.json").is_file()
    assert ProfileCache(url).store.lock("lock") is not None


@pytest.mark.parametrize("action", ["list", "save"])
def test_what_a_kind_of_url_raises_is_explained(
    url: str, profile: ConflictProfile, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoCredentialsError(Exception):
        pass

    def fail(*_: Any, **__: Any) -> None:
        raise NoCredentialsError("unable to locate credentials")

    cache = ProfileCache(url)
    for name in ("ls", "pipe_file"):
        monkeypatch.setattr(type(cache.store._system), name, fail)
    with pytest.raises(ReconError, match=r"Cannot .*memory://.*NoCredentialsError: unable to"):
        cache.list() if action == "list" else cache.save(profile)


def test_no_part_of_a_text_is_left_behind_a_url(
    url: str, profile: ConflictProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ProfileCache(url)
    kept = cache.save(profile)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(cache.store._system), "mv", full)
    with pytest.raises(ReconError, match=r"No space left on device"):
        cache.save(profile)
    assert cache.store.names() == [f"{kept}.json"]


def test_others_may_read_a_profile_as_they_may_any_new_file(
    tmp_path: Path, profile: ConflictProfile
) -> None:
    before = os.umask(0o027)
    try:
        name = ProfileCache(tmp_path).save(profile)
    finally:
        os.umask(before)
    assert (tmp_path / f"{name}.json").stat().st_mode & 0o777 == 0o640


def test_a_full_disk_is_one_paragraph_and_leaves_nothing(
    tmp_path: Path, profile: ConflictProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ProfileCache(tmp_path)
    kept = cache.save(profile)

    class Full:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None: ...
        def write(self, _: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(file: Path, *_: Any, **__: Any) -> Full:
        file.touch()
        return Full()

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(ReconError, match=r"Cannot write to .*No space left on device"):
        cache.save(profile)
    monkeypatch.undo()
    assert [entry.id for entry in cache.list()] == [kept]
    assert len(list(tmp_path.iterdir())) == 1
