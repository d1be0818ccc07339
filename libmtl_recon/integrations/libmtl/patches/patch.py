"""Definition of a patch: a function that fixes one defect of LibMTL, its reason and condition."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from libmtl_recon.integrations.libmtl.known_sources import find, is_in_all, versions_of


@dataclass(frozen=True)
class Unknown:
    """Result for functions of an unknown version, which cannot tell whether a patch is needed.

    Attributes:
        functions: The dotted names of these functions of LibMTL.
    """

    functions: tuple[str, ...]

    def can_be_replaced_in(self, libmtl: ModuleType) -> bool:
        """Return whether this LibMTL has all of them."""
        return all(find(libmtl, name) is not None for name in self.functions)


Needs = Callable[[ModuleType], "bool | Unknown"]


@dataclass(frozen=True)
class Patch:
    """One defect of LibMTL that is fixed from outside.

    Attributes:
        name: Its name, for messages and for the switch.
        reason: What is wrong without it: the first line of its function's docstring.
        needs: Returns whether a LibMTL has the defect.
        apply: Fixes it, on the classes themselves, so that it also applies to scripts that
            imported them before this package.
        before_import: LibMTL cannot be imported without it; ``needs`` and ``apply`` are then given
            the module before it was executed.
        known_only: Dotted names of functions that it replaces where they are of a known version,
            and otherwise leaves unchanged.
    """

    name: str
    reason: str
    needs: Needs
    apply: Callable[[ModuleType], None]
    before_import: bool = False
    known_only: tuple[str, ...] = ()

    def left_alone_in(self, libmtl: ModuleType) -> tuple[str, ...]:
        """Return those of ``known_only`` that this LibMTL has in an unknown version."""
        return tuple(name for name in self.known_only if is_unknown(libmtl, name))


def patch(
    name: str,
    *,
    needs: Needs,
    before_import: bool = False,
    known_only: tuple[str, ...] = (),
) -> Callable[[Callable[[ModuleType], None]], Patch]:
    """Make a patch from a function of LibMTL's module, whose docstring begins with the reason.

    A patch that consists only of hooks of ``hook_table`` does nothing else: they refer to its name.
    """

    def decorate(function: Callable[[ModuleType], None]) -> Patch:
        reason = (inspect.getdoc(function) or "").partition("\n")[0].rstrip(".")
        return Patch(name, reason, needs, function, before_import, known_only)

    return decorate


class Defect:
    """A defect of known sources, identified by the functions that have it or come with it.

    Args:
        *functions: Their dotted names in LibMTL. A LibMTL without the first one does not have the
            defect, unless it has the first one's class, and all known versions have the function.
        of: The known versions in which these functions have it.
        where: Whether LibMTL's environment makes it a defect.
    """

    def __init__(
        self, *functions: str, of: tuple[str, ...], where: Callable[[], bool] = lambda: True
    ) -> None:
        self.functions, self.of, self.where = functions, of, where

    def __call__(self, libmtl: ModuleType) -> bool | Unknown:
        """Compare the functions' sources with the known ones."""
        first = self.functions[0]
        if not self.where():
            return False
        if find(libmtl, first) is None:
            owner = find(libmtl, first.rpartition(".")[0])
            return Unknown((first,)) if owner is not None and is_in_all(first) else False
        known = {name: versions_of(find(libmtl, name), name) for name in self.functions}
        if not all(known.values()):
            return Unknown(tuple(name for name, versions in known.items() if not versions))
        return all(versions.intersection(self.of) for versions in known.values())


def is_unknown(libmtl: ModuleType, name: str) -> bool:
    """Return whether LibMTL has a function with this dotted name in an unknown version."""
    function = find(libmtl, name)
    return function is not None and not versions_of(function, name)


def stand_in(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Replace LibMTL's function, which stays reachable as ``__wrapped__``."""
    own = getattr(owner, name)

    @functools.wraps(own)
    def standing_in(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    setattr(owner, name, standing_in)
