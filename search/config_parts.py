"""The parts of a configuration, but for the space."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from libmtl_recon_search.faults import raise_all
from libmtl_recon_search.flags import FixedFlags
from libmtl_recon_search.ranges import Strict, once
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from libmtl_recon import UsageError

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what NumPy takes
Count = Annotated[int, Field(ge=1, le=10**6)]
Parallel = Annotated[int, Field(ge=1, le=1024)]


def _named(value: str) -> str:
    """A task, or a metric of one."""
    if not value or value != value.strip(" .") or "\n" in value or "\t" in value:
        raise UsageError(
            "",
            "must name a task or, as TASK.METRIC, one of its metrics",
            value,
            "Write depth, or depth.abs_err.",
        )
    return value


Named = Annotated[str, AfterValidator(_named)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Score(Strict):
    """The scoring run.

    Attributes:
        weighting: The weighting under which the conflicts are counted.
        steps: After how many training steps it ends.
        flags: Flags that differ from the other runs'.
        reuse: Take a profile of the very same architecture from the cache, if there is one.
    """

    weighting: str = "EW"
    steps: Count = 300
    flags: FixedFlags = Field(default={})
    reuse: bool = True


class Objective(Strict):
    """By what configurations are compared.

    Attributes:
        on: The data: ``test`` is for scripts that have no validation data.
    """

    on: Literal["val", "test"] = "val"


class Metrics(Strict):
    """What counts in Δm, and how much.

    Attributes:
        weights: Weights of tasks (TASK), and of metrics among those of their task (TASK.METRIC);
            1 where there is none.
        leave_out: Tasks and metrics that do not count.
        undefined: What a metric does of which there is no relative improvement, since the
            single-task network's is NaN or zero: ``stop`` ends the search, ``leave_out`` goes on
            without it, which is said.
    """

    weights: dict[Named, Positive] = Field(default={})
    leave_out: list[Named] = Field(default=[])
    undefined: Literal["stop", "leave_out"] = "stop"

    @field_validator("leave_out")
    @classmethod
    def _without_weights(cls, value: list[str], info: ValidationInfo) -> list[str]:
        weighed = [
            name
            for name in info.data.get("weights", {})
            if any(name == left or name.startswith(f"{left}.") for left in once(value))
        ]
        raise_all("", [_weight_of_nothing(name) for name in weighed])
        return once(value)


def _weight_of_nothing(name: str) -> UsageError:
    return UsageError(
        "",
        "must not hold what has a weight in metrics.weights",
        name,
        "Take its weight away, or leave it in.",
    )


class AtMost(Strict):
    """An upper bound.

    Attributes:
        at_most: The greatest value, in multiples of the shared network's.
    """

    at_most: Positive


class NotBelow(Strict):
    """A lower bound.

    Attributes:
        not_below: The least improvement over the single-task network, in %.
    """

    not_below: Annotated[float, Field(allow_inf_nan=False)]


class Constraints(Strict):
    """What a trial must keep to.

    Attributes:
        parameters: Of the network.
        memory: Of a training.
        step_time: Of a training step.
        each_task: Δ of each task.
    """

    parameters: AtMost | None = None
    memory: AtMost | None = None
    step_time: AtMost | None = None
    each_task: NotBelow | None = None


class Pick(Strict):
    """Which trial of the front is taken for finalists and confirmation.

    Attributes:
        best: The objective by which trials are ranked; by default the first.
        within: How far, in this objective's unit, a trial may be from the best: of those, the one
            with the fewest parameters is taken.
    """

    best: str | None = None
    within: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Finalists(Strict):
    """The trials that are trained again before one of them is called the best.

    Attributes:
        count: How many; 1 takes the best trial as it is.
        seeds: With which seeds, beside the search's own. The best mean on validation data wins.
    """

    count: Count = 3
    seeds: list[Seed] = Field(default=[101])


class Launch(Strict):
    """By how many processes a run is trained.

    Attributes:
        nproc_per_node: As torchrun's: how many ranks, all on this machine.
    """

    nproc_per_node: Parallel = 1


def _package(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)+", value):
        raise UsageError(
            "",
            "must be the path of a package of OptunaHub",
            value,
            "Write it as samplers/auto_sampler.",
        )
    return value


Package = Annotated[str, AfterValidator(_package)]


class Sampler(Strict):
    """Which of Optuna's samplers chooses trials.

    Attributes:
        name: Its name in ``optuna.samplers``, its import path (``package.module:Class``), or its
            name in the package of OptunaHub.
        args: What its constructor is given.
        optunahub: A package of OptunaHub, e.g. ``samplers/auto_sampler``. Its code is fetched from
            the network and run here.
    """

    name: str = "TPESampler"
    args: dict[str, Any] = Field(default={})
    optunahub: Package | None = None

    @field_validator("optunahub")
    @classmethod
    def _with_a_name(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("name") == "TPESampler":
            raise UsageError(
                "",
                "needs `name`, by which the package calls its sampler",
                value,
                "Add it, e.g. sampler: {name: AutoSampler, optunahub: samplers/auto_sampler}.",
            )
        return value


class Pruner(Strict):
    """Which of Optuna's pruners ends trials early.

    Attributes:
        name: Its name in ``optuna.pruners``, its import path (``package.module:Class``), or its
            name in the package of OptunaHub.
        args: What its constructor is given.
        optunahub: A package of OptunaHub. Its code is fetched from the network and run here.
    """

    name: str
    args: dict[str, Any] = Field(default={})
    optunahub: Package | None = None


class Limits(Strict):
    """After how long something ends.

    Attributes:
        run: Seconds after which a run counts as failed; None sets no limit.
        study: Seconds after which no further trial is begun; None sets no limit.
    """

    run: Seconds | None = None
    study: Seconds | None = None


Text = Annotated[str, Field(min_length=1)]


class Callbacks(Strict):
    """Who else is told of trials.

    Attributes:
        mlflow: MLflow, with its ``tracking_uri`` and the name of the ``experiment``.
        tensorboard: TensorBoard, with the folder ``log_dir`` of its files.
    """

    mlflow: dict[Literal["tracking_uri", "experiment"], Text] | None = None
    tensorboard: dict[Literal["log_dir"], Text] | None = None

    @field_validator("mlflow", "tensorboard")
    @classmethod
    def _installed(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and find_spec(str(info.field_name)) is None:
            raise UsageError(
                "",
                f"needs the package {info.field_name}, which is not installed",
                value,
                f"Install it by `pip install 'libmtl-recon[{info.field_name}]'`, or leave the key "
                "out.",
            )
        return value
