"""What a search is told: one YAML file a problem."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from libmtl_recon import UsageError

Scalar = bool | int | float | str
_GRID = 0.005  # of severities
_CHOSEN = ("weighting", "arch", "seed", "gradops_alpha", "recon_k", "recon_s", "recon_layers")


def _check_flags(value: Any) -> Any:
    """Flags are names with plain values."""
    if not isinstance(value, dict):
        raise UsageError(
            "", "must be a mapping from flags to values", value, "Write it as {epochs: 20}."
        )
    for flag, given in value.items():
        if not isinstance(flag, str) or not re.fullmatch(r"[A-Za-z][\w-]*", flag):
            raise UsageError(
                "",
                "must have names of flags as keys, without the dashes in front",
                flag,
                "Write {epochs: 20} for --epochs 20.",
            )
        parts = given if isinstance(given, list) else [given]
        if not parts or not all(isinstance(part, Scalar) for part in parts):
            raise UsageError(
                flag,
                "must be a number, a text, true or false, or a list of these",
                given,
                f"Write {{{flag}: true}} for a flag that takes no value.",
            )
        if flag in _CHOSEN:
            raise UsageError(
                flag,
                "must not be set here",
                given,
                "The search sets this flag itself; see `space`, `score` and `seed`.",
            )
    return value


Flags = Annotated[dict[str, Any], BeforeValidator(_check_flags)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Severity = Annotated[float, Field(gt=-1, le=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FloatRange(_Strict):
    """Values from ``low`` up to ``high``, ``step`` apart."""

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    step: float = Field(gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self.low, self.high)
        return self

    @property
    def values(self) -> list[float]:
        """All of them."""
        count = int((self.high - self.low) / self.step + 1e-9)
        return [round(self.low + index * self.step, 9) for index in range(count + 1)]


class IntRange(_Strict):
    """Whole numbers from ``low`` to ``high``."""

    low: int = Field(ge=0)
    high: int = Field(ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self.low, self.high)
        return self


def _check_order(low: float, high: float) -> None:
    if high < low:
        raise UsageError(
            "high", f"must not be below low ({low})", high, "A range must hold something."
        )


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
        for severity in value.values if isinstance(value, FloatRange) else value:
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
        twice = [name for name in value if value.count(name) > 1]
        if twice:
            raise UsageError("", "must name each weighting once", twice[0], "Remove one.")
        return value

    @model_validator(mode="after")
    def _flags_of_known(self) -> Self:
        for name in self.flags:
            if name not in self.weighting:
                raise UsageError(
                    "flags",
                    f"must have weightings of this space as keys ({', '.join(self.weighting)})",
                    name,
                    "Add it to space.weighting, or write flags for all runs at the top level.",
                )
        return self


class Score(_Strict):
    """The scoring run.

    Attributes:
        weighting: The weighting under which the conflicts are counted.
        steps: After how many training steps it ends.
        flags: Flags that differ from the other runs'.
    """

    weighting: str = "EW"
    steps: Positive = 300
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

    count: Positive = 3
    seeds: list[Seed] = [101]


class Limits(_Strict):
    """After how long something counts as failed.

    Attributes:
        run: Seconds that one run may take; None sets no limit.
    """

    run: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class Config(_Strict):
    """A search.

    Attributes:
        script: Path of a LibMTL script, relative to the file, or a built-in problem's name.
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
        threads: PyTorch's threads in each.
        prune: End trials early that stay below the median of the others.
        timeout: After how long something counts as failed.
    """

    script: str
    flags: Flags = {}
    objective: Objective = Objective()
    space: Space
    score: Score = Score()
    trials: Positive = 20
    seed: Seed = 0
    finalists: Finalists = Finalists()
    confirm: list[Seed] = Field(default=[1, 2, 3], min_length=1)
    workers: Positive = 2
    threads: Positive = 1
    prune: bool = True
    timeout: Limits = Limits()

    @model_validator(mode="after")
    def _fresh_seeds(self) -> Self:
        seen = {self.seed: "seed"}
        for key, seeds in (("finalists.seeds", self.finalists.seeds), ("confirm", self.confirm)):
            for seed in seeds:
                if seed in seen:
                    raise UsageError(
                        key,
                        f"must hold seeds that are not in {seen[seed]} already",
                        seed,
                        "What was chosen with a seed cannot be confirmed with it: take another "
                        "here or for `seed` (--seed).",
                    )
                seen[seed] = key
        return self

    def arguments(self, *more: dict[str, Any]) -> tuple[str, ...]:
        """The flags as they stand on a command line, later ones in the place of earlier ones."""
        flags = self.flags
        for other in more:
            flags = {**flags, **other}
        return tuple(itertools.chain.from_iterable(_spell(k, v) for k, v in flags.items()))


def _spell(flag: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{flag}"]
    if value is False:
        return []
    values = value if isinstance(value, list) else [value]
    return [f"--{flag}", *map(str, values)]
