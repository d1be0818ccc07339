"""Profiles that come with the package."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from libmtl_recon import ConflictProfile, ProfileCache, ReconError, UsageError
from libmtl_recon.conflicts.stability import stability
from libmtl_recon.profiles import entries
from libmtl_recon.profiles.built_in import built_in_profiles
from libmtl_recon.profiles.selection import select_layers

NAME = "net-digits"


@pytest.fixture
def cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: ConflictProfile
) -> ProfileCache:
    monkeypatch.setattr(entries, "built_in_profiles", lambda: ((NAME, profile),))
    return ProfileCache(tmp_path / "profiles")


def test_it_is_taken_where_nothing_in_the_cache_fits(
    cache: ProfileCache, profile: ConflictProfile, make_profile: Callable[..., ConflictProfile]
) -> None:
    layers = profile.architecture
    found = select_layers(layers, 2, -0.1, None, cache)
    assert found.names == ("bn1", "conv1")
    assert found.note == (
        f"layers from the built-in profile {NAME} (digits, EW, 4 steps, 2026-01-02), because no "
        "profile in the cache fits"
    )
    assert found.profile == profile.id
    wider = (dataclasses.replace(layers[0], shapes=((4, 3, 3, 3),)), *layers[1:])
    assert "other shapes (conv1 (4x1x3x3, here 4x3x3x3))" in (
        select_layers(wider, 1, -0.1, None, cache).note
    )
    with pytest.raises(ReconError, match="There is no conflict profile for this network of 2"):
        select_layers(layers[:2], 1, -0.1, None, cache)
    # The user's own win, also those of other shapes.
    own = cache.save(make_profile([[0.1], [0.1], [-0.9]], layers=wider))
    assert select_layers(layers, 1, -0.1, None, cache).names == ("block.0.fc",)
    assert f"profile {own}" in select_layers(layers, 1, -0.1, None, cache).note


def test_it_is_a_source_by_its_name(cache: ProfileCache, profile: ConflictProfile) -> None:
    found = select_layers(profile.architecture, 1, -0.1, NAME, cache)
    assert found.names == ("bn1",)
    assert found.note.startswith(f"layers from the built-in profile {NAME} (digits")
    with pytest.raises(ReconError, match="another architecture"):
        select_layers(profile.architecture[:2], 1, -0.1, NAME, cache)


def test_it_is_not_of_the_cache(
    cache: ProfileCache, profile: ConflictProfile, tmp_path: Path
) -> None:
    """A search looks there for a profile to use again, and scores if there is none."""
    assert cache.list() == []
    assert cache.find(profile.architecture) is None
    assert cache.load(NAME).profile is profile
    assert cache.load("net").built_in
    assert cache.export(NAME, tmp_path / "out.json").id == NAME
    assert (tmp_path / "out.json").read_text() == profile.to_json()
    with pytest.raises(ReconError, match=rf"{NAME} is built in, .*cannot be removed"):
        cache.remove(NAME)
    with pytest.raises(UsageError, match="Did you mean net-digits"):
        cache.load("net-digit5")


def test_a_whole_name_is_no_beginning_of_another(
    cache: ProfileCache, profile: ConflictProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ((NAME, profile), (f"{NAME}-2", profile))
    monkeypatch.setattr(entries, "built_in_profiles", lambda: both)
    assert cache.load(NAME).id == NAME
    with pytest.raises(UsageError, match="2 profiles have such an ID"):
        cache.load("net")


@pytest.mark.parametrize("name", [name for name, _ in built_in_profiles()])
def test_each_says_where_it_comes_from(name: str) -> None:
    profile = dict(built_in_profiles())[name]
    text = profile.to_json()
    assert ConflictProfile.from_json(text).to_json() == text
    assert profile.provenance["stability"]["reached"] is True
    runs = profile.provenance.get("added", [profile.provenance])
    for run in runs:
        assert run["versions"].keys() >= {"libmtl-recon", "LibMTL", "torch"}
        assert run["arguments"]
        assert isinstance(run["seed"], int)
        assert run["dataset"]
    assert len({run["seed"] for run in runs}) == len(runs)
    assert not re.search(r"(?<![\w.])[/~\\]\w|[A-Za-z]:\\", text)
    worst = profile.provenance["stability"]
    K = None if worst["K"] == "all" else worst["K"][0]
    assert round(stability(profile, worst["S"], K).agreement, 4) == worst["agreement"]
