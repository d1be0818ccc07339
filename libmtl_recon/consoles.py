"""Rich's console for tables on stdout, on a terminal and elsewhere."""

from __future__ import annotations

import os
from typing import Any

from rich import box
from rich.console import Console

# Without a terminal (in files and pipes), a table is as wide as it needs to be.
_NO_TERMINAL_WIDTH = 500


def make_console(*, fitting: bool = False) -> Console:
    """Create a console as wide as the terminal, or wide enough for any line without a terminal.

    Printed text is not interpreted as markup, since it contains names from outside.

    Args:
        fitting: Whether the printed text adapts to any width. Without a terminal, its width is then
            that of the environment variable COLUMNS; if this is not set, lines are not broken.
    """
    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
    console = Console(**plain)
    if console.is_terminal or (fitting and os.environ.get("COLUMNS", "").isdigit()):
        return console
    return Console(width=_NO_TERMINAL_WIDTH, soft_wrap=fitting, **plain)


def frame_for(console: Console) -> dict[str, Any]:
    """Return arguments of a ``rich`` table: framed on a terminal, plain columns elsewhere."""
    plain = not console.is_terminal
    return {"box": None if plain else box.SIMPLE_HEAD, "pad_edge": not plain}
