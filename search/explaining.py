"""Convert pydantic's errors to messages of this project."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, get_args, get_origin

from libmtl_recon_search.examples import EXAMPLES
from libmtl_recon_search.faults import FaultsError
from pydantic import BaseModel, ValidationError

from libmtl_recon import UsageError
from libmtl_recon.texts import bounded, did_you_mean, printable


def explain(
    error: ValidationError,
    model: type[BaseModel],
    file: str = "",
    given: Collection[str] = (),
    under: Sequence[str] = (),
) -> list[UsageError]:
    """Return all errors.

    Args:
        error: The error that pydantic raised.
        model: The model whose values are invalid.
        file: The name of the file; the parameter of each error begins with it.
        given: Keys that were given on the command line, not in the file.
        under: The keys under which the model is in the file.
    """
    findings = error.errors(include_url=False)
    # A misspelt key is also a missing one; report the cause only.
    misspelt = {f["loc"][:-1] for f in findings if f["type"] == "extra_forbidden"}
    found: list[UsageError] = []
    for finding in sorted(findings, key=lambda f: f["type"] != "extra_forbidden"):
        if finding["type"] == "missing" and finding["loc"][:-1] in misspelt:
            continue
        found += _explain_one(finding, model, file, given, under)
    return found


def _explain_one(
    finding: Any,
    model: type[BaseModel],
    file: str,
    given: Collection[str],
    under: Sequence[str],
) -> list[UsageError]:
    own_places = [place for place in finding["loc"] if not _is_tag(place)]
    if finding["type"] != "extra_forbidden" and own_places[-1:] == ["[key]"]:
        own_places = own_places[:-2]  # a key of a mapping, which is the value that is wrong
    places = [*under, *own_places]
    on_command_line = bool(places) and places[0] in given
    if on_command_line:
        where = f"--{places[0]}"
    else:
        where = ": ".join(part for part in (file, dotted(places)) if part)
    own = finding.get("ctx", {}).get("error")
    if isinstance(own, UsageError):
        joint = "." if places else ": " if file else ""
        return [
            UsageError(
                f"{where}{joint}{bounded(printable(one.parameter), 80)}"
                if one.parameter
                else where,
                one.rule,
                one.value,
                one.way_out,
            )
            for one in (own.faults if isinstance(own, FaultsError) else [own])
            if isinstance(one, UsageError)
        ]
    if finding["type"] in ("extra_forbidden", "invalid_key"):
        return [
            UsageError(
                where,
                "must be a known key",
                places[-1],
                offer(places[-1], _keys_at(model, own_places[:-1])),
            )
        ]
    if finding["type"] == "missing":
        return [UsageError(where, "must be given", None, f"Add it{_to(' to ', file)}.")]
    way_out = f"Correct it{_to(' in ', file)}{_example(places)}."
    if on_command_line:
        way_out = "Give another value, or leave it out to use the configuration's."
    return [UsageError(where, rule_of(finding), finding["input"], way_out)]


def _is_tag(place: object) -> bool:
    return isinstance(place, str) and place.startswith("\0")


def _to(preposition: str, file: str) -> str:
    return f"{preposition}{file}" if file else ""


def _example(places: list[Any]) -> str:
    """Return the example of the invalid key, or of the key that it belongs to."""
    for end in range(len(places), 0, -1):
        key = ".".join(map(str, places[:end]))
        if key in EXAMPLES:
            return f", e.g. {EXAMPLES[key]}"
    return ""


def rule_of(finding: Any) -> str:
    """Return the rule that a value violates, from one of pydantic's findings."""
    if finding["type"] in ("model_type", "dict_type"):
        return "must contain keys with values"
    if finding["type"] in ("too_short", "string_too_short"):
        return "must not be empty"
    message: str = finding["msg"]
    return f"must be {message.removeprefix('Input should be ').removesuffix('.')}"


def dotted(places: Iterable[Any]) -> str:
    """Return the path of a value, such as ``space.s[1]``."""
    text = ""
    for place in places:
        text += f"[{place}]" if isinstance(place, int) else f".{bounded(printable(str(place)), 80)}"
    return text.removeprefix(".")


def _keys_at(model: type[BaseModel], places: Iterable[Any]) -> list[str]:
    """Return the keys of a part of the configuration."""
    here: Any = model
    for place in places:
        inside = next(models_of(here), None)
        # If it is not a model, it is a value of a mapping or a list.
        here = inside.model_fields[place].annotation if inside else get_args(here)[-1]
    return list(next(models_of(here)).model_fields)


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """Iterate over the models of an annotation, without those inside lists and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) not in (dict, list):
        for part in get_args(annotation):
            yield from models_of(part)


def offer(found: object, known: Collection[str]) -> str:
    """Return a suggestion of known names for an unknown one."""
    names = list(known)
    there = (
        f"Known names: {', '.join(names)}." if len(names) > 1 else (f"The only one is {names[0]}.")
    )
    return f"{did_you_mean(found, names)}{there}"
