"""The table of the pruning study: real learning curves of a grid of plans, over several seeds."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from libmtl_recon_search.child import Job
from libmtl_recon_search.config import Config
from libmtl_recon_search.config_space import Space
from libmtl_recon_search.judge import Baseline, Judge
from libmtl_recon_search.process import Runner
from libmtl_recon_search.record import read_record
from libmtl_recon_search.result import Result

from libmtl_recon import ConflictProfile

S = -0.1


@dataclass(frozen=True)
class Plan:
    """What is trained: a weighting, with ``k`` layers split.

    Attributes:
        alpha: GradOPS's exponent; None for EW.
    """

    weighting: str
    alpha: float | None
    k: int

    @property
    def name(self) -> str:
        """Of its files, and in tables."""
        return f"{self.weighting}{'' if self.alpha is None else f'{self.alpha:+g}'}-k{self.k}"

    def arguments(self, profile: Path) -> tuple[str, ...]:
        """Its flags."""
        found = ["--weighting", self.weighting]
        if self.alpha is not None:
            found.append(f"--gradops_alpha={self.alpha:g}")
        if self.k == 0:
            return (*found, "--arch", "HPS")
        found += ["--arch", "Recon", "--recon_k", str(self.k), f"--recon_s={S}"]
        return (*found, "--recon_layers", str(profile))


@dataclass(frozen=True)
class Problem:
    """A built-in problem, as it is trained for the table.

    Attributes:
        name: The problem's.
        flags: Its flags, the same for each run.
        tasks: Its tasks.
        epochs: How many a run has; among the flags, too.
        ks: The grid's K, ascending.
        scored: Steps after which its scoring ends.
        seeds: With how many it is trained.
        trials: Of a search.
        alphas: GradOPS's exponents, 1 apart.
    """

    name: str
    flags: str
    tasks: tuple[str, ...]
    epochs: int
    ks: tuple[int, ...]
    scored: int
    seeds: int
    trials: int
    alphas: tuple[float, ...]

    @property
    def plans(self) -> list[Plan]:
        """The grid."""
        methods = [("EW", None), *(("GradOPS", alpha) for alpha in self.alphas)]
        return [Plan(*method, k) for k, method in itertools.product(self.ks, methods)]


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem(
            "multidigits",
            "--epochs 10",  # as in the configuration that comes with the package
            ("first", "second"),
            epochs=10,
            ks=(0, 3, 6, 9, 12),
            scored=150,
            seeds=5,
            trials=10,
            alphas=(-1.0, 0.0),
        ),
        Problem(
            "multi_fashion_mnist",
            # As in recon_study.py: a run of the configuration that comes with the package (width
            # 16, 120,000 images) would take some ten minutes on a CPU core.
            "--epochs 8 --width 8 --bs 64 --optim sgd --lr 0.03 --momentum 0.9 --weight_decay 0 "
            "--train_size 3000 --val_size 1500 --test_size 1500",
            ("digit", "article"),
            epochs=8,
            ks=(0, 4, 8, 16, 24),
            scored=150,
            seeds=2,
            trials=7,
            alphas=(0.0,),
        ),
    )
}


@dataclass(frozen=True)
class Curve:
    """A training.

    Attributes:
        val: Δm on the validation data after each epoch, in percent.
        test: Δm on the test data at the epoch that is best on the validation data.
    """

    val: tuple[float, ...]
    test: float

    @property
    def best(self) -> float:
        """The best epoch's Δm on the validation data: what a search compares."""
        return max(self.val)


Table = dict[int, dict[Plan, Curve]]
"""``table[seed][plan]``; each seed has all plans."""


class Collection:
    """The runs of a problem, each made once.

    Args:
        problem: What is trained.
        out: The folder of all problems.
        seeds: With how many; None: the problem's own number.
    """

    def __init__(self, problem: Problem, out: Path, seeds: int | None = None) -> None:
        self.problem, self.seeds = problem, seeds or problem.seeds
        self.folder = out.absolute() / problem.name
        self.profile = self.folder / "profile.json"
        common = [problem.flags, version("LibMTL"), version("torch")]
        self._of = hashlib.sha256(json.dumps(common).encode()).hexdigest()

    def jobs(self, seed: int) -> Iterator[Job]:
        """What a seed takes, in the order in which it is to be run."""
        if seed == 0:
            yield self._job("score", seed, "--weighting", "EW", profile=self.profile)
        for task in self.problem.tasks:
            yield self._job(f"single-{task}", seed, "--weighting", "EW", task=task)
        for plan in self.problem.plans:
            yield self._job(plan.name, seed, *plan.arguments(self.profile))

    def read(self) -> Table:
        """The seeds of which everything is there."""
        table: Table = {}
        for seed in range(self.seeds):
            results = [read_record(job.events, job.search) for job in self.jobs(seed)]
            if all(result is not None for result in results):
                found = [result for result in results if result is not None][seed == 0 :]
                tasks = self.problem.tasks
                alone = dict(zip(tasks, found, strict=False))
                table[seed] = {
                    plan: _curve(result, alone)
                    for plan, result in zip(self.problem.plans, found[len(tasks) :], strict=True)
                }
        return table

    def check_profile(self) -> None:
        """See that the grid's layers can be taken from the profile."""
        text = self.profile.read_text(encoding="utf-8")
        ConflictProfile.from_json(text, str(self.profile)).layers(S, self.problem.ks[-1])

    def _job(
        self,
        name: str,
        seed: int,
        *arguments: str,
        task: str | None = None,
        profile: Path | None = None,
    ) -> Job:
        flags = (*self.problem.flags.split(), *arguments, "--seed", str(seed))
        events = self.folder / "runs" / f"{name}-seed{seed}.jsonl"
        steps = None if profile is None else self.problem.scored
        return Job(
            self.problem.name, flags, events, self._of, task=task, profile=profile, steps=steps
        )


def collect(
    collections: Sequence[Collection],
    until: float,
    say: Callable[[str], None],
) -> None:
    """Train what is missing, one run at a time, seed by seed: what is there can be used.

    Args:
        collections: The problems, which take turns.
        until: By :func:`time.monotonic`; after this no further run is begun.
        say: Told of each run.
    """
    runner = Runner(threads=1, say=say)
    turns = [(one, seed) for one in collections for seed in range(one.seeds)]
    for collection, seed in sorted(turns, key=lambda turn: (turn[1] + 1) / turn[0].seeds):
        jobs = list(collection.jobs(seed))
        for number, job in enumerate(jobs):
            if time.monotonic() > until:
                return
            begun = time.monotonic()
            runner.run(job)
            spent = time.monotonic() - begun
            where = f"{collection.problem.name} {number + 1}/{len(jobs)}"
            say(f"{where} {job.events.stem}: {spent:.1f} s")
        collection.check_profile()


def _curve(result: Result, alone: dict[str, Result]) -> Curve:
    """Against the single-task networks of the seed, each at its own best epoch."""
    config = Config(script="multidigits", space=Space())
    judge = Judge(config, result.higher_is_better)
    val, test = {}, {}
    for task, single in alone.items():
        epoch = judge.single(single)
        val[task] = single.epochs["val"][epoch][task]
        test[task] = single.test_after(epoch, "val")[task]
    gains = judge.curve(result, val)
    outcome = judge.outcome(result, Baseline(val, test, 0))
    return Curve(tuple(gains), outcome.test)
