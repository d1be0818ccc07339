"""What a profile says, as data: its ranking, how sure it is, how many layers to split."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from libmtl_recon import ConflictProfile, ReconError, UsageError
from libmtl_recon.conflicts.comparison import compare_profiles
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.report import report_on
from libmtl_recon.conflicts.schedule import UntilStable
from libmtl_recon.conflicts.stability import stability

Make = Callable[..., ConflictProfile]


def numbered(layers: int) -> list[Layer]:
    return [Layer(f"l{n}", "Linear", ((n + 1, 2),)) for n in range(layers)]


def with_scores(make_profile: Make, *scores: int) -> ConflictProfile:
    """Return a profile of 8 steps whose layers have these scores at S = -0.1."""
    cosines = [[-0.5] * score + [0.5] * (8 - score) for score in scores]
    return make_profile(cosines, numbered(len(scores)))


def test_layers_stand_worst_first_with_their_shares(profile: ConflictProfile) -> None:
    found = report_on(profile, -0.1)
    assert [row.layer.name for row in found.layers] == ["bn1", "conv1", "block.0.fc"]
    assert [row.layer.parameters for row in found.layers] == [8, 36, 10]
    assert [row.score for row in found.layers] == [3, 1, 1]
    assert [row.share for row in found.layers] == [3 / 4, 1 / 4, 1 / 3]
    assert [row.undefined for row in found.layers] == [0, 0, 1]
    assert found.any_undefined
    assert (found.counted, found.severe, found.split) == (4, 1, 1)
    assert (found.stability, found.sentence) == (None, "")


def test_a_layer_whose_cosines_are_all_undefined_has_a_share_of_zero(make_profile: Make) -> None:
    found = report_on(make_profile([[math.nan] * 2, [-0.5, 0.5]], numbered(2)), -0.1)
    assert [(row.layer.name, row.share, row.undefined) for row in found.layers] == [
        ("l1", 0.5, 0),
        ("l0", 0.0, 2),
    ]


@pytest.mark.parametrize(
    ("scores", "K", "severe", "split"),
    [
        ((8, 5, 4, 0), None, 2, 2),  # 4 is half of the worst, not more
        ((8, 8, 8), None, 3, 2),  # one layer stays shared
        ((0, 0, 0), None, 0, 0),
        ((0, 0, 0), 2, 0, 0),
        ((8,), None, 1, 0),
        ((8, 1, 1, 1), 3, 1, 3),
        ((8, 1, 1, 1), range(2, 4), 1, 2),
        ((8, 7, 6, 5), range(1, 4), 4, 3),
        ((8, 7, 1, 1), range(1, 4), 2, 2),
    ],
)
def test_how_many_layers_to_begin_with(
    make_profile: Make, scores: tuple[int, ...], K: int | range | None, severe: int, split: int
) -> None:
    found = report_on(with_scores(make_profile, *scores), -0.1, K)
    assert (found.severe, found.split) == (severe, split)


def test_the_stability_is_that_of_the_choice_asked_about(make_profile: Make) -> None:
    profile = with_scores(make_profile, 8, 5, 4, 0)
    blocks = ConflictProfile(
        profile.architecture,
        profile.tasks,
        np.repeat(profile.counts, 8, axis=0),
        np.repeat(profile.undefined, 8, axis=0),
        np.repeat(profile.block_steps, 8),
    )
    found = report_on(blocks, -0.1, asked=UntilStable.usual(-0.1, 2))
    assert found.stability == stability(blocks, -0.1, 2)
    assert found.confidence == 0.97
    assert found.sentence.startswith("The 2 worst layers agree to 100.0% with what")
    assert report_on(blocks, -0.1, asked=UntilStable.usual(-0.1, None)).confidence == 0.9


def test_a_severity_off_the_grid_is_refused(profile: ConflictProfile) -> None:
    with pytest.raises(UsageError, match=r"S must be a multiple of 0\.005"):
        report_on(profile, -0.1234)


def test_two_profiles_beside_each_other_and_beside_chance(make_profile: Make) -> None:
    one = with_scores(make_profile, 8, 7, 6, 5, 4, 3)
    other = with_scores(make_profile, 3, 4, 5, 6, 7, 8)
    found = compare_profiles(one, other, -0.1)
    assert (found.layers, found.tops) == (6, (5,))
    # Reversed: ranks differ by 5, 3, 1, 1, 3, 5; without the last of each, four are in both.
    assert found.together.distance == pytest.approx(18 / 6)
    assert found.together.overlaps == (4 / 5,)
    # No norms, so that the ranking that measures nothing is the network's order.
    assert [likeness.distance for likeness in found.trivial] == [0.0, pytest.approx(3.0)]
    assert found.chance.distance == pytest.approx(35 / 18)
    assert found.chance.overlaps == (5 / 6,)
    assert found.agreements == (0.0, 0.0)  # one block of steps tells nothing


def test_only_profiles_of_the_same_layers_are_compared(make_profile: Make) -> None:
    one, other = with_scores(make_profile, 1, 2), with_scores(make_profile, 1, 2, 3)
    with pytest.raises(ReconError, match="2 and 3 layers, and differ in l2"):
        compare_profiles(one, other, -0.1)
