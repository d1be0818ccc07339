"""Executed notebooks as pages."""

from __future__ import annotations

import base64
import re
from typing import Any

import nbformat


def as_markdown(notebook: str, folder: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by path.

    Args:
        notebook: The text of the ``.ipynb`` file, with its outputs.
        folder: The folder for the pictures, beside the page.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in nbformat.reads(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        printed = ""
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                place = f"{folder}/{len(pictures) + 1}.png"
                pictures[place] = base64.b64decode(data["image/png"])
                parts.append(f"![{_about(cell)}]({place})")
            elif "<table" in data.get("text/html", ""):
                parts.append(_plain(data["text/html"]))
            else:
                printed += output.get("text") or f"{data['text/plain'].rstrip()}\n"
        if printed:
            parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts), pictures


def _plain(html: str) -> str:
    """Return the table of a data frame without its own style."""
    table = re.sub(
        r"<style.*?</style>| (?:border|class|style)=\"[^\"]*\"", "", html, flags=re.DOTALL
    )
    # Markdown is read again below an empty line.
    return "\n".join(line for line in table.splitlines() if line.strip())


def _about(cell: Any) -> str:
    """Return the description of a cell's picture, which is the comment in its first line."""
    return str(cell.source.partition("\n")[0].lstrip("# "))
