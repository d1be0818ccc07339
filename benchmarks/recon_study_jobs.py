"""The trainings of the Recon study."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass

from recon_study_results import SHOWN, K, S

from libmtl_recon.problems import multi_fashion_mnist as problem

WEIGHTINGS = ("EW", "CAGrad", "PCGrad", "GradDrop", "MGDA", "GradOPS")
LONGER = 8  # times as many steps for the run whose halves are compared


@dataclass(frozen=True)
class Job:
    """A training of the study.

    Attributes:
        select: How layers are chosen, or `none` for hard parameter sharing.
        task: The only task that is trained; None for both.
        steps: The number of scored steps; None trains all epochs.
    """

    weighting: str = "EW"
    select: str = "none"
    k: int = K
    s: float = S
    seed: int = 0
    pair: str = "digit+article"
    task: str | None = None
    steps: int | None = None

    @property
    def name(self) -> str:
        """The name of its file."""
        what = f"{self.select}-k{self.k}-s{self.s:g}" if self.select != "none" else "none"
        more = [self.task or "", "" if self.steps is None else f"{self.steps}steps"]
        return "_".join(filter(None, [self.pair, self.weighting, what, *more, f"seed{self.seed}"]))


def scoring_jobs(options: argparse.Namespace) -> list[Job]:
    """Return the runs that rank the layers.

    The trainings choose their layers by the first; the second is longer, to compare its halves.
    """
    jobs = [Job(steps=options.steps), Job(steps=LONGER * options.steps)]
    jobs += [Job(weighting, steps=options.steps) for weighting in WEIGHTINGS[1:]]
    jobs += [Job(seed=seed, steps=options.steps) for seed in (1, 2)]
    pairs = [pair for pair in problem.PAIRS if pair != Job.pair]
    return jobs + [Job(pair=pair, steps=options.steps) for pair in pairs]


def training_jobs(part: str, seeds: int) -> list[Job]:
    """Return the trainings of a part, seed by seed."""
    jobs: list[Job] = []
    for seed in range(seeds):
        jobs += [Job(seed=seed, task=task) for task in problem.PAIRS[Job.pair]]
        if part == "methods":
            every = itertools.product(SHOWN, WEIGHTINGS)
            jobs += [Job(weighting, select, seed=seed) for select, weighting in every]
        else:
            jobs += [Job("EW", "none", seed=seed)]
            jobs += [Job("EW", "conflict", k, seed=seed) for k in (2, 10, 25, 35)]
            jobs += [Job("EW", "conflict", 10, s, seed) for s in (0.0, -0.2)]
    return jobs
