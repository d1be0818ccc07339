"""How the site is put together: links that leave docs/, and what is filled in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mkdocs", reason="the extra `docs`")

import hooks
from mkdocs.config import load_config
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import get_files

TREE = Path(__file__).parents[2]


def page(place: str) -> Any:
    return SimpleNamespace(file=SimpleNamespace(src_uri=place))


@pytest.mark.parametrize(
    ("place", "link", "expected"),
    [
        ("index.md", "[x](docs/search.md#keys)", "[x](search.md#keys)"),
        ("index.md", "[x](CHANGELOG.md)", "[x](changelog.md)"),
        ("index.md", '<img src="docs/images/toy2d.png" width="9">', '<img src="images/toy2d.png" '),
        ("results/toy2d.md", "![x](../images/toy2d.png)", "![x](../images/toy2d.png)"),
        ("architecture.md", "[x](../README.md#test-it)", "[x](index.md#test-it)"),
        ("search.md", "[x](../configs)", "[x](source/configs/index.md)"),
        ("search.md", "[x](../configs/schema.json)", "[x](source/configs/schema.json.md)"),
        ("results/toy2d.md", "[x](../../LICENSE)", "[x](../source/LICENSE.md)"),
        ("examples.md", "[x](search/main.py)", "[x](source/examples/search/main.py.md)"),
        ("examples.md", "[x](notebook.ipynb)", "[x](notebook.md)"),
        ("source/configs/index.md", "[x](schema.json)", "[x](schema.json.md)"),
        ("index.md", "[x](https://optuna.org/)", "[x](https://optuna.org/)"),
        ("index.md", "[x](#terms)", "[x](#terms)"),
        ("index.md", "```md\n[x](nowhere.md)\n```", "```md\n[x](nowhere.md)\n```"),
    ],
)
def test_a_link_leads_to_the_page(place: str, link: str, expected: str) -> None:
    assert hooks.on_page_markdown(link, page=page(place)).startswith(expected)


def test_a_link_to_nothing_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """By which a strict build fails."""
    hooks.on_page_markdown("[x](gone.md), [y](search.md)", page=page("search.md"))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith("docs/search.md links to gone.md, which does not exist.")


def test_a_misspelled_marker_fails() -> None:
    with pytest.raises(PluginError, match="nothing to generate by the name flagz"):
        hooks.on_page_markdown("<!-- generated: flagz -->", page=page("search.md"))


def test_files_outside_are_pages() -> None:
    config = load_config(str(TREE / "mkdocs.yml"))
    files = config.plugins.on_files(get_files(config), config=config)
    for place in (*hooks.PAGES, "notebook_files/1.png", "source/configs/index.md"):
        assert files.get_file_from_path(place) is not None, place
    shown = files.get_file_from_path("source/examples/search/main.py.md")
    assert shown is not None
    source = (TREE / "examples" / "search" / "main.py").read_text(encoding="utf-8")
    assert f"````python\n{source}\n````" in shown.content_string
    assert not any("__pycache__" in file.src_uri for file in files)


def test_no_page_fetches_anything() -> None:
    """The theme loads nothing from other servers; links may lead to them."""
    config = load_config(str(TREE / "mkdocs.yml"))
    assert config.theme["font"] is False
    assert config.extra_javascript == []
    assert config.extra_css == ["_site.css"]
    assert not {"privacy", "social", "offline"} & {
        name.rpartition("/")[2] for name in config.plugins
    }
