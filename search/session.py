"""The runs of a search: baselines, scoring, plans, and further seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from libmtl_recon_search.check import check_space, require_measurements
from libmtl_recon_search.child import Job
from libmtl_recon_search.config import Config
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.objective import Metrics, relative_improvement
from libmtl_recon_search.plots import Dot
from libmtl_recon_search.process import Follow, RunError, Runner
from libmtl_recon_search.progress import Display, Phase
from libmtl_recon_search.record import read_part
from libmtl_recon_search.result import Result
from libmtl_recon_search.space import REFERENCE, Plan
from libmtl_recon_search.starts import check_starts
from libmtl_recon_search.study import Pruned
from libmtl_recon_search.trouble import MachineError, set_aside

from libmtl_recon import ConflictProfile, ReconError


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
        epoch: The best epoch, counted from 0.
    """

    val: float
    test: float
    metrics: Metrics
    parameters: int
    epoch: int


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
        self.epochs = 0
        self._on = config.objective.on
        self._baselines: dict[int, Baseline] = {}
        self._waits = ""

    def prepare(self) -> ConflictProfile:
        """Score the network, and train EW and each task alone with the search's seed.

        Returns:
            The network's conflict profile.

        Raises:
            UsageError: The space has a weighting that LibMTL lacks, or a K that leaves no layer
                shared.
            ReconError: The script measures nothing by which configurations could be compared.
        """
        check_starts(self.config, self._start_job, self.runner.run)
        jobs = [self._plan_job(REFERENCE, self.config.seed), self._scoring_job()]
        with self.display.phase("EW and the conflict scores", len(jobs)) as phase:
            reference, scored = self._together(jobs, phase, self._look)
        for result in (reference, scored):
            check_space(self.config, result)
        require_measurements(self.config, reference)
        self.tasks, self.epochs = reference.tasks, len(reference.epochs[self._on])
        if "reused" in scored.notes:
            self.display.line(
                f"The cache has a conflict profile of this very architecture, "
                f"{scored.notes['reused']['profile']} over {scored.notes['reused']['steps']} "
                "steps, so it was not scored again."
            )
        if "another model" in reference.notes:
            self.display.line(
                f"Warning: {self.config.script} trains several models; the first that it builds is "
                "scored, and its measurements are those that are compared."
            )
        if "not cached" in scored.notes:
            self.display.line(f"Warning: {scored.notes['not cached']['reason']}")
        self.train_baselines([self.config.seed])
        return self._read_profile()

    def train_baselines(self, seeds: Sequence[int]) -> None:
        """Train each task alone, with each of these seeds."""
        wanted = [(seed, task) for seed in seeds for task in self.tasks]
        jobs = [self._single_job(task, seed) for seed, task in wanted]
        with self.display.phase("each task alone", len(jobs)) as phase:
            results = dict(zip(wanted, self._together(jobs, phase), strict=True))
        for seed in seeds:
            val: dict[str, dict[str, float]] = {}
            test: dict[str, dict[str, float]] = {}
            for task in self.tasks:
                result = results[seed, task]
                require_measurements(self.config, result)
                epoch = result.best_epoch(None, self._on)
                val[task] = dict(result.epochs[self._on][epoch][task])
                test[task] = dict(result.test_after(epoch, self._on)[task])
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
            # A run that is made once more, since it was killed, begins at its first epoch again.
            if len(result.epochs[self._on]) <= reported:
                return True
            gains = result.improvements(base, self._on)
            reported = len(gains)
            # Ended in its last epoch, a run would save nothing and lose its result.
            return report(reported - 1, max(gains)) or reported >= self.epochs

        job = self._plan_job(plan, self.config.seed)
        try:
            result = self.runner.run(job, follow)
            if "ended early" in result.notes:
                raise Pruned
            require_measurements(self.config, result)
            gains = result.improvements(base, self._on)
            for epoch in range(reported, len(gains)):
                # Of a run that is there from an earlier session nothing was reported in this one.
                report(epoch, max(gains[: epoch + 1]))
            return max(gains)
        except ReconError as error:
            if isinstance(error, (RunError, MachineError)):
                raise
            raise RunError(f"{error} The run's log is {job.log}.", str(error)) from error

    def outcomes(
        self, plans: Sequence[Plan], seeds: Sequence[int], title: str
    ) -> list[list[Outcome]]:
        """Train plans, and each task alone, with several seeds.

        Args:
            plans: What to train.
            seeds: With which seeds.
            title: What this is for, to be shown.

        Returns:
            For each plan its outcomes, one for each seed.
        """
        self.train_baselines(seeds)
        wanted = [(plan, seed) for plan in plans for seed in seeds]
        jobs = [self._plan_job(plan, seed) for plan, seed in wanted]
        with self.display.phase(title, len(jobs)) as phase:
            results = dict(zip(wanted, self._together(jobs, phase), strict=True))
        return [[self._outcome(results[plan, seed], seed) for seed in seeds] for plan in plans]

    def searched(self, plan: Plan) -> Outcome:
        """The outcome of a plan that was trained with the search's seed."""
        seed = self.config.seed
        return self._outcome(self.runner.run(self._plan_job(plan, seed)), seed)

    def dot(self, plan: Plan, whole: bool) -> Dot:
        """A trained plan in the picture.

        Args:
            plan: What was trained.
            whole: Whether to its end; if not, the dot is at the best it reached.
        """
        job = self._plan_job(plan, self.config.seed)
        result = self.runner.run(job) if whole else read_part(job.events)
        gains = result.improvements(self.baseline(self.config.seed).val, self._on)
        return Dot(plan.weighting, result.parameters, max(gains, default=math.nan), whole)

    def arguments(self, plan: Plan, seed: int) -> tuple[str, ...]:
        """The script's command line for a plan."""
        own = self.config.space.flags.get(plan.weighting, {})
        chosen = plan.arguments(str(self.folder.profile))
        return (*self.config.spelled(own), *chosen, "--seed", str(seed))

    def _plan_job(self, plan: Plan, seed: int) -> Job:
        # Known by its layers, not by S and K: others may name the same ones.
        weighting, alpha, layers = plan.key
        own = self.config.space.flags.get(weighting, {})
        identity = (weighting, own, alpha, sorted(layers), seed)
        return self.folder.job(self.config, "plan", identity, self.arguments(plan, seed))

    def _start_job(self, arguments: tuple[str, ...], scored: bool) -> Job:
        steps = self.config.score.steps if scored else None
        identity = (arguments, scored)
        return self.folder.job(self.config, "start", identity, arguments, start=True, steps=steps)

    def _single_job(self, task: str, seed: int) -> Job:
        # Alone a task needs no weighting, so EW's own flags stay out.
        arguments = (*self.config.spelled(), *REFERENCE.arguments(""), "--seed", str(seed))
        return self.folder.job(self.config, "single", (task, seed), arguments, task=task)

    def _scoring_job(self) -> Job:
        score, seed = self.config.score, self.config.seed
        own = self.config.space.flags.get(score.weighting, {})
        arguments = self.config.spelled(own, score.flags)
        arguments += (*Plan(score.weighting).arguments(""), "--seed", str(seed))
        identity = (score.model_dump(), own, seed)
        job = self.folder.job(
            self.config,
            "score",
            identity,
            arguments,
            profile=self.folder.profile,
            steps=score.steps,
        )
        if not self._has_profile():
            job.events.unlink(missing_ok=True)
        return job

    def _has_profile(self) -> bool:
        """Whether the network was scored; what cannot be read as a profile is set aside."""
        file = self.folder.profile
        try:
            ConflictProfile.from_json(file.read_text(encoding="utf-8"), str(file))
        except FileNotFoundError:
            return False
        except (ReconError, UnicodeDecodeError) as error:
            reason = error if isinstance(error, ReconError) else f"{file} is no text."
            aside = set_aside(file)
            self.display.line(
                f"{reason} It was set aside as {aside.name}; the scores are taken from the cache, "
                "or counted again."
            )
            return False
        return True

    def _together(
        self, jobs: Sequence[Job], phase: Phase, follow: Follow = lambda _: True
    ) -> list[Result]:
        """Run jobs, as many at a time as there are workers; the results in the jobs' order."""

        def run(job: Job) -> Result:
            result = self.runner.run(job, follow)
            phase.done()
            return result

        with ThreadPoolExecutor(self.config.workers) as pool:
            futures = [pool.submit(run, job) for job in jobs]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                return [future.result() for future in futures]
            except BaseException:
                self.runner.stop()
                pool.shutdown(cancel_futures=True)
                raise

    def _look(self, result: Result) -> bool:
        # What can be wrong is seen when the first network is built, not when it is trained.
        check_space(self.config, result)
        waits = result.notes.get("waiting")
        if waits and waits["text"] != self._waits:
            self._waits = waits["text"]
            self.display.line(self._waits)
        return True

    def _outcome(self, result: Result, seed: int) -> Outcome:
        """What a finished run comes to, at its best epoch."""
        require_measurements(self.config, result)
        base = self.baseline(seed)
        epoch = result.best_epoch(base.val, self._on)
        metrics = result.test_after(epoch, self._on)
        return Outcome(
            result.improvements(base.val, self._on)[epoch],
            relative_improvement(metrics, base.test, result.higher_is_better),
            metrics,
            result.parameters,
            epoch,
        )

    def _read_profile(self) -> ConflictProfile:
        file = self.folder.profile
        if not file.exists():
            raise ReconError(
                f"{self.config.script} trained no step while it was scored, so there is no "
                "conflict profile. Have it train for at least one epoch."
            )
        return ConflictProfile.from_json(file.read_text(encoding="utf-8"), str(file))
