"""Whether the script starts with what a configuration gives it, seen before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from libmtl_recon_search.check import faults_of
from libmtl_recon_search.faults import raise_all
from libmtl_recon_search.space import Plan

from libmtl_recon import ReconError

if TYPE_CHECKING:
    from libmtl_recon_search.child import Job
    from libmtl_recon_search.config import Config
    from libmtl_recon_search.result import Result

# How the reason of a run begins whose command line was refused, by argparse or by us.
_REFUSED = "failed with exit status 2"


def check_starts(
    config: Config, make: Callable[[tuple[str, ...], bool], Job], run: Callable[[Job], Result]
) -> None:
    """Start the script up to its network: by EW, as it is scored, and with each weighting's flags.

    A run that fails for another reason than its command line is no fault of the configuration.

    Args:
        config: The search.
        make: A run that ends when the network is built, of its command line, and whether the
            network is to be scored.
        run: Runs it.

    Raises:
        UsageError: A weighting does not exist, K leaves no layer shared, or flags are refused; if
            several are wrong, all of them are named.
        ReconError: The script does not start at all.
    """

    def start(weighting: str, scored: bool, *flags: dict[str, Any]) -> Result:
        line = config.spelled(*flags) + Plan(weighting).arguments("")
        return run(make((*line, "--seed", str(config.seed)), scored))

    plain = start("EW", True)
    faults: list[ReconError] = [*faults_of(config, plain)]
    score, own = config.score, config.space.flags
    further = [(score.weighting, True, own.get(score.weighting, {}), score.flags)]
    further += [(name, False, flags, {}) for name, flags in own.items() if flags]
    for weighting, scored, *flags in further:
        if weighting in plain.weightings:  # others are named already
            try:
                start(weighting, scored, *flags)
            except ReconError as error:
                if getattr(error, "reason", "").startswith(_REFUSED):
                    faults.append(error)
    raise_all("The configuration", faults)
