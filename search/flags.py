"""Flags of the script: their values in a configuration, in the search, and on a command line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from libmtl_recon_search.explaining import explain
from libmtl_recon_search.faults import raise_all
from libmtl_recon_search.ranges import Range, Scalar
from pydantic import BeforeValidator, ValidationError, WithJsonSchema

from libmtl_recon import UsageError

Choice = list[Any] | Range
"""The domain of a flag: a list of scalars, or of lists of scalars, or a range."""

_CHOSEN = (
    *("weighting", "arch", "seed", "gradops_alpha"),
    *("recon_k", "recon_s", "recon_select", "recon_layers"),
)


@dataclass(frozen=True)
class FlagSpace:
    """The flags of one kind of run.

    Attributes:
        fixed: The flags with one value.
        searched: The flags with several values, and these values.
    """

    fixed: dict[str, Any]
    searched: dict[str, Choice]

    def defaults(self) -> dict[str, Any]:
        """Return one value per flag, for runs that are not tuned.

        It is the first value of a list, and the middle of a range.
        """
        return self.fixed | {
            flag: among.middle if isinstance(among, Range) else among[0]
            for flag, among in self.searched.items()
        }


def flag_space(
    flags: Mapping[str, Any], several: Collection[str] | None = (), where: str = "flags"
) -> FlagSpace:
    """Separate the flags that are searched from the others.

    Args:
        flags: Values, lists and ranges by flag.
        several: The script's flags that accept several values: for these, a plain list is one
            value, and a list of lists is searched. None if it is not known; then no list is
            refused.
        where: The key of the flags in the configuration.

    Raises:
        UsageError: A list is not a valid value; if several are invalid, all are named.
    """
    fixed: dict[str, Any] = {}
    searched: dict[str, Choice] = {}
    faults = []
    takes_several = {_plain(flag) for flag in several or ()}
    for flag, value in flags.items():
        plain, lists = _plain(flag) not in takes_several, isinstance(value, list)
        if isinstance(value, Range):
            searched[flag] = value
        elif not lists or (not plain and not isinstance(value[0], list)):
            fixed[flag] = value
        elif several is None:
            searched[flag] = value
        elif plain and isinstance(value[0], list):
            faults.append(_takes_one(f"{where}.{flag}", flag, value))
        elif twice := _twice(value):
            faults.append(_each_once(f"{where}.{flag}", twice))
        elif len(value) == 1:
            fixed[flag] = value[0]
        else:
            searched[flag] = value
    raise_all("The configuration", faults)
    return FlagSpace(fixed, searched)


def spell(flags: Mapping[str, Any]) -> tuple[str, ...]:
    """Return flags as arguments of a command line.

    Args:
        flags: Values by flag. True gives the flag without a value, false omits it, and a list gives
            several values.

    Raises:
        TypeError: A value is a range, from which a number must be chosen first.
    """
    return tuple(itertools.chain.from_iterable(_spell(k, v) for k, v in flags.items()))


def _spell(flag: str, value: Any) -> list[str]:
    if isinstance(value, Range):
        raise TypeError(f"{flag} is a range, from which no number was chosen")
    if value is True:
        return [f"--{flag}"]
    if value is False:
        return []
    values = value if isinstance(value, list) else [value]
    words = list(map(str, values))
    if len(words) == 1 and words[0].startswith("-"):
        return [f"--{flag}={words[0]}"]  # argparse takes -1e-05 alone for a flag
    return [f"--{flag}", *words]


def _plain(flag: str) -> str:
    return flag.replace("-", "_")


def _takes_one(parameter: str, flag: str, value: Any) -> UsageError:
    return UsageError(
        parameter,
        "must be a list of single values, because the script's flag accepts one value",
        value,
        f"Write {{{flag}: [1, 2]}} to search 1 and 2.",
    )


def _twice(values: list[Any]) -> Any:
    """Return a value that occurs twice, or is written twice in the same way; None if none does."""
    for index, value in enumerate(values):
        for other in values[:index]:
            if value == other or _spell("", value) == _spell("", other):
                return [value]
    return None


def _each_once(parameter: str, twice: list[Any]) -> UsageError:
    return UsageError(parameter, "must contain each value once", twice[0], "Remove one.")


def _check_flags(value: Any) -> Any:
    """Check that flags are names with values, lists or ranges."""
    return _checked(value, searched=True)


def _check_fixed(value: Any) -> Any:
    """Check that flags are names with values; a list contains the values of one flag."""
    return _checked(value, searched=False)


def _checked(value: Any, *, searched: bool) -> Any:
    if not isinstance(value, dict):
        raise UsageError(
            "", "must be a mapping from flags to values", value, "Write it as {epochs: 20}."
        )
    found, faults = {}, []
    for flag, given in value.items():
        if searched and isinstance(given, dict) and not (fault := _fault_of_name(flag, given)):
            try:
                found[flag] = Range.model_validate(given)
            except ValidationError as error:
                faults += explain(error, Range, under=[flag])
            continue
        found[flag] = given
        if searched and isinstance(given, Range):
            fault = _fault_of_name(flag, given)
        else:
            fault = _fault_of_name(flag, given) or _fault_of_value(flag, given, searched)
        faults += [fault] if fault else []
    raise_all("", faults)
    return found


def _fault_of_name(flag: Any, given: Any) -> UsageError | None:
    if not isinstance(flag, str) or not re.fullmatch(r"[A-Za-z][\w-]*", flag):
        return UsageError(
            "",
            "must have names of flags as keys, without the leading dashes",
            flag,
            "Write {epochs: 20} for --epochs 20.",
        )
    if flag in _CHOSEN:
        return UsageError(
            flag,
            "must not be set here",
            given,
            "The search sets this flag itself; see `space`, `score` and `seed`.",
        )
    return None


def _fault_of_value(flag: str, given: Any, searched: bool) -> UsageError | None:
    parts = given if isinstance(given, list) else [given]
    lists = [part for part in parts if isinstance(part, list)] if searched else []
    if parts and len(lists) == len(parts):
        parts = [one for part in lists for one in part] if all(lists) else []
    if parts and all(isinstance(part, Scalar) and part == part for part in parts):
        twice = _twice(given) if lists else None
        return twice and _each_once(flag, twice)
    if lists and len(lists) < len(given):
        return UsageError(
            flag,
            "must not contain both single values and lists",
            given,
            f"Write {{{flag}: [[1, 2], [3]]}} to search the values `1 2` and `3`.",
        )
    forms = "a list of these or a range" if searched else "or a list of these"
    return UsageError(
        flag,
        f"must be a number, a string, true or false, {forms}",
        given,
        f"Write {{{flag}: true}} for a flag without a value"
        + (f", and {{{flag}: {{low: 0.1, high: 1.0}}}} for a range." if searched else "."),
    )


# For editors. Pydantic has no references to models that it does not create itself.
A_RANGE = {"type": "range"}
_ONE = {"type": ["string", "number", "boolean"]}
_LIST = {"type": "array", "items": _ONE, "minItems": 1}
_LISTS = {"type": "array", "items": _LIST, "minItems": 1}


def _described(*forms: dict[str, Any]) -> WithJsonSchema:
    names = {"pattern": r"^[A-Za-z][\w-]*$", "not": {"enum": list(_CHOSEN)}}
    values = {"anyOf": list(forms)}
    return WithJsonSchema(
        {"type": "object", "additionalProperties": values, "propertyNames": names}
    )


Flags = Annotated[
    dict[str, Any], BeforeValidator(_check_flags), _described(_ONE, _LIST, _LISTS, A_RANGE)
]
FixedFlags = Annotated[dict[str, Any], BeforeValidator(_check_fixed), _described(_ONE, _LIST)]
