"""Whether a configuration fits the script: seen from what its runs say of themselves."""

from __future__ import annotations

import difflib

from libmtl_recon import ReconError, UsageError
from search.config import Config
from search.result import Result


def check_space(config: Config, result: Result) -> None:
    """Compare the space with the network of a run that has begun.

    Raises:
        UsageError: The space has a weighting that LibMTL lacks, or a K that leaves no layer
            shared.
    """
    if result.weightings:
        for key, names in (
            ("space.weighting", config.space.weighting),
            ("score.weighting", [config.score.weighting]),
        ):
            for name in names:
                _check_weighting(key, name, result.weightings)
    layers = result.notes.get("layers", {}).get("count")
    if layers is not None and config.space.k.high >= layers:
        raise UsageError(
            "space.k.high",
            f"must be below {layers}, the number of the network's shared layers, so that the "
            "tasks share something",
            config.space.k.high,
            f"Set it to {layers - 1} or less.",
        )


def _check_weighting(key: str, name: str, known: tuple[str, ...]) -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise UsageError(
        key,
        "must name weightings that are installed",
        name,
        f"{hint}There are {', '.join(known)}.",
    )


def require_measurements(config: Config, result: Result) -> None:
    """See that a finished run has something by which configurations can be compared.

    Raises:
        ReconError: It has not.
    """
    on = config.objective.on
    if not result.epochs[on]:
        raise ReconError(
            f"{config.script} measured nothing on its {on} data, by which configurations are "
            "compared. Have it hand val_dataloaders to Trainer.train; or, if it has no validation "
            "data, write `objective: {on: test}` into the configuration, knowing that the "
            "comparison is then not held out."
        )
    if not result.epochs["test"]:
        raise ReconError(
            f"{config.script} measured nothing on its test data, on which the best configuration "
            "is compared with EW. Have it hand test_dataloaders to Trainer.train."
        )
