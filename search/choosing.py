"""Choosing the next trial: by Optuna, from the search's own trials and from nothing else.

Another program may have added trials to the study with anything in them. The sampler and the pruner
are therefore given a study in memory, to which the search's own trials were copied. Both draw by
the search's seed and the number of trials before, so that a search that was interrupted chooses
what it would have chosen.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from libmtl_recon_search.config import Config
from libmtl_recon_search.space import Plan, anchors, suggest
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from libmtl_recon import ConflictProfile

_START_UP = 6  # trials before Optuna's sampler takes the values so far into account
# What Optuna and we stumble over where a trial's parameters are not of this space.
_NOT_OURS = (ValueError, TypeError, KeyError, AttributeError)


class Chooser:
    """Chooses plans, and tells which trainings are to be ended early.

    Args:
        config: The search.
        profile: From which S and K become layers.
        epochs: How many epochs a training has.
    """

    def __init__(self, config: Config, profile: ConflictProfile, epochs: int) -> None:
        self._config, self._profile = config, profile
        self._anchors = anchors(config)
        self._pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if config.prune:
            # In the first third of a training the order of plans still changes much.
            self._pruner = optuna.pruners.MedianPruner(
                n_startup_trials=5, n_warmup_steps=max(1, epochs // 3)
            )

    def choose(self, before: Sequence[FrozenTrial], place: int) -> tuple[FrozenTrial, Plan]:
        """What to train next, as a running trial.

        Args:
            before: The search's trials so far.
            place: How many times was chosen before.
        """
        fixed = self._anchors[place] if place < len(self._anchors) else {}
        return self._sampled(before, place, fixed)

    def complete(
        self, fixed: Mapping[str, Any], before: Sequence[FrozenTrial]
    ) -> tuple[FrozenTrial, Plan] | None:
        """The same with some values given; None if they are not of this search's space."""
        try:
            trial, plan = self._sampled(before, len(before), fixed)
            foreign = self.plan(trial.params) is None
        except _NOT_OURS:
            return None
        return None if foreign else (trial, plan)

    def plan(self, values: Mapping[str, Any]) -> Plan | None:
        """The plan that a trial's parameters stand for; None if they are not of this space."""
        space = self._config.space
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna says that a value is out of range
                plan = suggest(optuna.trial.FixedTrial(dict(values)), self._config, self._profile)
            near = plan.alpha is None or abs(plan.alpha - values["alpha"]) < 1e-6
            near &= plan.S is None or abs(plan.S - values["s"]) < 1e-6
            within = space.k.low <= len(plan.layers) <= space.k.high
        except _NOT_OURS:
            return None
        return plan if near and within else None

    def distributions(self) -> dict[str, BaseDistribution]:
        """Of all parameters that a trial of this search may have."""
        found: dict[str, BaseDistribution] = {}
        for fixed in self._anchors:
            found |= self._sampled([], 0, fixed)[0].distributions
        return found

    def gives_up(self, before: Iterable[FrozenTrial], reached: Mapping[int, float]) -> bool:
        """Whether a training is worse than the others, and is to be ended early.

        Args:
            before: The search's trials so far.
            reached: The training's best Δm after each epoch.
        """
        if isinstance(self._pruner, optuna.pruners.NopPruner):
            return False
        ended = [trial for trial in before if trial.state == TrialState.COMPLETE]
        running = create_trial(state=TrialState.RUNNING, intermediate_values=dict(reached))
        return self._pruner.prune(_in_memory(ended), running)

    def _sampled(
        self, before: Sequence[FrozenTrial], place: int, fixed: Mapping[str, Any]
    ) -> tuple[FrozenTrial, Plan]:
        study = _in_memory(before)
        study.sampler = _sampler(f"{self._config.seed} {place}")
        study.enqueue_trial(dict(fixed))
        trial = study.ask()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = suggest(trial, self._config, self._profile)
        made = create_trial(
            state=TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={"plan": plan.title, "layers": list(plan.layers)},
        )
        return made, plan


def _in_memory(trials: Iterable[FrozenTrial]) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    return study


def _sampler(seed: str) -> optuna.samplers.TPESampler:
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big")
    with warnings.catch_warnings():
        # Before Optuna 5 this option, which keeps workers from trying the same, was experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=number, n_startup_trials=_START_UP, constant_liar=True
        )
