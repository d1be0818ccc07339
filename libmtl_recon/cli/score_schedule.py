"""The flags of ``libmtl-recon score`` that select which steps are scored, and how many."""

from __future__ import annotations

import argparse
import dataclasses

from libmtl_recon.conflicts.schedule import (
    DEFAULT_CONFIDENCE,
    DEFAULT_RANKING_CONFIDENCE,
    Schedule,
    UntilStable,
)
from libmtl_recon.errors import naming

# The number of scored steps if the choice of layers never becomes stable.
MOST_STEPS = 3000
_OFF = -1.0  # the parsed value of `--score-until-stable off`


def add_schedule(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="end the run after N scored steps; with --score-until-stable, at the latest (default: "
        f"when the choice is stable, {MOST_STEPS} at the latest)",
    )
    parser.add_argument(
        "--score-until-stable",
        type=_confidence,
        metavar="C",
        help="end the run when a bootstrap over blocks of steps says that the share C of the "
        f"chosen layers would be chosen again (default: {DEFAULT_CONFIDENCE:g} with --k, else "
        f"{DEFAULT_RANKING_CONFIDENCE:g} of the way from a random ranking to the same one, by Eq. "
        "22), twice in a row and without a trend; on unless --steps is given; off scores the whole "
        "training",
    )
    parser.add_argument(
        "--k",
        type=_numbers,
        metavar="K",
        help="how many layers will be split, a number or a range such as 5-20: what must be stable",
    )
    parser.add_argument(
        "--score-every", type=int, default=1, metavar="N", help="score each N-th training step"
    )
    parser.add_argument(
        "--score-from",
        type=int,
        default=0,
        metavar="N",
        help="score from the N-th training step on, counted from 0",
    )
    parser.add_argument(
        "--score-to", type=int, metavar="N", help="end the run before the N-th training step"
    )


def make_schedule(options: argparse.Namespace) -> Schedule:
    """Return the schedule that the flags describe.

    Raises:
        UsageError: A flag has an invalid value.
    """
    wanted = options.score_until_stable
    fixed = wanted == _OFF or (wanted is None and options.steps is not None)
    steps = MOST_STEPS if options.steps is None and not fixed else options.steps
    with naming(
        S="--s",
        confidence="--score-until-stable",
        steps="--steps",
        every="--score-every",
        start="--score-from",
        stop="--score-to",
    ):
        asked = UntilStable.usual(options.s, options.k)
        if wanted is not None and wanted != _OFF:
            asked = dataclasses.replace(asked, confidence=wanted)
        until = None if fixed else asked
        return Schedule(
            steps, options.score_every, options.score_from, options.score_to, until, asked
        )


def _confidence(text: str) -> float:
    try:
        return _OFF if text == "off" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be off or a number between 0 and 1 (got {text!r})"
        ) from None


def _numbers(text: str) -> int | range:
    low, dash, high = text.partition("-")
    try:
        if not dash:
            return int(low)
        found = range(int(low), int(high) + 1)
    except ValueError:
        found = range(0)
    if not found:
        raise argparse.ArgumentTypeError(
            f"must be a number of layers or a range such as 5-20 (got {text!r})"
        )
    return found
