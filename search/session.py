"""The runs of a search: baselines, scoring, plans, and further seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

from libmtl_recon_search.check import faults_of, require_measurements
from libmtl_recon_search.child import Job
from libmtl_recon_search.config import Config
from libmtl_recon_search.database.shared_runner import AnyRunner
from libmtl_recon_search.faults import raise_all
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.jobs import Jobs
from libmtl_recon_search.judge import Baseline, Judge, Outcome
from libmtl_recon_search.objective import Scale, UndefinedMetricError
from libmtl_recon_search.plan import Flags, Plan
from libmtl_recon_search.process import RunError
from libmtl_recon_search.progress import Display
from libmtl_recon_search.result import Result
from libmtl_recon_search.samplers import said_of_pruner
from libmtl_recon_search.space import Network, SearchSpace
from libmtl_recon_search.starts import check_starts
from libmtl_recon_search.together import run_together
from libmtl_recon_search.training import Pruned, Reached, Trained
from libmtl_recon_search.trouble import MachineError, set_aside
from libmtl_recon_search.tuning import best_flags

from libmtl_recon import ConflictProfile, ReconError


class Session:
    """The session of a search, which runs each of its jobs once.

    Args:
        config: The configuration.
        folder: The folder of the results.
        runner: The runner of the jobs.
        display: The display of the progress.

    Attributes:
        tasks: The script's tasks.
        epochs: The number of epochs of a training.
        space: The search space.
        judge: The evaluator of the runs.
        reference: EW with plain sharing, tuned if requested.
        notes: Notes on the measurements for readers of the report.
    """

    space: SearchSpace
    judge: Judge
    jobs: Jobs

    def __init__(
        self, config: Config, folder: SearchFolder, runner: AnyRunner, display: Display
    ) -> None:
        self.config, self.folder, self.runner, self.display = config, folder, runner, display
        self.tasks: tuple[str, ...] = ()
        self.epochs = 0
        self.reference = Plan("EW")
        self.notes: list[str] = []
        self._on = config.objective.on
        self._baselines: dict[int, Baseline] = {}
        self._scales: dict[int, Scale] = {}
        self._flags: dict[str, Flags] = {}  # of single-task networks
        self._waits = ""

    def look(self) -> None:
        """Start the script with the configuration's arguments, without training.

        Raises:
            UsageError: A name in the configuration does not exist; if there are several mistakes,
                all are named.
            ReconError: The script does not start.
        """
        self.space = SearchSpace(self.config, self._flags_of_several())
        self.jobs = Jobs(self.config, self.folder, self.space)
        started = check_starts(
            self.config,
            self.space,
            self.jobs.start,
            self.runner.run,
            lambda: self.runner.run(self.jobs.describe()),
        )
        self.judge = Judge(self.config, started.higher_is_better)
        self.tasks = started.tasks
        self._know_network(started)

    def prepare(self) -> ConflictProfile | None:
        """Score the network, and train EW and each task alone with the search's seed.

        Returns:
            The network's conflict profile; None if the search does not need one.

        Raises:
            UsageError: A name in the configuration does not exist.
            ReconError: The script has no measurements with which configurations can be compared.
        """
        self.look()
        seed = self.config.seed
        count = self.config.trials if self.config.tune_baselines else 1
        plans = [Plan("EW", flags=flags) for flags in self.space.settings("EW", count)]
        alone = [(task, f) for task in self.tasks for f in self.space.settings(None, count)]
        jobs = [self.jobs.plan(plan, seed) for plan in plans]
        if self.config.space.needs_scores:
            jobs.insert(1, self._scoring_job())
        jobs += [self.jobs.single(task, flags, seed) for task, flags in alone]
        with self.display.phase("baselines and conflict scores", len(jobs)) as phase:
            results = run_together(self.runner, jobs, self.config.workers, phase, self._look)
        scored = [r for job, r in zip(jobs, results, strict=True) if job.profile is not None]
        for job, result in zip(jobs, results, strict=True):
            if job.profile is None:
                require_measurements(self.config, result)
        profile = self._take_scores(scored[0]) if scored else None
        of_tasks = dict(zip(alone, results[-len(alone) :], strict=True))
        for task in self.tasks:
            self._tune_alone(task, {f: r for (t, f), r in of_tasks.items() if t == task})
        self._baselines[seed] = self._baseline(seed)
        base = self._baselines[seed]
        self._leave_out_undefined(lambda: self.judge.outcome(results[0], base, held_out=False))
        self.reference = best_flags(self, plans)
        first = self.runner.run(self.jobs.plan(self.reference, seed))
        self.epochs = len(first.epochs[self._on])
        self._say_what_was_found(first)
        return profile

    def baseline(self, seed: int) -> Baseline:
        """Return the single-task networks of a seed, which were trained before."""
        return self._baselines[seed]

    def train(self, plan: Plan, report: Reached) -> Trained:
        """Train a plan with the search's seed.

        Args:
            plan: The plan to train.
            report: A function that is called after each epoch; false ends the training.

        Returns:
            The result of the training.

        Raises:
            Pruned: The training was ended early.
            ReconError: The run failed.
        """
        base = self.baseline(self.config.seed).val
        reported = 0

        def follow(result: Result) -> bool:
            nonlocal reported
            # A run that is repeated, since it was killed, starts at its first epoch again.
            if len(result.epochs[self._on]) <= reported:
                return True
            curve = self.judge.curve(result, base)
            reported = len(curve)
            best = self.judge.best_so_far(curve)
            # Ending a run in its last epoch would save nothing and lose its result.
            return report(reported - 1, best, result.parameters) or reported >= self.epochs

        job = self.jobs.plan(plan, self.config.seed)
        try:
            result = self.runner.run(job, follow)
            if "ended early" in result.notes:
                reached = self.judge.deltas(result, base)
                kept = {"reached": max(reached)} if reached else {}
                raise Pruned({**kept, "parameters": result.parameters})
            curve = self.judge.curve(result, base)
            for epoch in range(reported, len(curve)):
                # The epochs of a run of an earlier session have not been reported in this one.
                report(epoch, self.judge.best_so_far(curve[: epoch + 1]), result.parameters)
            return self._judged(result)
        except ReconError as error:
            if isinstance(error, (RunError, MachineError)):
                raise
            raise RunError(f"{error} The run's log is {job.log}.", str(error)) from error

    def trained(self, plan: Plan) -> Trained:
        """Return the outcome of a plan that was trained with the search's seed."""
        return self._judged(self.runner.run(self.jobs.plan(plan, self.config.seed)))

    @cached_property
    def reached_by_reference(self) -> Outcome:
        """Return the outcome of EW with plain sharing, with the search's seed."""
        return self.searched(self.reference, held_out=False)

    def _judged(self, result: Result) -> Trained:
        """Return the outcome of a finished run with the search's seed."""
        outcome = self._measured(result, self.config.seed, held_out=False)
        violations = self.judge.violations(outcome, self.reached_by_reference)
        kept = {
            "delta_m": outcome.val,
            "per_task": dict(outcome.per_task),
            "epoch": outcome.epoch,
            **outcome.costs,
        }
        values = tuple(outcome.values[name] for name in self.judge.names)
        return Trained(values, kept, violations, self.judge.said(outcome))

    def outcomes(
        self, plans: Sequence[Plan], seeds: Sequence[int], title: str
    ) -> list[list[Outcome]]:
        """Train plans, and each task alone, with several seeds.

        A metric that is undefined with one of these seeds is left out for that seed, and this is
        reported: it must not end a search at this stage.

        Args:
            plans: The plans to train.
            seeds: The seeds.
            title: The title of the progress bar.

        Returns:
            For each plan, its outcomes, one per seed.
        """
        alone = [self._single(task, seed) for seed in seeds for task in self.tasks]
        jobs = [*alone, *(self.jobs.plan(plan, seed) for plan in plans for seed in seeds)]
        with self.display.phase(title, len(jobs)) as phase:
            run_together(self.runner, jobs, self.config.workers, phase)
        by_seed = {seed: self._of_seed(plans, seed) for seed in seeds}
        return [[by_seed[seed][place] for seed in seeds] for place in range(len(plans))]

    def searched(self, plan: Plan, *, held_out: bool = True) -> Outcome:
        """Return the outcome of a plan that was trained with the search's seed."""
        return self._outcome(plan, self.config.seed, held_out=held_out)

    def arguments(self, plan: Plan, seed: int) -> tuple[str, ...]:
        """Return the script's command line for a plan."""
        return self.space.line(plan, seed=seed)

    def settings(self) -> list[tuple[str, str]]:
        """Describe how the search was made."""
        config, on = self.config, self._on
        seeds = ", ".join(map(str, config.confirm))
        found = [
            ("compared on", "validation data" if on == "val" else "test data"),
            ("sampler", config.sampler.name),
            ("ended early", said_of_pruner(config, self.epochs)),
            ("trials", str(config.trials)),
            ("seed", f"{config.seed}; finalists {config.finalists.seeds}; fresh {seeds}"),
            ("baselines", "tuned" if config.tune_baselines else "not tuned"),
        ]
        for name, limit in (("run", config.timeout.run), ("study", config.timeout.study)):
            if limit is not None:
                found.append((f"timeout of the {name}", f"{limit:g} s"))
        return found

    def _flags_of_several(self) -> tuple[str, ...]:
        """Return the script's flags that accept several values, if the configuration has a list."""
        every = [self.config.flags, *self.config.space.flags.values()]
        if not any(isinstance(value, list) for flags in every for value in flags.values()):
            return ()
        plain = Jobs(self.config, self.folder, SearchSpace(self.config, None))
        return self.runner.run(plain.describe()).several

    def _know_network(self, result: Result) -> None:
        self.space.network = Network(result.layers, None, str(self.folder.profile))

    def _single(self, task: str, seed: int) -> Job:
        flags = self._flags.get(task, self.space.defaults())
        return self.jobs.single(task, flags, seed)

    def _scoring_job(self) -> Job:
        job = self.jobs.score()
        if self._profile() is None:
            job.events.unlink(missing_ok=True)
        return job

    def _profile(self) -> ConflictProfile | None:
        """Return the network's scores, if they exist; unreadable files are renamed."""
        file = self.folder.profile
        try:
            return ConflictProfile.from_json(file.read_text(encoding="utf-8"), str(file))
        except FileNotFoundError:
            return None
        except (ReconError, UnicodeDecodeError) as error:
            reason = error if isinstance(error, ReconError) else f"{file} is not a text file."
            aside = set_aside(file)
            self.display.line(
                f"{reason} It was renamed to {aside.name}; the scores are taken from the cache, "
                "or counted again."
            )
            return None

    def _take_scores(self, scored: Result) -> ConflictProfile:
        if "reused" in scored.notes:
            self.display.line(
                f"The cache has a conflict profile of exactly this architecture, "
                f"{scored.notes['reused']['profile']} over {scored.notes['reused']['steps']} "
                "steps, so it was not scored again (`score: {reuse: false}` scores it again)."
            )
        if "not cached" in scored.notes:
            self.display.line(f"Warning: {scored.notes['not cached']['reason']}")
        profile = self._profile()
        if profile is None:
            raise ReconError(
                f"{self.config.script} trained no step while it was scored, so there is no "
                "conflict profile. Make it train for at least one epoch."
            )
        self.space.network = Network(profile.architecture, profile, str(self.folder.profile))
        return profile

    def _tune_alone(self, task: str, results: dict[Flags, Result]) -> None:
        """Choose the flags with which a task alone performed best."""
        first = next(iter(results.values()))
        self._leave_out_undefined(lambda: self.judge.single(first))
        if not self.judge.scale.counted(first.higher_is_better):
            self._flags[task] = next(iter(results))  # none of its metrics is compared
            return
        base = first.epochs[self._on][self.judge.single(first)]
        gains = {
            flags: max(self.judge.deltas(result, base), default=-math.inf)
            for flags, result in results.items()
        }
        self._flags[task] = max(gains, key=gains.__getitem__)

    def _leave_out_undefined(self, measure: Callable[[], object]) -> None:
        """Compute a measurement; leave out undefined metrics from now on, if allowed."""
        while True:
            try:
                measure()
                return
            except UndefinedMetricError as error:
                if self.config.metrics.undefined != "leave_out":
                    raise UndefinedMetricError(
                        f"{error} With `metrics: {{undefined: leave_out}}` the search continues "
                        "without such metrics, and reports them.",
                        error.name,
                    ) from error
                self.judge.leave_out(error.name)
                self.note(f"{error.name} is left out because it is undefined: {error}")

    def note(self, text: str) -> None:
        """Show a message now and in the report."""
        if text not in self.notes:
            self.notes.append(text)
            self.display.line(f"Warning: {text}")

    def _say_what_was_found(self, reference: Result) -> None:
        if "another model" in reference.notes:
            self.display.line(
                f"Warning: {self.config.script} trains several models; only the first one is "
                "scored and compared."
            )
        if not self.space.searches_flags:
            return
        if self.config.tune_baselines:
            tuned = [f"EW: {self.reference.title}"]
            tuned += [f"{t} alone: {Plan('EW', flags=f).title}" for t, f in self._flags.items()]
            self.notes.append(
                f"The baselines were tuned over the same flags, with {self.config.trials} random "
                f"runs each. {'; '.join(tuned)}."
            )
            self.display.line(self.notes[-1])
        else:
            self.note(
                "flags are searched, but the baselines are not tuned: they train with "
                f"{self.reference.title}. With `tune_baselines: true` they are tuned with as "
                "many runs."
            )

    def _baseline(self, seed: int) -> Baseline:
        """Return the single-task networks of a seed, whose runs exist."""
        val: dict[str, dict[str, float]] = {}
        test: dict[str, dict[str, float]] = {}
        parameters = 0
        for task in self.tasks:
            result = self.runner.run(self._single(task, seed))
            require_measurements(self.config, result)
            epoch = self.judge.single(result, self._scales.get(seed))
            val[task] = dict(result.epochs[self._on][epoch][task])
            test[task] = dict(result.test_after(epoch, self._on)[task])
            parameters += result.parameters
        return Baseline(val, test, parameters)

    def _of_seed(self, plans: Sequence[Plan], seed: int) -> list[Outcome]:
        """Return the outcomes of plans with one seed, without metrics that are undefined there."""
        while True:
            try:
                self._baselines[seed] = self._baseline(seed)
                return [self._outcome(plan, seed) for plan in plans]
            except UndefinedMetricError as error:
                scale = self._scales.get(seed, self.judge.scale)
                less = replace(scale, left_out=scale.left_out | {error.name})
                result = self.runner.run(self.jobs.plan(plans[0], seed))
                if not less.counted(result.higher_is_better):
                    raise
                self._scales[seed] = less
                self.note(
                    f"with seed {seed}, {error.name} is left out of Δm because it is undefined "
                    f"there: {error}"
                )

    def _outcome(self, plan: Plan, seed: int, *, held_out: bool = True) -> Outcome:
        """Return the outcome of a plan whose run exists."""
        result = self.runner.run(self.jobs.plan(plan, seed))
        return self._measured(result, seed, held_out=held_out)

    def _measured(self, result: Result, seed: int, *, held_out: bool) -> Outcome:
        """Return the outcome of a finished run, at its best epoch."""
        require_measurements(self.config, result)
        return self.judge.outcome(
            result, self.baseline(seed), self._scales.get(seed), held_out=held_out
        )

    def _look(self, result: Result) -> bool:
        # Mistakes are reported when the first network is built, before training.
        raise_all("The configuration", faults_of(self.config, result))
        waits = result.notes.get("waiting")
        if waits and waits["text"] != self._waits:
            self._waits = waits["text"]
            self.display.line(self._waits)
        return True
