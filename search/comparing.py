"""Compare trained networks with single-task networks, or with one network of all tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from libmtl_recon_search.check import require_measurements
from libmtl_recon_search.config import Config
from libmtl_recon_search.config_parts import Objective
from libmtl_recon_search.config_space import Space
from libmtl_recon_search.judge import Baseline, Judge
from libmtl_recon_search.objective import Metrics, UndefinedMetricError
from libmtl_recon_search.result import Result

from libmtl_recon import ReconError


@dataclass(frozen=True)
class Performance:
    """The test performance of a network at its best epoch on the validation data.

    Attributes:
        delta_m: Δm in percent.
        metrics: ``metrics[task][metric]``.
        parameters: The network's number of parameters.
        epoch: That epoch, counted from 0.
    """

    delta_m: float
    metrics: Metrics
    parameters: int
    epoch: int


def compare(
    script: str,
    results: Sequence[Result],
    base: Sequence[Result],
    say: Callable[[str], None] = lambda _: None,
) -> list[Performance]:
    """Return the performance of networks relative to a baseline.

    The epoch of each network is that with the best Δm on the validation data, or on the test data
    if the script has no other. Metrics whose relative improvement is undefined are left out of Δm,
    and this is said.

    Args:
        script: The script, for messages.
        results: The measurements of the networks.
        base: Those of one network per task, or of one network of all tasks.
        say: A function that is called with messages.

    Raises:
        ReconError: The script measures nothing by which networks could be compared.
    """
    on: Literal["val", "test"] = (
        "val" if all(one.epochs["val"] for one in (*results, *base)) else "test"
    )
    config = Config(script=script, objective=Objective(on=on), space=Space())
    for one in (*results, *base):
        require_measurements(config, one)
    directions = {task: own for one in base for task, own in one.higher_is_better.items()}
    judge = Judge(config, directions)
    while True:
        try:
            single = _baseline(judge, base)
            found = [judge.outcome(one, single) for one in results]
        except UndefinedMetricError as error:
            judge.leave_out(error.name)
            if not judge.scale.counted(directions):
                raise ReconError(
                    f"{script} has no metric by which its networks can be compared: the last one, "
                    f"{error.name}, is zero or not a number for the baseline or for a network. "
                    "Train longer."
                ) from error
            say(f"Warning: {error.name} is left out of Δm, because it is zero or not a number.")
        else:
            return [
                Performance(outcome.test, outcome.metrics, outcome.parameters, outcome.epoch)
                for outcome in found
            ]


def _baseline(judge: Judge, base: Sequence[Result]) -> Baseline:
    val: dict[str, dict[str, float]] = {}
    test: dict[str, dict[str, float]] = {}
    for one in base:
        epoch = judge.single(one)
        held_out = one.test_after(epoch, judge.on)
        for task in one.tasks:
            val[task] = dict(one.epochs[judge.on][epoch][task])
            test[task] = dict(held_out[task])
    return Baseline(val, test, sum(one.parameters for one in base))
