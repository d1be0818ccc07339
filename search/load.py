"""Reading a configuration, and saying in one paragraph what is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from libmtl_recon import ReconError, UsageError
from libmtl_recon.problems import BUILT_IN
from search.config import Config
from search.yaml12 import parse_yaml

_TAGS = ("list", "range")  # of `space.s`, which pydantic puts into an error's place


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package, by name."""
    # Installed, they lie in the package; in a checkout, beside it.
    here = Path(__file__).parent
    folders = (here / "configs", here.parent / "configs")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def load_config(source: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a configuration.

    Args:
        source: Path of a YAML file, or the name of a configuration that comes with the package.
        overrides: Values that take the place of the file's: ``trials``, ``workers``, ``seed``.

    Raises:
        UsageError: There is no such file, or something in it breaks a rule; the message names
            the file, the key, the rule, the value and the way out.
        ReconError: The file is no YAML.
    """
    overrides = overrides or {}
    path = _find(source)
    data = _read(path)
    try:
        config = Config.model_validate({**data, **overrides})
    except ValidationError as error:
        raise _explain(path, error, overrides) from error
    return config.model_copy(update={"script": _script(path, config.script)})


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    shipped = shipped_configs()
    if str(source) in shipped:
        return shipped[str(source)]
    raise UsageError(
        "CONFIG",
        "must be a YAML file, or a configuration that comes with the package",
        str(source),
        f"There is no such file here. {_offer(source, list(shipped))}",
    )


def _read(path: Path) -> dict[Any, Any]:
    try:
        with path.open(encoding="utf-8") as stream:
            data = parse_yaml(stream)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ReconError(f"{path} cannot be read as YAML: {reason}. Correct it there.") from error
    if not isinstance(data, dict):
        raise UsageError(
            str(path),
            "must hold keys with values",
            data,
            "Write at least `script: main.py` and `space: {k: {low: 0, high: 10}}`.",
        )
    return data


def _script(path: Path, name: str) -> str:
    """The script's path, or the built-in problem's name."""
    beside = path.parent / name
    if beside.is_file():
        return str(beside)
    if name not in BUILT_IN:
        raise UsageError(
            f"{path}: script",
            "must be the path of a LibMTL script, relative to this file, or a built-in problem",
            name,
            f"{beside} is no file, and the built-in problems are {', '.join(BUILT_IN)}.",
        )
    return name


def _explain(path: Path, error: ValidationError, overrides: Mapping[str, Any]) -> UsageError:
    """Pydantic's first finding as one paragraph."""
    findings = error.errors(include_url=False)
    # A misspelt key is also a missing one; say the cause.
    misspelt = [finding for finding in findings if finding["type"] == "extra_forbidden"]
    first = (misspelt or findings)[0]
    places = [place for place in first["loc"] if place not in _TAGS]
    if places and places[0] in overrides:
        where = f"--{places[0]}"
    else:
        where = f"{path}: {_dotted(places)}" if places else str(path)
    own = first.get("ctx", {}).get("error")
    if isinstance(own, UsageError):
        joint = "." if places else ": "
        key = f"{joint}{own.parameter}" if own.parameter else ""
        return UsageError(f"{where}{key}", own.rule, own.value, own.way_out)
    if first["type"] in ("extra_forbidden", "invalid_key"):
        known = _keys_at(places[:-1])
        return UsageError(
            where, "must be one of the keys that there are", places[-1], _offer(places[-1], known)
        )
    if first["type"] == "missing":
        return UsageError(where, "must be given", None, f"Add it to {path}.")
    example = _EXAMPLES.get(str(places[0]) if places else "", "")
    way_out = f"Correct it in {path}{example}."
    if where.startswith("--"):
        way_out = "Give another value, or leave it to the configuration."
    return UsageError(where, _rule(first), first["input"], way_out)


def _rule(finding: Any) -> str:
    if finding["type"] == "model_type":
        return "must hold keys with values"
    if finding["type"] == "too_short":
        return "must not be empty"
    message: str = finding["msg"]
    return f"must be {message.removeprefix('Input should be ').removesuffix('.')}"


_EXAMPLES = {
    "space": ", e.g. space: {weighting: [EW, GradOPS], s: [-0.2, -0.1], k: {low: 0, high: 10}}",
    "score": ", e.g. score: {weighting: EW, steps: 300}",
    "objective": ", e.g. objective: {on: val}",
    "finalists": ", e.g. finalists: {count: 3, seeds: [101]}",
    "confirm": ", e.g. confirm: [1, 2, 3]",
    "timeout": ", e.g. timeout: {run: 3600}",
}


def _dotted(places: Iterable[Any]) -> str:
    text = ""
    for place in places:
        text += f"[{place}]" if isinstance(place, int) else f".{place}"
    return text.removeprefix(".")


def _keys_at(places: Iterable[Any]) -> list[str]:
    """The keys that a part of the configuration has."""
    model: Any = Config
    for place in places:
        annotation = model.model_fields[place].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ["low", "high", "step"]  # `space.s`, the one part that has two forms
        model = annotation
    return list(model.model_fields)


def _offer(found: object, known: list[str]) -> str:
    close = difflib.get_close_matches(str(found), known, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}There are {', '.join(known)}."
