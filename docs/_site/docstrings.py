"""Docstrings as the site's tools read them: theirs is Markdown, and sections are in the plural."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`~?([\w.]+)`")
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites each docstring when its object has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one."""
        if obj.docstring is None:
            return
        text = _EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
        text = _ROLE.sub(lambda role: _link(role[1], obj), text)
        obj.docstring.value = re.sub(r"  # doctest: \+\w+", "", text)


def _link(name: str, obj: griffe.Object) -> str:
    """A link to what a role names, if the site has it."""
    if "." not in name:
        name = f"{obj.module.path}.{name}"
    short = name.rpartition(".")[2]
    return f'<autoref identifier="{name}" optional><code>{short}</code></autoref>'
