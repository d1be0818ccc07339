"""Profiles of one architecture add up; others are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from libmtl_recon import ConflictProfile, ReconError
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.merge import add_profiles

Make = Callable[..., ConflictProfile]


def test_scores_and_steps_are_the_sums(make_profile: Make, profile: ConflictProfile) -> None:
    other = make_profile([[-0.5, -0.4], [0.1, 0.2], [float("nan"), -0.9]], dataset="letters")
    total = add_profiles([profile, other])
    assert total.steps == 6
    assert total.scores(-0.1) == {
        name: profile.scores(-0.1)[name] + other.scores(-0.1)[name] for name in total.layer_names
    }
    assert total.undefined.sum() == 2
    assert total.provenance["dataset"] == "digits + letters"
    assert [one["dataset"] for one in total.provenance["added"]] == ["digits", "letters"]
    assert ConflictProfile.from_json(total.to_json()).to_json() == total.to_json()


def test_one_alone_keeps_its_counts(profile: ConflictProfile) -> None:
    assert add_profiles([profile]).scores(0.0) == profile.scores(0.0)


def test_other_layers_are_refused(make_profile: Make, profile: ConflictProfile) -> None:
    other = make_profile([[0.0]], layers=[Layer("x", "Linear", ((1,),))])
    with pytest.raises(ReconError, match=r"one architecture .* 3 and 1 layers"):
        add_profiles([profile, other])


def test_more_tasks_are_refused(profile: ConflictProfile) -> None:
    three = ConflictProfile(
        profile.architecture,
        ("a", "b", "c"),
        profile.counts * 3,
        profile.undefined * 3,
        profile.block_steps,
    )
    with pytest.raises(ReconError, match=r"same number of tasks .* 2 and 3"):
        add_profiles([profile, three])


def test_other_names_of_tasks_are_numbered(make_profile: Make, profile: ConflictProfile) -> None:
    renamed = ConflictProfile(
        profile.architecture, ("x", "y"), profile.counts, profile.undefined, profile.block_steps
    )
    assert add_profiles([profile, renamed]).tasks == ("task 1", "task 2")


def test_a_profile_is_not_added_to_itself(profile: ConflictProfile) -> None:
    with pytest.raises(ReconError, match=r"its steps would count twice"):
        add_profiles([profile, profile])


def test_one_run_is_not_counted_twice_wherever_it_is(
    make_profile: Make, profile: ConflictProfile
) -> None:
    a, b, c = (replace(profile, provenance={"run": name}) for name in "abc")
    killed = replace(
        make_profile([[-0.5], [0.1], [0.2]]), provenance={"run": "a", "ended": "killed"}
    )
    both = add_profiles([a, b])
    for parts, run in (
        ([a, killed], "a"),
        ([both, a], "a"),
        ([b, c, both], "b"),
        ([add_profiles([both, c]), killed], "a"),
        ([add_profiles([both, c]), add_profiles([b])], "b"),
    ):
        with pytest.raises(
            ReconError,
            match="both contain the steps of one scoring run "
            rf"\({run}\)",
        ):
            add_profiles(parts)
    assert add_profiles([both, c]).steps == 3 * profile.steps
