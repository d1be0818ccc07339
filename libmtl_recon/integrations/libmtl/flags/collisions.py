"""Refuse a script's flag that this package also adds, in one message that names it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any, NoReturn

from libmtl_recon.errors import UsageError
from libmtl_recon.output import warn

_dests: dict[str, str] = {}  # by flag


@contextmanager
def claiming(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Register the flags that are added inside the ``with`` block as ours, and guard them.

    Args:
        parser: LibMTL's.

    Raises:
        UsageError: One of them exists already.
    """
    before = frozenset(parser._option_string_actions)
    try:
        yield
    except argparse.ArgumentError as error:
        flag = (error.argument_name or "").split("/")[0]
        raise _taken(flag, flag.lstrip("-")) from error
    actions = parser._option_string_actions
    _dests.update({flag: actions[flag].dest for flag in actions if flag not in before})
    _guard(parser)


def found_in(error: argparse.ArgumentError) -> UsageError | None:
    """Return the error to show instead of this one, if one of its flags is ours."""
    names = (error.argument_name or "").split("/")
    ours = [name for name in names if name in _dests]
    return _taken(ours[0], _dests[ours[0]]) if ours else None


def _guard(container: Any) -> None:
    # Bound, so that a copy of the parser adds to itself.
    vars(container).update(
        add_argument=MethodType(_add_argument, container),
        add_argument_group=MethodType(_add_argument_group, container),
        add_mutually_exclusive_group=MethodType(_add_mutually_exclusive_group, container),
    )


def _add_argument(container: Any, *args: Any, **kwargs: Any) -> argparse.Action:
    try:
        action: argparse.Action = type(container).add_argument(container, *args, **kwargs)
    except argparse.ArgumentError as error:
        taken = found_in(error)
        if taken is None:
            raise
        _end(taken)
    if action.dest in _dests.values():
        flag = next(flag for flag, dest in _dests.items() if dest == action.dest)
        _end(_taken(flag, action.dest))
    return action


def _add_argument_group(container: Any, *args: Any, **kwargs: Any) -> Any:
    group = type(container).add_argument_group(container, *args, **kwargs)
    _guard(group)
    return group


def _add_mutually_exclusive_group(container: Any, **kwargs: Any) -> Any:
    group = type(container).add_mutually_exclusive_group(container, **kwargs)
    _guard(group)
    return group


def _taken(flag: str, dest: str) -> UsageError:
    return UsageError(
        flag,
        "must not be added by a script, because libmtl-recon adds this flag",
        f"added by {Path(sys.argv[0]).name}",
        "Give the script's flag another name and another dest; to change the default of "
        f"libmtl-recon's flag, use LibMTL_args.set_defaults({dest}=...).",
    )


def _end(error: UsageError) -> NoReturn:
    """End the program as argparse does for a wrong value."""
    warn(f"{Path(sys.argv[0]).name}: error: {error}")
    raise SystemExit(error.exit_status)
