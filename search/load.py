"""Reading a configuration, and saying in one paragraph what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from libmtl_recon_search.config import Config
from libmtl_recon_search.faults import FaultsError, raise_all
from libmtl_recon_search.yaml12 import parse_yaml
from pydantic import BaseModel, ValidationError

from libmtl_recon import ReconError, UsageError
from libmtl_recon.files import is_file
from libmtl_recon.problems import BUILT_IN
from libmtl_recon.texts import bounded, did_you_mean, printable

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
            the file, the key, the rule, the value and the way out. If several things do, it is a
            :class:`~libmtl_recon_search.faults.FaultsError`, which names all of them.
        ReconError: The file is no YAML.
    """
    overrides = overrides or {}
    path = _find(source)
    data = _read(path)
    found: list[UsageError] = []
    try:
        config = Config.model_validate({**data, **overrides})
    except ValidationError as error:
        found = _explain(path, error, overrides)
    script, given = "", data.get("script")
    if isinstance(given, str):
        try:
            script = _script(path, given)
        except UsageError as error:
            found.append(error)
    raise_all(str(path), found)
    return config.model_copy(update={"script": script})


def _find(source: str | Path) -> Path:
    path = Path(source)
    if is_file(path):
        return path
    shipped = shipped_configs()
    if str(source) in shipped:
        return shipped[str(source)]
    folder = os.path.isdir(path)  # noqa: PTH112
    reason = "This is a folder." if folder else "There is no such file here."
    raise UsageError(
        "CONFIG",
        "must be a YAML file, or a configuration that comes with the package",
        str(source),
        f"{reason} {_offer(source, list(shipped))}",
    )


def _read(path: Path) -> dict[Any, Any]:
    try:
        data = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ReconError(
            f"{path} cannot be read as YAML: {_reason(error)}. Correct it there."
        ) from error
    if not isinstance(data, dict):
        raise UsageError(
            str(path),
            "must hold keys with values",
            data,
            "Write at least `script: main.py` and `space: {k: {low: 0, high: 10}}`.",
        )
    return data


def _reason(error: Exception) -> str:
    """What is wrong with a file, in a line."""
    if isinstance(error, yaml.MarkedYAMLError):
        said = [str(part) for part in (error.context, error.problem) if part]
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            said.append(f"line {mark.line + 1}, column {mark.column + 1}")
    elif isinstance(error, yaml.reader.ReaderError):
        code = error.character if isinstance(error.character, int) else ord(error.character)
        said = [f"it has the character U+{code:04X}, which YAML does not allow"]
    elif isinstance(error, UnicodeDecodeError):
        said = [f"it is no text in UTF-8 (byte {error.start + 1})"]
    elif isinstance(error, OSError):
        said = [error.strerror or "the system does not say why"]
    else:
        said = [str(error)]
    return bounded(printable(", ".join(said)), 300)


def _script(path: Path, name: str) -> str:
    """The script's path, or the built-in problem's name."""
    beside = path.parent / name
    if os.path.isfile(beside):  # noqa: PTH113  # any text may be asked about
        return str(beside)
    if name not in BUILT_IN:
        folder = os.path.isdir(beside)  # noqa: PTH112
        reason = "is a folder" if folder else "is no file"
        raise UsageError(
            f"{path}: script",
            "must be the path of a LibMTL script, relative to this file, or a built-in problem",
            name,
            f"{bounded(printable(str(beside)), 300)} {reason}, and the built-in problems are "
            f"{', '.join(BUILT_IN)}.",
        )
    return name


def _explain(path: Path, error: ValidationError, overrides: Mapping[str, Any]) -> list[UsageError]:
    """Pydantic's findings, each a paragraph."""
    findings = error.errors(include_url=False)
    # A misspelt key is also a missing one; say the cause.
    misspelt = {f["loc"][:-1] for f in findings if f["type"] == "extra_forbidden"}
    found: list[UsageError] = []
    for finding in sorted(findings, key=lambda f: f["type"] != "extra_forbidden"):
        if finding["type"] == "missing" and finding["loc"][:-1] in misspelt:
            continue
        found += _explain_one(path, finding, overrides)
    return found


def _explain_one(path: Path, finding: Any, overrides: Mapping[str, Any]) -> list[UsageError]:
    places = [place for place in finding["loc"] if place not in _TAGS]
    if places and places[0] in overrides:
        where = f"--{places[0]}"
    else:
        where = f"{path}: {_dotted(places)}" if places else str(path)
    own = finding.get("ctx", {}).get("error")
    if isinstance(own, UsageError):
        joint = "." if places else ": "
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
        known = _keys_at(places[:-1])
        return [
            UsageError(
                where,
                "must be one of the keys that there are",
                places[-1],
                _offer(places[-1], known),
            )
        ]
    if finding["type"] == "missing":
        return [UsageError(where, "must be given", None, f"Add it to {path}.")]
    example = _EXAMPLES.get(str(places[0]) if places else "", "")
    way_out = f"Correct it in {path}{example}."
    if where.startswith("--"):
        way_out = "Give another value, or leave it to the configuration."
    return [UsageError(where, _rule(finding), finding["input"], way_out)]


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
    "arguments": ", e.g. arguments: [train, fast]",
    "launch": ", e.g. launch: {nproc_per_node: 2}",
    "timeout": ", e.g. timeout: {run: 3600}",
}


def _dotted(places: Iterable[Any]) -> str:
    text = ""
    for place in places:
        text += f"[{place}]" if isinstance(place, int) else f".{bounded(printable(str(place)), 80)}"
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
    there = f"There are {', '.join(known)}." if len(known) > 1 else f"There is only {known[0]}."
    return f"{did_you_mean(found, known)}{there}"
