"""The JSON Schema of a configuration, with which editors complete and check it.

``configs/schema.json`` is the result of :func:`json_schema`, and comes with the package. To write
it again: ``python -m libmtl_recon_search.schema > configs/schema.json``.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from typing import Any

from libmtl_recon_search.config import OBJECTIVES, Config
from libmtl_recon_search.examples import EXAMPLES
from libmtl_recon_search.explaining import models_of
from libmtl_recon_search.flags import A_RANGE
from libmtl_recon_search.yaml12 import parse_yaml
from pydantic import BaseModel

from libmtl_recon.conflicts.baselines import SELECTIONS

_RANGE = {"$ref": "#/$defs/Range"}


def json_schema() -> dict[str, Any]:
    """Return the schema, with the meaning and an example of each key.

    It contains keys, types of values and bounds; rules about several keys (such as a seed that is
    used twice) are checked by ``libmtl-recon search check``.
    """
    made = Config.model_json_schema()
    parts: dict[str, Any] = made["$defs"]
    _describe(Config, made, parts, "")
    _bound(made["properties"], parts)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A configuration of libmtl-recon search",
        **_simplified(made),
    }


def _bound(keys: dict[str, Any], parts: dict[str, Any]) -> None:
    """Add the rules of this project's validators that a schema can express."""
    keys["name"] |= {"minLength": 1, "maxLength": 200, "pattern": r"^[^/\\]+$"}
    keys["arguments"]["items"] |= {"minLength": 1, "pattern": "^[^-]"}
    keys["objectives"]["items"] = {"anyOf": [{"enum": list(OBJECTIVES)}, {"pattern": r".\.."}]}
    parts["Range"]["if"] = {"properties": {"log": {"const": True}}, "required": ["log"]}
    parts["Range"]["then"] = {
        "properties": {"low": {"exclusiveMinimum": 0}, "step": {"type": "null"}}
    }
    parts["Range"]["properties"]["step"]["anyOf"][0] |= {"exclusiveMinimum": 0}
    space = parts["Space"]["properties"]
    space["select"]["items"] = {"enum": list(SELECTIONS)}
    for values in (space["weighting"], space["select"], keys["objectives"], *_lists(space)):
        values["uniqueItems"] = True


def _lists(space: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the list forms of values that may be a list or a range."""
    forms = [space["alpha"], space["s"], space["k"]["anyOf"][0]]
    return [one for form in forms for one in form["oneOf"] if one.get("type") == "array"]


def _simplified(part: Any) -> Any:
    """Return a part of pydantic's schema without its titles, which only repeat the keys."""
    if isinstance(part, list):
        return [_simplified(one) for one in part]
    if not isinstance(part, dict):
        return part
    if part == A_RANGE:
        return dict(_RANGE)
    found = {
        key: {name: _simplified(one) for name, one in value.items()}
        if key in ("properties", "$defs")
        else value
        if key in ("default", "examples")
        else _simplified(value)
        for key, value in part.items()
        if key != "title" and (key, value) not in (("default", None), ("default", ""))
    }
    if "$ref" in found and len(found) > 1:
        # Keys next to a reference are ignored in this draft.
        found["allOf"] = [{"$ref": found.pop("$ref")}]
    return found


def _describe(
    model: type[BaseModel], schema: dict[str, Any], parts: dict[str, Any], prefix: str
) -> None:
    """Add descriptions to a model and its parts, from their docstrings."""
    said = inspect.getdoc(model) or ""
    schema["description"] = said.partition("\n\n")[0]
    for name, about in _attributes(said).items():
        value = schema["properties"][name]
        value["description"] = about
        key = f"{prefix}{name}"
        if key in EXAMPLES:
            value["examples"] = [parse_yaml(EXAMPLES[key])[name]]
        for inside in models_of(model.model_fields[name].annotation):
            _describe(inside, parts[inside.__name__], parts, f"{key}.")


def _attributes(docstring: str) -> dict[str, str]:
    """Return a docstring's description of each attribute."""
    section = docstring.partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.split(r"^    (?=\w+: )", section, flags=re.MULTILINE)[1:]
    pairs = (entry.split(": ", 1) for entry in entries)
    return {name: " ".join(text.replace("``", "`").split()) for name, text in pairs}


def as_text() -> str:
    """Return the schema as the text of its file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_text())
