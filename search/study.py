"""The Optuna study: choosing plans, training each once, going on after an interruption."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from libmtl_recon import ConflictProfile, ReconError
from search.config import Config
from search.process import Interrupted
from search.progress import Phase
from search.space import Plan, anchors, suggest

Train = Callable[[Plan, Callable[[int, float], bool]], float]
"""Trains a plan; reports (epoch, Δm) as it goes and ends early when told False; returns Δm."""

_NAME = "libmtl-recon"
_SAME_AS = "same_as"
_FAILURES = 3


class Pruned(Exception):  # noqa: N818  # no error, but how a training may end
    """The plan's training was ended early, as worse than the others."""


class Study:
    """An Optuna study in an SQLite file.

    Args:
        file: The SQLite file.
        config: The search.
        profile: From which S and K become layers.
        train: Trains a plan.
    """

    def __init__(self, file: Path, config: Config, profile: ConflictProfile, train: Train) -> None:
        # A failed trial is reported by us, in one paragraph; Optuna would add its traceback.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._config, self._profile, self._train = config, profile, train
        self._storage = _storage(file)
        self.study = self._load(config.seed)
        self._lock = threading.Lock()
        self._plans: dict[object, Future[float]] = {}
        self._failures = 0
        self._error: BaseException | None = None
        self._recover()
        self._claimed = self.finished

    def know(self, plan: Plan, value: float) -> None:
        """Take a plan as trained, with this Δm."""
        self._plans[plan.key] = _known(value)

    def optimize(self, phase: Phase, stop: Callable[[], None]) -> None:
        """Train plans until there are as many as the configuration asks for.

        Args:
            phase: Told of each trial that ends.
            stop: Ends the runs that are going on; called on Ctrl-C and when trials keep failing.

        Raises:
            ReconError: Several trials in a row failed; the last one's reason.
        """
        threads = [
            threading.Thread(target=self._work, args=(phase, worker))
            for worker in range(self._config.workers)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                # In short turns, so that Ctrl-C reaches the main thread on every system.
                while thread.is_alive():
                    thread.join(0.2)
                    if self._error is not None:
                        stop()
        except BaseException as error:  # noqa: BLE001  # Ctrl-C among them; raised again below
            self._error = error
            stop()
            for thread in threads:
                thread.join()
        if self._error is not None:
            raise self._error

    def best(self) -> Plan:
        """The plan with the highest Δm.

        Raises:
            ReconError: No trial was finished.
        """
        finished = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not finished:
            raise ReconError("No trial was finished, so there is nothing to report.")
        return self.plan_of(max(finished, key=lambda t: -math.inf if t.value is None else t.value))

    def plans(self) -> list[Plan]:
        """All plans that were trained, to their end or not, each once."""
        ended = self.study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
        )
        return list({plan.key: plan for plan in map(self.plan_of, ended)}.values())

    @property
    def finished(self) -> int:
        """How many trials have ended, repeats not counted."""
        ended = self.study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
        )
        return sum(1 for trial in ended if _SAME_AS not in trial.user_attrs)

    def plan_of(self, trial: FrozenTrial) -> Plan:
        """The plan that a trial stood for."""
        return suggest(optuna.trial.FixedTrial(trial.params), self._config, self._profile)  # type: ignore[arg-type]

    def _load(self, seed: int) -> optuna.Study:
        known = optuna.get_all_study_names(self._storage)
        done = 0
        if _NAME in known:
            done = len(optuna.load_study(study_name=_NAME, storage=self._storage).trials)
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self._config.prune:
            pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3)
        return optuna.create_study(
            study_name=_NAME,
            storage=self._storage,
            load_if_exists=True,
            direction="maximize",
            # A sampler that started anew with the same seed would draw its first plans again.
            sampler=optuna.samplers.TPESampler(seed=seed + 1000 * done, n_startup_trials=8),
            pruner=pruner,
        )

    def _recover(self) -> None:
        """Take up what an earlier session left: finished plans, and trials cut off in between."""
        trials = self.study.get_trials(deepcopy=False)
        if not trials:
            for values in anchors(self._config):
                self.study.enqueue_trial(values)
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                # Only we are at work here (the folder is locked): its process is gone.
                self.study.tell(trial.number, state=TrialState.FAIL)
                if "k" in trial.params:
                    self.study.enqueue_trial(trial.params)
            elif trial.state == TrialState.COMPLETE and trial.value is not None:
                self.know(self.plan_of(trial), trial.value)

    def _claim(self) -> bool:
        """Whether one more plan may be trained."""
        with self._lock:
            if self._claimed >= self._config.trials or self._error is not None:
                return False
            self._claimed += 1
            return True

    def _work(self, phase: Phase, worker: int) -> None:
        study = self._load(self._config.seed + worker)
        repeats = 0

        def count(_: optuna.Study, trial: FrozenTrial) -> None:
            # A repeat cost nothing and does not count; but a space that is used up must end.
            nonlocal repeats
            if _SAME_AS in trial.user_attrs:
                repeats += 1
                with self._lock:
                    self._claimed -= 1

        try:
            while repeats <= self._config.trials and self._claim():
                study.optimize(
                    lambda trial: self._objective(trial, phase),
                    n_trials=1,
                    catch=(ReconError,),
                    callbacks=[count],
                )
        except BaseException as error:  # noqa: BLE001  # is raised again in the main thread
            self._error = self._error or error

    def _objective(self, trial: optuna.Trial, phase: Phase) -> float:
        plan = suggest(trial, self._config, self._profile)
        with self._lock:
            future = self._plans.get(plan.key)
            mine = future is None
            if future is None:
                future = self._plans[plan.key] = Future()
        trial.set_user_attr("plan", plan.title)
        trial.set_user_attr("layers", list(plan.layers))
        if not mine:
            trial.set_user_attr(_SAME_AS, plan.title)
            return self._wait(future)
        return self._trained(trial, plan, future, phase)

    def _wait(self, future: Future[float]) -> float:
        try:
            return future.result()
        except Pruned as error:
            raise optuna.TrialPruned from error

    def _trained(
        self, trial: optuna.Trial, plan: Plan, future: Future[float], phase: Phase
    ) -> float:
        def report(epoch: int, improvement: float) -> bool:
            trial.report(improvement, epoch)
            return not trial.should_prune()

        name = f"trial {trial.number}: {plan.title}"
        try:
            value = self._train(plan, report)
        except Pruned as error:
            future.set_exception(error)
            phase.done(f"{name}: ended early")
            raise optuna.TrialPruned from error
        except ReconError as error:
            self._failed(future, error)
            phase.done(f"{name}: failed: {error}")
            raise
        except BaseException:
            future.set_exception(Interrupted())
            raise
        self._failures = 0
        future.set_result(value)
        phase.done(f"{name}: Δm {value:+.2f} %")
        return value

    def _failed(self, future: Future[float], error: ReconError) -> None:
        with self._lock:
            self._failures += 1
            if self._failures >= _FAILURES:
                self._error = ReconError(f"{_FAILURES} trials in a row failed. The last: {error}")
        future.set_exception(error)


def _known(value: float) -> Future[float]:
    future: Future[float] = Future()
    future.set_result(value)
    return future


def _storage(file: Path) -> optuna.storages.RDBStorage:
    try:
        with sqlite3.connect(file) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
        return optuna.storages.RDBStorage(
            f"sqlite:///{file.resolve()}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
    except Exception as error:
        raise ReconError(
            f"{file} cannot be opened as an Optuna study ({error}). Delete the folder, or name "
            "another one with --out."
        ) from error
