"""The trials of a study that are a search's own, among those that others have added."""

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
        waiting: Trials that somebody put into the queue.
        board: The plans of ours.
    """

    ours: list[FrozenTrial]
    waiting: list[FrozenTrial]
    board: Board


class OwnTrials:
    """A study as seen by a search; always read in its current state.

    Args:
        store: Where the trials are kept.
        chooser: Knows which plans trials stand for.
        say: Told what is not as it should be.
    """

    def __init__(self, store: StudyStore, chooser: Chooser, say: Callable[[str], None]) -> None:
        self.store, self._chooser, self._say = store, chooser, say
        self._plans: dict[int, Plan | None] = {}  # of trials by number; None for others' trials

    def look(self) -> Seen:
        """Read the study once; says which trials of others there are."""
        ours, others, waiting = [], [], []
        for trial in self.store.study.get_trials(deepcopy=False):
            if trial.state == TrialState.WAITING:
                waiting.append(trial)
            if trial.number not in self._plans:
                chosen, running = PLAN in trial.user_attrs, trial.state == TrialState.RUNNING
                # Another worker may just be writing what it has chosen.
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
        """The search's own trials."""
        return self.look().ours

    @property
    def board(self) -> Board:
        """The plans of the trials."""
        return self.look().board

    @property
    def finished(self) -> int:
        """Return how many trials have ended, without repeats.

        Failed ones are counted once a training went well; before that, they are made again.
        """
        board = self.board
        return len(board.ended) and len(board.ended) + len(board.failures)

    def plan(self, trial: FrozenTrial) -> Plan:
        """Return the kind of a trial of the search."""
        plan = self._plans[trial.number]
        assert plan is not None  # of ours
        return plan

    def close(self) -> None:
        """Let go of the store."""
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
