"""The public names, on pages by subject; what they are is read from their docstrings."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import libmtl_recon

PAGES = Path(__file__).parents[1] / "reference" / "python"
_MARKER = re.compile(r"^<!-- generated: names (\S+)(.*?) -->$", re.MULTILINE)


def names(module: str, *rooms: str) -> str:
    """The documentation of a module's public names.

    Args:
        module: Its import path.
        *rooms: Of the package itself, those alone that are from these rooms, and not from a part of
            them that another page asks for.
    """
    return "\n\n".join(_documented(module, name) for name in chosen(module, *rooms))


def _documented(module: str, name: str) -> str:
    path, twin = f"{module}.{name}", _twin(module, name)
    if twin is None:
        return f"::: {path}"
    return f"## `{name}` {{ #{path} }}\n\nThe same as [`{twin}.{name}`][{twin}.{name}]."


def chosen(module: str, *rooms: str) -> list[str]:
    """The public names of a module that a line of a page asks for."""
    public = import_module(module).__all__
    if not rooms:
        return list(public)
    all_rooms = [one for page in _pages() for _, asked in asked_for(page) for one in asked]
    return [
        name
        for name in public
        if max((one for one in all_rooms if _room(name).startswith(one)), key=len, default="")
        in rooms
    ]


def names_index() -> str:
    """Tables of all public names, each with its first sentence and a link to where it stands."""
    parts = []
    for page in _pages():
        rows = [
            f"| [`{f'{module}.{name}'.removeprefix('libmtl_recon.')}`][{module}.{name}] "
            f"| {_first_sentence(module, name)} |"
            for module, rooms in asked_for(page)
            for name in chosen(module, *rooms)
        ]
        if rows:
            title = page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            parts.append("\n".join((f"## [{title}]({page.name})\n", "| | |", "|---|---|", *rows)))
    return "\n\n".join(parts)


def asked_for(page: Path) -> list[tuple[str, list[str]]]:
    """What the lines of a page ask for: modules, and rooms."""
    found = _MARKER.findall(page.read_text(encoding="utf-8"))
    return [(module, rooms.split()) for module, rooms in found]


def _pages() -> list[Path]:
    return sorted(PAGES.glob("*.md"))


def _room(name: str) -> str:
    """Where a name of the package itself is from, below the package."""
    return libmtl_recon._HOMES.get(name) or getattr(
        getattr(libmtl_recon, name), "__module__", "libmtl_recon"
    ).removeprefix("libmtl_recon.")


def _twin(module: str, name: str) -> str | None:
    """The module by whose path the same thing is documented; None if it is this one."""
    here = getattr(import_module(module), name)
    if module != "libmtl_recon" and getattr(libmtl_recon, name, None) is here:
        return "libmtl_recon"
    return None


def _first_sentence(module: str, name: str) -> str:
    found = getattr(import_module(module), name)
    if not callable(found):
        return "A text." if isinstance(found, str) else ""
    text = " ".join((inspect.getdoc(found) or "").partition("\n\n")[0].split())
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text.replace("``", "`"))
    return text.replace("|", "\\|").replace("[", "\\[")
