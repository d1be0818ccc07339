"""Optuna's samplers and pruners by name, with what their constructors are given."""

from __future__ import annotations

import hashlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import optuna
from libmtl_recon_search.constructors import Kind, class_of, faults_of_args, said
from libmtl_recon_search.faults import raise_all
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from libmtl_recon import UsageError

if TYPE_CHECKING:
    from libmtl_recon_search.config import Config
    from libmtl_recon_search.config_parts import Pruner, Sampler

# What is ours where nothing else is asked for: few trials are made before Optuna takes the values
# so far into account, and workers are kept from trying the same.
_TPE: Mapping[str, Any] = {"n_startup_trials": 6, "constant_liar": True}
_REHEARSED, _MOST_REHEARSED = 3, 60  # trials

Draw = Callable[[optuna.Trial], object]


_SAMPLERS = Kind("sampler", BaseSampler, optuna.samplers)
_PRUNERS = Kind("pruner", BasePruner, optuna.pruners)


_WHY = (
    "below the median of the finished ones after half of the epochs, before which the order of "
    "plans still changes: on multidigits this saved a fifth of the epochs and lost no measurable "
    "quality, while a third of the epochs lost 0.4 points of Δm (docs/results/pruning.md)"
)


def make_sampler(config: Config, seed: int) -> BaseSampler:
    """The sampler of a search.

    Args:
        config: The search.
        seed: With which it draws. If the configuration gives its constructor a seed, it draws by
            both.

    Raises:
        UsageError: There is no such sampler, or it cannot be made from its ``args``.
    """
    return _sampler(config.sampler, seed)


def make_pruner(config: Config, epochs: int) -> BasePruner:
    """The pruner of a search, which is Optuna's median pruner where none is named.

    Args:
        config: The search.
        epochs: How many epochs a training has.

    Raises:
        UsageError: There is no such pruner, or it cannot be made from its ``args``.
    """
    if not config.prune:
        return optuna.pruners.NopPruner()
    if config.pruner is None:
        # docs/results/pruning.md: in the first half of a training the order of plans still changes.
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, epochs // 2))
    return _pruner(config.pruner)


def said_of_pruner(config: Config, epochs: int) -> str:
    """What ends trials early, and why, in words."""
    if not config.prune:
        return "nothing (`prune: false`)"
    if config.pruner is not None:
        args = ", ".join(f"{name}={value!r}" for name, value in config.pruner.args.items())
        return f"by {config.pruner.name}({args})"
    half = max(1, epochs // 2)
    return f"by MedianPruner(n_startup_trials=5, n_warmup_steps={half}), {_WHY}"


def check_sampler(chosen: Sampler, objectives: int, draw: Draw, key: str = "") -> None:
    """See that a sampler can be made, and chooses trials as the search has it do.

    Args:
        chosen: The sampler.
        objectives: How many there are.
        draw: Draws the values of a trial, as far as the space is known.
        key: Where the sampler stands.

    Raises:
        UsageError: There is no such sampler, it cannot be made from its ``args``, or it fails; if
            several arguments are wrong, all are named. The parameter is within ``key``.
    """
    _sampler(chosen, 0)
    made: list[FrozenTrial] = []
    grid = chosen.args.get("search_space")
    places = math.prod(map(len, grid.values())) if isinstance(grid, dict) else _REHEARSED
    with refusing(chosen, "choose trials of this search", key):
        for place in range(min(places, _MOST_REHEARSED)):
            study = optuna.create_study(
                directions=["maximize"] * objectives, sampler=_sampler(chosen, place)
            )
            study.add_trials(made)
            draw(study.ask())
            asked = study.trials[-1]
            made.append(
                create_trial(
                    values=[float(place)] * objectives,
                    params=asked.params,
                    distributions=asked.distributions,
                    system_attrs=asked.system_attrs,
                )
            )


def check_pruner(chosen: Pruner) -> None:
    """See that a pruner can be made, and looks at trials.

    Args:
        chosen: The pruner.

    Raises:
        UsageError: As for samplers.
    """
    pruner = _pruner(chosen)
    with refusing(chosen, "look at trials of this search"):
        study = optuna.create_study(direction="maximize", pruner=pruner)
        for place in range(_REHEARSED):
            values = {epoch: float(place + epoch) for epoch in range(_REHEARSED)}
            study.add_trial(create_trial(value=float(place), intermediate_values=values))
            study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values=values))
            pruner.prune(study, study.get_trials(deepcopy=False)[-1])


def _sampler(chosen: Sampler, seed: int) -> BaseSampler:
    found = class_of(_SAMPLERS, chosen.name, chosen.optunahub)
    raise_all("The sampler", faults_of_args(chosen.args, found))
    args = {**(_TPE if found is optuna.samplers.TPESampler else {}), **chosen.args}
    # A trial names its place in the grid, whose order is by the seed: it must stay the same.
    if "seed" in inspect.signature(found).parameters and not is_grid(found):
        own = args.get("seed")
        args["seed"] = seed if own is None else _digest(f"{own} {seed}")
    made: BaseSampler = _made(chosen, found, args)
    return made


def is_grid(found: type) -> bool:
    """Whether a sampler chooses from a list of trials of its own, and takes no others."""
    return issubclass(found, optuna.samplers.GridSampler)


def _pruner(chosen: Pruner) -> BasePruner:
    found = class_of(_PRUNERS, chosen.name, chosen.optunahub)
    raise_all("The pruner", faults_of_args(chosen.args, found))
    made: BasePruner = _made(chosen, found, chosen.args)
    return made


def _made(chosen: Sampler | Pruner, found: type, args: Mapping[str, Any]) -> Any:
    with refusing(chosen, "be made from its `args`"):
        return found(**args)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@contextmanager
def refusing(chosen: Sampler | Pruner, aim: str, key: str = "") -> Iterator[None]:
    """Say in words what a sampler or pruner, which may be anybody's, raises; Optuna keeps quiet."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    except Exception as error:
        raise UsageError(
            key,
            f"must {aim}",
            chosen.model_dump(exclude_defaults=True),
            f"{chosen.name} says: {said(error)}.",
        ) from error
    finally:
        optuna.logging.set_verbosity(level)
