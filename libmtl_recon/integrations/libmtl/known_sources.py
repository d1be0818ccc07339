"""Which of the known LibMTLs a function of the installed one is from, by a hash of its source.

Both LibMTLs call themselves 1.1.5, and users edit theirs. So a defect is told by the function that
has it: its source is that of the PyPI release, or that of GitHub main at 4336804, or of neither; of
the last nothing is claimed. :mod:`known_hashes` holds the hashes.

    python -m libmtl_recon.integrations.libmtl.known_sources

writes that file's table anew from the LibMTL that it finds, and leaves the other's columns as they
are.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from libmtl_recon.integrations.libmtl.known_hashes import HASHES

VERSIONS = ("pypi", "main")  # the columns of the table
PYPI, MAIN, BOTH = ("pypi",), ("main",), VERSIONS
_OWN = "libmtl_recon"
_DIGITS = 12  # of a hash

Hashes = Mapping[str, tuple[str | None, str | None]]


def find(libmtl: ModuleType, name: str) -> Any:
    """What LibMTL has under a dotted name (``weighting.GLS.backward``), None if it has not."""
    found: Any = libmtl
    for part in name.split("."):
        # Of a class only its own: what it inherits is another function.
        members = vars(found) if isinstance(found, type | ModuleType) else {}
        found = members.get(part)
    return found


def versions_of(function: Any, name: str) -> frozenset[str]:
    """The known LibMTLs in which the function of this name has this source.

    Args:
        function: LibMTL's, or ours in its place.
        name: Its dotted name in LibMTL, such as ``Trainer.train`` or ``weighting.GLS.backward``.

    Returns:
        Some of ``pypi`` and ``main``; none for a function of an unknown version of LibMTL, a
        script's own, or one whose source cannot be read.
    """
    found = source_hash(function)
    if found is None:
        return frozenset()
    known = zip(VERSIONS, HASHES.get(name, ()), strict=False)
    return frozenset(version for version, one in known if one == found)


def is_one_of(architecture: Any, names: Mapping[str, Collection[str]]) -> bool:
    """Whether a class is one of these of a known LibMTL's architectures, or is made of one.

    Args:
        architecture: Anything.
        names: The architectures' names, each with the versions of LibMTL in which it is meant.
    """
    return any(
        names.get(parent.__name__, ())
        and not versions_of(
            vars(parent).get("__init__"), f"architecture.{parent.__name__}.__init__"
        ).isdisjoint(names[parent.__name__])
        for parent in getattr(architecture, "__mro__", ())
    )


def source_hash(function: Any) -> str | None:
    """A hash of the source of a function, or of that of LibMTL which it stands in for.

    Its indentation counts, since that tells what is in a loop. White space at the ends of lines,
    empty lines and comments on lines of their own do not.

    Returns:
        None if it is no function, or its source cannot be read.
    """
    own = unpatched(function)
    if not isinstance(own, FunctionType):
        return None
    try:
        # Of the code: of a function `inspect` would take the source of what it wraps.
        source = inspect.getsource(own.__code__)
    except (OSError, TypeError):
        return None
    lines = (line.rstrip() for line in textwrap.dedent(source.expandtabs()).splitlines())
    text = "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def unpatched(function: Any) -> Any:
    """What this package's functions stand in for; a script's own wrapper is left in its place."""
    while getattr(function, "__globals__", {}).get("__name__", "").partition(".")[0] == _OWN:
        if not hasattr(function, "__wrapped__"):
            break
        function = function.__wrapped__
    return function


def hashes_of(libmtl: ModuleType) -> dict[str, str | None]:
    """This LibMTL's column of the table: of its Trainer, weightings and architectures."""
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
    """The table with another column in place of a version's."""
    names = [*table, *(name for name in column if name not in table)]
    pypi, main = (
        column if version == one else {name: hashes[at] for name, hashes in table.items()}
        for at, one in enumerate(VERSIONS)
    )
    rows = {name: (pypi.get(name), main.get(name)) for name in sorted(names)}
    return {name: row for name, row in rows.items() if any(row)}


def written(table: Hashes) -> str:
    """The text of ``known_hashes.py``."""
    rows = (f'    "{name}": ({", ".join(map(_quoted, row))}),' for name, row in table.items())
    lines = (
        '"""Hashes of LibMTL\'s functions; written by ``known_sources``, and not by hand."""',
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
    """LibMTL, imported as it is but for what it cannot be imported without.

    For a process that has not imported it yet, and is not to train.
    """
    from libmtl_recon.integrations.libmtl.importing import disarm
    from libmtl_recon.integrations.libmtl.patches import patch_before_import

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
    from libmtl_recon.integrations.libmtl.features import detect

    libmtl = unregistered()
    import_module("LibMTL.config")
    table = with_column(HASHES, detect(libmtl).label, hashes_of(libmtl))
    Path(__file__).with_name("known_hashes.py").write_text(written(table), encoding="utf-8")


if __name__ == "__main__":
    _write()
