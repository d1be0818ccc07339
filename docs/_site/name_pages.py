"""The public names and their docstrings, on pages by subject.

The code is read without importing it, so that the site needs none of the packages of the extras.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "reference" / "python"
_MARKER = re.compile(r"^<!-- generated: names (\S+)(.*?) -->$", re.MULTILINE)


def names(module: str, *rooms: str) -> str:
    """Return the documentation of a module's public names.

    Args:
        module: The module's import path; ``PACKAGE.*`` selects all public modules in a package.
        *rooms: For the package itself: only names from these rooms, except for those from a part
            of a room that another page selects.
    """
    parts = []
    for one in _modules(module):
        if one != module:
            parts.append(f"## `{one}`")
        parts += [_documented(one, name) for name in chosen(one, *rooms)]
    return "\n\n".join(parts)


def chosen(module: str, *rooms: str) -> list[str]:
    """Return the public names that a line of a page selects."""
    public = exports(module)
    if not rooms:
        return public
    all_rooms = [one for page in _pages() for _, asked in asked_for(page) for one in asked]

    def room(name: str) -> str:
        home = _target(module, name).removeprefix("libmtl_recon.")
        return max((one for one in all_rooms if home.startswith(one)), key=len, default="")

    return [name for name in public if room(name) in rooms]


def names_index() -> str:
    """Return tables of all public names, each with its first sentence and a link."""
    parts = []
    for page in _pages():
        rows = [
            f"| [`{f'{module}.{name}'.removeprefix('libmtl_recon.')}`][{_path(module, name)}] "
            f"| {_first_sentence(module, name)} |"
            for module, rooms in asked_for(page)
            for name in chosen(module, *rooms)
        ]
        if rows:
            title = page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            parts.append(
                "\n".join(
                    (f"## [{title}]({page.name})\n", "| name | what it is |", "|---|---|", *rows)
                )
            )
    return "\n\n".join(parts)


def asked_for(page: Path) -> list[tuple[str, list[str]]]:
    """Return the modules and rooms that the lines of a page select."""
    found = _MARKER.findall(page.read_text(encoding="utf-8"))
    return [(one, rooms.split()) for module, rooms in found for one in _modules(module)]


def exports(module: str) -> list[str]:
    """Return the names in a module's ``__all__``; none if it has no such list."""
    return [str(name) for name in _code()[module].exports or ()]


@cache
def _code() -> griffe.ModulesCollection:
    loader = griffe.GriffeLoader(search_paths=[ROOT, *griffe.ModuleFinder().search_paths])
    for package in ("libmtl_recon", "libmtl_recon_search"):
        loader.load(package)
    return loader.modules_collection


def _modules(path: str) -> list[str]:
    if not path.endswith(".*"):
        return [path]
    package = _code()[path.removesuffix(".*")]
    return [one.path for one in package.modules.values() if one.exports]


def _pages() -> list[Path]:
    return sorted(PAGES.glob("*.md"))


def _object(module: str, name: str) -> griffe.Object | griffe.Alias:
    """Return the object of a public name, also if a submodule has the same name."""
    found = _code()[module][name]
    return found[name] if found.is_module and name in found.members else found


def _path(module: str, name: str) -> str:
    """Return the path under which the site documents a public name."""
    return str(_object(module, name).path)


def _target(module: str, name: str) -> str:
    """Return the path at which a name is defined."""
    found = _object(module, name)
    return str(found.final_target.path if isinstance(found, griffe.Alias) else found.path)


def _documented(module: str, name: str) -> str:
    """Return the documentation, or a link to it if the package itself lists the same object."""
    path, twin = _path(module, name), f"libmtl_recon.{name}"
    doubled = module != "libmtl_recon" and name in exports("libmtl_recon")
    if not doubled or _target(module, name) != _target("libmtl_recon", name):
        return f"::: {path}"
    return f"## `{name}` {{ #{path} }}\n\nThe same as [`{twin}`][{twin}]."


def _first_sentence(module: str, name: str) -> str:
    found = _object(module, name)
    docstring = (found.final_target if isinstance(found, griffe.Alias) else found).docstring
    text = " ".join((docstring.value if docstring else "").partition("\n\n")[0].split())
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text.replace("``", "`"))
    # Brackets are links, except in code.
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return "".join(part if part.startswith("`") else part.replace("[", "\\[") for part in parts)
