"""The stages of a training, from the blocks of one profile."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from example_profiles import LAYERS
from hypothesis import given
from hypothesis import strategies as st

from libmtl_recon import ConflictProfile, ReconError, UsageError
from libmtl_recon.conflicts.grid import BINS
from libmtl_recon.conflicts.merge import add_profiles
from libmtl_recon.conflicts.stages import ranking_distances, stages_of


def profile_in_blocks(lengths: list[int], run: str = "a") -> ConflictProfile:
    """All cosines of block b lie in bin b."""
    blocks = len(lengths)
    counts = np.zeros((blocks, len(LAYERS), BINS), np.int64)
    whole = np.zeros((blocks, BINS + 1), np.int64)
    for block, steps in enumerate(lengths):
        counts[block, :, block] = whole[block, block] = steps
    undefined = np.zeros((blocks, len(LAYERS)), np.int64)
    steps = np.array(lengths)
    return ConflictProfile(LAYERS, ("a", "b"), counts, undefined, steps, {"run": run}, whole)


def test_each_stage_ends_with_the_block_that_ends_nearest_to_its_share() -> None:
    # 400 steps as a run counts them: 100, 200 and 300 lie inside of blocks.
    stages = stages_of(profile_in_blocks([32] * 12 + [16]), 4)
    assert [part.steps for part in stages] == [96, 96, 96, 112]
    assert [len(part.block_steps) for part in stages] == [3, 3, 3, 4]
    assert stages[1].whole is not None
    assert np.flatnonzero(stages[1].whole.sum(axis=0)).tolist() == [3, 4, 5]


@given(st.lists(st.integers(1, 50), min_size=2, max_size=20), st.data())
def test_stages_are_a_partition_of_the_steps_in_order(lengths: list[int], data: st.DataObject):
    count = data.draw(st.integers(2, len(lengths)))
    profile = profile_in_blocks(lengths)
    stages = stages_of(profile, count)
    assert len(stages) == count
    assert all(part.steps > 0 for part in stages)
    blocks = list(itertools.chain.from_iterable(part.block_steps.tolist() for part in stages))
    assert blocks == lengths
    assert (sum(part.histogram for part in stages) == profile.histogram).all()


def test_more_stages_than_blocks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"stages must be a whole number from 2 to 3, .*got 4"):
        stages_of(profile_in_blocks([5, 5, 5]), 4)


def test_a_single_block_has_no_stages() -> None:
    with pytest.raises(ReconError, match="has 1 scored step in a single block"):
        stages_of(profile_in_blocks([1]), 2)


def test_a_sum_of_runs_has_no_stages() -> None:
    total = add_profiles([profile_in_blocks([4] * 8), profile_in_blocks([5] * 8, "b")])
    with pytest.raises(ReconError, match="sum of several runs has no stages"):
        stages_of(total, 4)


def test_distances_are_the_mean_difference_in_rank() -> None:
    found = ranking_distances([["a", "b", "c"], ["b", "a", "c"], ["c", "a", "b"]])
    expected = np.array([[0, 2, 4], [2, 0, 4], [4, 4, 0]]) / 3
    assert found == pytest.approx(expected)
