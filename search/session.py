"""The runs of a search: baselines, scoring, plans, and the comparison on fresh seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from libmtl_recon import ConflictProfile, ReconError
from search.child import Job
from search.config import Config
from search.folder import SearchFolder
from search.objective import Metrics, relative_improvement
from search.plots import Dot
from search.process import Result, Runner, read_result
from search.progress import Display, Phase
from search.space import REFERENCE, Plan
from search.study import Pruned


@dataclass(frozen=True)
class Baseline:
    """The networks trained for one task each, with one seed.

    Attributes:
        val: ``val[task][metric]``, on the data on which configurations are compared.
        test: The same on the test data, at the same epochs.
        parameters: Of all these networks together.
    """

    val: Metrics
    test: Metrics
    parameters: int


@dataclass(frozen=True)
class Outcome:
    """A trained plan, against the baseline of the same seed.

    Attributes:
        val: Δm on the data on which configurations are compared, at its best epoch.
        test: Δm on the test data, at that epoch.
        metrics: On the test data, at that epoch.
        parameters: The network's.
    """

    val: float
    test: float
    metrics: Metrics
    parameters: int


class Session:
    """Runs what a search needs, each thing once.

    Args:
        config: The search.
        folder: Where results are kept, and found again.
        runner: Starts the runs.
        display: Shows progress.
    """

    def __init__(
        self, config: Config, folder: SearchFolder, runner: Runner, display: Display
    ) -> None:
        self.config, self.folder, self.runner, self.display = config, folder, runner, display
        self.tasks: tuple[str, ...] = ()
        self._baselines: dict[int, Baseline] = {}

    def prepare(self) -> ConflictProfile:
        """Score the network, and train EW and each task alone with the search's seed.

        Returns:
            The network's conflict profile.
        """
        seed = self.config.seed
        with self.display.phase("EW and the conflict scores", 2) as phase:
            reference, scored = self._together(
                [self._plan_job(REFERENCE, seed), self._scoring_job()], phase
            )
        self._require_measurements(reference)
        self.tasks = reference.tasks
        if "reused" in scored.notes:
            self.display.line(
                f"Conflict profile {scored.notes['reused']['profile']} of this very architecture "
                "was in the cache, so it was not scored again."
            )
        self.train_baselines([seed])
        return self._read_profile()

    def train_baselines(self, seeds: Sequence[int]) -> None:
        """Train each task alone, with each of these seeds."""
        wanted = [(seed, task) for seed in seeds for task in self.tasks]
        jobs = [self._single_job(task, seed) for seed, task in wanted]
        with self.display.phase("each task alone", len(jobs)) as phase:
            results = dict(zip(wanted, self._together(jobs, phase), strict=True))
        on = self.config.on
        for seed in seeds:
            val: dict[str, dict[str, float]] = {}
            test: dict[str, dict[str, float]] = {}
            for task in self.tasks:
                result = results[seed, task]
                self._require_measurements(result)
                epoch = result.best_epoch(None, on)
                val[task] = dict(result.epochs[on][epoch][task])
                test[task] = dict(result.epochs["test"][epoch][task])
            parameters = sum(results[seed, task].parameters for task in self.tasks)
            self._baselines[seed] = Baseline(val, test, parameters)

    def baseline(self, seed: int) -> Baseline:
        """The single-task networks of a seed, trained before."""
        return self._baselines[seed]

    def train(self, plan: Plan, report: Callable[[int, float], bool]) -> float:
        """Train a plan with the search's seed.

        Args:
            plan: What to train.
            report: Told (epoch, best Δm so far); false ends the training.

        Returns:
            The best epoch's Δm.

        Raises:
            Pruned: The training was ended early.
            ReconError: The run failed.
        """
        base = self.baseline(self.config.seed).val
        reported = 0

        def follow(result: Result) -> bool:
            nonlocal reported
            gains = result.improvements(base, self.config.on)
            if len(gains) == reported:
                return True
            reported = len(gains)
            return report(reported - 1, max(gains))

        result = self.runner.run(self._plan_job(plan, self.config.seed), follow)
        if "ended early" in result.notes:
            raise Pruned
        return max(result.improvements(base, self.config.on))

    def outcomes(self, plans: Sequence[Plan], seeds: Sequence[int]) -> list[list[Outcome]]:
        """Train plans with several seeds; returns a list of outcomes for each plan."""
        wanted = [(plan, seed) for plan in plans for seed in seeds]
        jobs = [self._plan_job(plan, seed) for plan, seed in wanted]
        with self.display.phase("comparison on fresh seeds", len(jobs)) as phase:
            results = dict(zip(wanted, self._together(jobs, phase), strict=True))
        return [[self.outcome(results[plan, seed], seed) for seed in seeds] for plan in plans]

    def outcome(self, result: Result, seed: int) -> Outcome:
        """What a finished run comes to, at its best epoch."""
        base = self.baseline(seed)
        epoch = result.best_epoch(base.val, self.config.on)
        metrics = result.epochs["test"][epoch]
        return Outcome(
            result.improvements(base.val, self.config.on)[epoch],
            relative_improvement(metrics, base.test, result.higher_is_better),
            metrics,
            result.parameters,
        )

    def finished(self, plan: Plan) -> Outcome:
        """The outcome of a plan that was trained with the search's seed."""
        return self.outcome(
            self.runner.run(self._plan_job(plan, self.config.seed)), self.config.seed
        )

    def dot(self, plan: Plan) -> Dot:
        """A trained plan in the picture; one that was ended early at the best it reached."""
        result = read_result(self._plan_job(plan, self.config.seed).events)
        gains = result.improvements(self.baseline(self.config.seed).val, self.config.on)
        return Dot(plan.weighting, result.parameters, max(gains), result.finished)

    def arguments(self, plan: Plan, seed: int) -> tuple[str, ...]:
        """The script's command line for a plan."""
        flags = plan.arguments(str(self.folder.profile))
        return (*self.config.arguments, *flags, "--seed", str(seed))

    def _plan_job(self, plan: Plan, seed: int) -> Job:
        return self.folder.job(self.config, "plan", self.arguments(plan, seed))

    def _single_job(self, task: str, seed: int) -> Job:
        return self.folder.job(self.config, "single", self.arguments(REFERENCE, seed), task=task)

    def _scoring_job(self) -> Job:
        score = self.config.score
        arguments = self.arguments(Plan(score.weighting), self.config.seed)
        job = self.folder.job(
            self.config, "score", arguments, profile=self.folder.profile, steps=score.steps
        )
        if not self.folder.profile.exists():
            job.events.unlink(missing_ok=True)
        return job

    def _together(self, jobs: Sequence[Job], phase: Phase) -> list[Result]:
        """Run jobs, as many at a time as there are workers; the results in the jobs' order."""

        def run(job: Job) -> Result:
            result = self.runner.run(job)
            phase.done()
            return result

        with ThreadPoolExecutor(self.config.workers) as pool:
            futures = [pool.submit(run, job) for job in jobs]
            try:
                return [future.result() for future in futures]
            except BaseException:
                self.runner.stop()
                pool.shutdown(cancel_futures=True)
                raise

    def _require_measurements(self, result: Result) -> None:
        if not result.epochs[self.config.on]:
            raise ReconError(
                f"{self.config.script} measured nothing on its {self.config.on} data, by which "
                "configurations are compared. Have it hand val_dataloaders to Trainer.train; or, "
                "if it has no validation data, write `on: test` into the configuration, knowing "
                "that the comparison is then not held out."
            )

    def _read_profile(self) -> ConflictProfile:
        file = self.folder.profile
        if not file.exists():
            raise ReconError(
                f"{self.config.script} trained no step while it was scored, so there is no "
                "conflict profile. Have it train for at least one epoch."
            )
        return ConflictProfile.from_json(file.read_text(encoding="utf-8"), str(file))
