"""Choosing the next trial: by Optuna, from the search's own trials and from nothing else.

Another program may have added trials to the study with anything in them. The sampler and the pruner
are therefore given a study in memory, to which the search's own trials were copied. Both draw by
the search's seed and the number of trials before, so that a search that was interrupted chooses
what it would have chosen.
"""

from __future__ import annotations

import copy
import hashlib
import random
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import optuna
from libmtl_recon_search.config import Config
from libmtl_recon_search.constructors import said
from libmtl_recon_search.front import parameters_of
from libmtl_recon_search.judge import COSTS, Judge
from libmtl_recon_search.plan import Plan
from libmtl_recon_search.samplers import is_grid, make_pruner, make_sampler, refusing
from libmtl_recon_search.space import SearchSpace
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from libmtl_recon import ReconError, UsageError

PLAN, ARGUMENTS = "plan", "arguments"
"""Attributes that every trial of ours has from its beginning."""
PROFILE = "{profile}"
"""Stands for the file of the conflict profile in a trial's arguments."""
# What Optuna and we stumble over where a trial's parameters are not of this space.
_NOT_OURS = (ValueError, TypeError, KeyError, AttributeError, ReconError)


class Chooser:
    """Chooses plans, and tells which trainings are to be ended early.

    Args:
        config: The search.
        space: What may be chosen.
        judge: Which objectives there are.
        epochs: How many epochs a training has.
        worker: What tells this process from others that choose for the same search at the same
            time, so that they choose differently.
    """

    def __init__(
        self, config: Config, space: SearchSpace, judge: Judge, epochs: int, worker: str = ""
    ) -> None:
        self._config, self._space, self._judge, self._worker = config, space, judge, worker
        self._anchors = space.anchors()
        # What is not in its grid a grid is not asked for.
        self._first = [] if is_grid(type(make_sampler(config, 0))) else self._anchors
        self._pruner: optuna.pruners.BasePruner | None = None
        if config.prune:
            self._pruner = make_pruner(config, epochs)

    def choose(self, before: Sequence[FrozenTrial], place: int) -> tuple[FrozenTrial, Plan]:
        """What to train next, as a running trial.

        Args:
            before: The search's trials so far.
            place: How many times was chosen before.

        Raises:
            UsageError: The sampler fails.
        """
        fixed = self._first[place] if place < len(self._first) else {}
        with refusing(self._config.sampler, "choose trials of this search", "sampler"):
            return self._sampled(before, place, fixed)

    def complete(
        self, fixed: Mapping[str, Any], before: Sequence[FrozenTrial]
    ) -> tuple[FrozenTrial, Plan] | None:
        """The same with some values given; None if they are not of this search's space."""
        if not fixed.keys() <= set(self._space.names):
            return None
        try:
            trial, plan = self._sampled(before, len(before), fixed)
            foreign = self.plan(trial.params) is None
        except _NOT_OURS:
            return None
        return None if foreign else (trial, plan)

    def plan(self, values: Mapping[str, Any]) -> Plan | None:
        """The plan that a trial's parameters stand for; None if they are not of this space."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna says that a value is out of range
                return self._space.suggest(optuna.trial.FixedTrial(dict(values)))
        except _NOT_OURS:
            return None

    def untried(self, tried: Collection[object]) -> list[dict[str, Any]] | None:
        """The values of all plans that were not tried; None if the space is too large to list."""
        every = self._space.every()
        if every is None:
            return None
        return [values for key, values in every.items() if key not in tried]

    def among(
        self, left: Sequence[Mapping[str, Any]], before: Sequence[FrozenTrial], place: int
    ) -> tuple[FrozenTrial, Plan]:
        """One of these, drawn at random."""
        draw = random.Random(_number(f"{self._config.seed} {place} {self._worker}"))
        with refusing(self._config.sampler, "choose trials of this search", "sampler"):
            return self._sampled(before, place, draw.choice(left))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Of all parameters that a trial of this search may have."""
        found: dict[str, BaseDistribution] = {}
        for fixed in self._anchors:
            found |= self._sampled([], 0, fixed)[0].distributions
        return found

    def attributes(self, plan: Plan) -> dict[str, Any]:
        """What a trial says of itself from its beginning, for people and for reports."""
        line = self._space.line(plan, seed=self._config.seed)
        return {
            PLAN: plan.title,
            "layers": list(plan.layers),
            # Each worker, and each report, has the profile in another folder.
            ARGUMENTS: [PROFILE if part == self._space.network.file else part for part in line],
        }

    def gives_up(
        self,
        number: int,
        before: Iterable[FrozenTrial],
        reached: Mapping[int, float],
        parameters: int,
    ) -> tuple[bool, dict[str, Any]]:
        """Whether a training is worse than the others, and is to be ended early.

        Where what a network costs is an objective, a training is compared with those of networks
        that are not larger: one that is worse and smaller may still be worth its place.

        Args:
            number: The trial's.
            before: The search's trials so far, this one among them.
            reached: The training's best lead after each epoch.
            parameters: The network's.

        Returns:
            Whether it is, and what the pruner keeps in the trial, by which it looks at others.

        Raises:
            UsageError: The pruner fails.
        """
        if self._pruner is None:
            return False, {}
        others = {trial.number: trial for trial in before}
        own = others.pop(number).system_attrs if number in others else {}
        # The name, and the numbers, are those by which pruners deal trials out to brackets.
        study = optuna.create_study(
            study_name=self._config.name, direction=self._judge.direction(self._judge.lead)
        )
        costs = any(name in COSTS for name in self._judge.names)
        for at in range(max([number, *others]) + 1):
            made = None
            if at == number:
                made = create_trial(
                    state=TrialState.RUNNING,
                    intermediate_values=dict(reached),
                    system_attrs=_own(own),
                )
            elif at in others and not (costs and parameters_of(others[at]) > parameters):
                made = _as_looked_at(others[at])
            study.add_trial(made or create_trial(state=TrialState.FAIL))
        running = study.get_trials(deepcopy=False)[number]
        try:
            ends = self._pruner.prune(study, running)
        except Exception as error:
            raise UsageError(
                "pruner",
                "must look at trials of this search",
                self._config.pruner and self._config.pruner.model_dump(exclude_defaults=True),
                f"{type(self._pruner).__name__} says: {said(error)}.",
            ) from error
        kept = study.get_trials(deepcopy=False)[number].system_attrs
        return ends, {name: value for name, value in kept.items() if own.get(name) != value}

    def _sampled(
        self, before: Sequence[FrozenTrial], place: int, fixed: Mapping[str, Any]
    ) -> tuple[FrozenTrial, Plan]:
        study = optuna.create_study(directions=self._judge.directions)
        study.add_trials(map(self._as_sampled, before))
        study.sampler = make_sampler(
            self._config, _number(f"{self._config.seed} {place}{self._worker}")
        )
        if fixed:  # a grid takes an empty one for one whose values are all given
            study.enqueue_trial(dict(fixed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = study.ask()
            plan = self._space.suggest(trial)
        made = create_trial(
            state=TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=self.attributes(plan),
            system_attrs=_own(study.trials[-1].system_attrs),
        )
        return made, plan

    def _as_sampled(self, trial: FrozenTrial) -> FrozenTrial:
        if len(self._judge.names) == 1 or not trial.intermediate_values:
            return trial
        # With several objectives Optuna's samplers know no values of epochs, and stumble over them.
        plain = copy.copy(trial)
        plain.intermediate_values = {}
        return plain


def _as_looked_at(trial: FrozenTrial) -> FrozenTrial | None:
    """A trial as a pruner sees it, by its lead alone; None if it is of no use."""
    values = trial.intermediate_values
    if not values or trial.state == TrialState.FAIL:
        return None
    return create_trial(
        state=trial.state,
        value=values[max(values)] if trial.state == TrialState.COMPLETE else None,
        intermediate_values=values,
        system_attrs=_own(trial.system_attrs),
    )


def _own(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What a sampler or pruner keeps for itself in a trial, for example the state of CMA-ES."""
    return {
        name: value
        for name, value in attributes.items()
        if name not in ("fixed_params", "skip_if_exists")
    }


def _number(seed: str) -> int:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big")
