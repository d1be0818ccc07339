"""Profiles to test with, from cosines that the tests choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from libmtl_recon.conflicts.grid import BINS, EDGES
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.profile import ConflictProfile

LAYERS = (
    Layer("conv1", "Conv2d", ((4, 1, 3, 3),)),
    Layer("bn1", "BatchNorm2d", ((4,), (4,))),
    Layer("block.0.fc", "Linear", ((2, 4), (2,))),
)


def profile_of(
    cosines: Sequence[Sequence[float]],
    layers: Sequence[Layer] = LAYERS,
    dataset: str = "digits",
) -> ConflictProfile:
    """The profile of a run with two tasks: ``cosines[layer][step]``."""
    steps = len(cosines[0])
    counts = np.zeros((1, len(layers), BINS), np.int64)
    undefined = np.zeros((1, len(layers)), np.int64)
    for layer, row in enumerate(cosines):
        for cosine in row:
            if np.isnan(cosine):
                undefined[0, layer] += 1
            else:
                counts[0, layer, min(int(np.searchsorted(EDGES, cosine, "right")) - 1, 399)] += 1
    where = {"dataset": dataset, "weighting": "EW", "date": "2026-01-02T03:04:05+00:00"}
    return ConflictProfile(
        tuple(layers), ("left", "right"), counts, undefined, np.array([steps]), where
    )


def of_whole(cosines: dict[float, int], undefined: int = 0) -> ConflictProfile:
    """The profile of a run whose whole shared gradient has these cosines, with their counts."""
    row = np.zeros(BINS + 1, np.int64)
    for cosine, count in cosines.items():
        row[int(np.searchsorted(EDGES, cosine, "right")) - 1] += count
    row[BINS] = undefined
    steps = int(row.sum())
    return ConflictProfile(
        (Layer("l", "Linear", ((1,),)),),
        ("a", "b"),
        row[None, None, :BINS],
        row[None, BINS:],
        np.array([steps]),
        {},
        row[None],
    )


@pytest.fixture(scope="session")
def make_profile() -> Callable[..., ConflictProfile]:
    return profile_of


@pytest.fixture
def profile() -> ConflictProfile:
    """Three layers, four steps; worst at S = -0.1: bn1 (3), then conv1 and block.0.fc (1 each)."""
    return profile_of(
        [[-0.5, 0.1, 0.2, -0.1], [-0.2, -0.3, -0.11, 0.0], [-0.15, float("nan"), 0.9, 1.0]]
    )
