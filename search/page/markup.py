"""Small pieces of HTML, in which all texts are escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from libmtl_recon.texts import printable


def text(value: str) -> str:
    """Escape a text for use between tags and in attributes."""
    return html.escape(printable(value))


def command(line: str) -> str:
    """Return a command line with a button that copies it."""
    # Lines only break between words, so that hyphens are copied correctly.
    words = " ".join(f"<span>{text(word)}</span>" for word in line.split(" "))
    return (
        f'<div class="command"><pre><code>{words}</code></pre>'
        '<button type="button" class="copy">copy</button></div>'
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts; the first column has the row headers."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in headings)
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if headings else ""
    return f'<div class="scroll" tabindex="0"><table>{head}<tbody>{body}</tbody></table></div>'


def data(value: Any) -> str:
    """Return a value as JSON for a script element, which no text in it can end."""
    found = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        found = found.replace(character, f"\\u{ord(character):04x}")
    return found
