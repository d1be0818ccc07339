"""All trials as a table that can be sorted and searched."""

from __future__ import annotations

import math
from collections.abc import Sequence

from libmtl_recon_search.page.markup import command, text
from libmtl_recon_search.page.model import Page, PageTrial
from libmtl_recon_search.page.style import number, title_of
from libmtl_recon_search.trials import in_words, short_reason


def trial_table(page: Page) -> str:
    """Return the section with every trial, EW with plain sharing first."""
    trials = (*([page.reference] if page.reference else []), *page.trials)
    title = '<section id="trials"><h2>All trials</h2>'
    if not trials:
        return f'{title}<p class="empty">No trial has started yet.</p></section>'
    own_parameters = all(one.name != "parameters" for one in page.objectives)
    headings = [
        ("trial", True),
        ("plan", False),
        *((title_of(one, page.on), True) for one in page.objectives),
        *([("parameters", True)] if own_parameters else []),
        ("state", False),
        ("constraints", False),
        ("seconds", True),
    ]
    head = "".join(
        f'<th scope="col"{" class=num" if numeric else ""}>'
        f'<button type="button" class="sort">{text(name)}</button></th>'
        for name, numeric in headings
    )
    rows = "".join(_row(page, trial, own_parameters) for trial in trials)
    states = "".join(
        f"<option>{text(state)}</option>" for state in dict.fromkeys(t.state for t in trials)
    )
    return (
        f"{title}<p>Click a heading to sort. Numbers are those in the study; a trial that chose "
        "a plan that was already trained is not listed.</p>"
        '<div class="filters"><label>Search <input type="search" id="needle" '
        'placeholder="plan, reason, setting"></label> <label>State <select id="state">'
        f'<option value="">all</option>{states}</select></label> '
        '<span id="count" role="status"></span></div>'
        '<div class="scroll" tabindex="0"><table id="all-trials"><thead><tr>'
        f'{head}<th scope="col">reproduce</th></tr></thead><tbody>{rows}</tbody></table></div>'
        "</section>"
    )


def _row(page: Page, trial: PageTrial, own_parameters: bool) -> str:
    name = "EW" if trial is page.reference else "–" if trial.number is None else str(trial.number)
    marks = [
        f'<span class="mark {kind}">{word}</span>'
        for word, kind, so in (
            ("picked", "picked", trial.picked),
            ("front", "front", trial.on_front),
        )
        if so
    ]
    plan = " ".join([*marks, text(trial.plan)])
    cells = [_cell(name, _sortable(trial.number))]
    cells += [_cell(f'<span class="plan">{plan}</span>', text(trial.plan), False)]
    for one in page.objectives:
        value = trial.values.get(one.name)
        cells.append(_cell(text(number(value, one.name)), _sortable(value)))
    if own_parameters:
        parameters = "–" if trial.parameters is None else f"{trial.parameters:,}"
        cells.append(_cell(parameters, _sortable(trial.parameters)))
    cells += [_cell(_state(trial), text(trial.state), False)]
    kept = "kept" if trial.feasible else f"violated: {trial.violated}".rstrip(": ")
    known = trial.state in ("finished", "baseline") or not trial.feasible
    cells += [_cell(text(kept) if known else "–", text(kept) if known else "", False)]
    seconds = "–" if trial.seconds is None else f"{trial.seconds:,.0f}"
    cells += [_cell(seconds, _sortable(trial.seconds)), f"<td>{_details(trial)}</td>"]
    kind = " class=picked" if trial.picked else ""
    return f'<tr{kind} data-state="{text(trial.state)}">{"".join(cells)}</tr>'


def _state(trial: PageTrial) -> str:
    reason = short_reason(trial.reason)
    again = f"again: {in_words(trial.again)}" if trial.again else ""
    more = "; ".join(one for one in (reason, again) if one)
    return text(trial.state) + (f'<br><span class="reason">{text(more)}</span>' if more else "")


def _details(trial: PageTrial) -> str:
    pairs: Sequence[tuple[str, str]] = [(k, str(v)) for k, v in trial.params.items()]
    pairs = [*pairs, *((f"Δ {task}", f"{v:+.2f} %") for task, v in trial.per_task.items())]
    listed = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in pairs)
    inside = (command(trial.command) if trial.command else "") + (
        f"<dl>{listed}</dl>" if listed else ""
    )
    return f"<details><summary>show</summary>{inside}</details>" if inside else "–"


def _sortable(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else repr(value)


def _cell(inside: str, value: str, numeric: bool = True) -> str:
    return f'<td{" class=num" if numeric else ""} data-v="{value}">{inside}</td>'
