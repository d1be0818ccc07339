"""Check, before training, that the script starts with a configuration's arguments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from libmtl_recon_search.check import faults_of
from libmtl_recon_search.faults import raise_all
from libmtl_recon_search.judge import Judge
from libmtl_recon_search.plan import Plan
from libmtl_recon_search.samplers import check_sampler
from libmtl_recon_search.space import SearchSpace

from libmtl_recon import ReconError, UsageError
from libmtl_recon.texts import did_you_mean

if TYPE_CHECKING:
    from libmtl_recon_search.child import Job
    from libmtl_recon_search.config import Config
    from libmtl_recon_search.result import Result

# The beginning of the reason of a run whose command line was refused, by argparse or this project.
_REFUSED = "failed with exit status 2"


def check_starts(
    config: Config,
    space: SearchSpace,
    make: Callable[[tuple[str, ...], bool], Job],
    run: Callable[[Job], Result],
    describe: Callable[[], Result],
) -> Result:
    """Start the script up to its network: with EW, for scoring, and with all searched values.

    A run that fails for another reason than its command line is not an error of the configuration.

    Args:
        config: The configuration.
        space: The search space with the flags.
        make: A function that creates a run that ends when the network is built, from its command
            line and whether the network is scored.
        run: A function that runs it.
        describe: A function that returns the script's flags.

    Returns:
        The result of the script when it is started with EW.

    Raises:
        UsageError: A weighting, a task or a metric does not exist, K leaves no layer shared, the
            sampler cannot choose from this space, or flags are refused; if there are several
            mistakes, all are named.
        ReconError: The script does not start.
    """

    def start(plan: Plan, scored: bool, own: bool = True, **more: Any) -> Result:
        return run(make(space.line(plan, more, seed=config.seed, own=own), scored))

    # EW's own flags are checked below, with those of the other weightings.
    try:
        plain = start(Plan("EW", flags=space.defaults()), True, own=False)
    except ReconError as error:
        if _is_refused(error):
            asked = describe()
            known = asked.known
            # None if the script parses its command line itself.
            unknown = [] if known is None else _unknown_flags(config, known)
            if known is not None and unknown:
                others = _others(_without_unknown(config, known), make, run, asked)
                raise_all("The configuration", [*unknown, *others])
        raise
    faults: list[ReconError] = [
        *faults_of(config, plain),
        *Judge(config, plain.higher_is_better).faults(),
    ]
    try:
        check_sampler(
            config.sampler, len(config.objectives), config.space, draw=space.draw, key="sampler"
        )
    except UsageError as error:
        faults.append(error)
    seen: set[str] = set()

    def try_out(plan: Plan, scored: bool, **more: Any) -> None:
        if plan.weighting not in plain.weightings:
            return  # already reported
        try:
            start(plan, scored, **more)
        except ReconError as error:
            reason = getattr(error, "reason", "")
            if _is_refused(error) and reason not in seen:
                seen.add(reason)
                faults.append(error)

    if config.space.needs_scores:
        try_out(space.untuned(config.score.weighting), True, **config.score.flags)
    for flags in space.corners("EW"):
        try_out(Plan("EW", flags=flags), False)
    for name in config.space.weighting:
        own = space.of(name)
        if own.fixed or own.searched:
            for flags in space.corners(name) if own.searched else [space.defaults(name)]:
                try_out(Plan(name, flags=flags), False)
    raise_all("The configuration", faults)
    return plain


def _is_refused(error: ReconError) -> bool:
    """Return whether a run failed because its command line was refused."""
    if not getattr(error, "reason", "").startswith(_REFUSED):
        return False
    error.exit_status = UsageError.exit_status
    return True


def _others(
    config: Config,
    make: Callable[[tuple[str, ...], bool], Job],
    run: Callable[[Job], Result],
    asked: Result,
) -> Sequence[ReconError]:
    """Return further mistakes, found without the flags that the script does not have."""
    try:
        check_starts(config, SearchSpace(config, asked.several), make, run, lambda: asked)
    except ReconError as error:
        found: Sequence[ReconError] = getattr(error, "faults", [error])
        return found
    return ()


def _without_unknown(config: Config, known: Collection[str]) -> Config:
    """Return the configuration without the flags that the script does not have."""

    def among(flags: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in flags.items() if _is_known(name, known)}

    own = {name: among(flags) for name, flags in config.space.flags.items()}
    return config.model_copy(
        update={
            "flags": among(config.flags),
            "space": config.space.model_copy(update={"flags": own}),
            "score": config.score.model_copy(update={"flags": among(config.score.flags)}),
        }
    )


def _is_known(name: str, known: Collection[str]) -> bool:
    """Return whether the script's parser accepts a flag; it also accepts prefixes of names."""
    return any(one.startswith(name) for one in known)


def _unknown_flags(config: Config, known: Collection[str]) -> list[UsageError]:
    """Return errors for the flags that the script does not have."""
    given = [
        *(("flags", name) for name in config.flags),
        *((f"space.flags.{own}", name) for own, its in config.space.flags.items() for name in its),
        *(("score.flags", name) for name in config.score.flags),
    ]
    return [
        UsageError(
            f"{key}.{name}",
            "must be a flag of the script, or of LibMTL",
            name,
            f"{did_you_mean(name, known)}Correct its name, or leave it out.",
        )
        for key, name in given
        if not _is_known(name, known)
    ]
