"""Δm, the average relative improvement over single-task training."""

from __future__ import annotations

import math
from collections.abc import Mapping

from libmtl_recon import ReconError

Metrics = Mapping[str, Mapping[str, float]]
"""``metrics[task][metric]``."""


def relative_improvement(
    metrics: Metrics, single_task: Metrics, higher_is_better: Mapping[str, Mapping[str, bool]]
) -> float:
    """Δm in percent (Recon paper, section 5.1).

    For each task the mean over its metrics of (-1)^l (M - S) / |S|, with l = 1 where lower is
    better; then the mean over the tasks. The paper's metrics are positive, so that it divides by
    S; the absolute value makes a metric that may be negative count in the right direction.

    Args:
        metrics: M, of the network that is judged.
        single_task: S, of networks that were trained for one task each.
        higher_is_better: For each metric, whether more is better.

    Returns:
        Above 0 where training together is better than training apart.

    Raises:
        ReconError: A value is missing, NaN or infinite, or S is 0.

    Example:
        >>> relative_improvement({"t": {"Acc": 0.9}}, {"t": {"Acc": 0.8}}, {"t": {"Acc": True}})
        12.5
    """
    per_task = []
    for task, directions in higher_is_better.items():
        if not directions:
            raise ReconError(
                f"Task {task!r} has no metric by which configurations could be compared. Name one "
                "in the script's task_dict."
            )
        gains = []
        for name, higher in directions.items():
            value = _value(metrics, task, name, "")
            base = _value(single_task, task, name, " for the network trained on that task alone")
            if base == 0:
                raise ReconError(
                    f"Metric {name!r} of task {task!r} is 0 for the network trained on that task "
                    "alone, so no improvement relative to it exists. Train longer, or use a metric "
                    "that is not 0."
                )
            gains.append((value - base) / abs(base) * (1 if higher else -1))
        per_task.append(sum(gains) / len(gains))
    return 100 * sum(per_task) / len(per_task)


def _value(metrics: Metrics, task: str, name: str, whose: str) -> float:
    value = metrics.get(task, {}).get(name)
    if value is None:
        raise ReconError(
            f"Metric {name!r} of task {task!r} was not measured{whose}, so configurations cannot "
            "be compared by it. Have the script's metric give a number in each pass."
        )
    if not math.isfinite(value):
        raise ReconError(
            f"Metric {name!r} of task {task!r} is {value}{whose}, so configurations cannot be "
            "compared by it. Look at the script's metric and at its loss, or lower --lr."
        )
    return value
