"""Descriptions of the trials of a search: plan, state, and reasons of failures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from libmtl_recon_search.board import AGAIN, ENDED, FAILED, SAME_AS, outcome_of, repeats
from libmtl_recon_search.plan import Plan
from optuna.trial import FrozenTrial, TrialState

from libmtl_recon.texts import bounded, printable

_LONGEST_REASON = 160
_SHOWN = 10  # trials in a terminal's table, in addition to the failed ones


_IN_WORDS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "ended early"}


@dataclass(frozen=True)
class TrialLine:
    """A trial.

    Attributes:
        number: The trial's number in Optuna; None for a baseline that trials chose again.
        plan: The plan in words.
        value: Its Δm at the best epoch; None if it was not trained to the end.
        ended: How it ended: ``finished``, ``ended early``, ``failed``, ``baseline``.
        reason: The reason of a failure.
        again: The trials that chose the same plan, which was not trained again.
    """

    number: int | None
    plan: str
    value: float | None
    ended: str
    reason: str = ""
    again: tuple[int, ...] = ()

    @property
    def cells(self) -> list[str]:
        """Return the row of a table: trial, plan, Δm, how it ended."""
        number = "–" if self.number is None else str(self.number)
        value = "–" if self.value is None else f"{self.value:+.2f}"
        said = [self.ended] if self.ended in ("ended early", "failed") else []
        if self.reason:
            why = short_reason(self.reason)
            said = [why if why.startswith(self.ended) else f"{self.ended}: {why}"]
        if self.again:
            said.append(f"again: {in_words(self.again)}")
        return [number, self.plan, value, "; ".join(said)]


def trial_lines(
    trials: Sequence[FrozenTrial], plans: Callable[[FrozenTrial], Plan]
) -> list[TrialLine]:
    """Describe all trials, each plan once, without repeated and interrupted ones.

    Args:
        trials: The search's own trials.
        plans: A function that returns the plan of a trial.
    """
    again: dict[int | str, list[int]] = {}
    for trial in trials:
        if repeats(trial):
            again.setdefault(trial.user_attrs[SAME_AS], []).append(trial.number)
    once_more = {trial.user_attrs.get(AGAIN) for trial in trials}
    found = [
        TrialLine(None, f"EW, HPS ({name})", None, "", again=tuple(numbers))
        for name, numbers in again.items()
        if isinstance(name, str)
    ]
    for trial in trials:
        failed = trial.user_attrs.get(FAILED, "")
        cut_off = trial.state not in ENDED and not failed
        if not (repeats(trial) or cut_off or trial.number in once_more):
            ended = "failed" if failed else _IN_WORDS[trial.state]
            value = None
            if trial.state == TrialState.COMPLETE:
                value = outcome_of(trial).get("delta_m", trial.values[0])
            numbers = tuple(again.get(trial.number, ()))
            title = plans(trial).title
            found.append(TrialLine(trial.number, title, value, ended, failed, numbers))
    return found


def best_and_failed(lines: Sequence[TrialLine]) -> list[TrialLine]:
    """Return the trials to print on a terminal: the best, and those that failed."""
    failed = [line for line in lines if line.ended == "failed"]
    whole = [line for line in lines if line.value is not None]
    return sorted(whole, key=lambda line: -(line.value or 0.0))[:_SHOWN] + failed[-_SHOWN:]


def short_reason(text: str) -> str:
    """Return the reason of a failure without the command line and the path of the log."""
    text = re.sub(r"^The run `.*?` (?=was |failed |could )", "", text, flags=re.DOTALL)
    text = re.sub(r"\s+(Its|The run's) log is \S+\.$", "", text)
    return bounded(printable(" ".join(text.split())), _LONGEST_REASON)


def in_words(numbers: Iterable[int]) -> str:
    """Return numbers as text, with consecutive ones joined to ranges.

    Example:
        >>> in_words([3, 5, 6, 7, 9])
        '3, 5–7, 9'
    """
    groups: list[list[int]] = []
    for number in sorted(set(numbers)):
        if groups and groups[-1][-1] == number - 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(str(g[0]) if len(g) == 1 else f"{g[0]}–{g[-1]}" for g in groups)
