"""The keys of a search's configuration, from its JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import indent
from typing import Any

import yaml
from libmtl_recon_search.examples import EXAMPLES
from libmtl_recon_search.schema import json_schema

_BOUNDS = {
    "minimum": "from {:,}",
    "exclusiveMinimum": "above {:,}",
    "maximum": "up to {:,}",
    "exclusiveMaximum": "below {:,}",
}
_KINDS = {"integer": "whole number", "number": "number", "string": "text"}


def search_keys() -> str:
    """Return all keys with type, default, description and example, and what a range is."""
    schema = json_schema()
    parts = schema["$defs"]
    keys = [_entry(*found, parts) for found in _keys(schema, parts, "")]
    bounds = [
        _entry(*found, parts) for found in _keys(parts["Range"], parts, "", level=3, mark="range-")
    ]
    about = parts["Range"]["description"].replace("``", "`")
    return "\n\n".join((*keys, f"## A range\n\n{about}", *bounds))


def _keys(
    model: dict[str, Any], parts: Any, prefix: str, level: int = 2, mark: str = ""
) -> Iterator[tuple[str, dict[str, Any], bool, int, str]]:
    """Iterate over the keys of a mapping, each followed by the keys of its value."""
    for name, value in model["properties"].items():
        key = f"{prefix}{name}"
        yield key, value, name in model.get("required", ()), level, f"{mark}{key}"
        inside = _mapping(value, parts)
        if inside is not None:
            yield from _keys(inside, parts, f"{key}.", level + 1, mark)


def _mapping(value: dict[str, Any], parts: Any) -> dict[str, Any] | None:
    """Return the mapping with its own keys that a key accepts; None if it accepts none."""
    for form in _forms(value, parts):
        if "properties" in form and form is not parts["Range"]:
            return form
    return None


def _forms(value: dict[str, Any], parts: Any) -> list[dict[str, Any]]:
    """Return the forms that a value may have."""
    if "$ref" in value:
        return [parts[value["$ref"].rpartition("/")[2]]]
    several = value.get("anyOf") or value.get("oneOf") or value.get("allOf")
    return [form for one in several for form in _forms(one, parts)] if several else [value]


def _entry(
    key: str, value: dict[str, Any], required: bool, level: int, anchor: str, parts: Any
) -> str:
    example = EXAMPLES.get(key, "")
    for name in reversed(key.split(".")[:-1]):
        example = example and f"{name}:\n{indent(example, '  ')}"
    about = "; ".join((_kind(value, parts), *_default(value, required, parts)))
    return "\n\n".join(
        part
        for part in (
            f"{'#' * level} `{key}` {{ #{anchor} .entry }}",
            f"*{about}*",
            value.get("description", "").replace("``", "`"),
            f"```yaml\n{example}\n```" if example else "",
        )
        if part
    )


def _default(value: dict[str, Any], required: bool, parts: Any) -> tuple[str, ...]:
    if required:
        return ("required",)
    if "default" in value and _mapping(value, parts) is None:
        default = yaml.safe_dump(
            value["default"], default_flow_style=True, sort_keys=False, width=1000
        )
        return (f"default: `{default.removesuffix(chr(10)).removesuffix('...').strip()}`",)
    nullable = any(form.get("type") == "null" for form in _forms(value, parts))
    # The defaults of a mapping are listed with its keys.
    return ("default: none",) if nullable or _mapping(value, parts) is None else ()


def _kind(value: dict[str, Any], parts: Any, s: str = "") -> str:
    """Return the type of a key in words; in the plural with an ``s``."""
    kinds = (_kind_of(one, parts, s) for one in _forms(value, parts))
    return " or ".join(dict.fromkeys(kind for kind in kinds if kind))


def _kind_of(form: dict[str, Any], parts: Any, s: str) -> str:
    if form is parts["Range"]:
        return "[range](#a-range)"
    if "enum" in form or "const" in form:
        return ", ".join(f"`{one}`" for one in form.get("enum", [form.get("const")]))
    kind = form.get("type", "string")
    if isinstance(kind, list):
        return f"scalar{s}"
    if kind == "array":
        return f"list{s} of {_kind(form['items'], parts, 's')}"
    if kind == "object" and "properties" in form:
        return f"mapping{s} with the keys below"
    if kind == "object":
        values = form["additionalProperties"]
        inner = "" if values is True else f" to {_kind(values, parts, 's')}"
        return f"mapping{s} of names{inner}"
    if kind == "boolean":
        return "true or false"
    if kind == "null":
        return ""
    bounds = [text.format(form[bound]) for bound, text in _BOUNDS.items() if bound in form]
    return " ".join((f"{_KINDS[kind]}{s}", *bounds))
