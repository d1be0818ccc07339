"""Check that a configuration fits the script, from the records of its runs."""

from __future__ import annotations

from libmtl_recon_search.config import Config
from libmtl_recon_search.result import Result

from libmtl_recon import ReconError, UsageError
from libmtl_recon.texts import did_you_mean


def faults_of(config: Config, result: Result) -> list[UsageError]:
    """Return the values of the space that do not fit the network of a run."""
    faults = []
    if result.weightings:
        for key, names in (
            ("space.weighting", config.space.weighting),
            ("score.weighting", [config.score.weighting]),
        ):
            faults += [
                UsageError(
                    key,
                    "must be the name of an installed weighting",
                    name,
                    f"{did_you_mean(name, result.weightings)}Known names: "
                    f"{', '.join(result.weightings)}.",
                )
                for name in names
                if name not in result.weightings
            ]
    layers = result.notes.get("layers", {}).get("count")
    k = config.space.k
    if layers is not None and k is not None and max(config.space.ks) >= layers:
        faults.append(
            UsageError(
                "space.k" if isinstance(k, list) else "space.k.high",
                f"must be below {layers}, the number of the network's shared layers, so that the "
                "tasks share something",
                max(config.space.ks),
                f"Set it to {layers - 1} or less.",
            )
        )
    return faults


def require_measurements(config: Config, result: Result) -> None:
    """Check that a finished run has measurements with which configurations can be compared.

    Raises:
        ReconError: It has none.
    """
    on = config.objective.on
    if not result.epochs[on]:
        raise ReconError(
            f"{config.script} measured nothing on its {on} data, on which configurations are "
            "compared. Make it pass val_dataloaders to Trainer.train; or, if it has no validation "
            "data, write `objective: {on: test}` into the configuration: the comparison then has "
            "no held-out data."
        )
    if not result.epochs["test"]:
        raise ReconError(
            f"{config.script} measured nothing on its test data, on which the best configuration "
            "is compared with EW. Make it pass test_dataloaders to Trainer.train."
        )
