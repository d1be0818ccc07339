"""The Optuna study: choosing plans, training each once, going on after an interruption."""

from __future__ import annotations

import math
import sqlite3
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from libmtl_recon import ConflictProfile, ReconError
from search.config import Config
from search.progress import Phase
from search.space import Plan, anchors, suggest

Train = Callable[[Plan, Callable[[int, float], bool]], float]
"""Trains a plan; reports (epoch, Δm) as it goes and ends early when told False; returns Δm."""

_NAME = "libmtl-recon"
_SAME_AS = "same_as"
_FAILURES = 3
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_START_UP = 6  # trials before Optuna's sampler takes the values so far into account


class Pruned(Exception):  # noqa: N818  # no error, but how a training may end
    """The plan's training was ended early, as worse than the others."""


@dataclass(frozen=True)
class _Ending:
    """How a plan's training ended, for every trial that stands for the plan."""

    state: TrialState
    value: float | None = None
    trial: int | str | None = None


class Study:
    """An Optuna study in an SQLite file.

    Optuna is asked and told from one thread; only the training itself runs in others.

    Args:
        file: The SQLite file.
        config: The search.
        profile: From which S and K become layers.
        train: Trains a plan; called from several threads at a time.
        epochs: How many epochs a training has.
    """

    def __init__(
        self,
        file: Path,
        config: Config,
        profile: ConflictProfile,
        train: Train,
        epochs: int,
    ) -> None:
        # Optuna would say the same again, and in its own words.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._config, self._profile, self._train = config, profile, train
        self._study = _open(file, config, epochs)
        self._endings: dict[object, _Ending] = {}
        # For a plan that is just being trained: by which trial, and the trials that wait for it.
        self._running: dict[object, tuple[int, list[optuna.Trial]]] = {}
        self._failures: int | None = 0  # in a row from the start; None once a training went well
        self._recover()

    def know(self, plan: Plan, value: float) -> None:
        """Take a plan as trained, with this Δm."""
        self._endings[plan.key] = _Ending(TrialState.COMPLETE, value, "a baseline")

    def optimize(self, phase: Phase, stop: Callable[[], None]) -> None:
        """Train plans until there are as many as the configuration asks for.

        Args:
            phase: Told of each trial that ends.
            stop: Ends the runs that are going on; called on Ctrl-C and when trials keep failing.

        Raises:
            ReconError: All of the first trials failed; the last one's reason.
        """
        phase.skip(self.finished)
        left = self._config.trials - self.finished
        running: dict[Future[float], tuple[optuna.Trial, Plan]] = {}
        with ThreadPoolExecutor(self._config.workers) as pool:
            try:
                while left > 0 or running:
                    while left > 0 and len(running) < self._config.workers:
                        chosen = self._next()
                        if chosen is None:
                            left = 0
                            break
                        left -= 1
                        running[pool.submit(self._trained, *chosen)] = chosen
                    # In short turns, so that Ctrl-C is heard on every system.
                    done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._conclude(*running.pop(future), future, phase)
            except BaseException:
                stop()
                raise

    def top(self, count: int) -> list[Plan]:
        """The plans with the highest Δm, best first.

        Raises:
            ReconError: No trial was finished.
        """
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not finished:
            raise ReconError("No trial was finished, so there is nothing to report.")
        # Equal values stay in the order of the trials.
        ranked = sorted(finished, key=lambda t: math.inf if t.value is None else -t.value)
        plans: dict[object, Plan] = {}
        for trial in ranked:
            plan = self._plan_of(trial)
            plans.setdefault(plan.key, plan)
        return list(plans.values())[:count]

    def plans(self) -> list[Plan]:
        """All plans that were trained, to their end or not, each once."""
        ended = self._study.get_trials(deepcopy=False, states=_ENDED)
        return list({plan.key: plan for plan in map(self._plan_of, ended)}.values())

    @property
    def finished(self) -> int:
        """How many trials have ended, repeats not counted."""
        ended = self._study.get_trials(deepcopy=False, states=_ENDED)
        return sum(1 for trial in ended if _SAME_AS not in trial.user_attrs)

    def _next(self) -> tuple[optuna.Trial, Plan] | None:
        """A trial whose plan was never trained; None if Optuna keeps repeating itself."""
        # A repeat costs nothing and does not count; but a space that is used up must end.
        for _ in range(10 * self._config.trials):
            trial = self._study.ask()
            plan = suggest(trial, self._config, self._profile)
            trial.set_user_attr("plan", plan.title)
            trial.set_user_attr("layers", list(plan.layers))
            ending = self._endings.get(plan.key)
            if ending is not None:
                trial.set_user_attr(_SAME_AS, ending.trial)
                self._tell(trial, ending)
            elif plan.key in self._running:
                first, followers = self._running[plan.key]
                trial.set_user_attr(_SAME_AS, first)
                followers.append(trial)
            else:
                self._running[plan.key] = trial.number, []
                return trial, plan
        return None

    def _trained(self, trial: optuna.Trial, plan: Plan) -> float:
        def report(epoch: int, improvement: float) -> bool:
            trial.report(improvement, epoch)
            return not trial.should_prune()

        return self._train(plan, report)

    def _conclude(
        self, trial: optuna.Trial, plan: Plan, future: Future[float], phase: Phase
    ) -> None:
        """Tell Optuna, and the user, how a training ended."""
        error = future.exception()
        if error is None:
            value = future.result()
            ending, said = _Ending(TrialState.COMPLETE, value), f"Δm {value:+.2f} %"
        elif isinstance(error, Pruned):
            ending, said = _Ending(TrialState.PRUNED), "ended early"
        elif isinstance(error, ReconError):
            ending, said = _Ending(TrialState.FAIL), f"failed: {error}"
        else:
            raise error
        self._endings[plan.key] = replace(ending, trial=trial.number)
        for other in (trial, *self._running.pop(plan.key)[1]):
            self._tell(other, ending)
        phase.done(f"trial {trial.number}: {plan.title}: {said}")
        if not isinstance(error, ReconError):
            self._failures = None
        elif self._failures is not None:
            self._failures += 1
            if self._failures == _FAILURES:
                raise ReconError(f"The first {_FAILURES} trials failed. The last: {error}")

    def _tell(self, trial: optuna.Trial, ending: _Ending) -> None:
        self._study.tell(trial, ending.value, state=ending.state)

    def _plan_of(self, trial: FrozenTrial) -> Plan:
        fixed = optuna.trial.FixedTrial(trial.params)
        return suggest(fixed, self._config, self._profile)

    def _recover(self) -> None:
        """Take up what an earlier session left: ended plans, and trials cut off in between."""
        trials = self._study.get_trials(deepcopy=False)
        if not trials:
            for values in anchors(self._config):
                self._study.enqueue_trial(values)
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                # Only we are at work here (the folder is locked): its process is gone.
                self._study.tell(trial.number, state=TrialState.FAIL)
                if "k" in trial.params:
                    self._study.enqueue_trial(trial.params)
            elif trial.state in _ENDED:
                # Optuna gives a pruned trial the value that it reached; it must not be told one.
                value = trial.value if trial.state == TrialState.COMPLETE else None
                first = trial.user_attrs.get(_SAME_AS, trial.number)
                self._endings[self._plan_of(trial).key] = _Ending(trial.state, value, first)


def _open(file: Path, config: Config, epochs: int) -> optuna.Study:
    try:
        with sqlite3.connect(file) as connection:
            # Optuna's dashboard, or a curious user, may read while the search writes.
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{file.resolve()}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        study = optuna.create_study(
            study_name=_NAME, storage=storage, load_if_exists=True, direction="maximize"
        )
    except (sqlite3.Error, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise ReconError(
            f"{file} cannot be opened as an Optuna study ({error}). Delete the folder, or name "
            "another one with --out."
        ) from error
    # A sampler that started anew with the same seed would draw its first plans again.
    seed = config.seed + 1000 * len(study.get_trials(deepcopy=False))
    study.sampler = _sampler(seed)
    study.pruner = optuna.pruners.NopPruner()
    if config.prune:
        # In the first third of a training the order of plans still changes much.
        study.pruner = optuna.pruners.MedianPruner(
            n_startup_trials=5, n_warmup_steps=max(1, epochs // 3)
        )
    return study


def _sampler(seed: int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        # Before Optuna 5 this option, which keeps workers from trying the same, was experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=_START_UP, constant_liar=True)
