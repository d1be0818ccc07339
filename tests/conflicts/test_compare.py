"""Eq. 22, its value at chance, and overlaps."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libmtl_recon.conflicts.compare import chance_distance, overlap, ranking_distance

NAMES = [f"l{i}" for i in range(6)]


def test_distance_is_the_mean_difference_in_rank() -> None:
    assert ranking_distance(["a", "b", "c"], ["a", "b", "c"]) == 0
    assert ranking_distance(["a", "b", "c"], ["c", "b", "a"]) == pytest.approx(4 / 3)


def test_chance_is_the_mean_over_all_rankings() -> None:
    every = [ranking_distance(NAMES, order) for order in itertools.permutations(NAMES)]
    assert sum(every) / len(every) == pytest.approx(chance_distance(6))


@given(st.permutations(NAMES), st.permutations(NAMES), st.permutations(NAMES))
def test_distance_is_a_metric(a: list[str], b: list[str], c: list[str]) -> None:
    assert ranking_distance(a, b) == ranking_distance(b, a)
    assert (ranking_distance(a, b) == 0) == (a == b)
    assert ranking_distance(a, c) <= ranking_distance(a, b) + ranking_distance(b, c) + 1e-12


def test_other_layers_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same layers"):
        ranking_distance(["a", "b"], ["a", "c"])


def test_overlap_is_of_the_worst() -> None:
    other = [*reversed(NAMES)]
    assert overlap(NAMES, other, 6) == 1
    assert overlap(NAMES, other, 3) == 0
    assert overlap(NAMES, random.Random(0).sample(NAMES[:3], 3) + NAMES[3:], 3) == 1
