"""The page as one HTML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from libmtl_recon_search.page.conflict_figure import conflict_figure
from libmtl_recon_search.page.curve_figure import curve_figure
from libmtl_recon_search.page.front_figure import front_figure
from libmtl_recon_search.page.head import head
from libmtl_recon_search.page.importance_figure import importance_figure
from libmtl_recon_search.page.markup import data, text
from libmtl_recon_search.page.model import Page
from libmtl_recon_search.page.parallel_figure import parallel_figure
from libmtl_recon_search.page.style import PageFigure
from libmtl_recon_search.page.task_figure import task_figure
from libmtl_recon_search.page.trial_table import trial_table
from plotly.offline import get_plotlyjs

from libmtl_recon._version import __version__
from libmtl_recon.files import write_atomically

_LINKS = {
    "result": "Result",
    "front": "Front",
    "tasks": "Tasks",
    "curves": "Learning curves",
    "parallel": "Parallel coordinates",
    "importances": "Importances",
    "conflicts": "Conflicts",
    "trials": "All trials",
}

_DRAW = (
    front_figure,
    task_figure,
    curve_figure,
    parallel_figure,
    importance_figure,
    conflict_figure,
)


def write_html(page: Page, file: Path) -> None:
    """Write the page of a study, which needs no other file and no network.

    Args:
        page: The contents of the page.
        file: The path of the file; an existing one is replaced atomically.

    Raises:
        OSError: The file cannot be written.
    """
    write_atomically(file, render(page))


def render(page: Page) -> str:
    """Return the page of a study as HTML, with plotly.js and all data inside.

    Args:
        page: The contents of the page.
    """
    figures = [draw(page) for draw in _DRAW]
    drawn = {one.id: _plain(one) for one in figures if one.figure is not None}
    nav = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in _LINKS.items())
    scripts = ""
    if drawn:
        scripts += f"<script>{get_plotlyjs()}</script>"
    scripts += f'<script type="application/json" id="figures">{data(drawn)}</script>'
    return "".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # Without it browsers request one.
            '<link rel="icon" href="data:,">',
            f"<title>{text(page.name)}: search report</title>",
            f"<style>{_file('page.css')}</style></head><body><main>",
            head(page),
            f'<nav aria-label="Figures">{nav}</nav>',
            "<noscript><p class=empty>The figures need JavaScript; the tables do not.</p>"
            "</noscript>",
            *map(_section, figures),
            trial_table(page),
            f"<footer>Written by libmtl-recon {text(__version__)}.</footer></main>",
            scripts,
            f"<script>{_file('page.js')}</script></body></html>\n",
        ]
    )


def _section(one: PageFigure) -> str:
    title = f'<section id="{one.id}"><h2>{text(one.title)}</h2>'
    if one.figure is None:
        return f'{title}<p class="empty">{text(one.empty)}</p></section>'
    choices = "".join(
        f'<label>{text(choice.label)} <select data-figure="{one.id}" data-choice="{place}">'
        + "".join(
            f"<option{' selected' if name == choice.chosen else ''}>{text(name)}</option>"
            for name in choice.options
        )
        + "</select></label> "
        for place, choice in enumerate(one.choices)
    )
    choices = f'<div class="choices">{choices}</div>' if choices else ""
    least = f' style="min-width:{one.least}px"' if one.least else ""
    return (
        f'{title}<figure>{choices}<div class="frame"><div class="plot" id="plot-{one.id}" '
        f'role="img" aria-label="{text(one.alt)}"{least}></div></div>'
        f"<figcaption>{text(one.caption)}</figcaption></figure></section>"
    )


def _plain(one: PageFigure) -> dict[str, Any]:
    """Return a figure in the form that the page's script reads."""
    assert one.figure is not None
    found: dict[str, Any] = json.loads(one.figure.to_json(validate=False))
    return {
        "data": found["data"],
        "layout": found["layout"],
        "narrow": dict(one.narrow),
        "printed": dict(one.printed),
        "choices": [list(choice.options.values()) for choice in one.choices],
    }


def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
