"""The stability of a ranking of layers, estimated by a bootstrap over blocks of training steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.conflicts.compare import chance_distance
from libmtl_recon.conflicts.profile import ConflictProfile, check_count, check_severity
from libmtl_recon.errors import UsageError

RESAMPLES = 400
# Fewer blocks do not show how much blocks differ.
_FEWEST_BLOCKS = 8

Scores = NDArray[np.int64]


@dataclass(frozen=True)
class Stability:
    """The fraction of a choice of layers that would be chosen again.

    Agreement is a number from 0 (chance, or worse) to 1 (always the same). For the K worst layers
    it is the fraction of those with conflicts that are chosen again; for a whole ranking it is
    1 - d/d₀, with d the distance of Eq. 22 and d₀ the distance to a random ranking.

    Attributes:
        K: The requested numbers of layers, of which the least agreement is used; empty for the
            whole ranking.
        agreement: The agreement of the profile with that of other steps of the same kind: the mean
            over bootstrap resamples of its blocks.
        drift: The agreement of the profile with that of the later half of its steps: below
            ``agreement`` if the conflicts still change.
        steps: The number of steps of the profile.
        known: Whether there were enough steps for an estimate; if not, both numbers are 0.
    """

    K: tuple[int, ...]
    agreement: float
    drift: float
    steps: int
    known: bool = True

    def holds(self, confidence: float) -> bool:
        """Return whether the agreement is at least this, and the drift not larger than by chance.

        The later half has half of the steps, so its disagreement may be larger: four times as much.
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
    """Estimate the stability of a profile's choice of layers.

    Consecutive steps are similar, so whole blocks of steps are drawn, with replacement.

    Args:
        profile: A profile of at least 8 blocks of steps; with fewer, both numbers are 0.
        S: The severity.
        K: The number of layers, or the range of such numbers; None for the whole ranking.
        resamples: The number of bootstrap resamples.
        seed: The seed of the draws.

    Raises:
        UsageError: S or K is invalid.
    """
    below = check_severity("S", S)
    layers = len(profile.architecture)
    wanted = numbers_of_layers("K", K)
    for count in wanted:
        check_count("K", count, layers)
    blocks = profile.counts[:, :, :below].sum(axis=2)
    if len(blocks) < _FEWEST_BLOCKS:
        return Stability(wanted, 0.0, 0.0, profile.steps, known=False)
    draws = np.random.default_rng(seed).integers(len(blocks), size=(resamples, len(blocks)))
    # The number of times each block was drawn, times its scores: all resamples in one product.
    times = np.stack([np.bincount(draw, minlength=len(blocks)) for draw in draws])
    total = blocks.sum(axis=0)
    now = _places(total[None])[0]
    again = _places(times @ blocks)
    later = np.cumsum(profile.block_steps[::-1])[::-1] <= (profile.steps + 1) // 2
    late = _places(blocks[later].sum(axis=0, keepdims=True))
    agreement, drift = (_agreement(now, others, wanted, total > 0) for others in (again, late))
    return Stability(wanted, agreement, drift, profile.steps)


def numbers_of_layers(parameter: str, K: object) -> tuple[int, ...]:
    """Return the numbers of layers that are asked for; empty for the whole ranking.

    Args:
        parameter: The name of the caller's argument, for the message.
        K: A number, a range of numbers, or None.

    Raises:
        UsageError: It is something else, or an empty range.
    """
    if K is None:
        return ()
    if isinstance(K, range) and len(K):
        return tuple(K)
    if not isinstance(K, int) or isinstance(K, bool):
        raise UsageError(
            parameter,
            "must be a number of layers, a range with at least one number, or None",
            K,
            "Write K=12, or K=range(5, 21) for each number from 5 to 20.",
        )
    return (K,)


def in_words(found: Stability, confidence: float) -> str:
    """Return a sentence with the stability of a choice, and whether it is sufficient.

    Args:
        found: The stability of the choice.
        confidence: The agreement that is sufficient; see :meth:`Stability.holds`.
    """
    most = max(found.K, default=1)
    one = most == 1
    number = f"{most}" if len(found.K) < 2 else f"{min(found.K)} to {most}"
    what = "ranking" if not found.K else "worst layer" if one else f"{number} worst layers"
    if not found.known:
        verb = "is" if one else "are"
        return f"The certainty of the {what} cannot be estimated: {found.steps} steps are too few."
    verb = "agrees" if one else "agree"
    sure = f"The {what} {verb} to {found.agreement:.1%} with what other such steps would have given"
    if found.holds(confidence):
        return f"{sure}."
    return (
        f"{sure}, and to {found.drift:.1%} with the later half alone: {found.steps} steps are "
        f"too few for {100 * confidence:g}%. Score more steps, or add profiles of several seeds."
    )


def _places(scores: Scores) -> Scores:
    """Return each layer's rank, ``[N, L]``; for equal scores the earlier layer is first."""
    order = np.argsort(-scores, axis=1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(scores.shape[1])[None, :], axis=1)
    return places


def _agreement(
    now: Scores, others: Scores, wanted: tuple[int, ...], conflicting: NDArray[np.bool_]
) -> float:
    layers = len(now)
    if not wanted:
        if not conflicting.any():
            return 0.0
        if layers < 2:
            return 1.0
        distance = float(np.abs(others - now).mean())
        return max(0.0, 1.0 - distance / chance_distance(layers))
    # A layer without conflicts is among the worst only by its place in the network.
    chosen = [(now < count) & conflicting for count in wanted]
    return min(
        float((others[:, those] < count).sum(axis=1).mean()) / count
        for count, those in zip(wanted, chosen, strict=True)
    )
