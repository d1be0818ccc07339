"""What a search is told: one YAML file a problem."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Annotated, Any, Literal

from libmtl_recon_search.faults import raise_all
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)

from libmtl_recon import UsageError

Scalar = bool | int | float | str
_GRID = 0.005  # of severities
_MOST_STEPS = 10_000  # of a range
_CHOSEN = ("weighting", "arch", "seed", "gradops_alpha", "recon_k", "recon_s", "recon_layers")


def _check_flags(value: Any) -> Any:
    """Flags are names with plain values."""
    if not isinstance(value, dict):
        raise UsageError(
            "", "must be a mapping from flags to values", value, "Write it as {epochs: 20}."
        )
    raise_all("", [fault for flag, given in value.items() if (fault := _fault_of(flag, given))])
    return value


def _fault_of(flag: Any, given: Any) -> UsageError | None:
    if not isinstance(flag, str) or not re.fullmatch(r"[A-Za-z][\w-]*", flag):
        return UsageError(
            "",
            "must have names of flags as keys, without the dashes in front",
            flag,
            "Write {epochs: 20} for --epochs 20.",
        )
    parts = given if isinstance(given, list) else [given]
    if not parts or not all(isinstance(part, Scalar) and part == part for part in parts):
        return UsageError(
            flag,
            "must be a number, a text, true or false, or a list of these",
            given,
            f"Write {{{flag}: true}} for a flag that takes no value.",
        )
    if flag in _CHOSEN:
        return UsageError(
            flag,
            "must not be set here",
            given,
            "The search sets this flag itself; see `space`, `score` and `seed`.",
        )
    return None


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
Flags = Annotated[dict[str, Any], BeforeValidator(_check_flags)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what NumPy takes
Count = Annotated[int, Field(ge=1, le=10**6)]
Parallel = Annotated[int, Field(ge=1, le=1024)]
Severity = Annotated[float, Field(gt=-1, le=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _not_below_low(value: float, info: ValidationInfo) -> float:
    low = info.data.get("low")  # missing if it is wrong itself
    if low is not None and value < low:
        raise UsageError(
            "", f"must not be below low ({low})", value, "A range must hold something."
        )
    return value


class FloatRange(_Strict):
    """Values from ``low`` up to ``high``, ``step`` apart."""

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    step: float = Field(ge=1e-6, allow_inf_nan=False)

    _ordered = field_validator("high")(_not_below_low)

    @field_validator("step")
    @classmethod
    def _not_too_fine(cls, value: float, info: ValidationInfo) -> float:
        low, high = info.data.get("low"), info.data.get("high")
        if low is not None and high is not None and (high - low) / value > _MOST_STEPS:
            raise UsageError(
                "",
                f"must make {_MOST_STEPS} steps or fewer from low ({low:g}) to high ({high:g})",
                value,
                "Take a longer step: results do not differ by so little.",
            )
        return value

    @property
    def values(self) -> list[float]:
        """All of them."""
        count = int((self.high - self.low) / self.step + 1e-9)
        return [round(self.low + index * self.step, 9) for index in range(count + 1)]


class IntRange(_Strict):
    """Whole numbers from ``low`` to ``high``."""

    low: int = Field(ge=0, le=10**6)
    high: int = Field(ge=0, le=10**6)

    _ordered = field_validator("high")(_not_below_low)


class Space(_Strict):
    """What the search may choose.

    Attributes:
        weighting: Names of LibMTL's weightings, ours included.
        flags: For a weighting, flags that only its runs get.
        alpha: GradOPS's exponent; only used where ``weighting`` has GradOPS.
        s: Severities, each a multiple of 0.005 in (-1, 0]: a list, or a range.
        k: How many layers are split; 0 is plain hard parameter sharing.
    """

    weighting: list[str] = Field(default=["EW", "GradOPS"], min_length=1)
    flags: dict[str, Flags] = {}
    alpha: FloatRange = FloatRange(low=-3.0, high=2.0, step=0.5)
    s: Annotated[
        Annotated[list[Severity], Field(min_length=1), Tag("list")]
        | Annotated[FloatRange, Tag("range")],
        Discriminator(lambda value: "list" if isinstance(value, list) else "range"),
    ] = [-0.2, -0.1, -0.05, -0.02, 0.0]
    k: IntRange

    @property
    def severities(self) -> list[float]:
        """All severities that may be chosen."""
        return self.s.values if isinstance(self.s, FloatRange) else self.s

    @field_validator("s")
    @classmethod
    def _on_the_grid(cls, value: Any) -> Any:
        severities = value.values if isinstance(value, FloatRange) else value
        if len(set(severities)) < len(severities):
            twice, _ = Counter(severities).most_common(1)[0]
            raise UsageError("", "must hold each once", twice, "Remove one.")
        for severity in severities:
            if not -1 < severity <= 0 or abs(severity / _GRID - round(severity / _GRID)) > 1e-6:
                raise UsageError(
                    "",
                    f"must hold multiples of {_GRID} above -1 and up to 0",
                    severity,
                    "Round it; conflicts are counted on this grid.",
                )
        return value

    @field_validator("weighting")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            twice, _ = Counter(value).most_common(1)[0]
            raise UsageError("", "must name each weighting once", twice, "Remove one.")
        return value

    @field_validator("flags")
    @classmethod
    def _of_this_space(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "weighting" in info.data:  # it is missing if it is wrong itself
            known = info.data["weighting"]
            raise_all("", [_no_such_weighting(name, known) for name in value if name not in known])
        return value


def _no_such_weighting(name: str, weightings: list[str]) -> UsageError:
    there = ", ".join(weightings[:20]) + (", …" if len(weightings) > 20 else "")
    return UsageError(
        "",
        f"must have weightings of this space as keys ({there})",
        name,
        "Add it to space.weighting, or write flags for all runs at the top level.",
    )


class Score(_Strict):
    """The scoring run.

    Attributes:
        weighting: The weighting under which the conflicts are counted.
        steps: After how many training steps it ends.
        flags: Flags that differ from the other runs'.
    """

    weighting: str = "EW"
    steps: Count = 300
    flags: Flags = {}


class Objective(_Strict):
    """By what configurations are compared.

    Attributes:
        on: The data: ``test`` is for scripts that have no validation data.
    """

    on: Literal["val", "test"] = "val"


class Finalists(_Strict):
    """The trials that are trained again before one of them is called the best.

    Attributes:
        count: How many; 1 takes the best trial as it is.
        seeds: With which seeds, beside the search's own. The best mean on validation data wins.
    """

    count: Count = 3
    seeds: list[Seed] = [101]


class Launch(_Strict):
    """By how many processes a run is trained.

    Attributes:
        nproc_per_node: As torchrun's: how many ranks, all on this machine.
    """

    nproc_per_node: Parallel = 1


class Limits(_Strict):
    """After how long something counts as failed.

    Attributes:
        run: Seconds that one run may take; None sets no limit.
    """

    run: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


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


class Config(_Strict):
    """A search.

    Attributes:
        script: Path of a LibMTL script, relative to the file, or a built-in problem's name.
        arguments: The script's positional arguments, which stand before the flags.
        flags: LibMTL's and the script's own flags, without the dashes.
        objective: By what configurations are compared.
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
        prune: End trials early that stay below the median of the others.
        timeout: After how long something counts as failed.
    """

    script: str
    arguments: list[Word] = []
    flags: Flags = {}
    objective: Objective = Objective()
    space: Space
    score: Score = Score()
    trials: Count = 20
    seed: Seed = 0
    finalists: Finalists = Field(default=Finalists(), validate_default=True)
    confirm: list[Seed] = Field(default=[1, 2, 3], min_length=1, validate_default=True)
    workers: Parallel = 2
    threads: Parallel = 1
    launch: Launch = Launch()
    prune: bool = True
    timeout: Limits = Limits()

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
        return (
            *self.arguments,
            *itertools.chain.from_iterable(_spell(k, v) for k, v in flags.items()),
        )


def _spell(flag: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{flag}"]
    if value is False:
        return []
    values = value if isinstance(value, list) else [value]
    return [f"--{flag}", *map(str, values)]
