"""How sure a ranking of layers is: a bootstrap over blocks of training steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.conflict.comparing import chance_distance
from libmtl_recon.conflict.profile import ConflictProfile, check_count, check_severity

RESAMPLES = 400
# Fewer blocks say nothing of how much blocks differ.
_FEWEST_BLOCKS = 8

Scores = NDArray[np.int64]


@dataclass(frozen=True)
class Stability:
    """How much of a choice of layers would be chosen again.

    Agreement is a number from 0 (as good as chance, or worse) to 1 (always the same). For the K
    worst layers it is the share of them that is chosen again; for a whole ranking it is 1 - d/d₀,
    with d the distance of Eq. 22 and d₀ that to a random ranking.

    Attributes:
        K: The numbers of layers that were asked about, whose least agreement counts; empty for
            the whole ranking.
        agreement: Of the profile with what other steps like its own would have given: the mean
            over bootstrap resamples of its blocks.
        drift: Of the profile with what the later half of its steps alone gives: below
            ``agreement`` where the conflicts are still moving.
        steps: On how many steps it rests.
    """

    K: tuple[int, ...]
    agreement: float
    drift: float
    steps: int

    def holds(self, confidence: float) -> bool:
        """Whether the agreement is at least this, and the trend explains no more than chance does.

        The later half rests on half of the steps, so it may disagree by more: four times as much.
        """
        return self.agreement >= confidence and 1.0 - self.drift <= 4.0 * (1.0 - confidence)


def stability(
    profile: ConflictProfile,
    S: float,
    K: int | range | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Stability:
    """How sure a profile's choice of layers is.

    Steps that follow one another are alike, so whole blocks of them are drawn, with replacement.

    Args:
        profile: With 8 blocks of steps or more; with fewer nothing is known and both numbers are 0.
        S: The severity.
        K: How many layers are chosen, or the range of such numbers; None for the whole ranking.
        resamples: How many to draw.
        seed: Of the draws.

    Raises:
        UsageError: S or K breaks its rule.
    """
    below = check_severity("S", S)
    layers = len(profile.architecture)
    wanted = () if K is None else (K,) if isinstance(K, int) else tuple(K)
    for count in wanted:
        check_count("K", count, layers)
    blocks = profile.counts[:, :, :below].sum(axis=2)
    if len(blocks) < _FEWEST_BLOCKS:
        return Stability(wanted, 0.0, 0.0, profile.steps)
    draws = np.random.default_rng(seed).integers(len(blocks), size=(resamples, len(blocks)))
    # How often each block was drawn, times its scores: all resamples in one product.
    times = np.stack([np.bincount(draw, minlength=len(blocks)) for draw in draws])
    now = _places(blocks.sum(axis=0, keepdims=True))[0]
    again = _places(times @ blocks)
    later = np.cumsum(profile.block_steps[::-1])[::-1] <= (profile.steps + 1) // 2
    late = _places(blocks[later].sum(axis=0, keepdims=True))
    return Stability(
        wanted, _agreement(now, again, wanted), _agreement(now, late, wanted), profile.steps
    )


def _places(scores: Scores) -> Scores:
    """``[N, L]``: each layer's place in the ranking; of equal scores the earlier layer is first."""
    order = np.argsort(-scores, axis=1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(scores.shape[1])[None, :], axis=1)
    return places


def _agreement(now: Scores, others: Scores, wanted: tuple[int, ...]) -> float:
    layers = len(now)
    if not wanted:
        if layers < 2:
            return 1.0
        distance = float(np.abs(others - now).mean())
        return max(0.0, 1.0 - distance / chance_distance(layers))
    shares = [float((others[:, now < count] < count).mean()) for count in wanted]
    return min(shares)
