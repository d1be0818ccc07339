"""What a scored run has to tell: what to do next, as data that the command puts into words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from example_profiles import profile_of

from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.schedule import Schedule, UntilStable
from libmtl_recon.integrations.libmtl.score_report import Next, ScoreReport, score_report
from libmtl_recon.integrations.libmtl.scoring import ScoringHook
from libmtl_recon.profiles.cache import Entry


def report(
    scores: Sequence[int], K: int | None = None, hook: ScoringHook | None = None, **origin: Any
) -> ScoreReport:
    """On 8 steps in which so many cosines of each layer are below -0.1."""
    layers = [Layer(f"l{n}", "Linear", ((1,),)) for n in range(len(scores))]
    profile = profile_of([[-0.5] * score + [0.5] * (8 - score) for score in scores], layers)
    profile = dataclasses.replace(profile, provenance={**profile.provenance, **origin})
    return score_report(Entry("0123", profile), -0.1, K, hook or ScoringHook())


@pytest.mark.parametrize(
    ("scores", "origin", "following", "split"),
    [
        ((8, 6, 1), {}, Next.SPLIT, 2),
        ((8, 6, 1), {"architecture": "Recon"}, Next.COMPARE, 2),
        ((0, 0, 0), {"architecture": "Recon"}, Next.COMPARE, 0),
        ((0, 0, 0), {}, Next.LOWER, 0),
        ((8,), {}, Next.NOTHING, 0),
    ],
)
def test_what_to_do_next(
    scores: tuple[int, ...], origin: dict[str, str], following: Next, split: int
) -> None:
    found = report(scores, **origin)
    assert (found.id, found.steps) == ("0123", 8)
    assert (found.next, found.on.split) == (following, split)


def test_the_base_of_recon_is_the_architecture_that_was_scored() -> None:
    assert report((8, 1)).base is None
    assert report((8, 1), architecture="HPS").base is None
    assert report((8, 1), architecture="MTAN").base == "MTAN"


def test_the_hook_tells_what_was_missed_and_what_was_asked() -> None:
    hook = ScoringHook(Schedule(judged=UntilStable(-0.1, 2, 0.97)))
    hook.missed = 3
    found = report((8, 6, 1), 2, hook)
    assert found.missed == 3
    assert (
        found.on.sentence == "The certainty of the 2 worst layers cannot be estimated: 8 steps "
        "are too few."
    )
    assert report((8, 6, 1)).on.sentence == ""
