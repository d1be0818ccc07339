"""Convert docstrings for the site's tools, which expect Markdown and plural section names."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`~?([\w.]+)`")
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """An extension that converts each docstring when its object has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Convert the docstring of an object."""
        if obj.docstring is None:
            return
        text = _EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
        text = _ROLE.sub(lambda role: _link(role[1], obj), text)
        obj.docstring.value = re.sub(r"  # doctest: \+\w+", "", text)


def _link(name: str, obj: griffe.Object) -> str:
    """Return a link to the object that a role names, if the site documents it."""
    if "." not in name:
        name = f"{obj.module.path}.{name}"
    short = name.rpartition(".")[2]
    return f'<autoref identifier="{name}" optional><code>{short}</code></autoref>'
