"""Identify which known LibMTL a function of the installed one is from, by a hash of its source.

Both LibMTLs have the version 1.1.5, and users edit theirs. So a defect is identified by the
function that has it: its source is that of the PyPI release, or that of GitHub main at 4336804, or
unknown; nothing is assumed about an unknown one. The hashes are in ``known_hashes``, which

    python -m libmtl_recon.integrations.libmtl.write_hashes

rewrites for the LibMTL that it finds, leaving the other's column unchanged.
"""

from __future__ import annotations

import hashlib
import inspect
import textwrap
from collections.abc import Collection, Mapping
from types import FunctionType, ModuleType
from typing import Any

from libmtl_recon.integrations.libmtl.known_hashes import HASHES

VERSIONS = ("pypi", "main")  # the columns of the table
PYPI, MAIN, BOTH = ("pypi",), ("main",), VERSIONS
_OWN = "libmtl_recon"
_DIGITS = 12  # of a hash


def find(libmtl: ModuleType, name: str) -> Any:
    """Return LibMTL's object with a dotted name (``weighting.GLS.backward``); None if missing."""
    found: Any = libmtl
    for part in name.split("."):
        # Of a class only its own members: an inherited one is another function.
        members = vars(found) if isinstance(found, type | ModuleType) else {}
        found = members.get(part)
    return found


def versions_of(function: Any, name: str) -> frozenset[str]:
    """Return the known LibMTLs in which the function with this name has this source.

    Args:
        function: LibMTL's function, or the one that replaces it.
        name: Its dotted name in LibMTL, such as ``Trainer.train`` or ``weighting.GLS.backward``.

    Returns:
        A subset of ``pypi`` and ``main``; empty for a function of an unknown version of LibMTL, a
        script's own, or one whose source cannot be read.
    """
    found = source_hash(function)
    if found is None:
        return frozenset()
    known = zip(VERSIONS, HASHES.get(name, ()), strict=False)
    return frozenset(version for version, one in known if one == found)


def is_in_all(name: str) -> bool:
    """Return whether every known LibMTL has a function with this dotted name."""
    return all(HASHES.get(name, (None,)))


def is_one_of(architecture: Any, names: Mapping[str, Collection[str]]) -> bool:
    """Return whether a class is, or derives from, one of these known LibMTL architectures.

    Args:
        architecture: Any object.
        names: The architectures' names, each with the versions of LibMTL that count.
    """
    return any(
        names.get(parent.__name__, ())
        and not versions_of(
            vars(parent).get("__init__"), f"architecture.{parent.__name__}.__init__"
        ).isdisjoint(names[parent.__name__])
        for parent in getattr(architecture, "__mro__", ())
    )


def source_hash(function: Any) -> str | None:
    """Return a hash of a function's source, or of the LibMTL function that it replaces.

    Its indentation counts, since it determines what is in a loop. White space at the ends of
    lines, empty lines and comments on lines of their own do not.

    Returns:
        The hash; None if it is not a function, or its source cannot be read.
    """
    own = unpatched(function)
    if not isinstance(own, FunctionType):
        return None
    try:
        # Of the code: for a function `inspect` would return the source of what it wraps.
        source = inspect.getsource(own.__code__)
    except (OSError, TypeError):
        return None
    lines = (line.rstrip() for line in textwrap.dedent(source.expandtabs()).splitlines())
    text = "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def unpatched(function: Any) -> Any:
    """Return what this package's functions replace; a script's own wrapper is kept."""
    while getattr(function, "__globals__", {}).get("__name__", "").partition(".")[0] == _OWN:
        if not hasattr(function, "__wrapped__"):
            break
        function = function.__wrapped__
    return function
