"""Hooks of mkdocs that add pages made from files outside docs/ and from the code.

README.md is the home page. The changelog, the guide for contributors, the list of examples and the
notebook are pages, too. Any other file or folder that a page links to is shown on a page below
``source/``, so that the same link works on GitHub and on the site. A line
``<!-- generated: NAME ... -->`` is replaced by the text that :mod:`reference` generates.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files, InclusionLevel
from notebooks import as_markdown
from reference import GENERATED

_log = get_plugin_logger("libmtl-recon")
ROOT = Path(__file__).parents[2]
NOTEBOOK, PICTURES = "examples/notebook.ipynb", "notebook_files"
# Files of the repository that are pages of their own, by where they are on the site.
PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "examples.md": "examples/README.md",
    "notebook.md": NOTEBOOK,
}
_FENCED = re.compile(r"^( *)(```+).*?^\1\2", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\(|<img src=\")([^)\s#\"]+)((?:#[^)\s]*)?(?:\)|\"))")
_MARKER = re.compile(r"^<!-- generated: (\w+)(.*?) -->$", re.MULTILINE)
_LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".json": "json", ".toml": "toml"}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not files in docs/."""

    def add(place: str, content: str | bytes, level: InclusionLevel) -> None:
        files.append(File.generated(config, place, content=content, inclusion=level))

    for place, origin in PAGES.items():
        content = (ROOT / origin).read_text(encoding="utf-8")
        if origin == NOTEBOOK:
            content, pictures = as_markdown(content, PICTURES)
            for name, picture in pictures.items():
                add(name, picture, InclusionLevel.INCLUDED)
        add(place, content, InclusionLevel.INCLUDED)
    for origin in _outside(files):
        add(_place(origin), _shown(ROOT / origin), InclusionLevel.NOT_IN_NAV)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Insert the generated parts, and make links point to pages of the site."""
    place = page.file.src_uri
    if place.startswith("source/") and not place.endswith("/index.md"):
        return markdown
    markdown = _MARKER.sub(lambda found: _generated(place, *found.groups()), markdown)
    here = posixpath.dirname(place)

    def moved(target: str) -> str:
        found = _resolved(_origin(place), target)
        if not (ROOT / found).exists():
            _log.warning("%s links to %s, which does not exist.", _origin(place), target)
            return target
        return posixpath.relpath(_place(found), here or ".")

    return _each_link(markdown, moved)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Hide the list of a tab's pages if the tab has one page."""
    if page.parent is None:
        page.meta.setdefault("hide", ["navigation"])
    return html


def _generated(place: str, name: str, rest: str) -> str:
    if name not in GENERATED:
        raise PluginError(f"{place}: there is nothing to generate by the name {name}.")
    return GENERATED[name](*rest.split())


def _origin(place: str) -> str:
    """Return the path of a page's source, relative to the repository."""
    if place.startswith("source/"):
        return place.removeprefix("source/")
    return PAGES.get(place, f"docs/{place}")


def _place(origin: str) -> str:
    """Return the place of a file or folder of the repository on the site."""
    for place, file in PAGES.items():
        if file == origin:
            return place
    if origin.startswith("docs/"):
        return origin.removeprefix("docs/")
    return f"source/{origin}/index.md" if (ROOT / origin).is_dir() else f"source/{origin}.md"


def _resolved(origin: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def _each_link(markdown: str, changed: Callable[[str], str]) -> str:
    """Return Markdown with changed targets of its links to files; code is not changed."""

    def link(found: re.Match[str]) -> str:
        before, target, after = found.groups()
        elsewhere = ":" in target or target.startswith(f"{PICTURES}/")
        return found[0] if elsewhere else f"{before}{changed(target)}{after}"

    parts, end = [], 0
    for code in _FENCED.finditer(markdown):
        parts += [_LINK.sub(link, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join((*parts, _LINK.sub(link, markdown[end:])))


def _links(markdown: str) -> list[str]:
    found: list[str] = []
    _each_link(markdown, lambda target: found.append(target) or target)  # type: ignore[func-returns-value]
    return found


def _outside(files: Files) -> list[str]:
    """Return the files and folders that pages link to, other than pages, with their content."""
    waiting: list[str] = []
    for file in files.documentation_pages():
        origin = _origin(file.src_uri)
        waiting += [_resolved(origin, target) for target in _links(file.content_string)]
    found: dict[str, None] = {}
    while waiting:
        origin = waiting.pop()
        known = origin.startswith("docs/") or origin in (*PAGES.values(), *found)
        if known or not (ROOT / origin).exists():
            continue
        found[origin] = None
        if (ROOT / origin).is_dir():
            waiting += [f"{origin}/{name}" for name in _names(ROOT / origin)]
    return list(found)


def _names(folder: Path) -> Iterator[str]:
    return (one.name for one in sorted(folder.iterdir()) if one.name[0] not in "._")


def _shown(path: Path) -> str:
    title = f"# `{path.relative_to(ROOT).as_posix()}`\n\n"
    if path.is_dir():
        return title + "\n".join(f"- [`{name}`]({name})" for name in _names(path))
    text = path.read_text(encoding="utf-8")
    return f"{title}````{_LANGUAGES.get(path.suffix, 'text')}\n{text}\n````\n"
