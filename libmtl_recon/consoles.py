"""Rich's console for tables on stdout, on a terminal and elsewhere."""

from __future__ import annotations

import os
from typing import Any

from rich import box
from rich.console import Console

# Where there is no terminal a table is as wide as it needs to be, for files and pipes.
_NO_TERMINAL_WIDTH = 500


def make_console(*, fitting: bool = False) -> Console:
    """A console: as wide as the terminal, and wide enough where there is none.

    Nothing that is printed is taken for markup, since names come from outside.

    Args:
        fitting: What is printed fits itself to any width: where there is no terminal the
            environment variable COLUMNS may say how wide it is, and else no line is broken.
    """
    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
    console = Console(**plain)
    if console.is_terminal or (fitting and os.environ.get("COLUMNS", "").isdigit()):
        return console
    return Console(width=_NO_TERMINAL_WIDTH, soft_wrap=fitting, **plain)


def frame_for(console: Console) -> dict[str, Any]:
    """Arguments of a ``rich`` table: framed on a terminal, plain columns elsewhere."""
    plain = not console.is_terminal
    return {"box": None if plain else box.SIMPLE_HEAD, "pad_edge": not plain}
