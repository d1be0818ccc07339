"""The choice of the next trial: by Optuna, from the search's own trials only.

Another program may have added any trials to the study. Therefore the sampler and the pruner get a
study in memory, with copies of the search's own trials. Both draw with the search's seed and the
number of earlier trials, so that a search that was interrupted makes the same choices as one that
was not.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna
from libmtl_recon_search.config import Config
from libmtl_recon_search.constructors import said
from libmtl_recon_search.giving_up import Pruning, Watch
from libmtl_recon_search.judge import Judge
from libmtl_recon_search.plan import Plan
from libmtl_recon_search.samplers import is_grid, make_sampler
from libmtl_recon_search.space import SearchSpace
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from libmtl_recon import ReconError

PLAN, ARGUMENTS = "plan", "arguments"
"""Attributes that every trial of ours has from its beginning."""
PROFILE = "{profile}"
"""Stands for the file of the conflict profile in a trial's arguments."""
# The errors that Optuna and this module raise for a trial whose parameters are not of this space.
_NOT_OURS = (ValueError, TypeError, KeyError, AttributeError, ReconError)


class Chooser:
    """Chooser of plans, and of the trainings that are ended early.

    Args:
        config: The configuration.
        space: The search space.
        judge: The judge with the objectives.
        epochs: The number of epochs of a training.
        worker: A string that distinguishes this process from others that choose for the same
            search at the same time, so that they choose differently.
    """

    def __init__(
        self, config: Config, space: SearchSpace, judge: Judge, epochs: int, worker: str = ""
    ) -> None:
        self._config, self._space, self._judge, self._worker = config, space, judge, worker
        # The first trials, each once.
        self._anchors: dict[object, dict[str, Any]] = {}
        for values in space.anchors():
            plan = self.plan(values)
            assert plan is not None  # of this space
            self._anchors.setdefault(plan.key, values)
        self._distributions = self._of_all_parameters()
        if is_grid(type(make_sampler(config, 0))):
            self._anchors = {}  # a grid sampler cannot choose what is not in its grid
        self._pruning = Pruning(config, judge, epochs) if config.prune else None

    def choose(
        self, before: Sequence[FrozenTrial], place: int, chosen: Collection[object]
    ) -> tuple[FrozenTrial, Plan]:
        """Choose the next plan to train, as a running trial.

        Args:
            before: The search's trials so far.
            place: The number of earlier choices.
            chosen: The keys of their plans.

        Raises:
            ReconError: The sampler failed.
        """
        first = self.first(chosen)
        if first and self._worker:  # other workers may be choosing as well
            return self.among(first, before, place)
        return self._sampled(before, place, first[0] if first else {})

    def first(self, chosen: Collection[object]) -> list[dict[str, Any]]:
        """Return the values of the remaining first trials, given the keys of the chosen plans."""
        return [values for key, values in self._anchors.items() if key not in chosen]

    def complete(
        self, fixed: Mapping[str, Any], before: Sequence[FrozenTrial]
    ) -> tuple[FrozenTrial, Plan] | None:
        """Choose a plan with some values fixed; None if these are not in this search's space."""
        if not fixed.keys() <= self._distributions.keys():
            return None  # Optuna would ignore values that it is not asked for
        try:
            trial, plan = self._sampled(before, len(before), fixed)
            foreign = self.plan(trial.params) is None
        except _NOT_OURS:
            return None
        return None if foreign else (trial, plan)

    def plan(self, values: Mapping[str, Any]) -> Plan | None:
        """Return the plan of a trial's parameters; None if they are not in this space."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna warns that a value is out of range
                return self._space.suggest(optuna.trial.FixedTrial(dict(values)))
        except _NOT_OURS:
            return None

    def untried(self, tried: Collection[object]) -> list[dict[str, Any]] | None:
        """Return the values of all untried plans; None if the space is too large to list."""
        every = self._space.every()
        if every is None:
            return None
        return [values for key, values in every.items() if key not in tried]

    def among(
        self, left: Sequence[Mapping[str, Any]], before: Sequence[FrozenTrial], place: int
    ) -> tuple[FrozenTrial, Plan]:
        """Choose one of these plans at random."""
        draw = random.Random(_number(f"{self._config.seed} {place} {self._worker}"))
        return self._sampled(before, place, draw.choice(left))

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """Return the distributions of all parameters of this search."""
        return self._distributions

    def attributes(self, plan: Plan) -> dict[str, Any]:
        """Return the attributes that a trial has from its start, for users and reports."""
        line = self._space.line(plan, seed=self._config.seed)
        return {
            PLAN: plan.title,
            "layers": list(plan.layers),
            # Each worker, and each report, has the profile in a different folder.
            ARGUMENTS: [PROFILE if part == self._space.network.file else part for part in line],
        }

    def watch(self, number: int) -> Watch | None:
        """Return the object that ends a trial's training early; None without a pruner."""
        return None if self._pruning is None else self._pruning.watch(number)

    def _sampled(
        self, before: Sequence[FrozenTrial], place: int, fixed: Mapping[str, Any]
    ) -> tuple[FrozenTrial, Plan]:
        storage = InMemoryStorage()
        study = optuna.create_study(storage=storage, directions=self._judge.directions)
        for known in before:
            # Not through the study, which would validate each trial again.
            storage.create_new_trial(study._study_id, _as_sampled(known))
        study.sampler = make_sampler(
            self._config, _number(f"{self._config.seed} {place}{self._worker}")
        )
        if fixed:
            study.enqueue_trial(dict(fixed))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trial = study.ask()
                plan = self._space.suggest(trial)
        except Exception as error:  # a sampler may be of any package
            raise ReconError(
                f"The sampler {self._config.sampler.name} could not choose a trial: "
                f"{said(error)}. Use another one, or give it other `args`."
            ) from error
        chosen = storage.get_trial(trial._trial_id)
        made = create_trial(
            state=TrialState.RUNNING,
            params=chosen.params,
            distributions=chosen.distributions,
            user_attrs=self.attributes(plan),
            system_attrs=_own(chosen),
        )
        return made, plan

    def _of_all_parameters(self) -> dict[str, BaseDistribution]:
        found: dict[str, BaseDistribution] = {}
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for values in self._anchors.values():
            for select in self._config.space.select if values.get("k") else [""]:
                study.enqueue_trial({**values, "select": select})
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    trial = study.ask()
                    self._space.suggest(trial)
                found |= trial.distributions
        return found


def _as_sampled(trial: FrozenTrial) -> FrozenTrial:
    plain = _Lent.__new__(_Lent)
    plain.__dict__.update(trial.__dict__)
    # A sampler does not use the attributes that are meant for people.
    plain.user_attrs = {}
    return plain


class _Lent(FrozenTrial):
    """A trial that a study in memory does not copy; it would copy all trials for each choice."""

    def __deepcopy__(self, memo: Any) -> FrozenTrial:
        return self


def _own(trial: FrozenTrial) -> dict[str, Any]:
    """Return the data that a sampler stores in a trial, for example the state of CMA-ES."""
    return {
        name: value
        for name, value in trial.system_attrs.items()
        if name not in ("fixed_params", "skip_if_exists")
    }


def _number(seed: str) -> int:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big")
