"""The configuration of a search: one YAML file per problem."""

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
from libmtl_recon_search.explaining import offer
from libmtl_recon_search.faults import raise_all
from libmtl_recon_search.flags import Flags
from libmtl_recon_search.ranges import Range, Strict, once
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from libmtl_recon import UsageError


def _check_word(value: Any) -> Any:
    """Check that a positional argument is a string that no parser takes for a flag."""
    if not isinstance(value, str):
        raise UsageError("", "must be a string", value, f"Write it in quotes: '{value}'.")
    if not value or value.startswith("-"):
        raise UsageError(
            "",
            "must be a non-empty string that does not begin with a dash",
            value,
            "Write flags under `flags`, without the dashes: {epochs: 20} for --epochs 20.",
        )
    return value


Word = Annotated[str, BeforeValidator(_check_word)]


OBJECTIVES = ("delta_m", "worst_task", "parameters", "memory", "step_time")
"""The objectives of every search, in addition to the metrics of its tasks."""
_LONGEST_NAME = 200


def study_name(value: str) -> str:
    """Check that a name is valid for a study and for a folder, and return it.

    Raises:
        UsageError: It is not valid.
    """
    rule = ""
    if not value.strip():
        rule = "must not be empty"
    elif len(value) > _LONGEST_NAME:
        rule = f"must have at most {_LONGEST_NAME} characters"
    elif not value.isprintable():
        rule = "must not contain line breaks, tabs or other invisible characters"
    elif "/" in value or "\\" in value or value in (".", ".."):
        rule = "must not contain a slash, and must not be . or .."
    elif value != value.strip():
        rule = "must not begin or end with a space"
    if rule:
        raise UsageError(
            "", rule, value, "It is the name of the study and of the folder of its reports."
        )
    return value


def _objective(value: str) -> str:
    task, dot, metric = value.partition(".")
    if value in OBJECTIVES or (dot and task.strip() and metric.strip(" .") and value.isprintable()):
        return value
    raise UsageError(
        "",
        "must be a known objective, or one metric of one task as TASK.METRIC",
        value,
        offer(value, OBJECTIVES),
    )


def _seen_before(info: ValidationInfo) -> dict[int, str]:
    """Return the seeds of the keys before this one, with the keys; without invalid values."""
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
                    f"must not contain a seed that is already in {seen[seed]}",
                    seed,
                    "A choice made with a seed cannot be confirmed with the same seed: use "
                    "another one here or for `seed` (--seed).",
                )
            )
        seen[seed] = key
    raise_all("", faults)


class Config(Strict):
    """The configuration of a search.

    Attributes:
        name: The name of the study; by default that of the file, without its ending.
        script: Path of a LibMTL script, relative to the file, or a built-in problem's name.
        arguments: The script's positional arguments, before the flags.
        flags: Flags of LibMTL and of the script, without the dashes: a value, or a list or a range
            to search. For a flag that accepts several values, a list is one value.
        objective: The data on which configurations are compared.
        objectives: The objectives of the search: ``delta_m``, ``worst_task``, ``parameters``,
            ``memory``, ``step_time``, or one metric of one task (TASK.METRIC).
        metrics: The metrics that count in Δm, and their weights.
        constraints: Bounds that a trial must satisfy.
        pick: The choice of a trial from the Pareto front, for the finalists and the comparison.
        space: The choices of the search.
        score: The scoring run.
        trials: The number of configurations that are trained.
        seed: The seed (``--seed``) of the trials and of Optuna's sampler.
        finalists: The trials that are trained again before one of them is picked.
        confirm: New seeds with which the best trial and EW are trained again and compared on the
            test data.
        workers: The number of runs that are trained at a time.
        threads: The number of PyTorch's threads in each run, and in each of its ranks.
        launch: The processes that train one run together.
        sampler: The sampler of Optuna that chooses trials.
        prune: Whether trials that do worse than the others are ended early.
        pruner: The pruner of Optuna that ends trials early.
        timeout: Time limits.
        tune_baselines: Whether the baselines and EW are tuned over the same flags, with the same
            budget.
        callbacks: Other programs to which trials are reported.
    """

    name: Annotated[str, AfterValidator(study_name)] = ""
    script: str
    arguments: list[Word] = Field(default=[])
    flags: Flags = Field(default={})
    objective: Objective = Objective()
    objectives: Annotated[
        list[Annotated[str, AfterValidator(_objective)]], AfterValidator(once)
    ] = Field(default=["delta_m"], min_length=1)
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

    @field_validator("pick")
    @classmethod
    def _of_the_objectives(cls, value: Pick, info: ValidationInfo) -> Pick:
        known = info.data.get("objectives", [value.best])  # missing if they are wrong themselves
        if value.best is not None and value.best not in known:
            raise UsageError(
                "best", "must be one of the objectives", value.best, offer(value.best, known)
            )
        return value

    @field_validator("sampler")
    @classmethod
    def _chooses_trials(cls, value: Sampler, info: ValidationInfo) -> Sampler:
        from libmtl_recon_search.samplers import check_sampler

        check_sampler(
            value,
            len(info.data.get("objectives", "1")),
            info.data.get("space"),
            info.data.get("flags"),
        )
        return value

    @field_validator("pruner")
    @classmethod
    def _looks_at_trials(cls, value: Pruner | None, info: ValidationInfo) -> Pruner | None:
        from libmtl_recon_search.samplers import check_pruner

        if value is None:
            return value
        if not info.data.get("prune", True):
            raise UsageError(
                "",
                "cannot be combined with `prune: false`, with which no trial is ended early",
                value.name,
                "Leave out one of the two.",
            )
        check_pruner(value)
        return value

    @field_validator("tune_baselines")
    @classmethod
    def _has_flags_to_tune(cls, value: bool, info: ValidationInfo) -> bool:
        if value and {"flags", "space"} <= info.data.keys():
            own = info.data["space"].flags.get("EW", {})
            if not any(
                isinstance(f, list | Range) for f in (*info.data["flags"].values(), *own.values())
            ):
                raise UsageError(
                    "",
                    "needs a flag with a list or a range, over which baselines and EW are tuned",
                    value,
                    "Write one, e.g. flags: {lr: {low: 0.001, high: 0.1, log: true}}, or leave "
                    "this out.",
                )
        return value
