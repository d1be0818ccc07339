"""Executed notebooks as pages."""

from __future__ import annotations

import base64
from typing import Any

import nbformat


def as_markdown(notebook: str, folder: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and the pictures in it, by place.

    Args:
        notebook: The text of the ``.ipynb`` file, with its outputs.
        folder: Where the pictures are to be, beside the page.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in nbformat.reads(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                place = f"{folder}/{len(pictures) + 1}.png"
                pictures[place] = base64.b64decode(data["image/png"])
                parts.append(f"![{_alternative(cell, output)}]({place})")
            elif "text/html" in data:
                # Markdown is read again below an empty line.
                lines = (line for line in data["text/html"].splitlines() if line.strip())
                parts.append("\n".join(lines))
            else:
                text = output.get("text") or data.get("text/plain") or output.get("evalue", "")
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts), pictures


def _alternative(cell: Any, output: Any) -> str:
    """What a picture shows, in words: the first line of its cell, if that is a comment."""
    first = cell.source.partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else output["data"].get("text/plain", "")
