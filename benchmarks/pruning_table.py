"""The table of the pruning study: real learning curves of a grid of plans for several seeds."""

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
    """A plan: a weighting, with ``k`` layers split.

    Attributes:
        alpha: The exponent of GradOPS; None for EW.
    """

    weighting: str
    alpha: float | None
    k: int

    @property
    def name(self) -> str:
        """The name in files and tables."""
        return f"{self.weighting}{'' if self.alpha is None else f'{self.alpha:+g}'}-k{self.k}"

    def arguments(self, profile: Path) -> tuple[str, ...]:
        """Return its flags."""
        found = ["--weighting", self.weighting]
        if self.alpha is not None:
            found.append(f"--gradops_alpha={self.alpha:g}")
        if self.k == 0:
            return (*found, "--arch", "HPS")
        found += ["--arch", "Recon", "--recon_k", str(self.k), f"--recon_s={S}"]
        return (*found, "--recon_layers", str(profile))


@dataclass(frozen=True)
class Problem:
    """A built-in problem with the settings of the table.

    Attributes:
        name: The name of the problem.
        flags: Its flags, the same for each run.
        tasks: Its tasks.
        epochs: The number of epochs of a run, which is also among the flags.
        ks: The values of K of the grid, ascending.
        scored: The number of steps after which its scoring ends.
        seeds: The number of training seeds.
        trials: The number of trials of a search.
        alphas: The exponents of GradOPS, with a step of 1.
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
        """Return the plans of the grid."""
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
    """The learning curve of a training.

    Attributes:
        val: Δm on the validation data after each epoch, in percent.
        test: Δm on the test data at the epoch that is best on the validation data.
    """

    val: tuple[float, ...]
    test: float

    @property
    def best(self) -> float:
        """The Δm on the validation data at the best epoch, by which a search compares plans."""
        return max(self.val)


Table = dict[int, dict[Plan, Curve]]
"""``table[seed][plan]``; each seed has all plans."""


class Collection:
    """The runs of a problem, each of which is run once.

    Args:
        problem: The problem.
        out: The folder of all problems.
        seeds: The number of seeds; None: that of the problem.
    """

    def __init__(self, problem: Problem, out: Path, seeds: int | None = None) -> None:
        self.problem, self.seeds = problem, seeds or problem.seeds
        self.folder = out.absolute() / problem.name
        self.profile = self.folder / "profile.json"
        common = [problem.flags, version("LibMTL"), version("torch")]
        self._of = hashlib.sha256(json.dumps(common).encode()).hexdigest()

    def jobs(self, seed: int) -> Iterator[Job]:
        """Iterate over the jobs of a seed, in the order of their runs."""
        if seed == 0:
            yield self._job("score", seed, "--weighting", "EW", profile=self.profile)
        for task in self.problem.tasks:
            yield self._job(f"single-{task}", seed, "--weighting", "EW", task=task)
        for plan in self.problem.plans:
            yield self._job(plan.name, seed, *plan.arguments(self.profile))

    def read(self) -> Table:
        """Return the table of the complete seeds."""
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
        """Check that the grid's layers can be chosen from the profile."""
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
    """Run the missing trainings, one at a time, seed by seed, so that finished seeds can be used.

    Args:
        collections: The problems, which take turns.
        until: The time of :func:`time.monotonic` after which no further run is started.
        say: A function that is called with a message for each run.
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
    """Return a curve relative to the seed's single-task networks, each at its own best epoch."""
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
