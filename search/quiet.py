"""Suppression of Optuna's log where a search reports the same itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna


@contextmanager
def optuna_quiet() -> Iterator[None]:
    """Make Optuna log only errors inside the ``with`` block."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
