"""The state of a study's plans, from the trials of all workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from libmtl_recon_search.plan import Plan
from optuna.trial import FrozenTrial, TrialState

# Attributes of trials.
SAME_AS, FAILED, AGAIN, SURPLUS = "same_as", "failed", "again", "surplus"
OUTCOME = "outcome"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass
class Entry:
    """All trials of one plan, without repeats of other trials.

    Attributes:
        plan: The plan.
        trials: The trials in order; each after the first replaces one that was cut off or failed.
    """

    plan: Plan
    trials: list[FrozenTrial] = field(default_factory=list)

    @property
    def ended(self) -> FrozenTrial | None:
        """Return the trial whose training ended, early or not."""
        return next((trial for trial in self.trials if trial.state in ENDED), None)

    @property
    def live(self) -> FrozenTrial | None:
        """Return the trial that trains the plan; of several, the first."""
        return next((t for t in self.trials if t.state == TrialState.RUNNING), None)

    @property
    def failed(self) -> FrozenTrial | None:
        """Return the trial whose training finally failed."""
        last = self.trials[-1]
        return last if last.state == TrialState.FAIL and FAILED in last.user_attrs else None

    @property
    def first(self) -> FrozenTrial | None:
        """Return the trial that all others of this plan repeat; None if it was cut off."""
        return self.ended or self.live or self.failed


class Board:
    """The plans of a study.

    Args:
        trials: The search's own trials.
        plans: The plans of these trials, by number.
    """

    def __init__(self, trials: Iterable[FrozenTrial], plans: Mapping[int, Plan | None]) -> None:
        self.entries: dict[object, Entry] = {}
        for trial in trials:
            plan = plans[trial.number]
            if plan is not None and not repeats(trial) and SURPLUS not in trial.user_attrs:
                self.entries.setdefault(plan.key, Entry(plan)).trials.append(trial)

    def __len__(self) -> int:
        """Return the number of plans that were, are being, or will again be trained."""
        return len(self.entries)

    def rank(self, plan: Plan) -> int:
        """Return how many plans were chosen before this one."""
        return list(self.entries).index(plan.key)

    def cut_off(self, most: int) -> list[Entry]:
        """Return the plans whose training was cut off, among the given number chosen first."""
        return [entry for entry in list(self.entries.values())[:most] if entry.first is None]

    @property
    def running(self) -> list[Entry]:
        """Return the plans that are being trained."""
        return [e for e in self.entries.values() if e.ended is None and e.live is not None]

    @property
    def ended(self) -> list[FrozenTrial]:
        """Return the trials whose training ended, one per plan."""
        return [trial for entry in self.entries.values() if (trial := entry.ended)]

    @property
    def failures(self) -> list[str]:
        """Return the reasons why plans failed."""
        return [
            entry.failed.user_attrs[FAILED]
            for entry in self.entries.values()
            if entry.first is not None and entry.failed is entry.first and entry.failed is not None
        ]


def repeats(trial: FrozenTrial) -> bool:
    """Return whether a trial chose a plan that another one trained."""
    return trial.user_attrs.get(SAME_AS) is not None


def outcome_of(trial: FrozenTrial) -> Mapping[str, Any]:
    """Return the recorded outcome of a trial that was trained to its end."""
    found: Mapping[str, Any] = trial.user_attrs.get(OUTCOME, {})
    return found
