"""Layers from scores, lists and profiles whose names are not the network's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libmtl_recon import ConflictProfile, ProfileCache, ReconError, UsageError
from libmtl_recon.conflicts.layer_ranking import LayerRanking
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.profiles.fitting import fitted_profile
from libmtl_recon.profiles.given import of_profile
from libmtl_recon.profiles.selection import select_layers

Select = Callable[..., Any]
OTHER = {"conv1": "net.0", "bn1": "net.1", "block.0.fc": "net.4"}


@pytest.fixture
def cache(tmp_path: Path) -> ProfileCache:
    return ProfileCache(tmp_path / "profiles")


@pytest.fixture
def select(tmp_path: Path, profile: ConflictProfile, cache: ProfileCache) -> Select:
    """The layers by the contents of a file."""

    def ask(data: Any, K: int = 2, **how: Any) -> Any:
        text = data.to_json() if hasattr(data, "to_json") else json.dumps(data)
        (tmp_path / "given.json").write_text(text)
        source = str(tmp_path / "given.json")
        return select_layers(profile.architecture, K, -0.1, source, cache, **how)

    return ask


def named(profile: ConflictProfile, names: dict[str, str]) -> ConflictProfile:
    layers = [dataclasses.replace(a, name=names[a.name]) for a in profile.architecture]
    return dataclasses.replace(profile, architecture=tuple(layers))


def test_wrappers_are_taken_off_scores_lists_and_profiles(
    select: Select, profile: ConflictProfile
) -> None:
    wrapped = {name: f"module.{name}.m_list.0" for name in profile.layer_names}
    scores = {wrapped["block.0.fc"]: 1, wrapped["bn1"]: 9, wrapped["conv1"]: 5}
    found = select(scores)
    assert found.names == ("bn1", "conv1")
    assert "without wrappers (module.block.0.fc.m_list.0 is block.0.fc)" in found.note
    assert select([wrapped["block.0.fc"], wrapped["bn1"]]).names == ("block.0.fc", "bn1")
    found = select(named(profile, wrapped))
    assert found.names == tuple(profile.layers(-0.1, 2))
    assert "without wrappers" in found.note
    assert found.profile == named(profile, wrapped).id
    assert found.places == ()


def test_a_wrapped_layer_of_another_type_is_refused(
    select: Select, profile: ConflictProfile
) -> None:
    wrapped = named(profile, {name: f"module.{name}" for name in profile.layer_names})
    linear = dataclasses.replace(wrapped.architecture[1], type="Linear")
    layers = (wrapped.architecture[0], linear, wrapped.architecture[2])
    ranking = LayerRanking(layers, ("module.bn1", "module.conv1"))
    with pytest.raises(UsageError, match=r"module\.bn1.*is a Linear in .*bn1 here is a BatchNorm"):
        select(ranking)
    with pytest.raises(ReconError, match="another architecture"):
        select(dataclasses.replace(wrapped, architecture=layers))


def test_what_the_network_lacks_is_left_out_on_request(
    select: Select, profile: ConflictProfile, cache: ProfileCache
) -> None:
    scores = {"fc": 9, "bn1": 5, "conv1": 3}
    with pytest.raises(UsageError, match=r"'fc'.*1 of the 3 .*take the others by `skip_missing`"):
        select(scores)
    found = select(scores, skip_missing=True)
    assert found.names == ("bn1", "conv1")
    assert "without 1 layer that this network lacks (fc)" in found.note
    assert select(["fc", "conv1"], 1, skip_missing=True).names == ("conv1",)
    with pytest.raises(UsageError, match=r"K must be at most 1, .*ranks \(got 2\)"):
        select(["fc", "conv1"], 2, skip_missing=True)
    with pytest.raises(UsageError, match=r"must name layers of this network \(got 'x'\)"):
        select(["x", "y"], 1, skip_missing=True)
    chosen = select_layers(profile.architecture, 1, -0.1, "fc,bn1", cache, skip_missing=True)
    assert chosen.names == ("bn1",)


def test_a_profile_of_more_layers_is_taken_without_them(
    select: Select, profile: ConflictProfile
) -> None:
    more = dataclasses.replace(
        profile,
        architecture=(*profile.architecture, Layer("head", "Linear", ((2, 2),))),
        counts=np.concatenate([profile.counts, profile.counts[:, 1:2]], axis=1),
        undefined=np.concatenate([profile.undefined, profile.undefined[:, 1:2]], axis=1),
    )
    with pytest.raises(ReconError, match=r"only there: head.*leave out .* by `skip_missing`"):
        select(more)
    found = select(more, skip_missing=True)
    assert found.names == tuple(profile.layers(-0.1, 2))
    assert found.profile == more.id
    fewer = dataclasses.replace(
        profile,
        architecture=profile.architecture[:2],
        counts=profile.counts[:, :2],
        undefined=profile.undefined[:, :2],
    )
    with pytest.raises(ReconError, match="another architecture") as caught:
        select(fewer, skip_missing=True)
    assert "skip_missing" not in str(caught.value)


def test_the_counts_of_the_whole_gradient_go_where_a_layer_is_left_out(
    profile: ConflictProfile,
) -> None:
    whole = np.zeros((1, 401), np.int64)
    whole[0, 300] = 4
    wrapped = named(profile, {name: f"module.{name}" for name in profile.layer_names})
    wrapped = dataclasses.replace(wrapped, whole=whole)
    given = of_profile(wrapped, "x")
    layers = profile.architecture
    kept, matching = fitted_profile(given, layers)
    assert kept.layer_names == profile.layer_names
    assert kept.scores(-0.1) == profile.scores(-0.1)
    assert kept.whole is not None
    assert (kept.whole == whole).all()
    assert len(matching.renamed) == 3
    rest, _ = fitted_profile(given, layers[:2], skip_missing=True)
    assert rest.whole is None
    assert rest.scores(-0.1) == {name: profile.scores(-0.1)[name] for name in ("conv1", "bn1")}
    assert (rest.undefined == profile.undefined[:, :2]).all()


def test_by_order_the_scores_stand_at_their_places(select: Select) -> None:
    with pytest.raises(UsageError, match=r"same network under other names .* `match` order"):
        select({"net.0": 1, "net.1": 9, "net.4": 5})
    found = select({"net.0": 1, "net.1": 9, "net.4": 5}, match="order")
    assert found.names == ("bn1", "block.0.fc")
    assert "matched with this network's layers by position" in found.note
    assert found.places == (("net.0", "conv1"), ("net.1", "bn1"), ("net.4", "block.0.fc"))
    drawn = select({"net.0": 1, "net.1": 9, "net.4": 5}, match="order", select="random_params")
    assert drawn.places == found.places


def test_by_order_a_profile_tells_types_and_shapes(
    select: Select, profile: ConflictProfile, cache: ProfileCache
) -> None:
    other = named(profile, OTHER)
    with pytest.raises(ReconError, match="another architecture"):
        select(other)
    found = select(other, match="order")
    assert found.names == tuple(profile.layers(-0.1, 2))
    assert found.places == tuple((theirs, ours) for ours, theirs in OTHER.items())
    kept = cache.save(other)
    assert (
        select_layers(profile.architecture, 2, -0.1, kept[:6], cache, match="order").names
        == found.names
    )
    layers = (dataclasses.replace(other.architecture[0], shapes=((8, 1, 3, 3),)),)
    wider = dataclasses.replace(other, architecture=layers + other.architecture[1:])
    with pytest.raises(UsageError, match=r"position 1 is net\.0 there \(Conv2d 8x1x3x3\)"):
        select(wider, match="order")


def test_a_ranking_does_not_tell_the_order_of_its_network(select: Select, tmp_path: Path) -> None:
    for ranking in (["net.1", "net.4", "net.0"], {"net.1": 9, "net.4": 5, "net.0": 3}):
        with pytest.raises(UsageError, match=r"match cannot be order alone for .*order:FILE"):
            select(ranking, match="order")
        file = tmp_path / "order.json"
        file.write_text(json.dumps(list(OTHER.values())))
        found = select(ranking, match=f"order:{file}")
        assert found.names == ("bn1", "block.0.fc")
    assert select(["net.4"], 1, match=f"order:{file}").names == ("block.0.fc",)
    with pytest.raises(UsageError, match=r"order:FILE lists \(got 'net\.9'\)"):
        select(["net.9", "net.1"], 1, match=f"order:{file}")
    assert select(["net.9", "net.1"], 1, match=f"order:{file}", skip_missing=True).names == ("bn1",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "order.json is not JSON"),
        ('{"a": 1}', "must contain a JSON list of names"),
        ("[]", "must contain a JSON list of names"),
        (None, "Cannot read .*order.json"),
    ],
)
def test_a_file_that_tells_no_order_is_named(
    select: Select, tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "order.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ReconError, match=said):
        select(["net.1"], 1, match=f"order:{file}")


def test_an_imported_ranking_stands_in_for_a_profile(
    profile: ConflictProfile, cache: ProfileCache
) -> None:
    layers = profile.architecture
    name = cache.save(LayerRanking(layers, ("block.0.fc", "bn1"), (7.0, 3.0)))
    for source in (None, name, name[:5]):
        found = select_layers(layers, 1, -0.1, source, cache)
        assert found.names == ("block.0.fc",)
        assert f"layers from ranking {name}, by the scores" in found.note
        assert ("because no profile in the cache fits" in found.note) == (source is None)
    cache.save(profile)
    assert select_layers(layers, 1, -0.1, None, cache).names == ("bn1",)


def test_names_that_the_file_in_network_order_lacks_are_told_apart(
    select: Select, tmp_path: Path, profile: ConflictProfile
) -> None:
    (tmp_path / "order.json").write_text(json.dumps(["x", "y", "z"]))
    order = f"order:{tmp_path / 'order.json'}"
    said = r"must name layers that `match` order:FILE lists \(got 'bn1'\)\. .*order\.json lacks "
    with pytest.raises(UsageError, match=rf"{said}2 of the 2 layers in .* has them\.$"):
        select(["bn1", "conv1"], match=order)
    with pytest.raises(UsageError, match=rf"{said}1 of the 2 .* ignore them by `skip_missing`\.$"):
        select(["x", "bn1"], match=order)


@pytest.mark.parametrize("source", [5, ["bn1", "conv1"], Path("list.json"), " "])
def test_a_source_that_is_not_a_string_is_refused(
    source: Any, profile: ConflictProfile, cache: ProfileCache
) -> None:
    with pytest.raises(UsageError, match=r"^source must name layers, or a source of layers \(got"):
        select_layers(profile.architecture, 1, -0.1, source, cache)


def test_a_misspelt_built_in_profile_is_suggested(
    profile: ConflictProfile, cache: ProfileCache
) -> None:
    said = r"the name of a built-in profile; .*mean resnet18-multi_fashion_mnist\?$"
    with pytest.raises(ReconError, match=said):
        select_layers(profile.architecture, 1, -0.1, "resnet18-multi_fashion_mnst", cache)
