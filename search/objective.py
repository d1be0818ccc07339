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
    """Δm in percent (Recon paper, section 5.1; GradOPS paper, section 4).

    For each task the mean over its metrics of (-1)^l (M - S) / S, with l = 1 where lower is
    better; then the mean over the tasks.

    Args:
        metrics: M, of the network that is judged.
        single_task: S, of networks that were trained for one task each.
        higher_is_better: For each metric, whether more is better.

    Returns:
        Above 0 where training together is better than training apart.

    Raises:
        ReconError: A value is NaN or infinite, or S is 0.

    Example:
        >>> relative_improvement({"t": {"Acc": 0.9}}, {"t": {"Acc": 0.8}}, {"t": {"Acc": True}})
        12.5
    """
    per_task = []
    for task, directions in higher_is_better.items():
        gains = []
        for name, higher in directions.items():
            value, base = metrics[task][name], single_task[task][name]
            broken = [number for number in (value, base) if not math.isfinite(number)]
            if broken:
                raise ReconError(
                    f"Metric {name!r} of task {task!r} is {broken[0]}, so configurations cannot be "
                    "compared by it. Look at the script's metric and at the loss, or lower --lr."
                )
            if base == 0:
                raise ReconError(
                    f"Metric {name!r} of task {task!r} is 0 for the network trained on that task "
                    "alone, so no improvement relative to it exists. Train longer, or use a metric "
                    "that is not 0."
                )
            gains.append((value - base) / base * (1 if higher else -1))
        per_task.append(sum(gains) / len(gains))
    return 100 * sum(per_task) / len(per_task)
