"""The costs and savings of pruners in replayed searches: regret and epochs, with intervals."""

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
    """The measures of one replayed search, or means over several; Δm in points.

    Attributes:
        epochs: The epochs spent for a given number of trials.
        ended: The fraction of trainings that were ended early.
        good: The fraction of those ended early that are among the best three plans of the table.
        lost: The difference of the best trained plan, ended early or not, and the chosen one.
        loses: 1 if this difference is not 0; in a mean, the fraction of searches.
        val: The regret of the chosen plan on validation data, with the seed of its training.
        test: Its regret on test data, averaged over the *other* seeds; NaN with a single seed.
        more: The number of trainings in the epochs of that number of full trainings.
        val_equal: The regret ``val`` after these epochs.
        test_equal: The regret ``test`` after these epochs.
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
    """Return each plan's Δm on test data, averaged over the other seeds to exclude chance."""
    others = [curves for other, curves in table.items() if other != seed]
    if not others:
        return dict.fromkeys(table[seed], float("nan"))
    return {plan: statistics.mean(c[plan].test for c in others) for plan in table[seed]}


def measure(
    table: Table, seed: int, trainings: Sequence[Training], trials: int, budget: int
) -> Measures:
    """Measure a replayed search.

    Args:
        table: All learning curves.
        seed: The training seed with which it was replayed.
        trainings: Its trainings.
        trials: The number of trials for the comparison at equal numbers of trials.
        budget: The number of epochs for the comparison at equal epochs.
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
    """Return the best finished plan on validation data, including EW with all layers shared."""
    finished = [REFERENCE, *(one.plan for one in trainings if not one.ended_early)]
    return max(finished, key=lambda plan: curves[plan].best)


def mean(many: Sequence[Measures]) -> Measures:
    """Return the means of several measures, without NaN."""
    columns = {}
    for name in NAMES:
        values = [v for one in many if (v := getattr(one, name)) == v]
        columns[name] = statistics.mean(values) if values else float("nan")
    return Measures(**columns)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half of its 95 % interval (Student's t), if there are several values.

    NaN is left out.
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
    """Return the Spearman correlation of the best Δm up to each epoch with the final one."""
    found = []
    for epoch in range(len(next(iter(next(iter(table.values())).values())).val)):
        rhos = []
        for curves in table.values():
            now = [max(curve.val[: epoch + 1]) for curve in curves.values()]
            rhos.append(float(stats.spearmanr(now, [c.best for c in curves.values()]).statistic))
        found.append(statistics.mean(rhos))
    return found
