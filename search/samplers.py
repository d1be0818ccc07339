"""Create Optuna's samplers and pruners by name, with their arguments."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import optuna
from libmtl_recon_search.constructors import Kind, class_of, faults_of_args, said
from libmtl_recon_search.faults import raise_all
from libmtl_recon_search.quiet import optuna_quiet
from libmtl_recon_search.ranges import Range
from libmtl_recon_search.suggesting import suggest
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from libmtl_recon import UsageError

if TYPE_CHECKING:
    from libmtl_recon_search.config import Config
    from libmtl_recon_search.config_parts import Pruner, Sampler
    from libmtl_recon_search.config_space import Space

# Our defaults for TPE: few random trials before Optuna uses the values so far, and workers do not
# choose the same plans.
_TPE: Mapping[str, Any] = {"n_startup_trials": 6, "constant_liar": True}
_REHEARSED = 3  # trials


_SAMPLERS = Kind("sampler", BaseSampler, optuna.samplers)
_PRUNERS = Kind("pruner", BasePruner, optuna.pruners)


_WHY = (
    "that are below the median of the finished ones after half of their epochs (earlier, the "
    "order of plans still changes; on two problems this saves a twelfth of the epochs without a "
    "measurable loss, see docs/results/pruning.md)"
)
_STARTUP = 8  # finished trials before the first one may be ended early


def make_sampler(config: Config, seed: int) -> BaseSampler:
    """Create the sampler of a search.

    Args:
        config: The configuration.
        seed: The seed. If the configuration gives the constructor a seed, both are used.

    Raises:
        UsageError: There is no such sampler, or it cannot be created from its ``args``.
    """
    found = class_of(_SAMPLERS, config.sampler.name, config.sampler.optunahub)
    # A grid is shuffled by the seed; its trials are then identified by their places.
    grid = issubclass(found, optuna.samplers.GridSampler)
    return _sampler(config.sampler, config.seed if grid else seed)


def make_pruner(config: Config, epochs: int) -> BasePruner:
    """Create the pruner of a search, by default Optuna's median pruner.

    Args:
        config: The configuration.
        epochs: The number of epochs of a training.

    Raises:
        UsageError: There is no such pruner, or it cannot be created from its ``args``.
    """
    if not config.prune:
        return optuna.pruners.NopPruner()
    if config.pruner is None:
        # docs/results/pruning.md: in the first half of a training the order of plans still changes.
        return optuna.pruners.MedianPruner(_STARTUP, n_warmup_steps=max(1, epochs // 2))
    return _pruner(config.pruner)


def said_of_pruner(config: Config, epochs: int) -> str:
    """Describe which trials are ended early, and why."""
    if not config.prune:
        return "no trials (`prune: false`)"
    if config.pruner is not None:
        args = ", ".join(f"{name}={value!r}" for name, value in config.pruner.args.items())
        return f"trials selected by {config.pruner.name}({args})"
    half = max(1, epochs // 2)
    return f"trials {_WHY}: MedianPruner(n_startup_trials={_STARTUP}, n_warmup_steps={half})"


def check_sampler(
    chosen: Sampler,
    objectives: int,
    space: Space | None,
    flags: Mapping[str, Any] | None = None,
    draw: Callable[[optuna.Trial], object] | None = None,
    key: str = "",
) -> None:
    """Check that a sampler can be created and can choose trials of a search.

    Args:
        chosen: The sampler.
        objectives: The number of objectives.
        space: The space from which it chooses; None if it is not known.
        flags: The script's flags of all runs, of which ranges are chosen as well.
        draw: A function that chooses all values of a trial, once the script's flags are known.
        key: The key of the sampler in the configuration.

    Raises:
        UsageError: There is no such sampler, it cannot be created from its ``args``, or it fails;
            if several arguments are invalid, all are named. The parameter is within ``key``.
    """
    sampler = _sampler(chosen, 0)
    if isinstance(sampler, optuna.samplers.QMCSampler):
        raise UsageError(
            "name",
            "must be a sampler that chooses from the existing trials",
            chosen.name,
            "Optuna's QMCSampler depends on how often it was called, which is not known in a "
            "search that is resumed or has many workers. Use RandomSampler or GridSampler.",
        )
    with _refusing(chosen, "choose trials of this search", key):
        made: list[FrozenTrial] = []
        for place in range(max(_REHEARSED, 0 if space is None else len(space.weighting))):
            # As in a search: each trial is chosen from those before. None is stored.
            study = optuna.create_study(directions=["maximize"] * objectives, sampler=sampler)
            study.add_trials(made)
            trial = study.ask()
            weighting = "" if space is None else space.weighting[place % len(space.weighting)]
            if draw is None:
                _choose(trial, space, flags or {}, weighting)
            else:
                draw(trial)
            ended = study.get_trials()[-1]
            ended.state, ended.values = TrialState.COMPLETE, [float(place)] * objectives
            ended.datetime_complete = ended.datetime_start
            made.append(ended)


def check_pruner(chosen: Pruner) -> None:
    """Check that a pruner can be created and can evaluate trials.

    Args:
        chosen: The pruner.

    Raises:
        UsageError: As for samplers.
    """
    pruner = _pruner(chosen)
    with _refusing(chosen, "look at trials of this search"):
        study = optuna.create_study(direction="maximize", pruner=pruner)
        for place in range(_REHEARSED):
            trial = study.ask()
            for epoch in range(_REHEARSED):
                trial.report(float(place + epoch), epoch)
                trial.should_prune()
            study.tell(trial, float(place))


def _sampler(chosen: Sampler, seed: int) -> BaseSampler:
    found = class_of(_SAMPLERS, chosen.name, chosen.optunahub)
    raise_all("The sampler", faults_of_args(chosen.args, found))
    args = {**(_TPE if found is optuna.samplers.TPESampler else {}), **chosen.args}
    # A trial has its place in a grid, whose order depends on the seed; this must not change.
    if "seed" in inspect.signature(found).parameters and not is_grid(found):
        own = args.get("seed")
        args["seed"] = seed if own is None else _digest(f"{own} {seed}")
    made: BaseSampler = _made(chosen, found, args)
    return made


def is_grid(found: type) -> bool:
    """Return whether a sampler only chooses from its own list of trials."""
    return issubclass(found, optuna.samplers.GridSampler)


def _pruner(chosen: Pruner) -> BasePruner:
    found = class_of(_PRUNERS, chosen.name, chosen.optunahub)
    raise_all("The pruner", faults_of_args(chosen.args, found))
    made: BasePruner = _made(chosen, found, chosen.args)
    return made


def _made(chosen: Sampler | Pruner, found: type, args: Mapping[str, Any]) -> Any:
    with _refusing(chosen, "be made from its `args`"):
        return found(**args)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@contextmanager
def _refusing(chosen: Sampler | Pruner, aim: str, key: str = "") -> Iterator[None]:
    """Convert errors of a sampler or pruner to messages, with Optuna's logging switched off."""
    try:
        with optuna_quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    except Exception as error:
        raise UsageError(
            key,
            f"must {aim}",
            chosen.model_dump(exclude_defaults=True),
            f"{chosen.name} reports: {said(error)}.",
        ) from error


def _choose(
    trial: optuna.Trial, space: Space | None, flags: Mapping[str, Any], weighting: str
) -> None:
    """Make a trial choose as a search of this space would, as far as known."""
    if space is None:
        return
    trial.suggest_categorical("weighting", space.weighting)
    if "GradOPS" in space.weighting:
        suggest(trial, "alpha", space.alpha)
    if space.k is not None:
        suggest(trial, "k", space.k)
    if space.splits and len(space.select) > 1:
        trial.suggest_categorical("select", space.select)
    if space.needs_scores:
        suggest(trial, "s", space.s)
    for prefix, own in (("flags", flags), (weighting, space.flags.get(weighting, {}))):
        for name, among in own.items():
            # The script determines whether a list is searched.
            if isinstance(among, Range):
                suggest(trial, f"{prefix}.{name}", among)
