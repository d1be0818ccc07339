"""Read a configuration, and report its mistakes in one message."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from libmtl_recon_search.config import Config, study_name
from libmtl_recon_search.examples import EXAMPLES
from libmtl_recon_search.explaining import explain, offer
from libmtl_recon_search.faults import raise_all
from libmtl_recon_search.yaml12 import parse_yaml
from pydantic import ValidationError

from libmtl_recon import ReconError, UsageError
from libmtl_recon.files import is_file
from libmtl_recon.problems import BUILT_IN
from libmtl_recon.texts import bounded, printable


def shipped_configs() -> dict[str, Path]:
    """Return the configurations that come with the package, by name."""
    # When installed, they are in the package; in a checkout, next to it.
    here = Path(__file__).parent
    folders = (here / "configs", here.parent / "configs")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def shipped_schema() -> Path:
    """Return the path of the JSON Schema of configurations, which comes with the package."""
    here = Path(__file__).parent
    installed = here / "configs" / "schema.json"
    return installed if installed.exists() else here.parent / "configs" / "schema.json"


def load_config(source: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a configuration.

    Args:
        source: The path of a YAML file, or the name of a configuration that comes with the package.
        overrides: Values that replace those of the file: ``trials``, ``workers``, ``seed``.

    Raises:
        UsageError: There is no such file, or a value is invalid; the message names the file, the
            key, the rule, the value and a way out. If several values are invalid, it is a
            :class:`~libmtl_recon_search.faults.FaultsError`, which names all of them.
        ReconError: The file is not YAML.
    """
    path = _find(source)
    return _made(path, _read(path), overrides or {})


def as_config(source: Config | Mapping[str, Any] | str | Path) -> Config:
    """Return a configuration from a file, a name, a mapping of its keys, or a configuration.

    Args:
        source: See :func:`load_config`. For a mapping of keys, a script is relative to the working
            folder, and the study has the name of the script unless ``name`` is given.

    Raises:
        UsageError: A value is invalid.
        ReconError: The file is not YAML.
    """
    if isinstance(source, Config):
        return source if source.name else source.model_copy(update={"name": _stem(source.script)})
    if not isinstance(source, Mapping):
        return load_config(source)
    named = {"name": _stem(source.get("script", "search")), **source}
    return _made(Path("configuration"), named, {})


def _stem(script: object) -> str:
    return Path(str(script)).stem or "search"


def _made(path: Path, data: Mapping[Any, Any], overrides: Mapping[str, Any]) -> Config:
    found: list[UsageError] = []
    try:
        config = Config.model_validate({**data, **overrides})
    except ValidationError as error:
        found = explain(error, Config, str(path), overrides)
    script, given = "", data.get("script")
    if isinstance(given, str):
        try:
            script = _script(path, given)
        except UsageError as error:
            found.append(error)
    name = data.get("name", path.stem)
    if "name" not in data:
        try:
            study_name(name)
        except UsageError as error:
            way_out = (
                "It is taken from the file's name, because none is given: write "
                f"{EXAMPLES['name']}."
            )
            found.append(UsageError(f"{path}: name", error.rule, name, way_out))
    raise_all(str(path), found)
    return config.model_copy(update={"name": name, "script": script})


def _find(source: str | Path) -> Path:
    path = Path(source)
    if is_file(path):
        return path
    shipped = shipped_configs()
    if str(source) in shipped:
        return shipped[str(source)]
    folder = os.path.isdir(path)  # noqa: PTH112
    reason = "This is a folder." if folder else "There is no such file."
    raise UsageError(
        "CONFIG",
        "must be a YAML file, or a configuration that comes with the package",
        str(source),
        f"{reason} {offer(source, list(shipped))}",
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
            "must contain keys with values",
            data,
            "Write at least `script: main.py` and `space: {k: {low: 0, high: 10}}`.",
        )
    return data


def _reason(error: Exception) -> str:
    """Describe the error in a file in one line."""
    if isinstance(error, yaml.MarkedYAMLError):
        said = [str(part) for part in (error.context, error.problem) if part]
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            said.append(f"line {mark.line + 1}, column {mark.column + 1}")
    elif isinstance(error, yaml.reader.ReaderError):
        code = error.character if isinstance(error.character, int) else ord(error.character)
        said = [f"it contains the character U+{code:04X}, which YAML does not allow"]
    elif isinstance(error, UnicodeDecodeError):
        said = [f"it is not text in UTF-8 (byte {error.start + 1})"]
    elif isinstance(error, OSError):
        said = [error.strerror or "the system gives no reason"]
    else:
        said = [str(error)]
    return bounded(printable(", ".join(said)), 300)


def _script(path: Path, name: str) -> str:
    """Return the script's path, or the name of the built-in problem."""
    beside = path.parent / name
    if os.path.isfile(beside):  # noqa: PTH113  # any text may be asked about
        return str(beside)
    if name not in BUILT_IN:
        folder = os.path.isdir(beside)  # noqa: PTH112
        reason = "is a folder" if folder else "is not a file"
        raise UsageError(
            f"{path}: script",
            "must be the path of a LibMTL script, relative to this file, or a built-in problem",
            name,
            f"{bounded(printable(str(beside)), 300)} {reason}, and the built-in problems are "
            f"{', '.join(BUILT_IN)}.",
        )
    return name
