"""The space that a search chooses from."""

from __future__ import annotations

from typing import Annotated, Any

from libmtl_recon_search.faults import raise_all
from libmtl_recon_search.flags import Flags
from libmtl_recon_search.ranges import LIST, RANGE, Forms, Range, Strict, once, real
from pydantic import AfterValidator, Field, Tag, ValidationInfo, field_validator

from libmtl_recon import UsageError
from libmtl_recon.conflicts.baselines import MEASURED, SELECTIONS
from libmtl_recon.texts import did_you_mean

_GRID = 0.005  # of severities
_MOST_LAYERS = 10**6

Real = Annotated[float, Field(allow_inf_nan=False)]
Severity = Annotated[float, Field(gt=-1, le=0, allow_inf_nan=False)]
Layers = Annotated[int, Field(ge=0, le=_MOST_LAYERS)]


def _all(values: list[Any] | Range) -> list[Any]:
    return list(values.values or ()) if isinstance(values, Range) else values


def _on_the_grid(value: Any) -> Any:
    for severity in _all(value):
        if not -1 < severity <= 0 or abs(severity / _GRID - round(severity / _GRID)) > 1e-6:
            raise UsageError(
                "",
                f"must contain multiples of {_GRID}, above -1 and at most 0",
                severity,
                "Round it: conflicts are counted in bins of this width.",
            )
    return value


def _stepped(value: Range) -> Range:
    return real(value.model_copy(update={"step": value.step or _GRID}))


def _of_layers(value: Range) -> Range:
    """Check that a range consists of valid numbers of layers."""
    faults = []
    for key, part in (("low", value.low), ("high", value.high), ("step", value.step or 1)):
        if not isinstance(part, int):
            faults.append(
                UsageError(key, "must be a whole number", part, "It is a number of layers.")
            )
        elif part < 0:
            faults.append(
                UsageError(
                    key, "must be greater than or equal to 0", part, "With 0, no layer is split."
                )
            )
        elif part > _MOST_LAYERS:
            rule = f"must be less than or equal to {_MOST_LAYERS}"
            faults.append(UsageError(key, rule, part, "No network has that many layers."))
    raise_all("", faults)
    return value


_SELECTIONS = tuple(SELECTIONS)


def _selection(value: str) -> str:
    if value not in _SELECTIONS:
        raise UsageError(
            "",
            "must be the name of a selection",
            value,
            f"{did_you_mean(value, _SELECTIONS)}Known names: {', '.join(_SELECTIONS)}.",
        )
    return value


Selection = Annotated[str, AfterValidator(_selection)]
_Reals = Annotated[list[Real], Field(min_length=1), AfterValidator(once), Tag(LIST)]
_Counts = Annotated[list[Layers], Field(min_length=1), AfterValidator(once), Tag(LIST)]
_Severities = Annotated[list[Severity], Field(min_length=1), AfterValidator(once), Tag(LIST)]


class Space(Strict):
    """The choices of the search.

    Attributes:
        weighting: Names of weightings, of LibMTL or of this package.
        flags: Flags for the runs of one weighting: a value, or a list or a range to search.
        alpha: The exponent α of GradOPS, a list or a range; only used if ``weighting`` contains
        GradOPS.
        k: The number of layers that are split, a list or a range; 0 is plain hard parameter
        sharing. Without it no layer is split, and nothing is scored.
        s: Severities, each a multiple of 0.005 in (-1, 0]: a list, or a range, whose default step
        is 0.005.
        select: How the split layers are chosen, as with ``--recon_select``.
    """

    weighting: list[str] = Field(default=["EW", "GradOPS"], min_length=1)
    flags: dict[str, Flags] = Field(default={})
    alpha: Annotated[_Reals | Annotated[Range, AfterValidator(real), Tag(RANGE)], Forms] = Range(
        low=-3.0, high=2.0, step=0.5
    )
    k: (
        Annotated[_Counts | Annotated[Range, AfterValidator(_of_layers), Tag(RANGE)], Forms] | None
    ) = None
    s: Annotated[
        _Severities | Annotated[Range, AfterValidator(_stepped), Tag(RANGE)],
        Forms,
        AfterValidator(_on_the_grid),
    ] = Field(default=[-0.2, -0.1, -0.05, -0.02, 0.0])
    select: Annotated[list[Selection], AfterValidator(once)] = Field(
        default=["conflict"], min_length=1
    )

    @property
    def severities(self) -> list[float]:
        """All severities that may be chosen."""
        return _all(self.s)

    @property
    def ks(self) -> list[int]:
        """All numbers of split layers that may be chosen; none if nothing is split."""
        return [] if self.k is None else _all(self.k)

    @property
    def splits(self) -> bool:
        """Whether layers may be split."""
        return any(self.ks)

    @property
    def needs_scores(self) -> bool:
        """Whether layers may be split that are chosen by their conflicts."""
        return self.splits and any(name in MEASURED for name in self.select)

    @field_validator("weighting")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        return once(value)

    @field_validator("flags")
    @classmethod
    def _of_this_space(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "weighting" in info.data:  # it is missing if it is wrong itself
            known = info.data["weighting"]
            raise_all("", [_no_such_weighting(name, known) for name in value if name not in known])
        return value

    @field_validator("s", "select")
    @classmethod
    def _of_a_split(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("k", 1) is None:
            raise UsageError(
                "",
                "needs `space.k`, without which no layer is split",
                value,
                "Add the numbers of layers that may be split, e.g. k: {low: 0, high: 10}.",
            )
        return value


def _no_such_weighting(name: str, weightings: list[str]) -> UsageError:
    there = ", ".join(weightings[:20]) + (", …" if len(weightings) > 20 else "")
    return UsageError(
        "",
        f"must have weightings of this space as keys ({there})",
        name,
        "Add it to space.weighting, or write flags for all runs at the top level.",
    )
