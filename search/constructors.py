"""Find a class of Optuna, OptunaHub or the user by its name, and check its arguments."""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, TypeGuard

from libmtl_recon_search.explaining import offer, rule_of
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from libmtl_recon import UsageError
from libmtl_recon.texts import bounded, printable


@dataclass(frozen=True)
class Kind:
    """Samplers, or pruners.

    Attributes:
        name: The key in the configuration, which also names one of them.
        base: Their base class.
        module: Optuna's module with them.
    """

    name: str
    base: type
    module: ModuleType

    def within(self, module: ModuleType) -> dict[str, type]:
        """Return the classes of a module, without abstract ones."""
        return {
            name: one
            for name in getattr(module, "__all__", vars(module))
            if self.takes(one := getattr(module, name, None)) and not name.startswith("_")
        }

    def takes(self, one: Any) -> TypeGuard[type]:
        """Return whether this is a class of this kind."""
        return isinstance(one, type) and issubclass(one, self.base) and not inspect.isabstract(one)


@lru_cache(maxsize=16)
def class_of(kind: Kind, name: str, package: str | None) -> type:
    """Return the class with a name.

    Args:
        kind: The kind that it must be of.
        name: Its name in Optuna, its import path, or its name in the package.
        package: A package of OptunaHub, whose code is downloaded and run.

    Raises:
        UsageError: There is no such class; the parameter is ``name`` or ``optunahub``.
    """
    if package is not None:
        return _member(kind, _hub(kind, package), name, f"OptunaHub's {package}")
    path, colon, own = name.partition(":")
    if not colon:
        return _member(kind, kind.module, name, kind.module.__name__)
    try:
        module = importlib.import_module(path)
    except (Exception, SystemExit) as error:
        raise UsageError(
            "name",
            f"must be the import path of a {kind.name}, as package.module:Class",
            name,
            f"Importing {path} fails with {said(error)}. A module that is not installed is found "
            "if its folder is in PYTHONPATH.",
        ) from error
    return _member(kind, module, own, path)


def _member(kind: Kind, module: ModuleType, name: str, title: str) -> type:
    """Return the class of this name in a module."""
    found = getattr(module, name, None)
    if kind.takes(found):
        return found
    known = kind.within(module)
    whole = name if name.lower().endswith(kind.name) else f"{name}{kind.name.capitalize()}"
    there = offer(whole, list(known)) if known else f"{title} has none."
    others = ""
    if module is kind.module:
        others = f" To use a {kind.name} of your own, give its import path, package.module:Class."
    raise UsageError("name", f"must be a {kind.name} of {title}", name, f"{there}{others}")


def _hub(kind: Kind, package: str) -> ModuleType:
    try:
        optunahub = importlib.import_module("optunahub")
    except ModuleNotFoundError as error:
        raise UsageError(
            "optunahub",
            "needs the package optunahub, which is not installed",
            package,
            "Install it with `pip install 'libmtl-recon[optunahub]'`, or use one of Optuna's.",
        ) from error
    try:
        module: ModuleType = optunahub.load_module(package)
    except Exception as error:
        raise UsageError(
            "optunahub",
            f"must be an OptunaHub package with a {kind.name}",
            package,
            f"Downloading it fails with {said(error)}. Write it as samplers/auto_sampler.",
        ) from error
    return module


def faults_of_args(args: Mapping[str, Any], found: type) -> list[UsageError]:
    """Return the arguments that a constructor does not accept, as parameters of ``args``."""
    parameters = inspect.signature(found).parameters
    kinds = [parameter.kind for parameter in parameters.values()]
    takes = [
        name
        for name, parameter in parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    faults = []
    for name, value in args.items():
        if name in takes:
            rule = _rule_broken(found, parameters[name].annotation, value)
            if rule:
                faults.append(UsageError(f"args.{name}", rule, value, _takes(found, takes)))
        elif inspect.Parameter.VAR_KEYWORD not in kinds:
            rule = f"must be an argument of {found.__name__}"
            known = offer(name, takes) if takes else "It takes none."
            faults.append(UsageError(f"args.{name}", rule, name, known))
    for name in takes:
        if parameters[name].default is inspect.Parameter.empty and name not in (*args, "seed"):
            faults.append(
                UsageError(f"args.{name}", "must be given", None, _takes(found, takes)),
            )
    return faults


def _takes(found: type, names: Sequence[str]) -> str:
    return f"{found.__name__} takes {', '.join(names)}."


def _rule_broken(found: type, annotation: Any, value: Any) -> str:
    """Return the rule of an argument's annotation that a value violates; empty if none is known."""
    if annotation is inspect.Parameter.empty:
        return ""
    names = {**vars(typing), **vars(collections.abc), **vars(sys.modules[found.__module__])}
    try:
        if isinstance(annotation, str):
            annotation = eval(annotation, names)
        adapter = TypeAdapter(
            annotation, config=ConfigDict(arbitrary_types_allowed=True, strict=True)
        )
    except (NameError, TypeError, AttributeError, SyntaxError, PydanticUserError):
        return ""  # its constructor will report it
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        return " or ".join(dict.fromkeys(map(rule_of, error.errors()))).replace(
            " or must be", " or"
        )
    return ""


def said(error: BaseException) -> str:
    """Return the error of other code, in one line without a full stop."""
    text = " ".join(str(error).split())
    return bounded(printable(f"{type(error).__name__}: {text}"), 220).rstrip(".: ")
