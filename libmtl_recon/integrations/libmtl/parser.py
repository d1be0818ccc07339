"""LibMTL's parser, one object for the whole process, to which every script adds its flags."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_registered: dict[str, Any] = {}


def remember_registered(libmtl: ModuleType) -> None:
    """Store the parser's state, with LibMTL's flags and ours, before a script adds to it."""
    _registered.update(_state(libmtl.config.LibMTL_args))


@contextmanager
def put_back() -> Iterator[None]:
    """Restore the parser after the ``with`` block, so that a next script can add its flags.

    If LibMTL is loaded only inside the block, the state at registration is restored.
    """
    parser = _loaded_parser()
    before = None if parser is None else _state(parser)
    try:
        yield
    finally:
        parser = _loaded_parser()
        if parser is not None:
            vars(parser).clear()
            vars(parser).update(_state_of(parser, _registered if before is None else before))


def _loaded_parser() -> argparse.ArgumentParser | None:
    config = sys.modules.get("LibMTL.config")
    # After an import of LibMTL that failed half-way there may be no parser.
    return getattr(config, "LibMTL_args", None) if _registered else None


def _state(parser: argparse.ArgumentParser) -> dict[str, Any]:
    return _state_of(parser, vars(parser))


def _state_of(parser: argparse.ArgumentParser, state: dict[str, Any]) -> dict[str, Any]:
    # Objects that refer to the parser must keep referring to it, and not to a copy.
    return copy.deepcopy(state, {id(parser): parser})
