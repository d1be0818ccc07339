"""The top of the page: the study, its progress, and its result."""

from __future__ import annotations

from collections import Counter

from libmtl_recon_search.page.markup import command, table, text
from libmtl_recon_search.page.model import Page, PageTrial
from libmtl_recon_search.page.style import label, number, plural, title_of


def head(page: Page) -> str:
    """Return the page's header and its summary."""
    return "".join(
        [
            '<header><p class="kicker">Search over multi-task training</p>',
            f"<h1>{text(page.name)}</h1>",
            f'<p class="lead"><code>{text(page.script)}</code></p>',
            f"{_status(page)}{_tiles(page)}</header>",
            '<section id="result"><h2>Result</h2>',
            f'<p class="verdict">{text(page.verdict)}</p>' if page.verdict else "",
            ""
            if page.verdict or page.table or page.command
            else '<p class="empty">The search has no result yet.</p>',
            _command(page),
            table(page.headings, page.table) if page.table else "",
            _notes(page),
            "</section>",
            _settings(page),
        ]
    )


def _status(page: Page) -> str:
    counts = Counter(trial.state for trial in page.trials if trial.number is not None)
    done = sum(count for state, count in counts.items() if state != "running")
    states = ", ".join(f"{count} {text(state)}" for state, count in counts.items())
    share = 100 * min(done / page.wanted, 1.0) if page.wanted > 0 else 0.0
    kind = text(page.status.split()[0].lower()) if page.status.split() else "running"
    return (
        f'<p class="status"><span class="badge {kind}">{text(page.status)}</span> '
        f"{done} of {plural(page.wanted, 'trial')}{': ' if states else ''}{states}</p>"
        f'<div class="bar" role="img" aria-label="{share:.0f} % of the trials have ended">'
        f'<span style="width:{share:.1f}%"></span></div>'
    )


def _tiles(page: Page) -> str:
    picked = next((trial for trial in page.trials if trial.picked), None)
    if picked is None:
        return ""
    tiles = []
    for one in page.objectives:
        title = title_of(one, page.on)
        tiles.append(_tile(title, number(picked.values.get(one.name), one.name), page, one.name))
    if all(one.name != "parameters" for one in page.objectives) and picked.parameters:
        reference = page.reference.parameters if page.reference else None
        times = f"{picked.parameters / reference:.2f} × EW, plain sharing" if reference else ""
        tiles.append(_box("parameters", f"{picked.parameters:,}", times))
    name = label(picked)
    return (
        f'<p class="picked"><b>Picked: {text(name)}</b>, {text(picked.plan)}</p>'
        f'<div class="tiles">{"".join(tiles)}</div>'
    )


def _tile(title: str, value: str, page: Page, name: str) -> str:
    reference: PageTrial | None = page.reference
    if reference is None or name not in reference.values:
        return _box(title, value, "")
    return _box(title, value, f"EW, plain sharing: {number(reference.values[name], name)}")


def _box(title: str, value: str, below: str) -> str:
    return (
        f'<div class="tile"><span>{text(title)}</span><strong>{text(value)}</strong>'
        f"<small>{text(below)}</small></div>"
    )


def _command(page: Page) -> str:
    if not page.command:
        return ""
    return f"<p>Reproduce the picked trial:</p>{command(page.command)}"


def _notes(page: Page) -> str:
    if not page.notes:
        return ""
    return f'<ul class="notes">{"".join(f"<li>{text(note)}</li>" for note in page.notes)}</ul>'


def _settings(page: Page) -> str:
    if not page.settings:
        return ""
    return (
        '<section id="settings"><h2>Settings</h2><dl class="settings">'
        + "".join(
            f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"
            for name, value in page.settings
        )
        + "</dl></section>"
    )
