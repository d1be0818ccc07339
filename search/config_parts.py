"""The parts of a configuration, except the space."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from libmtl_recon_search.faults import raise_all
from libmtl_recon_search.flags import FixedFlags
from libmtl_recon_search.ranges import Strict, once
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from libmtl_recon import UsageError

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # the range that NumPy accepts
Count = Annotated[int, Field(ge=1, le=10**6)]
Parallel = Annotated[int, Field(ge=1, le=1024)]


def _named(value: str) -> str:
    """Check that a value is the name of a task or of a task's metric."""
    if not value or value != value.strip(" .") or "\n" in value or "\t" in value:
        raise UsageError(
            "",
            "must be the name of a task or, as TASK.METRIC, of one of its metrics",
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
        weighting: The weighting with which the script trains while conflicts are counted.
        steps: The number of training steps.
        flags: Flags that differ from those of the other runs.
        reuse: Whether a profile of exactly the same architecture in the cache is used.
    """

    weighting: str = "EW"
    steps: Count = 300
    flags: FixedFlags = Field(default={})
    reuse: bool = True


class Objective(Strict):
    """The data on which configurations are compared.

    Attributes:
        on: ``val``, or ``test`` for scripts that have no validation data.
    """

    on: Literal["val", "test"] = "val"


class Metrics(Strict):
    """The metrics that count in Δm, and their weights.

    Attributes:
        weights: Weights of tasks (TASK), and of metrics relative to those of the same task
        (TASK.METRIC); 1 by default.
        leave_out: Tasks and metrics that do not count.
        undefined: What happens if the relative improvement of a metric is undefined, because the
        single-task network's value is NaN or zero: ``stop`` ends the search, ``leave_out``
        continues without the metric and reports it.
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
        "must not contain a task or metric with a weight in metrics.weights",
        name,
        "Remove its weight, or remove it here.",
    )


class AtMost(Strict):
    """An upper bound.

    Attributes:
        at_most: The largest value, as a multiple of that of EW with plain parameter sharing.
    """

    at_most: Positive


class NotBelow(Strict):
    """A lower bound.

    Attributes:
        not_below: The smallest improvement over the single-task network, in %.
    """

    not_below: Annotated[float, Field(allow_inf_nan=False)]


class Constraints(Strict):
    """Bounds that a trial must satisfy.

    Attributes:
        parameters: The number of parameters of the network.
        memory: The peak memory of a training.
        step_time: The duration of a training step.
        each_task: The improvement Δ of each task.
    """

    parameters: AtMost | None = None
    memory: AtMost | None = None
    step_time: AtMost | None = None
    each_task: NotBelow | None = None


class Pick(Strict):
    """The choice of a trial from the Pareto front, for the finalists and the comparison.

    Attributes:
        best: The objective that ranks the trials; by default the first.
        within: The largest distance from the best trial, in the unit of this objective: of the
        trials within it, the one with the fewest parameters is picked.
    """

    best: str | None = None
    within: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Finalists(Strict):
    """The trials that are trained again before one of them is picked.

    Attributes:
        count: The number of trials; 1 picks the best trial without training it again.
        seeds: The seeds, in addition to that of the search. The trial with the best mean on
        validation data is picked.
    """

    count: Count = 3
    seeds: list[Seed] = Field(default=[101])


class Launch(Strict):
    """The processes that train one run together.

    Attributes:
        nproc_per_node: The number of ranks, as for torchrun, all on this machine.
    """

    nproc_per_node: Parallel = 1


def _package(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)+", value):
        raise UsageError(
            "",
            "must be the path of an OptunaHub package",
            value,
            "Write it as samplers/auto_sampler.",
        )
    return value


Package = Annotated[str, AfterValidator(_package)]


class Sampler(Strict):
    """The sampler of Optuna that chooses trials.

    Attributes:
        name: Its name in ``optuna.samplers``, its import path (``package.module:Class``), or its
            name in the package of OptunaHub.
        args: The arguments of its constructor.
        optunahub: A package of OptunaHub, e.g. ``samplers/auto_sampler``. Its code is downloaded
        and run on this machine.
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
                "needs `name`, the name of the sampler in the package",
                value,
                "Add it, e.g. sampler: {name: AutoSampler, optunahub: samplers/auto_sampler}.",
            )
        return value


class Pruner(Strict):
    """The pruner of Optuna that ends trials early.

    Attributes:
        name: Its name in ``optuna.pruners``, its import path (``package.module:Class``), or its
            name in the package of OptunaHub.
        args: The arguments of its constructor.
        optunahub: A package of OptunaHub. Its code is downloaded and run on this machine.
    """

    name: str
    args: dict[str, Any] = Field(default={})
    optunahub: Package | None = None


class Limits(Strict):
    """Time limits.

    Attributes:
        run: Seconds after which a run is ended and counts as failed; None sets no limit.
        study: Seconds after which no further trial is started; None sets no limit.
    """

    run: Seconds | None = None
    study: Seconds | None = None


Text = Annotated[str, Field(min_length=1)]


class Callbacks(Strict):
    """Other programs to which trials are reported.

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
                f"Install it with `pip install 'libmtl-recon[{info.field_name}]'`, or leave out "
                "the key.",
            )
        return value
