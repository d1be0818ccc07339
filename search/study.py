"""The Optuna study of a search: choosing plans, training each once, and continuing later.

The next plan is determined from the study each time, so that several processes can work on one
study: each adds its trials, checks which was first, and withdraws surplus ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import optuna
from libmtl_recon_search.board import (
    AGAIN,
    FAILED,
    OUTCOME,
    SAME_AS,
    SURPLUS,
    Board,
    Entry,
    outcome_of,
    repeats,
)
from libmtl_recon_search.choosing import Chooser
from libmtl_recon_search.config import Config
from libmtl_recon_search.own_trials import OwnTrials, Seen
from libmtl_recon_search.plan import Plan
from libmtl_recon_search.progress import Phase
from libmtl_recon_search.study_store import StudyStore
from libmtl_recon_search.training import Ending, Pruned, Train, Trained
from libmtl_recon_search.trials import in_words
from libmtl_recon_search.trouble import MachineError
from optuna.trial import FrozenTrial, TrialState, create_trial

from libmtl_recon import ReconError

_FAILURES = 3
_REPEATS = 3  # in a row, after which untried plans are listed if possible
_TURN = 0.5  # seconds between checks
_JOINED = "joined"

Callback = Callable[[optuna.Study, FrozenTrial], None]


class Study(OwnTrials):
    """A study of plans.

    Trials are added and ended in one thread; only the trainings run in other threads. Trials that
    another program added are ignored.

    Args:
        store: The store of the trials.
        config: The configuration.
        chooser: The chooser of plans.
        train: A function that trains a plan; called from several threads at the same time.
        say: A function that is called with warnings.
        check: A function that raises if the search was asked to stop; called while no training
            runs here.
        callbacks: Callbacks for each trial that this process has ended.
    """

    def __init__(
        self,
        store: StudyStore,
        config: Config,
        chooser: Chooser,
        train: Train,
        say: Callable[[str], None] = lambda _: None,
        check: Callable[[], None] = lambda: None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__(store, chooser, say)
        self._config, self._train, self._check = config, train, check
        self._callbacks = callbacks
        self._known: dict[object, Trained] = {}  # results of plans that a baseline trained
        # For plans that this process trains, the trials that wait for their end.
        self._waiting: dict[object, list[int]] = {}
        # Trials that an earlier session was training, and trials to be repeated.
        self._left: list[tuple[int | FrozenTrial, Plan]] = []
        self._exhausted = False
        self._until = math.inf
        self._recover()
        # The reasons why the first trainings failed; None once one has succeeded.
        self._failures: list[str] | None = None if self.board.ended else []

    def know(self, plan: Plan, trained: Trained) -> None:
        """Record a plan as trained by a baseline."""
        self._known[plan.key] = trained

    def optimize(
        self, phase: Phase, stop: Callable[[], None], seconds: float | None = None
    ) -> None:
        """Train plans up to the number in the configuration.

        Args:
            phase: The progress bar, which is advanced with each trial.
            stop: A function that ends the runs in progress; called on Ctrl-C and when trials keep
                failing.
            seconds: Seconds after which no further trial is started.

        Raises:
            ReconError: All trials failed, or all of the first; the message has the last reason.
        """
        if seconds is not None:
            self._until = time.monotonic() + seconds
        phase.skip(self.finished)
        running: dict[Future[Trained], tuple[int, Plan]] = {}
        with ThreadPoolExecutor(self._config.workers) as pool:
            try:
                while True:
                    while len(running) < self._config.workers:
                        chosen = self._next()
                        if chosen is None:
                            break
                        running[pool.submit(self._trained, *chosen)] = chosen
                    if not running and not self._others_at_work():
                        break
                    # With a short timeout, so that Ctrl-C is handled on every system.
                    done, _ = wait(running, timeout=_TURN, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._conclude(*running.pop(future), future, phase)
            except BaseException:
                stop()
                for number, plan in running.values():
                    self._withdraw(number, plan)
                raise
        for trial, _ in self._left:  # there are enough trials without them
            if isinstance(trial, int):
                self.store.tell(trial, TrialState.FAIL)
        board = self.board
        if board.failures and not board.ended:
            raise ReconError(f"All {len(board.failures)} trials failed. {board.failures[-1]}")

    def _next(self) -> tuple[int, Plan] | None:
        """Return a trial with an untrained plan; None if there are enough, or no others."""
        # A repeat costs nothing and does not count, but an exhausted space must end the search.
        repeated: list[int] = []
        try:
            for _ in range(10 * self._config.trials):
                seen = self.look()
                found = self._source(seen, len(repeated))
                if found is None:
                    return None
                number, how = self._enter(*found, seen.board)
                if how is None:
                    return number, found[1]
                if how == SAME_AS:
                    repeated.append(number)
        finally:
            self._say_repeats(repeated)
        self._say_exhausted()
        return None

    def _source(self, seen: Seen, repeats: int) -> tuple[int | FrozenTrial, Plan] | None:
        """Return the next trial, existing or new; None if there are enough, or no others."""
        while self._left:
            trial, plan = self._left.pop(0)
            if self.finished + len(self._waiting) < self._config.trials:
                return trial, plan
            if isinstance(trial, int):
                self.store.tell(trial, TrialState.FAIL)
        ours, board = seen.ours, seen.board
        for entry in self._to_be_made_again(board):
            return self._once_more(entry.trials[-1], entry.plan), entry.plan
        if self._exhausted:
            return None
        if self._late(board):
            self._say_late(board)
            return None
        if len(board) >= self._config.trials:
            return None
        asked = self._asked_for(seen)
        if asked is not None:
            return asked
        chosen = {self.plan(trial).key for trial in ours}
        if max(repeats, _streak(ours)) >= _REPEATS and not self._chooser.first(chosen):
            left = self._chooser.untried({*board.entries, *self._known})
            if left is not None and not left:
                self._say_exhausted()
                return None
            if left:
                return self._chooser.among(left, ours, _place(ours))
        return self._chooser.choose(ours, _place(ours), chosen)

    def _late(self, board: Board) -> bool:
        """Return whether no further trial is started; one is started in any case."""
        return len(board) > 0 and time.monotonic() > self._until

    def _to_be_made_again(self, board: Board) -> list[Entry]:
        """Return plans that another worker has stopped training."""
        if not self.store.shared or self._late(board):
            return []
        return board.cut_off(self._config.trials)

    def _say_repeats(self, numbers: list[int]) -> None:
        if numbers:
            those = "trial" if len(numbers) == 1 else "trials"
            self._say(
                f"{those} {in_words(numbers)}: chose what was already trained or is being "
                "trained; not counted"
            )

    def _say_late(self, board: Board) -> None:
        self._exhausted = True
        if len(board) < self._config.trials:
            self._say(
                f"The search has reached `timeout.study`, {self._config.timeout.study:g} s, so "
                f"it ends with fewer than its {self._config.trials} trials."
            )

    def _say_exhausted(self) -> None:
        self._exhausted = True
        self._say(
            "Everything in the space was already trained, so the search ends with fewer than "
            f"its {self._config.trials} trials."
        )

    def _asked_for(self, seen: Seen) -> tuple[int, Plan] | None:
        """Return a queued trial whose values are in this space."""
        for trial in seen.waiting:
            fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            found = self._chooser.complete(fixed, seen.ours)
            if found is None:
                self._say(
                    f"Trial {trial.number}, enqueued by another program, is left out: its values "
                    f"({fixed}) are not in this search's space."
                )
                self.store.tell(trial.number, TrialState.FAIL)
                self._plans[trial.number] = None
            elif self.store.begin(trial, found[0]):
                self._plans[trial.number] = found[1]
                return trial.number, found[1]
        return None

    def _enter(self, trial: int | FrozenTrial, plan: Plan, board: Board) -> tuple[int, str | None]:
        """Train a plan in a new or an existing trial.

        Returns:
            The trial's number, and why it is not trained: it repeats another, or is surplus.
        """
        if isinstance(trial, int):
            board = self.board  # workers that have started such trials must see each other's
        known, entry = self._known.get(plan.key), board.entries.get(plan.key)
        first = entry.first if entry is not None else None
        if not isinstance(trial, int):
            if AGAIN in trial.user_attrs and entry is not None:
                first = entry.ended or entry.live
            ending = self._ending(known, first)
            if ending is None:
                number = self._add(trial, plan)
                return number, self._looked_again(number, plan)
            trial.user_attrs = {**trial.user_attrs, **ending.attributes}
            trial.state, trial.values = ending.state, ending.values
            if trial.state.is_finished():
                trial.datetime_complete = trial.datetime_start
            for name, value in ending.violations.items():
                trial.set_constraint(name, value)
            number = self._add(trial, plan)
            if not trial.state.is_finished():
                self._waiting[plan.key].append(number)
            return number, SAME_AS
        if first is not None and first.number == trial:
            first = None
        return trial, self._repeat(trial, plan, self._ending(known, first))

    def _add(self, trial: FrozenTrial, plan: Plan) -> int:
        number = self.store.add(trial)
        self._plans[number] = plan
        return number

    def _looked_again(self, number: int, plan: Plan) -> str | None:
        """Check which of several processes was first to choose a plan, and which are surplus."""
        if self.store.shared:
            board = self.board
            entry = board.entries.get(plan.key)
            first = entry.first if entry is not None else None
            if first is not None and first.number != number:
                return self._repeat(number, plan, self._ending(None, first))
            if board.rank(plan) >= self._config.trials:
                self.store.note(number, SURPLUS, True)
                self.store.tell(number, TrialState.FAIL)
                return SURPLUS
        return self._begin(number, plan)

    def _begin(self, number: int, plan: Plan) -> str | None:
        """Train a plan here; if another trial is training it, both end together."""
        there = self._waiting.get(plan.key)
        if there is None:
            self._waiting[plan.key] = []
            return None
        there.append(number)
        return _JOINED

    def _repeat(self, number: int, plan: Plan, ending: Ending | None) -> str | None:
        """End a running trial in the same way as the one that it repeats, if any."""
        if ending is None:
            return self._begin(number, plan)
        self._end(number, ending)
        if not ending.state.is_finished():
            self._waiting[plan.key].append(number)
        return SAME_AS

    def _end(self, number: int, ending: Ending) -> None:
        """Record the end of a trial, or the known data of one that continues."""
        for name, value in ending.attributes.items():
            self.store.note(number, name, value)
        if ending.state.is_finished():
            self.store.constrain(number, ending.violations)
            self.store.tell(number, ending.state, ending.values)

    def _ending(self, known: Trained | None, first: FrozenTrial | None) -> Ending | None:
        """Return the outcome of a trial that repeats a baseline or a trial; None otherwise."""
        if known is not None:
            return Ending(
                TrialState.COMPLETE,
                known.values,
                {SAME_AS: "a baseline", OUTCOME: known.outcome},
                known.violations,
            )
        if first is None:
            return None
        same = {SAME_AS: first.number}
        if first.state == TrialState.COMPLETE:
            outcome = {OUTCOME: outcome_of(first)}
            return Ending(first.state, first.values, {**same, **outcome}, first.constraints)
        if first.state != TrialState.RUNNING:
            # Optuna gives a pruned trial its last value itself; no value may be passed.
            return Ending(first.state, None, same)
        # This trial does not wait for a training of another process.
        mine = self._plans[first.number] is not None and self.plan(first).key in self._waiting
        return Ending(TrialState.RUNNING if mine else TrialState.FAIL, None, same)

    def _trained(self, number: int, plan: Plan) -> Trained:
        watch = self._chooser.watch(number)

        def report(epoch: int, value: float, parameters: int) -> bool:
            if math.isnan(value):
                return True
            self.store.report(number, value, epoch)
            if watch is None:
                return True
            trials = self.store.study.get_trials(deepcopy=False)
            ours = [trial for trial in trials if self._plans.get(trial.number) is not None]
            kept = set(watch.kept)
            gives_up = watch.gives_up(ours, epoch, value, parameters)
            self.store.keep(number, {k: v for k, v in watch.kept.items() if k not in kept})
            return not gives_up

        return self._train(plan, report)

    def _conclude(self, number: int, plan: Plan, future: Future[Trained], phase: Phase) -> None:
        """Report to Optuna and the user how a training ended."""
        error = future.exception()
        if error is None:
            found = future.result()
            attributes: Mapping[str, Any] = {OUTCOME: found.outcome}
            ending = Ending(TrialState.COMPLETE, found.values, attributes, found.violations)
            said = found.said
        elif isinstance(error, Pruned):
            ending, said = Ending(TrialState.PRUNED, None, {OUTCOME: error.outcome}), "ended early"
        elif isinstance(error, ReconError) and not isinstance(error, MachineError):
            ending, said = Ending(TrialState.FAIL), f"failed: {error}"
            self.store.note(number, FAILED, str(error))
        else:
            self._withdraw(number, plan)
            raise error
        for other in (number, *self._waiting.pop(plan.key)):
            self._end(other, ending)
        phase.done(f"trial {number}: {plan.title}: {said}")
        self._tell_callbacks(number)
        if not isinstance(error, ReconError) or self.board.ended:  # here or in another process
            self._failures = None
        elif self._failures is not None:
            self._failures.append(getattr(error, "reason", str(error)))
            if len(self._failures) == _FAILURES:
                same = ", all for the same reason" if len(set(self._failures)) == 1 else ""
                raise ReconError(f"The first {_FAILURES} trials failed{same}. The last: {error}")

    def _withdraw(self, number: int, plan: Plan) -> None:
        """Withdraw a training, so that others need not wait until this worker counts as dead."""
        if self.store.shared:
            for other in (number, *self._waiting.get(plan.key, ())):
                self.store.tell(other, TrialState.FAIL)

    def _tell_callbacks(self, number: int) -> None:
        for callback in self._callbacks:
            callback(self.store.study, self.store.study.get_trials(deepcopy=False)[number])

    def _others_at_work(self) -> bool:
        """Wait briefly for other processes; return False if nothing is left to train."""
        if not self.store.shared:
            return False
        board = self.board
        if not board.running:
            return bool(self._to_be_made_again(board))
        self._check()
        self.store.sweep()
        time.sleep(_TURN)
        return True

    def _recover(self) -> None:
        """Continue with interrupted and failed trials of an earlier session."""
        ours = self._without_conflicts(self.trials)
        board = Board(ours, self._plans)
        for trial in ours:
            if trial.state == TrialState.RUNNING and not self.store.shared:
                # Only this process works here (the folder is locked): the trial's process is gone.
                if repeats(trial):
                    self.store.note(trial.number, SAME_AS, None)  # it may now be the first
                self._left.append((trial.number, self.plan(trial)))
        if not board.ended:
            # No training has succeeded so far; the cause may have been removed.
            self._left += [
                (self._once_more(entry.failed, entry.plan), entry.plan)
                for entry in board.entries.values()
                if entry.failed is not None and entry.live is None
            ]

    def _once_more(self, trial: FrozenTrial, plan: Plan) -> FrozenTrial:
        """Return a trial that replaces one that failed or was cut off."""
        return create_trial(
            state=TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={**self._chooser.attributes(plan), AGAIN: trial.number},
        )


def _place(ours: Sequence[FrozenTrial]) -> int:
    """Return how many times a trial was chosen before."""
    return sum(
        AGAIN not in trial.user_attrs and "fixed_params" not in trial.system_attrs for trial in ours
    )


def _streak(ours: Sequence[FrozenTrial]) -> int:
    """Return how many of the last choices in a row were already trained."""
    return next((n for n, trial in enumerate(reversed(ours)) if not repeats(trial)), len(ours))
