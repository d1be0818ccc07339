from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libmtl_recon import ConflictProfile, ProfileCache, ReconError, UsageError
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.profiles.selection import select_layers
from libmtl_recon.profiles.sources import titles

Layers = tuple[Layer, ...]


@pytest.fixture
def cache(tmp_path: Path) -> ProfileCache:
    return ProfileCache(tmp_path / "profiles")


def write(folder: Path, data: Any) -> str:
    file = folder / "layers.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(file)


def wider(layers: Layers) -> Layers:
    return (dataclasses.replace(layers[0], shapes=((4, 3, 3, 3),)), *layers[1:])


def test_the_cache_gives_the_k_worst(cache: ProfileCache, profile: ConflictProfile) -> None:
    id = cache.save(profile)
    chosen = select_layers(profile.architecture, 2, -0.1, None, cache)
    assert chosen.names == ("bn1", "conv1")
    assert chosen.note == f"layers from profile {id} (digits, EW, 4 steps, 2026-01-02)"


def test_the_users_own_cache_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: ConflictProfile
) -> None:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path))
    ProfileCache(tmp_path).save(profile)
    assert select_layers(profile.architecture, 1, -0.1).names == ("bn1",)


def test_a_looser_match_is_said(cache: ProfileCache, profile: ConflictProfile) -> None:
    cache.save(profile)
    chosen = select_layers(wider(profile.architecture), 1, -0.1, None, cache)
    assert chosen.names == ("bn1",)
    assert "same names and types but other shapes" in chosen.note


def test_with_no_profile_the_command_is_named(
    cache: ProfileCache, profile: ConflictProfile
) -> None:
    cache.save(profile)
    with pytest.raises(ReconError, match=r"libmtl-recon score SCRIPT ARGS") as caught:
        select_layers(profile.architecture[:2], 1, -0.1, None, cache)
    assert caught.value.exit_status == 1


@pytest.mark.parametrize("K", [0, 4, -2])
def test_k_above_the_number_of_layers_is_refused(
    cache: ProfileCache, profile: ConflictProfile, K: int
) -> None:
    cache.save(profile)
    with pytest.raises(UsageError, match=rf"K must be .* from 1 to 3.* \(got {K}\)"):
        select_layers(profile.architecture, K, -0.1, None, cache)


def test_a_severity_is_checked(cache: ProfileCache, profile: ConflictProfile) -> None:
    cache.save(profile)
    with pytest.raises(UsageError, match=r"multiple of 0\.005.* \(got 0\.5\)"):
        select_layers(profile.architecture, 1, 0.5, None, cache)


def test_an_exported_profile_needs_no_cache(tmp_path: Path, profile: ConflictProfile) -> None:
    source = write(tmp_path, profile.to_json())
    chosen = select_layers(profile.architecture, 2, -0.1, source)
    assert chosen.names == ("bn1", "conv1")
    assert source in chosen.note
    loose = select_layers(wider(profile.architecture), 2, -0.1, source)
    assert loose.names == chosen.names
    assert "other shapes" in loose.note


def test_the_profile_of_another_architecture_is_refused(
    tmp_path: Path, profile: ConflictProfile
) -> None:
    source = write(tmp_path, profile.to_json())
    renamed = (*profile.architecture[:2], Layer("head", "Linear", ((2, 4), (2,))))
    with pytest.raises(ReconError, match=r"\(only there: block\.0\.fc; only here: head\)"):
        select_layers(renamed, 1, -0.1, source)
    retyped = (Layer("conv1", "Linear", ((4,),)), *profile.architecture[1:])
    with pytest.raises(ReconError, match=r"another type: conv1 \(Conv2d, here Linear\)"):
        select_layers(retyped, 1, -0.1, source)


def test_published_scores_are_ranked_highest_first(
    tmp_path: Path, profile: ConflictProfile
) -> None:
    # Written in no order; the tie is kept in network order.
    source = write(tmp_path, {"block.0.fc": 7, "bn1": 90.5, "conv1": 7})
    chosen = select_layers(profile.architecture, 2, -0.1, source)
    assert chosen.names == ("bn1", "conv1")
    assert "`S` does not apply" in chosen.note


def test_published_scores_may_lack_layers_but_not_be_fewer_than_k(
    tmp_path: Path, profile: ConflictProfile
) -> None:
    source = write(tmp_path, {"bn1": 3, "conv1": 7})
    assert select_layers(profile.architecture, 2, -0.1, source).names == ("conv1", "bn1")
    source = write(tmp_path, {"bn1": 3})
    with pytest.raises(UsageError, match=r"K must be at most 1, .* \(got 2\)"):
        select_layers(profile.architecture, 2, -0.1, source)


def test_a_layer_that_does_not_exist_is_named(tmp_path: Path, profile: ConflictProfile) -> None:
    source = write(tmp_path, {"bn1": 3, "bn2": 7})
    with pytest.raises(UsageError, match=r"source must name layers .* \(got 'bn2'\)") as e:
        select_layers(profile.architecture, 1, -0.1, source)
    assert "1 of the 2 layers" in str(e.value)
    assert "conv1, bn1, block.0.fc" in str(e.value)


def test_a_prefix_that_all_names_lack_is_named(tmp_path: Path, profile: ConflictProfile) -> None:
    source = write(tmp_path, {"bn1": 3, "conv1": 7})
    inside = tuple(
        dataclasses.replace(a, name=f"resnet_network.{a.name}") for a in profile.architecture
    )
    with pytest.raises(UsageError, match=r"All of them exist under 'resnet_network\.'"):
        select_layers(inside, 1, -0.1, source)
    # And the other way round.
    source = write(tmp_path, {"net.bn1": 3, "net.conv1": 7})
    with pytest.raises(UsageError, match=r"All of them exist without 'net\.'"):
        select_layers(profile.architecture, 1, -0.1, source)


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        3,
        {"bn1": 10**400},
        {"bn1": "x"},
        {"bn1": True},
        {"bn1": None},
        '{"bn1": NaN}',
        '{"bn1": 1e999}',
    ],
)
def test_what_is_neither_is_named(tmp_path: Path, profile: ConflictProfile, data: Any) -> None:
    source = write(tmp_path, data)
    with pytest.raises(ReconError, match=r"layers\.json must contain .*contains none of these"):
        select_layers(profile.architecture, 1, -0.1, source)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, profile: ConflictProfile) -> None:
    with pytest.raises(ReconError, match=r"Cannot read .*missing\.json: No such file"):
        select_layers(profile.architecture, 1, -0.1, str(tmp_path / "missing.json"))
    with pytest.raises(ReconError, match=r"is not JSON"):
        select_layers(profile.architecture, 1, -0.1, write(tmp_path, "conv1, bn1"))


def test_a_single_name_that_is_no_layer_and_no_file_is_told_the_layers(
    profile: ConflictProfile,
) -> None:
    with pytest.raises(
        ReconError,
        match=r"Cannot read bn11.*Did you mean bn1\? .*layers are "
        r"conv1",
    ):
        select_layers(profile.architecture, 1, -0.1, "bn11")
    with pytest.raises(ReconError, match=r"All of them exist without 'encoder\.'"):
        select_layers(profile.architecture, 1, -0.1, "encoder.bn1")


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_source_is_refused(profile: ConflictProfile, source: str) -> None:
    with pytest.raises(UsageError, match=r"source must name layers, .* \(got ' ?'\)"):
        select_layers(profile.architecture, 1, -0.1, source)


def test_a_damaged_profile_is_named(
    tmp_path: Path, profile: ConflictProfile, make_profile: Callable[..., ConflictProfile]
) -> None:
    data = json.loads(profile.to_json())
    del data["tasks"]
    with pytest.raises(ReconError, match=r"layers\.json is not a readable conflict profile"):
        select_layers(profile.architecture, 1, -0.1, write(tmp_path, data))


def test_baselines_need_no_profile(tmp_path: Path, profile: ConflictProfile) -> None:
    layers = profile.architecture
    empty = ProfileCache(tmp_path)
    names = [layer.name for layer in layers]
    assert select_layers(layers, 2, -0.1, cache=empty, select="first").names == tuple(names[:2])
    assert select_layers(layers, 2, -0.1, cache=empty, select="last").names == tuple(names[-2:])
    random = select_layers(layers, 2, -0.1, cache=empty, select="random", seed=5)
    assert random == select_layers(layers, 2, -0.1, cache=empty, select="random", seed=5)
    assert set(random.names) < set(names)
    assert "seed 5" in random.note


def test_norms_need_no_profile(tmp_path: Path, profile: ConflictProfile) -> None:
    layers = profile.architecture
    empty = ProfileCache(tmp_path)
    for K, names in ((1, ("bn1",)), (2, ("bn1", "conv1"))):
        chosen = select_layers(layers, K, -0.1, cache=empty, select="norms")
        assert chosen.names == names
        assert chosen.note == (
            f"{K} layers, normalisation layers first and then in network order, independently of "
            "conflicts"
        )
        assert (chosen.doubt, chosen.profile) == ("", None)
    sourced = select_layers(layers, 1, -0.1, "some.json", empty, select="norms")
    assert sourced.note.endswith("; `source` is not used")
    with pytest.raises(UsageError, match="K must"):
        select_layers(layers, 3, -0.1, cache=empty, select="norms")


def test_random_parameters_are_those_of_the_worst(tmp_path: Path, profile: ConflictProfile) -> None:
    layers = profile.architecture
    cache = ProfileCache(tmp_path)
    cache.save(profile)
    size = {layer.name: layer.parameters for layer in layers}
    for seed in range(5):
        found = select_layers(layers, 2, -0.1, cache=cache, select="random_params", seed=seed)
        assert sum(size[name] for name in found.names) <= size["bn1"] + size["conv1"]
    assert "where the 2 worst have 44" in found.note


def test_random_parameters_may_follow_a_published_list(
    tmp_path: Path, profile: ConflictProfile
) -> None:
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({"bn1": 3}))
    layers = profile.architecture
    chosen = select_layers(layers, 1, -0.1, str(file), select="random_params")
    assert chosen.names == ("bn1",)


def test_an_unknown_choice_is_explained(profile: ConflictProfile) -> None:
    with pytest.raises(UsageError, match=r"select must be one of conflict, random.*RSL"):
        select_layers(profile.architecture, 1, -0.1, select="worst")


@pytest.mark.parametrize("form", ["file", "words"])
def test_a_list_of_layers_is_taken_in_its_order(
    tmp_path: Path, profile: ConflictProfile, form: str
) -> None:
    def source(*names: str) -> str:
        return write(tmp_path, list(names)) if form == "file" else ",".join(names)

    layers = profile.architecture
    chosen = select_layers(layers, 2, -0.1, source("block.0.fc", "conv1"))
    assert chosen.names == ("block.0.fc", "conv1")
    assert chosen.note.endswith(", in its order")
    chosen = select_layers(layers, 1, -0.1, source("conv1", "bn1"))
    assert chosen.names == ("conv1",)
    assert "the first 1 of 2" in chosen.note
    with pytest.raises(UsageError, match=r"K must be at most 1, .* \(got 2\)"):
        select_layers(layers, 2, -0.1, source("conv1"))
    with pytest.raises(UsageError, match=r"must name layers of this network \(got 'bn7'\)"):
        select_layers(layers, 1, -0.1, source("conv1", "bn7"))
    with pytest.raises(UsageError, match=r"must name each layer once \(got 'conv1'\)"):
        select_layers(layers, 2, -0.1, source("conv1", "conv1"))


def test_a_kept_profile_may_be_named_by_its_id(
    cache: ProfileCache, profile: ConflictProfile, make_profile: Callable[..., ConflictProfile]
) -> None:
    id = cache.save(profile)
    cache.save(make_profile([[-0.9], [0.1], [0.1]]))
    chosen = select_layers(profile.architecture, 1, -0.1, id[:8], cache)
    assert chosen.names == ("bn1",)
    assert chosen.note.startswith(f"layers from profile {id} (digits")
    with pytest.raises(ReconError, match=r"Cannot read abc123.*the ID of a profile in the cache"):
        select_layers(profile.architecture, 1, -0.1, "abc123", cache)


def test_too_few_steps_are_told(
    cache: ProfileCache, profile: ConflictProfile, tmp_path: Path
) -> None:
    cache.save(profile)
    source = write(tmp_path, profile.to_json())
    for where, select in ((None, "conflict"), (source, "conflict"), (None, "random_params")):
        chosen = select_layers(profile.architecture, 1, -0.1, where, cache, select=select)
        assert chosen.doubt == (
            "The certainty of the worst layer cannot be estimated: 4 steps are too few."
        )
    sure = dataclasses.replace(
        profile,
        counts=profile.counts.repeat(10, axis=0),
        undefined=profile.undefined.repeat(10, axis=0),
        block_steps=profile.block_steps.repeat(10),
    )
    source = write(tmp_path, sure.to_json())
    assert select_layers(profile.architecture, 1, -0.1, source).doubt == ""


def test_a_network_that_has_changed_is_told_from_its_profile(
    cache: ProfileCache, profile: ConflictProfile
) -> None:
    id = cache.save(profile)
    changed = (*profile.architecture[:2], Layer("head", "Linear", ((2, 4), (2,))))
    nearest = (
        rf"The most similar one, {id} \(digits, .*\(only there: block\.0\.fc; only here: "
        r"head\)"
    )
    with pytest.raises(ReconError, match=nearest):
        select_layers(changed, 1, -0.1, cache=cache)
    other = tuple(Layer(f"l{i}", "Linear", ((2, 2),)) for i in range(4))
    with pytest.raises(ReconError, match=r"known which of them conflict\. Create one"):
        select_layers(other, 1, -0.1, cache=cache)


def test_layers_of_other_shapes_and_other_tasks_are_named(
    cache: ProfileCache, profile: ConflictProfile
) -> None:
    cache.save(profile)
    chosen = select_layers(
        wider(profile.architecture), 1, -0.1, cache=cache, tasks=("left", "middle")
    )
    assert "(conv1 (4x1x3x3, here 4x3x3x3))" in chosen.note
    assert "of the tasks left, right" in chosen.note


def test_a_source_that_is_not_used_is_told(tmp_path: Path, profile: ConflictProfile) -> None:
    source = write(tmp_path, profile.to_json())
    chosen = select_layers(profile.architecture, 1, -0.1, source, select="first")
    assert chosen.note.endswith("; `source` is not used")


NAN = float("nan")


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("select", ["conflict", "random", "first", "last", "norms"])
def test_a_layer_of_one_task_is_not_chosen(
    cache: ProfileCache,
    make_profile: Callable[..., ConflictProfile],
    tmp_path: Path,
    select: str,
    kept: bool,
) -> None:
    cosines = [[0.5, 0.1], [0.4, 0.4], [-0.5, 0.2]]
    alone = 2 if select == "last" else 0
    cosines[alone] = [NAN, NAN]
    profile, source = make_profile(cosines), None
    title = cache.save(profile) if kept else (source := write(tmp_path, profile.to_json()))
    expected = set(profile.layer_names) - {profile.layer_names[alone]}
    for seed in range(4):
        found = select_layers(
            profile.architecture, 2, -0.1, source, cache, select=select, seed=seed
        )
        assert set(found.names) == expected
    if select != "conflict":
        assert found.note.endswith(f", of the 2 that two tasks reach by {'profile ' * kept}{title}")


def test_random_parameters_leave_out_a_layer_of_one_task(
    cache: ProfileCache, make_profile: Callable[..., ConflictProfile]
) -> None:
    profile = make_profile([[0.5, 0.1], [NAN, NAN], [-0.5, 0.2]])
    cache.save(profile)
    for seed in range(8):  # bn1 has fewer parameters than the worst, block.0.fc
        found = select_layers(
            profile.architecture, 1, -0.1, cache=cache, select="random_params", seed=seed
        )
        assert found.names == ("block.0.fc",)


@pytest.mark.parametrize("select", ["conflict", "norms", "random_params"])
def test_more_layers_than_two_tasks_reach_are_refused(
    cache: ProfileCache, make_profile: Callable[..., ConflictProfile], select: str
) -> None:
    alone = make_profile([[NAN, NAN], [NAN, NAN], [-0.5, 0.2]])
    id = cache.save(alone)
    said = rf"K must be at most 1, .* two tasks met by profile {id} \(got 2\)\. Lower it"
    with pytest.raises(UsageError, match=said):
        select_layers(alone.architecture, 2, -0.1, cache=cache, select=select)


def test_a_profile_without_a_cosine_tells_no_layers_apart(
    cache: ProfileCache, make_profile: Callable[..., ConflictProfile]
) -> None:
    nothing = make_profile([[NAN], [NAN], [NAN]])
    cache.save(nothing)
    found = select_layers(nothing.architecture, 2, -0.1, cache=cache, select="norms")
    assert found.names == ("bn1", "conv1")


def test_titles_tell_profiles_apart(profile: ConflictProfile) -> None:
    def of(**origin: object) -> ConflictProfile:
        return dataclasses.replace(profile, provenance={"dataset": "digits", **origin})

    assert titles([of(weighting="EW", seed=1), of(weighting="MGDA", seed=1)]) == ["EW", "MGDA"]
    assert titles([of(seed=1), of(seed=2, weighting="EW")]) == ["None 1", "EW 2"]
    assert titles([of(seed=1)]) == ["digits"]
    assert titles([of(date="a"), of(date="b")]) == ["digits (1)", "digits (2)"]
