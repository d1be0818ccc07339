"""The importance of parameters by fANOVA, each among the trials that have it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from libmtl_recon_search.page.model import PageObjective
from libmtl_recon_search.quiet import optuna_quiet
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

FEWEST = 10
"""Trials below which no importance is computed: a forest would learn their noise."""

# Deeper or more trees change shares by a few hundredths and take ten times as long.
_FOREST = {"n_trees": 32, "max_depth": 6, "seed": 0}


def importances(
    trials: Sequence[FrozenTrial], objectives: Sequence[PageObjective]
) -> dict[str, dict[str, float]]:
    """Compute the share of each parameter in the variance of each objective.

    Optuna's fANOVA leaves out parameters that some trials lack, and its default, PED-ANOVA, assigns
    such a parameter the importance of the one that decides whether it is present. Here the share of
    each parameter is computed by fANOVA among the trials that have it, together with the parameters
    that all these have: for α it is the share in the variance of GradOPS trials. Shares of
    parameters with different trials are therefore not parts of one sum. The logarithm of
    logarithmic parameters is used.

    Args:
        trials: Trials of any state; only complete ones with finite values are used.
        objectives: One objective per value of the trials, in order.

    Returns:
        For each objective the shares, from 0 to 1, largest first. A parameter is absent if fewer
        than ten trials have it, or if it or the objective has only one value in these.

    Source:
        Hutter, Hoos, Leyton-Brown: An Efficient Approach for Assessing Hyperparameter Importance
        (ICML 2014).
    """
    whole = [
        trial
        for trial in trials
        if trial.state == TrialState.COMPLETE
        and len(trial.values) == len(objectives)
        and all(map(math.isfinite, trial.values))
    ]
    # Parameters with the same trials are computed together.
    together: dict[tuple[int, ...], list[str]] = {}
    for name in dict.fromkeys(name for trial in whole for name in trial.params):
        having = tuple(i for i, trial in enumerate(whole) if name in trial.params)
        together.setdefault(having, []).append(name)
    found: dict[str, dict[str, float]] = {}
    for place, objective in enumerate(objectives):
        shares: dict[str, float] = {}
        for having, names in together.items():
            group = [whole[i] for i in having]
            values = [trial.values[place] for trial in group]
            if len(group) >= FEWEST and len(set(values)) > 1:
                every = _shares(group, values)
                shares |= {name: every[name] for name in names if name in every}
        found[objective.name] = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return found


def _shares(trials: Sequence[FrozenTrial], values: Sequence[float]) -> dict[str, float]:
    """Compute fANOVA of the parameters that all of these trials have, and that vary among them."""
    common = set.intersection(*(set(trial.params) for trial in trials))
    columns: dict[str, list[Any]] = {}
    spaces: dict[str, BaseDistribution] = {}
    for name in trials[0].params:
        column = [trial.params[name] for trial in trials if name in common]
        if len(set(map(repr, column))) > 1:
            columns[name], spaces[name] = _column(column, [t.distributions[name] for t in trials])
    if not columns:
        return {}
    study = _new_study()
    study.add_trials(
        [
            optuna.create_trial(
                params={name: column[i] for name, column in columns.items()},
                distributions=spaces,
                value=value,
            )
            for i, value in enumerate(values)
        ]
    )
    with warnings.catch_warnings():
        # `normalize`, which is needed to compare shares of different trials, is experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        shares = optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.FanovaImportanceEvaluator(**_FOREST),
            params=list(columns),
            normalize=False,
        )
    return {name: float(share) for name, share in shares.items()}


def _new_study() -> optuna.Study:
    """Create a study in memory, without Optuna's log."""
    with optuna_quiet():
        return optuna.create_study()


def _column(
    column: Sequence[Any], spaces: Sequence[BaseDistribution]
) -> tuple[list[Any], BaseDistribution]:
    """Return a parameter's values and space for fANOVA."""
    if any(isinstance(space, CategoricalDistribution) for space in spaces):
        words = list(map(repr, column))
        return words, CategoricalDistribution(sorted(set(words)))
    # The union of the spaces, since a study may have been continued with another space.
    log = all(getattr(space, "log", False) for space in spaces)
    scale = math.log10 if log else float
    low = min(scale(space.low) for space in spaces)  # type: ignore[attr-defined]
    high = max(scale(space.high) for space in spaces)  # type: ignore[attr-defined]
    return [scale(value) for value in column], FloatDistribution(low, high)
