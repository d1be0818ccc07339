"""The stages of a training, from one profile of all its steps (Table 12 of the Recon paper)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.conflicts.compare import ranking_distance
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.errors import ReconError, UsageError


def stages_of(profile: ConflictProfile, count: int = 4) -> tuple[ConflictProfile, ...]:
    """Divide the steps of one training into stages of nearly equal length, in their order.

    A profile counts in blocks of steps, and a stage consists of whole blocks: it ends with the
    block whose end is nearest to the stage's share of the steps.

    Args:
        profile: The profile of one run.
        count: The number of stages, at least 2.

    Returns:
        One profile per stage; their steps are those of the profile.

    Raises:
        UsageError: There are fewer than 2 stages, or more than blocks of steps.
        ReconError: The profile is a sum of several runs, which have no common order of steps, or
            has a single block.
    """
    if "added" in profile.provenance:
        raise ReconError(
            "A profile that is the sum of several runs has no stages: its steps are in no common "
            "order. Use the profile of one run."
        )
    blocks = len(profile.block_steps)
    if blocks < 2:
        raise ReconError(
            f"The profile has {profile.steps} scored {'step' if profile.steps == 1 else 'steps'} "
            "in a single block, which cannot be divided into stages. Score more steps."
        )
    if not 2 <= count <= blocks:
        raise UsageError(
            "stages",
            f"must be a whole number from 2 to {blocks}, the number of blocks of steps in the "
            "profile",
            count,
            "Lower it, or score more steps.",
        )
    ends = np.cumsum(profile.block_steps)
    marks = [0]
    for number in range(1, count):
        left = blocks - (count - number)  # each of the later stages needs a block
        among = ends[marks[-1] : left]
        nearest = int(np.abs(among - profile.steps * number / count).argmin())
        marks.append(marks[-1] + nearest + 1)
    marks.append(blocks)
    return tuple(_part(profile, slice(low, high)) for low, high in itertools.pairwise(marks))


def ranking_distances(rankings: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Return the distance of Eq. 22 between each two rankings, ``[N, N]``.

    Args:
        rankings: N rankings of the same layers, worst first.
    """
    return np.array([[ranking_distance(one, other) for other in rankings] for one in rankings])


def _part(profile: ConflictProfile, blocks: slice) -> ConflictProfile:
    return ConflictProfile(
        profile.architecture,
        profile.tasks,
        profile.counts[blocks],
        profile.undefined[blocks],
        profile.block_steps[blocks],
        profile.provenance,
        None if profile.whole is None else profile.whole[blocks],
    )
