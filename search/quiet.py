"""Keeping Optuna quiet where a search says the same in words of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna


@contextmanager
def optuna_quiet() -> Iterator[None]:
    """Have Optuna log errors alone; at the end it is as talkative as before."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
