"""What a search is told: one YAML file a problem."""

from __future__ import annotations

from typing import Annotated, Any

from libmtl_recon_search.config_parts import (
    Callbacks,
    Constraints,
    Count,
    Finalists,
    Launch,
    Limits,
    Metrics,
    Objective,
    Parallel,
    Pick,
    Pruner,
    Sampler,
    Score,
    Seed,
)
from libmtl_recon_search.config_space import Space
from libmtl_recon_search.faults import raise_all
from libmtl_recon_search.flags import Flags, spell
from libmtl_recon_search.ranges import Range, Strict
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from libmtl_recon import UsageError

FloatRange = Range
IntRange = Range


def _check_word(value: Any) -> Any:
    """A positional argument is a text that no parser takes for a flag."""
    if not isinstance(value, str):
        raise UsageError("", "must be a text", value, f"Write it in quotes: '{value}'.")
    if not value or value.startswith("-"):
        raise UsageError(
            "",
            "must be a text that is not empty and does not begin with a dash",
            value,
            "Write flags under `flags`, without the dashes: {epochs: 20} for --epochs 20.",
        )
    return value


Word = Annotated[str, BeforeValidator(_check_word)]


def _seen_before(info: ValidationInfo) -> dict[int, str]:
    """The seeds of the keys before this one, and the keys; what is wrong itself is left out."""
    seen = {info.data["seed"]: "seed"} if "seed" in info.data else {}
    if "finalists" in info.data:
        seen |= dict.fromkeys(info.data["finalists"].seeds, "finalists.seeds")
    return seen


def _refuse_seen(parameter: str, key: str, seeds: list[int], seen: dict[int, str]) -> None:
    faults = []
    for seed in seeds:
        if seed in seen:
            faults.append(
                UsageError(
                    parameter,
                    f"must hold seeds that are not in {seen[seed]} already",
                    seed,
                    "What was chosen with a seed cannot be confirmed with it: take another here "
                    "or for `seed` (--seed).",
                )
            )
        seen[seed] = key
    raise_all("", faults)


class Config(Strict):
    """A search.

    Attributes:
        name: The study's name; by default that of the file, without its ending.
        script: Path of a LibMTL script, relative to the file, or a built-in problem's name.
        arguments: The script's positional arguments, which stand before the flags.
        flags: LibMTL's and the script's own flags, without the dashes: a value, or a list or a
            range that is searched. A list is one value of a flag that takes several.
        objective: On which data configurations are compared.
        objectives: By what they are compared: ``delta_m``, ``worst_task``, ``parameters``,
            ``memory``, ``step_time``, or one metric of one task (TASK.METRIC).
        metrics: What counts in Δm, and how much.
        constraints: What a trial must keep to.
        pick: Which trial of the front is taken for finalists and confirmation.
        space: What the search may choose.
        score: The scoring run.
        trials: How many configurations are trained.
        seed: The seed (``--seed``) of the trials and of Optuna's sampler.
        finalists: How the best of the trials is chosen.
        confirm: Fresh seeds, with which the best and EW are trained again and compared on the
            test data.
        workers: How many runs are trained at a time.
        threads: PyTorch's threads in each, and in each of its ranks.
        launch: By how many processes a run is trained.
        sampler: Which of Optuna's samplers chooses trials.
        prune: End trials early that do worse than the others.
        pruner: Which of Optuna's pruners does so.
        timeout: After how long something ends.
        tune_baselines: Tune the baselines and EW over the same flags, with the same budget.
        callbacks: Who else is told of trials.
    """

    name: str = ""
    script: str
    arguments: list[Word] = Field(default=[])
    flags: Flags = Field(default={})
    objective: Objective = Objective()
    objectives: list[str] = Field(default=["delta_m"], min_length=1)
    metrics: Metrics = Metrics()
    constraints: Constraints = Constraints()
    pick: Pick = Pick()
    space: Space
    score: Score = Score()
    trials: Count = 20
    seed: Seed = 0
    finalists: Finalists = Field(default=Finalists(), validate_default=True)
    confirm: list[Seed] = Field(default=[1, 2, 3], min_length=1, validate_default=True)
    workers: Parallel = 2
    threads: Parallel = 1
    launch: Launch = Launch()
    sampler: Sampler = Sampler()
    prune: bool = True
    pruner: Pruner | None = None
    timeout: Limits = Limits()
    tune_baselines: bool = False
    callbacks: Callbacks = Callbacks()

    @field_validator("finalists")
    @classmethod
    def _finalists_have_fresh_seeds(cls, value: Finalists, info: ValidationInfo) -> Finalists:
        _refuse_seen("seeds", "finalists.seeds", value.seeds, _seen_before(info))
        return value

    @field_validator("confirm")
    @classmethod
    def _confirmed_with_fresh_seeds(cls, value: list[int], info: ValidationInfo) -> list[int]:
        _refuse_seen("", "confirm", value, _seen_before(info))
        return value

    def spelled(self, *more: dict[str, Any]) -> tuple[str, ...]:
        """The arguments and flags as they stand on a command line.

        Args:
            *more: Further flags, later ones in the place of earlier ones.
        """
        flags = self.flags
        for other in more:
            flags = {**flags, **other}
        return (*self.arguments, *spell(flags))
