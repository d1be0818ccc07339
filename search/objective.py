"""Δm, the average relative improvement over single-task training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from libmtl_recon import ReconError

Metrics = Mapping[str, Mapping[str, float]]
"""``metrics[task][metric]``."""

Directions = Mapping[str, Mapping[str, bool]]
"""``directions[task][metric]``: whether more is better."""


class UndefinedMetricError(ReconError):
    """A metric whose improvement over single-task training is undefined.

    Attributes:
        name: ``TASK.METRIC``.
    """

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


@dataclass(frozen=True)
class Scale:
    """The metrics with which runs are compared, and their weights.

    Attributes:
        weights: The weights of tasks (``TASK``) in Δm and of metrics (``TASK.METRIC``) in their
            task; 1 for those that are not named.
        left_out: Tasks and metrics that do not count, by the same names.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()

    def counted(self, directions: Directions) -> dict[str, list[str]]:
        """Return the metrics that count, by task, without tasks that have none."""
        found = {
            task: [name for name in own if f"{task}.{name}" not in self.left_out]
            for task, own in directions.items()
            if task not in self.left_out
        }
        return {task: names for task, names in found.items() if names}

    def per_task(
        self, metrics: Metrics, single_task: Metrics, directions: Directions
    ) -> dict[str, float]:
        """Compute the improvement of each task in percent (Recon paper, section 5.1).

        For each task this is the mean over its metrics of (-1)^l (M - S) / abs(S), with l = 1 if
        lower is better. The paper divides by S, since its metrics are positive; the absolute value
        gives the right sign for metrics that may be negative.

        Args:
            metrics: M, the metrics of the network.
            single_task: S, the metrics of networks that were trained for one task each.
            directions: For each metric, whether higher is better.

        Raises:
            UndefinedMetricError: A value is missing, NaN or infinite, or S is 0.
            ReconError: All metrics are left out.
        """
        counted = self.counted(directions)
        bare = [t for t, own in directions.items() if not own and t not in self.left_out]
        if bare or not counted:
            which = f"Task {bare[0]!r}" if bare else "The network"
            raise ReconError(
                f"{which} has no metric with which configurations could be compared. Add one to "
                "the script's task_dict, or leave out fewer (`metrics: {leave_out: …}`)."
            )
        found = {}
        for task, names in counted.items():
            total = weight = 0.0
            for name in names:
                own = self.weights.get(f"{task}.{name}", 1.0)
                gain = _gain(metrics, single_task, task, name)
                total += own * (gain if directions[task][name] else -gain)
                weight += own
            found[task] = 100 * total / weight
        return found

    def mean(self, per_task: Mapping[str, float]) -> float:
        """Compute Δm, the weighted mean over the tasks."""
        weights = {task: self.weights.get(task, 1.0) for task in per_task}
        total = sum(weights[task] * value for task, value in per_task.items())
        return total / sum(weights.values())

    def undefined(
        self, metrics: Metrics, single_task: Metrics, directions: Directions
    ) -> list[UndefinedMetricError]:
        """Return the error of each metric that cannot be used for comparisons."""
        found = []
        for task, names in self.counted(directions).items():
            for name in names:
                try:
                    _gain(metrics, single_task, task, name)
                except UndefinedMetricError as error:
                    found.append(error)
        return found


def relative_improvement(
    metrics: Metrics,
    single_task: Metrics,
    higher_is_better: Directions,
    scale: Scale = Scale(),  # frozen
) -> float:
    """Compute Δm in percent (Recon paper, section 5.1).

    Args:
        metrics: M, the metrics of the network.
        single_task: S, the metrics of networks that were trained for one task each.
        higher_is_better: For each metric, whether higher is better.
        scale: The weights, and the metrics that are left out; by default all metrics have the same
            weight.

    Returns:
        Δm, above 0 if joint training is better than separate training.

    Raises:
        UndefinedMetricError: A value is missing, NaN or infinite, or S is 0.
        ReconError: All metrics are left out.

    Example:
        >>> relative_improvement({"t": {"Acc": 0.9}}, {"t": {"Acc": 0.8}}, {"t": {"Acc": True}})
        12.5
    """
    return scale.mean(scale.per_task(metrics, single_task, higher_is_better))


def _gain(metrics: Metrics, single_task: Metrics, task: str, name: str) -> float:
    value = _value(metrics, task, name, "")
    base = _value(single_task, task, name, " for the network trained on that task alone")
    if base == 0:
        raise UndefinedMetricError(
            f"Metric {name!r} of task {task!r} is 0 for the network trained on that task alone, so "
            "no improvement relative to it exists. Train longer, use a metric that is not 0, or "
            f"leave it out: `metrics: {{leave_out: [{task}.{name}]}}`.",
            f"{task}.{name}",
        )
    return (value - base) / abs(base)


def _value(metrics: Metrics, task: str, name: str, whose: str) -> float:
    value = metrics.get(task, {}).get(name)
    if value is None:
        raise UndefinedMetricError(
            f"Metric {name!r} of task {task!r} was not measured{whose}, so configurations cannot "
            "be compared by it. Make the script's metric return a number in each evaluation.",
            f"{task}.{name}",
        )
    if not math.isfinite(value):
        raise UndefinedMetricError(
            f"Metric {name!r} of task {task!r} is {value}{whose}, so configurations cannot be "
            "compared by it. Check the script's metric and its loss, lower --lr, or leave it "
            f"out: `metrics: {{leave_out: [{task}.{name}]}}`.",
            f"{task}.{name}",
        )
    return value
