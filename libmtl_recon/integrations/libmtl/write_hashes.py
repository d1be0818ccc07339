"""Write the table of ``known_hashes.py`` anew.

    python -m libmtl_recon.integrations.libmtl.write_hashes

writes the column of the LibMTL that it finds, and leaves the other's unchanged.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.importing import disarm
from libmtl_recon.integrations.libmtl.known_hashes import HASHES
from libmtl_recon.integrations.libmtl.known_sources import VERSIONS, find, source_hash, unpatched
from libmtl_recon.integrations.libmtl.patches import patch_before_import

Hashes = Mapping[str, tuple[str | None, str | None]]


def hashes_of(libmtl: ModuleType) -> dict[str, str | None]:
    """Return this LibMTL's column: hashes for its Trainer, weightings and architectures."""
    homes = [("", libmtl, ["Trainer"])]
    for home in ("architecture", "weighting"):
        module = import_module(f"{libmtl.__name__}.{home}")
        homes.append((f"{home}.", module, sorted(vars(module))))
    found = {"config.prepare_args": source_hash(find(libmtl, "config.prepare_args"))}
    for prefix, module, names in homes:
        for name in names:
            for member, function in _functions(vars(module)[name]):
                found[f"{prefix}{name}.{member}"] = source_hash(function)
    return found


def _functions(owner: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(owner, type) and owner.__module__.startswith("LibMTL."):
        for name, function in vars(owner).items():
            if isinstance(unpatched(function), FunctionType):
                yield name, function


def with_column(table: Hashes, version: str, column: Mapping[str, str | None]) -> Hashes:
    """Return the table with a version's column replaced."""
    names = [*table, *(name for name in column if name not in table)]
    pypi, main = (
        column if version == one else {name: hashes[at] for name, hashes in table.items()}
        for at, one in enumerate(VERSIONS)
    )
    rows = {name: (pypi.get(name), main.get(name)) for name in sorted(names)}
    return {name: row for name, row in rows.items() if any(row)}


def written(table: Hashes) -> str:
    """Return the text of ``known_hashes.py``."""
    rows = (f'    "{name}": ({", ".join(map(_quoted, row))}),' for name, row in table.items())
    lines = (
        '"""Hashes of LibMTL\'s functions; written by ``write_hashes``, and not by hand."""',
        "",
        "# By name: in the PyPI release 1.1.5, and in GitHub main at 4336804.",
        "HASHES: dict[str, tuple[str | None, str | None]] = {",
        *rows,
        "}",
    )
    return "".join(f"{line}\n" for line in lines)


def _quoted(one: str | None) -> str:
    return "None" if one is None else f'"{one}"'


def unregistered() -> ModuleType:
    """Import and return LibMTL, unchanged except for what its import requires.

    For a process that has not imported it yet, and does not train.
    """
    disarm()
    spec = importlib.util.find_spec("LibMTL")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("There is no LibMTL.")
    libmtl = importlib.util.module_from_spec(spec)
    patch_before_import(libmtl)
    sys.modules["LibMTL"] = libmtl
    spec.loader.exec_module(libmtl)
    return libmtl


def _write() -> None:
    libmtl = unregistered()
    import_module("LibMTL.config")
    table = with_column(HASHES, detect(libmtl).label, hashes_of(libmtl))
    Path(__file__).with_name("known_hashes.py").write_text(written(table), encoding="utf-8")


if __name__ == "__main__":
    _write()
