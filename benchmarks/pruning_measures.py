"""What pruners cost and save in replayed searches: regret, epochs, and how sure that is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pruning_replay import Training
from pruning_table import Curve, Plan, Table
from scipy import stats

REFERENCE = Plan("EW", None, 0)
TOP = 3


@dataclass(frozen=True)
class Measures:
    """Of one replayed search, or means over several; Δm in points.

    Attributes:
        epochs: Spent, for a given number of trials.
        ended: Share of trainings that were ended early.
        good: Of those ended early, the share that are among the best three plans of the table.
        lost: What the best plan that was trained, ended early or not, is above the chosen one.
        loses: 1 if that is anything; in a mean, the share of searches.
        val: Regret of the chosen plan on validation data, with the seed that it was trained with.
        test: Its regret on test data, in the mean over the *other* seeds; NaN with a single seed.
        more: Trainings in as many epochs as that number of whole ones takes.
        val_equal: The first regret after so many epochs.
        test_equal: The second regret after so many epochs.
    """

    epochs: float
    ended: float
    good: float
    lost: float
    loses: float
    val: float
    test: float
    more: float
    val_equal: float
    test_equal: float


NAMES = tuple(Measures.__dataclass_fields__)


def quality(table: Table, seed: int) -> dict[Plan, float]:
    """Each plan's Δm on test data, in the mean over the other seeds, so that luck is left out."""
    others = [curves for other, curves in table.items() if other != seed]
    if not others:
        return dict.fromkeys(table[seed], float("nan"))
    return {plan: statistics.mean(c[plan].test for c in others) for plan in table[seed]}


def measure(
    table: Table, seed: int, trainings: Sequence[Training], trials: int, budget: int
) -> Measures:
    """Judge a replayed search.

    Args:
        table: All learning curves.
        seed: The training seed with which it was replayed.
        trainings: What it trained.
        trials: How many count, at equal numbers of trials.
        budget: How many epochs count, at equal epochs.
    """
    curves, true = table[seed], quality(table, seed)
    best, best_true = max(c.best for c in curves.values()), max(true.values())
    top = sorted(curves, key=lambda plan: -curves[plan].best)[:TOP]
    first = list(trainings[:trials])
    equal, spent = [], 0
    for training in trainings:
        spent += training.epochs
        if spent > budget:
            break
        equal.append(training)
    ended = [one for one in first if one.ended_early]
    chosen, chosen_equal = choose(curves, first), choose(curves, equal)
    tried = max(curves[plan].best for plan in (REFERENCE, *(one.plan for one in first)))
    return Measures(
        epochs=sum(one.epochs for one in first),
        ended=len(ended) / len(first),
        good=sum(one.plan in top for one in ended) / len(ended) if ended else float("nan"),
        lost=tried - curves[chosen].best,
        loses=float(tried > curves[chosen].best),
        val=best - curves[chosen].best,
        test=best_true - true[chosen],
        more=len(equal),
        val_equal=best - curves[chosen_equal].best,
        test_equal=best_true - true[chosen_equal],
    )


def choose(curves: Mapping[Plan, Curve], trainings: Sequence[Training]) -> Plan:
    """The best finished plan on validation data; EW with all layers shared is always there."""
    finished = [REFERENCE, *(one.plan for one in trainings if not one.ended_early)]
    return max(finished, key=lambda plan: curves[plan].best)


def mean(many: Sequence[Measures]) -> Measures:
    """Means, over those in which a figure exists."""
    columns = {}
    for name in NAMES:
        values = [v for one in many if (v := getattr(one, name)) == v]
        columns[name] = statistics.mean(values) if values else float("nan")
    return Measures(**columns)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half of its 95 % interval (Student's t); without one for a single value.

    What is NaN is left out.
    """
    values = [value for value in values if value == value]
    if not values:
        return float("nan"), float("nan")
    middle = statistics.mean(values)
    if len(values) < 2:
        return middle, float("nan")
    error = statistics.stdev(values) / len(values) ** 0.5
    return middle, float(stats.t.ppf(0.975, len(values) - 1)) * error


def agreement(table: Table) -> list[float]:
    """Spearman's correlation of the best Δm up to each epoch with the final one: over the seeds."""
    found = []
    for epoch in range(len(next(iter(next(iter(table.values())).values())).val)):
        rhos = []
        for curves in table.values():
            now = [max(curve.val[: epoch + 1]) for curve in curves.values()]
            rhos.append(float(stats.spearmanr(now, [c.best for c in curves.values()]).statistic))
        found.append(statistics.mean(rhos))
    return found
