"""The evaluation of runs: objectives at the best epoch, and violations of constraints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from libmtl_recon_search.config import Config
from libmtl_recon_search.objective import Directions, Metrics, Scale
from libmtl_recon_search.result import Result

from libmtl_recon import ReconError, UsageError
from libmtl_recon.texts import did_you_mean

COSTS = ("parameters", "memory", "step_time")
"""Objectives of a whole run; less is better."""
_GAINS = ("delta_m", "worst_task")

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Baseline:
    """The networks trained for one task each, with one seed.

    Attributes:
        val: ``val[task][metric]``, on the data on which configurations are compared.
        test: ``test[task][metric]``, on the test data, at the same epochs.
        parameters: The number of parameters of all these networks together.
    """

    val: Metrics
    test: Metrics
    parameters: int


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trained plan, relative to the baseline of the same seed.

    Attributes:
        val: Δm on the data on which configurations are compared, at its best epoch.
        test: Δm on the test data, at that epoch.
        metrics: The metrics on the test data, at that epoch.
        parameters: The network's number of parameters.
        epoch: The best epoch, counted from 0.
        values: The search's objectives, by name, on the data on which configurations are compared.
        per_task: The improvement of each task there, in percent.
        costs: ``parameters``, ``memory`` in bytes, ``step_time`` in seconds, if measured.
    """

    val: float
    test: float
    metrics: Metrics
    parameters: int
    epoch: int
    values: Mapping[str, float] = field(default_factory=dict)
    per_task: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)


class Judge:
    """Evaluator of the runs of one search.

    Args:
        config: The configuration.
        directions: For each task and metric of the script, whether higher is better.

    Attributes:
        scale: The metrics with which runs are compared.
        names: The objectives.
        lead: The objective that is evaluated after each epoch, and that determines the best epoch.

    Raises:
        UsageError: An objective, a weight or a left-out name is not a task or metric of the script.
    """

    def __init__(self, config: Config, directions: Directions) -> None:
        self._config, self._directions = config, directions
        self.on = config.objective.on
        self.names = tuple(config.objectives)
        self.scale = Scale(config.metrics.weights, frozenset(config.metrics.leave_out))
        followed = [name for name in self.names if name not in COSTS]
        self._measured = [name for name in followed if name not in _GAINS]
        self.lead = followed[0] if followed else _GAINS[0]

    @property
    def directions(self) -> list[Direction]:
        """Optuna's direction of each objective."""
        return [self.direction(name) for name in self.names]

    def direction(self, name: str) -> Direction:
        """Return the direction of an objective, ``maximize`` or ``minimize``."""
        if name in COSTS:
            return "minimize"
        return "maximize" if name in _GAINS or _of(self._directions, name) else "minimize"

    def cost(self, name: str, value: float) -> float:
        """Return an objective's value, negated if higher is better."""
        return -value if self.direction(name) == "maximize" else value

    def leave_out(self, name: str) -> None:
        """Leave out a metric from now on."""
        self.scale = replace(self.scale, left_out=self.scale.left_out | {name})

    def curve(self, result: Result, single: Metrics, scale: Scale | None = None) -> list[float]:
        """Return the lead after each epoch; NaN where it is undefined."""
        return [
            self._lead(metrics, single, result, scale or self.scale)
            for metrics in result.epochs[self.on]
        ]

    def deltas(self, result: Result, single: Metrics) -> list[float]:
        """Return Δm after each epoch in which it is defined."""
        found = (
            _delta(self.scale, metrics, single, result.higher_is_better)
            for metrics in result.epochs[self.on]
        )
        return [value for value in found if not math.isnan(value)]

    def lead_of(self, outcome: Outcome) -> float:
        """Return the lead at a run's best epoch."""
        if self.lead in outcome.values:
            return outcome.values[self.lead]
        return outcome.val  # all objectives are costs; Δm is the lead

    def said(self, outcome: Outcome) -> str:
        """Return a short description of a run's objectives."""
        return ", ".join(said(name, outcome.values[name]) for name in self.names)

    def best_epoch(self, curve: Sequence[float]) -> int | None:
        """Return the epoch with the best lead; None if it is defined in none."""
        known = [epoch for epoch, value in enumerate(curve) if math.isfinite(value)]
        return min(known, key=lambda epoch: self.cost(self.lead, curve[epoch]), default=None)

    def best_so_far(self, curve: Sequence[float]) -> float:
        """Return the best lead; NaN if it is defined in no epoch."""
        epoch = self.best_epoch(curve)
        return math.nan if epoch is None else curve[epoch]

    def single(self, result: Result, scale: Scale | None = None) -> int:
        """Return the best epoch of a single-task network, relative to its own last epoch.

        Raises:
            UndefinedMetricError: No epoch has metrics with which others can be compared.
        """
        scale = scale or self.scale
        directions = result.higher_is_better
        if not scale.counted(directions):
            return len(result.epochs[self.on]) - 1  # none of its metrics is compared
        epochs = result.epochs[self.on]
        for base in reversed(epochs):
            if not scale.undefined(base, base, directions):
                gains = [_delta(scale, metrics, base, directions) for metrics in epochs]
                return max(range(len(gains)), key=lambda at: (gains[at] == gains[at], gains[at]))
        raise scale.undefined(epochs[-1], epochs[-1], directions)[0]

    def outcome(
        self,
        result: Result,
        base: Baseline,
        scale: Scale | None = None,
        *,
        held_out: bool = True,
    ) -> Outcome:
        """Return the outcome of a finished run.

        Args:
            result: The measurements of the run.
            base: The single-task networks of the same seed.
            scale: The metrics to use; by default those of the search.
            held_out: Whether the test data is used.

        Raises:
            UndefinedMetricError: No epoch has metrics that can be compared.
            ReconError: An objective was not measured.
        """
        scale, directions = scale or self.scale, result.higher_is_better
        curve = self.curve(result, base.val, scale)
        epoch = self.best_epoch(curve)
        if epoch is None:
            last = result.epochs[self.on][-1]
            raise next(
                iter(scale.undefined(last, base.val, directions)),
                ReconError(
                    f"The run cannot be compared: in no epoch {_both(self._measured)} a finite "
                    "number."
                ),
            )
        metrics = result.epochs[self.on][epoch]
        test: Metrics = {}
        test_delta = math.nan
        if held_out:
            test = result.test_after(epoch, self.on)
            test_delta = scale.mean(scale.per_task(test, base.test, directions))
        per_task = scale.per_task(metrics, base.val, directions)
        costs = {"parameters": float(result.parameters)}
        if result.memory is not None:
            costs["memory"] = result.memory
        if result.step_time is not None:
            costs["step_time"] = result.step_time
        found = Outcome(
            scale.mean(per_task),
            test_delta,
            test,
            result.parameters,
            epoch,
            {},
            per_task,
            costs,
        )
        return replace(found, values={n: self._value(n, found, metrics) for n in self.names})

    def violations(self, outcome: Outcome, reference: Outcome) -> dict[str, float]:
        """Return the violation of each constraint; 0 or less if it is satisfied.

        Args:
            outcome: The outcome of a run.
            reference: The outcome of EW with plain sharing, whose costs count as 1.
        """
        limits, found = self._config.constraints, {}
        for name in COSTS:
            limit = getattr(limits, name)
            if limit is not None:
                value = outcome.costs.get(name, math.nan) / reference.costs.get(name, math.nan)
                if not math.isfinite(value):
                    raise ReconError(
                        f"The constraint on {name} cannot be checked: the run did not measure it."
                    )
                found[name] = value - limit.at_most
        if limits.each_task is not None:
            for task, value in outcome.per_task.items():
                found[f"each_task.{task}"] = limits.each_task.not_below - value
        return found

    def faults(self) -> list[UsageError]:
        """Return the entries of the configuration that are not a task or metric of the script."""
        metrics = [f"{task}.{name}" for task, own in self._directions.items() for name in own]
        every = [*self._directions, *metrics]
        found = []
        for name in self.names:
            if name not in (*COSTS, *_GAINS, *metrics):
                found.append(_no_such("objectives", "a metric", name, metrics))
        for name in self._config.metrics.weights:
            if name not in every:
                found.append(_no_such("metrics.weights", "a task or metric", name, every))
        for name in self._config.metrics.leave_out:
            if name not in every:
                found.append(_no_such("metrics.leave_out", "a task or metric", name, every))
        if not found and not self.scale.counted(self._directions):
            found.append(
                UsageError(
                    "metrics.leave_out",
                    "must leave at least one metric with which configurations can be compared",
                    list(self._config.metrics.leave_out),
                    f"The script measures {', '.join(metrics)}.",
                )
            )
        return found

    def _lead(self, metrics: Metrics, single: Metrics, result: Result, scale: Scale) -> float:
        """Return the lead after an epoch; NaN unless it and all objectives are defined there."""
        directions = result.higher_is_better
        measured = [_of(metrics, name) for name in self._measured]
        if scale.undefined(metrics, single, directions) or not all(map(math.isfinite, measured)):
            return math.nan
        if self.lead in _GAINS:
            per_task = scale.per_task(metrics, single, directions)
            return scale.mean(per_task) if self.lead == "delta_m" else min(per_task.values())
        return float(_of(metrics, self.lead))

    def _value(self, name: str, outcome: Outcome, metrics: Metrics) -> float:
        if name == "delta_m":
            return outcome.val
        if name == "worst_task":
            return min(outcome.per_task.values())
        if name not in COSTS:
            return float(_of(metrics, name))
        if name not in outcome.costs:
            raise ReconError(
                f"The run did not measure its {name}, which is an objective of the search: it "
                "trained too few steps."
            )
        return outcome.costs[name]


def said(name: str, value: float) -> str:
    """Return a short description of an objective's value."""
    if name == "delta_m":
        return f"Δm {value:+.2f} %"
    if name == "worst_task":
        return f"worst task {value:+.2f} %"
    if name == "parameters":
        return f"{value:,.0f} parameters"
    if name == "memory":
        return f"{value / 2**20:,.0f} MiB"
    if name == "step_time":
        return f"{1000 * value:.3g} ms per step"
    return f"{name} {value:.4g}"


def _delta(scale: Scale, metrics: Metrics, base: Metrics, directions: Directions) -> float:
    if scale.undefined(metrics, base, directions):
        return math.nan
    return scale.mean(scale.per_task(metrics, base, directions))


def _of(values: Mapping[str, Mapping[str, Any]], name: str) -> Any:
    """Return ``values[task][metric]`` of ``TASK.METRIC``, either of which may contain dots."""
    for task, own in values.items():
        for metric, value in own.items():
            if f"{task}.{metric}" == name:
                return value
    return math.nan


def _both(names: Sequence[str]) -> str:
    """Join names with a verb."""
    if len(names) == 1:
        return f"is {names[0]}"
    return f"are {', '.join(names[:-1])} and {names[-1]}"


def _no_such(key: str, what: str, name: str, known: Sequence[str]) -> UsageError:
    return UsageError(
        key,
        f"must be the name of {what} of the script",
        name,
        f"{did_you_mean(name, known)}Known names: {', '.join(known)}.",
    )
