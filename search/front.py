"""The best trials: the Pareto front of several objectives, and the trial that is picked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from libmtl_recon_search.board import outcome_of
from libmtl_recon_search.config import Config
from libmtl_recon_search.judge import Judge
from optuna.trial import FrozenTrial

T = TypeVar("T")


def violation(trial: FrozenTrial) -> float:
    """Return the sum of a trial's violations of the constraints; 0 if it satisfies them."""
    return sum(value for value in trial.constraints.values() if value > 0)


def pareto_front(points: Mapping[int, Sequence[float]], directions: Sequence[str]) -> list[int]:
    """Return the points that no other point dominates.

    A point dominates another if it is at least as good in all objectives, and better in one.

    Args:
        points: The objectives of each point, by number; points with NaN are left out.
        directions: The directions of the objectives: ``maximize`` or ``minimize``.

    Returns:
        The numbers of these points, in the given order.
    """
    signs = [1.0 if direction == "minimize" else -1.0 for direction in directions]
    costs = {
        number: [sign * value for sign, value in zip(signs, values, strict=True)]
        for number, values in points.items()
        if not any(map(math.isnan, values))
    }

    def dominated(one: Sequence[float], other: Sequence[float]) -> bool:
        pairs = list(zip(one, other, strict=True))
        return all(b <= a for a, b in pairs) and any(b < a for a, b in pairs)

    return [
        number
        for number, cost in costs.items()
        if not any(dominated(cost, other) for other in costs.values())
    ]


def ranked(trials: Sequence[FrozenTrial], config: Config, judge: Judge) -> list[FrozenTrial]:
    """Return trials in the order of preference of ``pick``.

    Trials that satisfy the constraints come first, followed by the others in order of their
    violation. Among the former, the one with the best value is first, followed by those within
    ``pick.within`` of it in order of their parameters, and then by the rest in order of value.
    Equal trials keep their order.
    """
    cost = _cost(config, judge)
    kept = sorted((trial for trial in trials if violation(trial) == 0), key=cost)
    broken = sorted((trial for trial in trials if violation(trial) > 0), key=violation)
    if not kept:
        return broken
    best, *near = near_best(kept, cost, config.pick.within)
    far = [trial for trial in kept if trial is not best and trial not in near]
    return [best, *sorted(near, key=parameters_of), *far, *broken]


def finalists(trials: Sequence[FrozenTrial], config: Config, judge: Judge) -> list[FrozenTrial]:
    """Return the trials that are trained again before one of them is picked.

    They satisfy all constraints, unless no trial does: then it is the one with the least violation.
    If there is only one finalist, it is the one with the fewest parameters of those within
    ``pick.within`` of the best.
    """
    order = ranked(trials, config, judge)
    kept = [trial for trial in order if violation(trial) == 0]
    if not kept:
        return order[:1]
    if config.finalists.count > 1:
        return kept[: config.finalists.count]
    return [min(near_best(kept, _cost(config, judge), config.pick.within), key=parameters_of)]


def front_names(names: Sequence[str]) -> list[str]:
    """Return the objectives of the front; a single objective is shown against parameters."""
    if len(names) > 1:
        return list(names)
    return ["delta_m" if names[0] == "parameters" else names[0], "parameters"]


def _cost(config: Config, judge: Judge) -> Callable[[FrozenTrial], float]:
    """Return the number by which ``pick`` ranks trials; less is better."""
    name = config.pick.best or judge.names[0]
    place = judge.names.index(name)
    return lambda trial: judge.cost(name, trial.values[place])


def near_best(order: Sequence[T], cost: Callable[[T], float], tolerance: float) -> list[T]:
    """Return the first of an order, and those whose cost is within a tolerance of its cost.

    Args:
        order: At least one item, the best first.
        cost: The cost of an item; less is better.
        tolerance: The tolerance; with 0, equally good items are not included.
    """
    best, *others = order
    limit = cost(best) + tolerance
    return [best, *(other for other in others if tolerance > 0 and cost(other) <= limit)]


def parameters_of(trial: FrozenTrial) -> float:
    """Return the number of parameters of a trial's network."""
    found: float = outcome_of(trial).get("parameters", math.inf)
    return found
