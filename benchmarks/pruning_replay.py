"""Replay of searches over a table of learning curves, without training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna import pruners, samplers
from optuna.trial import TrialState
from pruning_table import Curve, Plan, Problem

START_UP = 6  # trials before TPE uses the values so far; as in the search
# Consecutive choices of trained plans after which a search counts as ended; fewer once it has made
# its trials, and only epochs are left.
REPEATS, REPEATS_THEN = 40, 8
SAMPLERS: dict[str, Callable[[int], samplers.BaseSampler]] = {
    "TPE": lambda seed: samplers.TPESampler(
        seed=seed, n_startup_trials=START_UP, constant_liar=True
    ),
    "random": lambda seed: samplers.RandomSampler(seed=seed),
}


class MedianOfAll(pruners.BasePruner):
    """Pruner by the median of all trainings that reached an epoch, including those ended early.

    Optuna's MedianPruner only uses finished trials. Those ended early are not among them, so that
    its threshold rises with each trial.

    Args:
        start_up: The number of trials that must have ended before one is ended early.
        warm_up: The number of first epochs of each training in which it is not ended early.
    """

    def __init__(self, start_up: int, warm_up: int) -> None:
        self._start_up, self._warm_up = start_up, warm_up

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Return whether to end the trial."""
        epoch = trial.last_step
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        trained = [one for one in ended if one.intermediate_values]
        if epoch is None or epoch < self._warm_up or len(trained) < self._start_up:
            return False
        others = sorted(
            one.intermediate_values[epoch] for one in trained if epoch in one.intermediate_values
        )
        return bool(others) and trial.intermediate_values[epoch] < _median(others)


class WithoutRepeats(pruners.BasePruner):
    """A pruner that hides trials that repeat another trial from another pruner.

    Repeats have no learning curve, but MedianPruner counts them among its first trials.

    Args:
        pruner: The other pruner.
    """

    def __init__(self, pruner: pruners.BasePruner) -> None:
        self._pruner = pruner

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Return whether to end the trial."""
        seen = optuna.create_study(direction="maximize")
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        seen.add_trials([one for one in ended if one.intermediate_values])
        return bool(self._pruner.prune(seen, trial))


@dataclass(frozen=True)
class Recipe:
    """A pruner with its arguments.

    Attributes:
        title: A short title for tables.
        make: A function that creates the pruner, given the number of epochs of a training.
    """

    title: str
    make: Callable[[int], pruners.BasePruner]


def _median_pruner(start_up: int, share: float) -> Callable[[int], pruners.BasePruner]:
    return lambda epochs: pruners.MedianPruner(
        n_startup_trials=start_up, n_warmup_steps=warm_up(epochs, share)
    )


def _percentile_pruner(kept: float, share: float) -> Callable[[int], pruners.BasePruner]:
    return lambda epochs: pruners.PercentilePruner(
        kept, n_startup_trials=5, n_warmup_steps=warm_up(epochs, share)
    )


def warm_up(epochs: int, share: float) -> int:
    """Return a fraction of the epochs as steps of Optuna, at least one."""
    return max(1, int(epochs * share + 1e-9))


# Not included: WilcoxonPruner, which compares means over independent evaluations, such as several
# folds (the epochs of a training are not independent, and the best one counts); and PatientPruner,
# which never ends a trial that reports the best value so far, since that never falls.
RECIPES = [
    Recipe("none", lambda _: pruners.NopPruner()),
    Recipe("Median 5, 1/3", _median_pruner(5, 1 / 3)),
    Recipe("Median 5, 0.4", _median_pruner(5, 0.4)),
    Recipe("Median 5, 1/2", _median_pruner(5, 1 / 2)),
    Recipe("Median 5, 2/3", _median_pruner(5, 2 / 3)),
    Recipe("Median 8, 1/3", _median_pruner(8, 1 / 3)),
    Recipe("Median 8, 1/2", _median_pruner(8, 1 / 2)),
    Recipe("Median 5*, 1/3", lambda epochs: WithoutRepeats(_median_pruner(5, 1 / 3)(epochs))),
    Recipe("Percentile 25: 5, 1/3", _percentile_pruner(25.0, 1 / 3)),
    Recipe("Percentile 25: 5, 1/2", _percentile_pruner(25.0, 1 / 2)),
    Recipe("Percentile 75: 5, 1/3", _percentile_pruner(75.0, 1 / 3)),
    Recipe("Percentile 75: 5, 1/2", _percentile_pruner(75.0, 1 / 2)),
    Recipe("Halving, 4", lambda _: pruners.SuccessiveHalvingPruner(min_resource=1)),
    Recipe("Hyperband, 3", lambda epochs: pruners.HyperbandPruner(1, epochs, 3)),
    Recipe("median of all 5, 1/3", lambda epochs: MedianOfAll(5, warm_up(epochs, 1 / 3))),
    Recipe("median of all 5, 1/2", lambda epochs: MedianOfAll(5, warm_up(epochs, 1 / 2))),
]


@dataclass(frozen=True)
class Training:
    """A training of a replayed search.

    Attributes:
        plan: The plan.
        epochs: The number of epochs.
        ended_early: Whether the pruner ended it.
    """

    plan: Plan
    epochs: int
    ended_early: bool


def replay(
    problem: Problem,
    curves: Mapping[Plan, Curve],
    recipe: Recipe,
    sampler: str,
    seed: int,
    trials: int,
) -> list[Training]:
    """Replay a search with one worker, as in ``libmtl-recon search``.

    EW with all layers shared is known before it begins. A plan that was already trained does not
    count as a trial. The best value so far is reported after each epoch; no trial is ended in its
    last epoch.

    Args:
        problem: The problem whose grid is searched.
        curves: The learning curve of each plan.
        recipe: The pruner.
        sampler: A key of ``SAMPLERS``.
        seed: The seed of the sampler.
        trials: The search ends when it has made this number of trials, and has spent the epochs of
            this number of full trainings.

    Returns:
        The trainings in order; fewer if the grid is exhausted.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            direction="maximize",
            sampler=SAMPLERS[sampler](seed),
            pruner=recipe.make(problem.epochs),
        )
    for values in anchors(problem):
        study.enqueue_trial(values)
    reference = Plan("EW", None, 0)
    endings: dict[Plan, tuple[TrialState, float | None]] = {
        reference: (TrialState.COMPLETE, curves[reference].best)
    }
    found: list[Training] = []
    spent = repeats = 0
    budget = trials * problem.epochs
    while (len(found) < trials and repeats < REPEATS) or (
        len(found) >= trials and spent < budget and repeats < REPEATS_THEN
    ):
        trial = study.ask()
        plan = suggest(trial, problem)
        if plan in endings:
            state, value = endings[plan]
            study.tell(trial, value, state)
            repeats += 1
            continue
        training = _train(trial, plan, curves[plan])
        if training.ended_early:
            endings[plan] = TrialState.PRUNED, None
        else:
            endings[plan] = TrialState.COMPLETE, curves[plan].best
        state, value = endings[plan]
        study.tell(trial, value, state)
        found.append(training)
        spent += training.epochs
        repeats = 0
    return found


def suggest(trial: optuna.Trial, problem: Problem) -> Plan:
    """Let Optuna choose a plan of the grid, with the search's parameters."""
    weighting = trial.suggest_categorical("weighting", ["EW", "GradOPS"])
    alpha = None
    if weighting == "GradOPS":
        low, high = problem.alphas[0], problem.alphas[-1]
        alpha = trial.suggest_float("alpha", low, high, step=1.0)
    # By index, since the grid's steps differ.
    return Plan(weighting, alpha, problem.ks[trial.suggest_int("k", 0, len(problem.ks) - 1)])


def anchors(problem: Problem) -> list[dict[str, Any]]:
    """Return a search's first trials: each weighting with and without a split."""
    middle = len(problem.ks) // 2
    more: dict[str, dict[str, Any]] = {"EW": {}, "GradOPS": {"alpha": 0.0}}
    return [{"weighting": w, "k": k, **more[w]} for w in more for k in (middle, 0)]


def _train(trial: optuna.Trial, plan: Plan, curve: Curve) -> Training:
    best = curve.val[0]
    last = len(curve.val) - 1
    for epoch, value in enumerate(curve.val):
        best = max(best, value)
        trial.report(best, epoch)
        if trial.should_prune() and epoch < last:
            return Training(plan, epoch + 1, ended_early=True)
    return Training(plan, len(curve.val), ended_early=False)


def _median(values: list[float]) -> float:
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
