from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libmtl_recon import ConflictProfile, ReconError, UsageError
from libmtl_recon.conflicts import file_format
from libmtl_recon.conflicts.grid import BINS, EDGES
from libmtl_recon.conflicts.layers import Layer


def test_scores_count_what_lies_strictly_below(profile: ConflictProfile) -> None:
    # -0.1 itself is no conflict at S = -0.1, an undefined cosine never is.
    assert profile.scores(-0.1) == {"conv1": 1, "bn1": 3, "block.0.fc": 1}
    assert profile.scores(0.0) == {"conv1": 2, "bn1": 3, "block.0.fc": 1}
    assert profile.scores(-0.5) == {"conv1": 0, "bn1": 0, "block.0.fc": 0}
    assert profile.scores(-0.495) == {"conv1": 1, "bn1": 0, "block.0.fc": 0}


def test_ranking_is_worst_first_and_ties_keep_network_order(profile: ConflictProfile) -> None:
    assert profile.ranking(-0.1) == ["bn1", "conv1", "block.0.fc"]
    assert profile.ranking(-0.9) == ["conv1", "bn1", "block.0.fc"]
    assert profile.layers(-0.1, 2) == ["bn1", "conv1"]


def test_layers_that_fewer_than_two_tasks_reach_come_last(
    make_profile: Callable[..., ConflictProfile],
) -> None:
    nan = float("nan")
    profile = make_profile([[nan, nan], [nan, 0.3], [-0.5, -0.5]])
    assert [layer.name for layer in profile.reached] == ["bn1", "block.0.fc"]
    assert profile.ranking(-0.1) == ["block.0.fc", "bn1", "conv1"]
    assert profile.layers(-0.1, 2) == ["block.0.fc", "bn1"]
    with pytest.raises(UsageError, match=r"K must be at most 2, .* by this profile \(got 3\)"):
        profile.layers(-0.1, 3)
    nothing = make_profile([[nan], [nan], [nan]])
    assert nothing.reached == nothing.architecture
    assert nothing.layers(-0.1, 3) == list(nothing.layer_names)


def test_what_a_profile_says_of_itself(profile: ConflictProfile) -> None:
    assert profile.steps == 4
    assert profile.pairs == 1
    assert profile.layer_names == ("conv1", "bn1", "block.0.fc")
    assert profile.parameter_counts == (36, 8, 10)
    assert profile.undefined.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("S", [-1.0, 0.005, -1.5, float("nan"), float("inf"), "x", None])
def test_a_severity_outside_its_range_is_refused(profile: ConflictProfile, S: Any) -> None:
    with pytest.raises(UsageError, match=r"S must be a multiple of 0.005, above -1 and up to 0"):
        profile.scores(S)


def test_a_severity_between_the_edges_is_refused_with_the_next(profile: ConflictProfile) -> None:
    with pytest.raises(UsageError, match=r"\(got -0\.1234\)\. .* try -0\.125"):
        profile.ranking(-0.1234)


@pytest.mark.parametrize("K", [0, -1, 4, 1.5, True])
def test_k_is_a_whole_number_of_layers(profile: ConflictProfile, K: Any) -> None:
    with pytest.raises(UsageError, match="K must be a whole number from 1 to 3"):
        profile.layers(-0.1, K)


@pytest.mark.parametrize("below", range(1, 201))
def test_each_edge_is_the_number_a_user_types(below: int) -> None:
    # 200 steps of 0.005 from -1 to 0: the decimal that a user types parses to the very edge.
    typed = f"{(below - 200) * 5 / 1000:.3f}"
    assert float(typed) == EDGES[below]


def test_nobody_changes_a_profile(profile: ConflictProfile) -> None:
    with pytest.raises(ValueError, match="read-only"):
        profile.counts[0, 0, 0] = 1
    with pytest.raises(AttributeError):
        profile.tasks = ("a",)  # type: ignore[misc]  # is what must fail
    with pytest.raises(TypeError):
        profile.provenance["dataset"] = "other"  # type: ignore[index]  # is what must fail


def test_a_profile_has_counts_of_its_own() -> None:
    counts = np.zeros((1, 1, BINS), np.int64)
    counts[0, 0, 0] = 2
    layers = (Layer("fc", "Linear", ((2, 2),)),)
    profile = ConflictProfile(layers, ("a", "b"), counts, np.zeros((1, 1)), np.array([2]))
    counts[0, 0, 0] = 5
    assert profile.scores(0.0) == {"fc": 2}


def test_counts_that_do_not_add_up_are_refused() -> None:
    layers = (Layer("fc", "Linear", ((2, 2),)),)
    with pytest.raises(ReconError, match="do not add up"):
        ConflictProfile(
            layers,
            ("a", "b"),
            np.zeros((1, 1, BINS), np.int64),
            np.zeros((1, 1), np.int64),
            np.array([2]),
        )


def test_json_can_be_read_by_a_person(profile: ConflictProfile) -> None:
    text = profile.to_json()
    data = json.loads(text)
    assert data["architecture"][1] == {
        "name": "bn1",
        "type": "BatchNorm2d",
        "shapes": [[4], [4]],
    }
    assert data["steps"] == 4
    assert data["blocks"][0]["cosines"]["bn1"] == {
        "-0.300": 1,
        "-0.200": 1,
        "-0.110": 1,
        "0.000": 1,
    }
    assert data["blocks"][0]["undefined"] == {"block.0.fc": 1}
    assert max(len(line) for line in text.splitlines()) < 120


def test_what_a_class_name_does_not_say_of_norms_is_in_the_file(
    make_profile: Callable[..., ConflictProfile],
) -> None:
    layers = [
        Layer("fc", "NormLinear", ((2, 2),), norm=False),
        Layer("bn", "Renamed", ((2,),), norm=True),
        Layer("ln", "LayerNorm", ((2,),)),
    ]
    text = make_profile([[0.1]] * 3, layers).to_json()
    rows = json.loads(text)["architecture"]
    assert [row.get("norm") for row in rows] == [False, True, None]
    again = ConflictProfile.from_json(text).architecture
    assert [layer.norm for layer in again] == [False, True, True]
    # As an earlier release has written it.
    plain = text.replace(', "norm": false', "").replace(', "norm": true', "")
    read = ConflictProfile.from_json(plain).architecture
    assert [layer.norm for layer in read] == [True, False, True]
    with pytest.raises(ReconError, match="'norm' must be true or false"):
        ConflictProfile.from_json(text.replace('"norm": true', '"norm": 1'))


grids = st.integers(1, 3).flatmap(
    lambda layers: st.lists(
        st.lists(
            st.one_of(st.just(float("nan")), st.floats(-1, 1)), min_size=layers, max_size=layers
        ),
        min_size=1,
        max_size=12,
    )
)


@given(steps=grids)
def test_json_round_trip_and_definition_3(
    steps: list[list[float]], make_profile: Callable[..., ConflictProfile]
) -> None:
    cosines = [list(row) for row in zip(*steps, strict=True)]
    layers = [Layer(f"l{i}", "Linear", ((i + 1,),)) for i in range(len(cosines))]
    profile = make_profile(cosines, layers)
    again = ConflictProfile.from_json(profile.to_json())
    assert again.to_json() == profile.to_json()
    assert again.id == profile.id
    for S in (-j / 200 for j in range(0, 200, 7)):
        # Definition 3, over the cosines themselves.
        expected = {
            layer.name: sum(c < S for c in row) for layer, row in zip(layers, cosines, strict=True)
        }
        assert again.scores(S) == expected


def test_ids_tell_profiles_apart(
    profile: ConflictProfile, make_profile: Callable[..., ConflictProfile]
) -> None:
    other = make_profile([[-0.5], [0.1], [0.2]])
    assert profile.id != other.id
    assert len(profile.id) == 12


def _damaged(change: Callable[[dict[str, Any]], object], profile: ConflictProfile) -> str:
    data = json.loads(profile.to_json())
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(format="other"), 'no "format"'),
        (lambda d: d.update(version=99), "version is 99; this program reads 1 and 2."),
        (lambda d: d.pop("tasks"), "'tasks' is missing"),
        (lambda d: d.update(tasks=["only"]), "two tasks"),
        (lambda d: d.update(tasks=["left", "left"]), "with different names"),
        (lambda d: d["architecture"].pop(), "'block.0.fc' is neither a layer"),
        (lambda d: d["architecture"].append(d["architecture"][0]), "same name"),
        (lambda d: d["blocks"][0]["cosines"]["bn1"].update({"-0.3001": 1}), "-0.3001"),
        (lambda d: d["blocks"][0]["cosines"]["bn1"].update({"-0.300": 7}), "do not add up"),
        (lambda d: d["blocks"][0]["cosines"]["bn1"].update({"-0.300": 10**30}), "whole number"),
        (lambda d: d["blocks"][0]["cosines"]["bn1"].update({"-0.300": -1}), "up (got -1)"),
        (lambda d: d.update(blocks=[]), "no steps"),
        (lambda d: d.update(provenance=5), "'provenance' must be an object (got '5')"),
        (lambda d: d.update(tasks="ab"), "'tasks' must be a list"),
        (lambda d: d.update(tasks=[1, 2]), "a task must be a text"),
        (lambda d: d["blocks"].append(None), "a block must be an object"),
        (lambda d: d["blocks"][0]["undefined"].update(bn1=True), "got True"),
        (lambda d: d["architecture"][0].update(shapes=[3]), "a shape must be a list"),
        (lambda d: d["architecture"][0].update(name=None), "'name' must be a text"),
        (lambda d: d["architecture"][0].update(shapes=[[2**40, 2**40]]), "more parameters than"),
        (lambda d: d["blocks"][0].update(steps=float("nan")), "whole number from 0 up (got nan)"),
        (lambda d: d["blocks"][0].update(steps=2**53 + 1), "whole number from 0 up (got 9"),
        (lambda d: d.update(blocks=[{**d["blocks"][0], "steps": 2**53}] * 512), "than is possible"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(
    profile: ConflictProfile, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    with pytest.raises(ReconError, match=r"^some\.json is not a readable") as caught:
        ConflictProfile.from_json(_damaged(change, profile), "some.json")
    assert reason in str(caught.value)


def test_a_key_that_stands_twice_is_refused(profile: ConflictProfile) -> None:
    text = profile.to_json()
    twice = text.replace('"-0.300": 1', '"-0.300": 0, "-0.300": 1')
    assert twice != text
    with pytest.raises(ReconError, match=r"it has '-0\.300' twice in one object"):
        ConflictProfile.from_json(twice)


def test_names_that_are_no_text_survive(profile: ConflictProfile) -> None:
    """A file name of another encoding reaches us as text with lone surrogates."""
    where = {"dataset": "caf\udce9", "arguments": ["\ud800"]}
    odd = dataclasses.replace(profile, tasks=("l\udcff", "größe"), provenance=where)
    text = odd.to_json()
    text.encode()  # can be written
    again = ConflictProfile.from_json(text)
    assert (again.tasks, dict(again.provenance)) == (odd.tasks, where)
    assert again.id == odd.id


def test_a_profile_that_no_memory_holds_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch, profile: ConflictProfile
) -> None:
    assert file_format.MOST_CELLS * BINS * 8 < 2**31  # bytes of counts
    text = _damaged(lambda d: d.update(blocks=d["blocks"] * 2), profile)
    monkeypatch.setattr(file_format, "MOST_CELLS", 6)
    assert len(ConflictProfile.from_json(text).block_steps) == 2
    monkeypatch.setattr(file_format, "MOST_CELLS", 5)
    with pytest.raises(ReconError, match=r"is invalid: it has 3 layers in 2 blocks"):
        dataclasses.replace(
            profile,
            counts=np.concatenate([profile.counts] * 2),
            undefined=np.concatenate([profile.undefined] * 2),
            block_steps=np.concatenate([profile.block_steps] * 2),
        )
    monkeypatch.setattr(file_format.np, "zeros", lambda *_: pytest.fail("memory was asked for"))
    with pytest.raises(ReconError, match=r"3 layers in 2 blocks of steps.* at most 5 layers"):
        ConflictProfile.from_json(text)


@pytest.mark.parametrize("digits", [1001, 100_000])
def test_a_number_of_too_many_digits_is_counted(digits: int) -> None:
    with pytest.raises(ReconError, match=rf"it has a number of {digits:,} digits\.$"):
        ConflictProfile.from_json("[" + "9" * digits + "]")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "[" * 100_000, "NaN"])
def test_what_is_no_profile_is_named(text: str) -> None:
    with pytest.raises(ReconError, match=r"^some\.json is not a readable conflict profile"):
        ConflictProfile.from_json(text, "some.json")
