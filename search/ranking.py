"""The plans of a study in order of preference, and as dots of a picture."""

from __future__ import annotations

import math

from libmtl_recon_search.board import outcome_of
from libmtl_recon_search.config import Config
from libmtl_recon_search.front import finalists, front_names, pareto_front, violation
from libmtl_recon_search.judge import COSTS, Judge
from libmtl_recon_search.plots import Dot
from libmtl_recon_search.study import Study
from optuna.trial import FrozenTrial, TrialState

from libmtl_recon import ReconError


def complete(study: Study) -> list[FrozenTrial]:
    """Return the trials that were trained to the end, one per plan.

    A plan that a baseline trained is included if a trial chose it.
    """
    found: dict[object, FrozenTrial] = {}
    for trial in study.trials:
        if trial.state == TrialState.COMPLETE:
            found.setdefault(study.plan(trial).key, trial)
    return list(found.values())


def best_trials(study: Study, config: Config, judge: Judge) -> list[FrozenTrial]:
    """Return the trials that are trained again, in the order of preference of ``pick``.

    Raises:
        ReconError: No trial was finished.
    """
    trials = complete(study)
    if not trials:
        raise ReconError("No trial has finished, so there is nothing to report.")
    return finalists(trials, config, judge)


def front_objectives(judge: Judge) -> list[tuple[str, str]]:
    """Return the objectives of the front, with their directions."""
    return [(name, judge.direction(name)) for name in front_names(judge.names)]


def values_of(trial: FrozenTrial, judge: Judge) -> dict[str, float]:
    """Return the objectives of a trial, and its other values that could be objectives."""
    kept = outcome_of(trial)
    found = {name: kept[name] for name in ("delta_m", *COSTS) if name in kept}
    return {**found, **dict(zip(judge.names, trial.values, strict=True))}


def front_of(study: Study, judge: Judge) -> list[FrozenTrial]:
    """Return the trials of the front, best first by the first objective."""
    wanted = front_objectives(judge)
    trials = complete(study)
    points = {
        trial.number: [values_of(trial, judge).get(name, math.nan) for name, _ in wanted]
        for trial in trials
        if violation(trial) == 0
    }
    found = set(pareto_front(points, [direction for _, direction in wanted]))
    on_front = [trial for trial in trials if trial.number in found]
    first = wanted[0][0]
    return sorted(on_front, key=lambda trial: judge.cost(first, points[trial.number][0]))


def dots(study: Study) -> list[Dot]:
    """Return the dot of each plan that was trained, to the end or not."""
    found = []
    for trial in study.board.ended:
        kept = outcome_of(trial)
        whole = trial.state == TrialState.COMPLETE
        reached = kept.get("delta_m", kept.get("reached", math.nan))
        if "parameters" in kept:
            plan = study.plan(trial)
            found.append(Dot(plan.weighting, int(kept["parameters"]), reached, whole))
    return found
