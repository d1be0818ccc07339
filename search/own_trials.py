"""The search's own trials of a study, to which others may have added trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from libmtl_recon_search.board import Board
from libmtl_recon_search.choosing import PLAN, Chooser
from libmtl_recon_search.database.lasting import TOKEN
from libmtl_recon_search.plan import Plan
from libmtl_recon_search.study_store import StudyStore
from libmtl_recon_search.trials import in_words
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial, TrialState


@dataclass(frozen=True)
class Seen:
    """The contents of a study when it was read.

    Attributes:
        ours: The search's own trials.
        waiting: The queued trials.
        board: The plans of the search's own trials.
    """

    ours: list[FrozenTrial]
    waiting: list[FrozenTrial]
    board: Board


class OwnTrials:
    """A study as a search uses it; it is always read in its current state.

    Args:
        store: The store of the trials.
        chooser: The chooser, which knows the plans of trials.
        say: A function that is called with warnings.
    """

    def __init__(self, store: StudyStore, chooser: Chooser, say: Callable[[str], None]) -> None:
        self.store, self._chooser, self._say = store, chooser, say
        self._plans: dict[int, Plan | None] = {}  # of trials by number; None for others' trials

    def look(self) -> Seen:
        """Read the study once, and report the trials that others have added."""
        ours, others, waiting = [], [], []
        for trial in self.store.study.get_trials(deepcopy=False):
            if trial.state == TrialState.WAITING:
                waiting.append(trial)
            if trial.number not in self._plans:
                chosen, running = PLAN in trial.user_attrs, trial.state == TrialState.RUNNING
                # Another worker may be writing its choice.
                begins = running and not chosen and TOKEN in trial.user_attrs
                if begins or trial.state == TrialState.WAITING:
                    continue
                plan = self._chooser.plan(trial.params) if chosen else None
                self._plans[trial.number] = plan
                if plan is None:
                    others.append(trial.number)
            if self._plans[trial.number] is not None:
                ours.append(trial)
        if others:
            self._say(
                "The study has trials that were not created by this search, or do not fit it: "
                f"{in_words(others)}. They are left out and not changed."
            )
        return Seen(ours, waiting, Board(ours, self._plans))

    @property
    def trials(self) -> list[FrozenTrial]:
        """Return the search's own trials."""
        return self.look().ours

    @property
    def board(self) -> Board:
        """Return the plans of the trials."""
        return self.look().board

    @property
    def finished(self) -> int:
        """Return the number of ended trials, without repeats.

        Failed trials are counted once a training has succeeded; before that, they are repeated.
        """
        board = self.board
        return len(board.ended) and len(board.ended) + len(board.failures)

    def plan(self, trial: FrozenTrial) -> Plan:
        """Return the plan of a trial of the search."""
        plan = self._plans[trial.number]
        assert plan is not None  # one of ours
        return plan

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def _without_conflicts(self, ours: list[FrozenTrial]) -> list[FrozenTrial]:
        """Check that trials of this search can be added; return them with their new numbers."""
        numbers = {trial.number for trial in ours}
        expected = self._chooser.distributions
        for trial in self.store.study.get_trials(deepcopy=False):
            for name in expected.keys() & trial.distributions.keys():
                if trial.number not in numbers and _differ(
                    trial.distributions[name], expected[name]
                ):
                    self.store.renew(
                        f"has a trial ({trial.number}) of another program that uses the name "
                        f"{name!r} differently, so this search cannot add trials",
                        ours,
                    )
                    self._plans.clear()
                    return self.trials
        return ours


def _differ(one: BaseDistribution, other: BaseDistribution) -> bool:
    try:
        check_distribution_compatibility(one, other)
    except ValueError:
        return True
    return False
