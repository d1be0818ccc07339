"""Which of the known LibMTLs a function of the installed one is from, by a hash of its source.

Both LibMTLs call themselves 1.1.5, and users edit theirs. So a defect is told by the function that
has it: its source is that of the PyPI release, or that of GitHub main at 4336804, or of neither; of
the last nothing is claimed. The hashes stand in ``known_hashes``, which

    python -m libmtl_recon.integrations.libmtl.write_hashes

writes anew for the LibMTL that it finds, leaving the other's column as it is.
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


def is_in_all(name: str) -> bool:
    """Whether every known LibMTL has a function of this dotted name."""
    return all(HASHES.get(name, (None,)))


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
