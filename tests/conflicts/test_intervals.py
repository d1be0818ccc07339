"""Tables 6 and 8 to 10: shares in intervals, and their reduction."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from example_profiles import of_whole

from libmtl_recon import ConflictProfile, ReconError, UsageError
from libmtl_recon.conflicts.intervals import common_layers, intervals
from libmtl_recon.conflicts.layers import Layer

Make = Callable[..., ConflictProfile]
# Joint training, and joint training with Recon, of the paper's Table 6.
JOINT = {0.5: 5656, -0.005: 3125, -0.015: 926, -0.025: 205, -0.5: 125}
RECON = {0.5: 5853, -0.005: 3767, -0.015: 304, -0.025: 50, -0.5: 25}


def test_table_6_of_the_paper() -> None:
    found = intervals([of_whole(JOINT), of_whole(RECON)])
    assert found.titles == (
        "[1, 0]",
        "(0, -0.01]",
        "(-0.01, -0.02]",
        "(-0.02, -0.03]",
        "(-0.03, -1]",
    )
    scale = 100 / sum(JOINT.values())
    assert found.shares[:, 0] == pytest.approx([scale * count for count in JOINT.values()])
    assert found.shares.sum(axis=0) == pytest.approx([100, 100])
    # The paper's columns add up to 100 only nearly.
    assert found.reduction == pytest.approx([0, 69.82], abs=0.2)


def test_the_reduction_can_be_below_a_later_edge_as_in_table_9() -> None:
    joint = {0.5: 6196, -0.01: 385, -0.03: 363, -0.05: 339, -0.07: 311, -0.5: 2405}
    recon = {0.5: 7399, -0.01: 1417, -0.03: 707, -0.05: 289, -0.07: 113, -0.5: 76}
    edges = [0.0, -0.02, -0.04, -0.06, -0.08]
    profiles = [of_whole(joint), of_whole(recon)]
    assert intervals(profiles, edges, severe=-0.04).reduction == pytest.approx([0, 84.35], abs=0.02)
    assert intervals(profiles, edges).reduction[1] == pytest.approx(65.33, abs=0.02)
    with pytest.raises(UsageError, match=r"severe must be one of the edges \(got -0.05\)"):
        intervals(profiles, edges, severe=-0.05)


def test_a_reduction_of_nothing_is_shown_as_a_dash() -> None:
    found = intervals([of_whole({0.5: 1}), of_whole({-0.5: 1}, undefined=1)])
    assert found.rows[-2:] == (
        ("reduction (%)", "-", "-"),
        ("undefined (% of all)", "0.00", "50.00"),
    )


def test_an_edge_belongs_to_the_interval_above_it() -> None:
    found = intervals([of_whole({-0.01: 1, -0.02: 1})])
    assert found.shares[:, 0].tolist() == [0, 50, 50, 0, 0]


def test_undefined_ones_are_told_apart() -> None:
    found = intervals([of_whole({0.5: 3}, undefined=1)])
    assert (found.shares[0, 0], found.undefined[0]) == (100, 25)


def test_layers_are_counted_each_for_itself(make_profile: Make) -> None:
    profile = make_profile([[-0.5, 0.5], [-0.5, -0.5], [0.5, float("nan")]])
    found = intervals([profile], layers=["conv1", "bn1"])
    assert found.shares[:, 0].tolist() == [25, 0, 0, 0, 75]


def test_what_cannot_be_counted_is_refused(make_profile: Make) -> None:
    profile = make_profile([[0.1], [0.1], [0.1]])
    with pytest.raises(ReconError, match="no counts for the whole"):
        intervals([profile])
    with pytest.raises(UsageError, match="layers must be layers of every profile"):
        intervals([profile], layers=["conv9"])


@pytest.mark.parametrize("edges", [[0.0], [-0.02, -0.01], [0.1, 0.0], [0.0, -0.0123]])
def test_edges_are_checked(edges: list[float]) -> None:
    with pytest.raises(UsageError, match="edges must be"):
        intervals([of_whole(JOINT)], edges)


def test_layers_in_common_stand_in_the_first_profiles_order(make_profile: Make) -> None:
    def of(names: str) -> ConflictProfile:
        return make_profile([[0.5]] * len(names), [Layer(n, "Linear", ((1,),)) for n in names])

    assert common_layers([of("abcd"), of("dxb"), of("bcd")]) == ["b", "d"]
    assert common_layers([of("ba")]) == ["b", "a"]
    with pytest.raises(ReconError, match="have no layer in common"):
        common_layers([of("ab"), of("cd")])
