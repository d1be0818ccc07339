"""What the page of a study says, and that it is one file."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libmtl_recon_search.page.conflict_figure import conflict_figure
from libmtl_recon_search.page.curve_figure import curve_figure
from libmtl_recon_search.page.front_figure import front_figure
from libmtl_recon_search.page.html import render, write_html
from libmtl_recon_search.page.importance_figure import importance_figure
from libmtl_recon_search.page.markup import data
from libmtl_recon_search.page.model import Page, PageObjective, PageTrial
from libmtl_recon_search.page.parallel_figure import parallel_figure
from libmtl_recon_search.page.style import styles
from libmtl_recon_search.page.task_figure import task_figure
from page_examples import HOSTILE, SHARED, a_page, a_profile


def drawn(page_figure: Any) -> Any:
    assert page_figure.figure is not None
    return page_figure.figure


def trial(page: Page, **changes: Any) -> PageTrial:
    """A finished trial that is none of the page's extremes."""
    plain = {"state": "finished", "feasible": True, "on_front": False, "picked": False}
    return replace(page.trials[0], **{**plain, **changes})


def page_of(*points: tuple[int, float], **changes: Any) -> Page:
    """A study of one objective with trials of so many parameters and such Δm."""
    page = a_page(1)
    trials = tuple(
        trial(page, number=i, parameters=size, values={"delta_m": delta})
        for i, (size, delta) in enumerate(points)
    )
    return replace(page, trials=trials, reference=None, limits=(), **changes)


def without_script(text: str) -> str:
    return re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("trials", [0, 1, 30])
def test_the_page_is_one_file_and_asks_for_nothing(trials: int, tmp_path: Path) -> None:
    write_html(a_page(trials), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.startswith('<!DOCTYPE html><html lang="en">')
    # Addresses that plotly.js has in its text are never asked for.
    own = without_script(text)
    addresses = re.findall(r"\b(?:src|href)\s*=\s*[\"']?([^\"'\s>]*)", own)
    assert {address for address in addresses if address[0] != "#"} == {"data:,"}
    assert "@import" not in own
    assert "url(" not in own
    assert text.count("* plotly.js v") == 1
    assert len(text.encode()) < 6.5e6


def test_300_trials_are_written_in_three_seconds(tmp_path: Path) -> None:
    page = a_page(300, 4, 20, 200)
    start = time.process_time()
    write_html(page, tmp_path / "report.html")
    assert time.process_time() - start < 3


def test_no_text_ends_a_script() -> None:
    page = replace(a_page(3), name=HOSTILE)
    trials = tuple(replace(one, plan=HOSTILE, weighting=HOSTILE) for one in page.trials)
    text = render(replace(page, trials=trials))
    assert HOSTILE not in text
    assert text.count("</script>") == text.count("<script") == 3
    inside = re.search(r'id="figures">(.*?)</script>', text, flags=re.DOTALL)
    assert inside
    assert set(json.loads(inside.group(1))) == {"front", "tasks", "curves", "parallel", "conflicts"}


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_data_comes_back_as_it_went_in(value: Any) -> None:
    found = data(value)
    assert json.loads(found) == value
    assert not set("<>&\u2028\u2029") & set(found)


def test_every_trial_stands_in_the_table_with_all_about_it() -> None:
    page = a_page(30)
    odd = replace(
        page.trials[4], state="failed", reason="A <b>bad</b> loss.", values={}, again=(7, 8)
    )
    barred = replace(page.trials[5], feasible=False, violated="each task: depth −1.2 %")
    page = replace(page, trials=(*page.trials[:4], odd, barred, *page.trials[6:]))
    text = without_script(render(page))
    rows = re.findall(r"<tr[^>]*data-state.*?</tr>", text, flags=re.DOTALL)
    assert len(rows) == 31  # with EW
    assert '<td class=num data-v="">EW</td>' in rows[0]
    for one, row in zip(page.trials, rows[1:], strict=True):
        words = unescape(re.sub(r"<[^>]+>", "", row))
        for part in (one.plan, one.command, one.state, f"{one.parameters:,}"):
            assert part in words, part
        if one.values:
            assert f"{one.values['delta_m']:+.2f}" in words
    said = unescape(re.sub(r"<[^>]+>", "", rows[5]))
    assert "A <b>bad</b> loss.; again: 7–8" in said
    assert "violated: each task: depth −1.2 %" in unescape(rows[6])
    assert "kept" not in rows[6]


def test_the_head_has_what_the_search_came_to() -> None:
    page = a_page(30)
    text = unescape(re.sub(r"<[^>]+>", "", without_script(render(page))))
    for part in (page.name, page.script, page.verdict, page.command, *page.notes):
        assert part in text
    for name, value in page.settings:
        assert f"{name}{value}" in text
    assert all(cell in text for row in (page.headings, *page.table) for cell in row)
    assert "30 of 30 trials" in text


def test_an_unfinished_study_says_what_is_to_come() -> None:
    text = without_script(render(a_page(0, layers=0)))
    assert text.count('<p class="empty">') == 8
    assert "running" in text
    assert "0 of 30 trials" in text


# The front.


def test_the_step_line_of_one_objective_is_what_a_parameter_buys() -> None:
    page = page_of((300, 2.0), (100, 1.0), (200, 0.5), (300, 1.9), (400, 3.0), (500, 2.5))
    line = drawn(front_figure(page)).data[0]
    assert line.line.shape == "hv"
    assert list(zip(line.x, line.y, strict=True)) == [(100, 1), (300, 2), (400, 3), (500, 3)]


def test_ew_counts_for_what_a_parameter_buys() -> None:
    page = page_of((200, 0.5), (300, 2.0))
    ew = trial(page, number=None, parameters=100, values={"delta_m": 1.0})
    line = drawn(front_figure(replace(page, reference=ew))).data[0]
    assert list(zip(line.x, line.y, strict=True)) == [(100, 1), (300, 2), (300, 2)]


def test_infeasible_trials_are_hollow_and_on_no_front() -> None:
    page = page_of((100, 1.0), (50, 9.0))
    barred = replace(page.trials[1], feasible=False, violated="memory 3 GB > 2 GB")
    figure = drawn(front_figure(replace(page, trials=(page.trials[0], barred))))
    line, whole, hollow = figure.data
    assert list(line.y) == [1.0, 1.0]
    assert hollow.marker.symbol == f"{whole.marker.symbol}-open"
    assert "infeasible: memory 3 GB &gt; 2 GB" in hollow.hovertext[0]


def test_two_objectives_draw_the_front_that_the_study_has() -> None:
    page = a_page(30, 2)
    figure = drawn(front_figure(page))
    front = {t.values["delta_m"] for t in page.trials if t.on_front}
    assert set(figure.data[0].y) == front
    assert figure.layout.shapes[0].visible
    assert figure.layout.shapes[0].x0 == 1.5 * SHARED
    assert not figure.layout.shapes[1].visible


def test_a_single_objective_of_parameters_is_drawn_by_trial() -> None:
    page = replace(a_page(1), objectives=(PageObjective("parameters", "minimize", ""),))
    trials = tuple(
        trial(page, number=i, values={"parameters": 90.0 - i}, parameters=90 - i) for i in range(3)
    )
    figure = drawn(front_figure(replace(page, trials=trials, reference=None)))
    assert figure.layout.xaxis.title.text == "trial"
    assert list(figure.data[1].y) == [90, 89, 88]


def test_trials_far_out_do_not_press_the_others_flat() -> None:
    page = page_of(*((100 + i, 0.1 * i) for i in range(20)), (90, -4000.0))
    one = front_figure(page)
    low, high = drawn(one).layout.yaxis.range
    assert low > -1
    assert high < 3
    assert "1 trial lies outside of the view" in one.caption


def test_values_that_are_no_numbers_are_left_out_of_figures() -> None:
    page = page_of((100, 1.0), (120, math.nan), (140, math.inf))
    lost = replace(page.trials[0], number=9, curve=(math.nan, 1.0), per_task={"a": math.nan})
    page = replace(page, trials=(*page.trials, lost))
    text = render(page)
    assert "NaN" not in text.split('id="figures">')[1].split("</script>")[0]
    assert sum(len(t.x) for t in drawn(front_figure(page)).data[1:]) == 2


# Other figures.


def test_a_weighting_has_one_colour_everywhere() -> None:
    page = a_page(30)
    look = styles(page)
    assert len({style.color for style in look.values()}) == len(look) == 3
    for name, style in look.items():
        marks = [t for t in drawn(front_figure(page)).data if t.legendgroup == name]
        lines = [t for t in drawn(curve_figure(page)).data if t.legendgroup == name]
        assert {mark.marker.color for mark in marks} == {style.color}
        assert {line.line.color for line in lines} == {style.color}


def test_weightings_beyond_the_colours_differ_by_mark() -> None:
    page = page_of(*((100 + i, 1.0) for i in range(40)))
    trials = tuple(replace(one, weighting=f"W{one.number}") for one in page.trials)
    look = styles(replace(page, trials=trials))
    assert len(set(look.values())) == 40


def test_shares_of_tasks_add_up_to_their_mean() -> None:
    page = page_of((100, 1.0))
    only = replace(page.trials[0], per_task={"depth": 6.0, "normals": -2.0, "lost": math.nan})
    page = replace(page, trials=(only,))
    *bars, total = drawn(task_figure(page)).data
    assert [bar.x[0] for bar in bars] == [3.0, -1.0, None]
    assert total.x[0] == 2.0
    weighed = replace(page, task_weights={"depth": 3.0})
    *bars, total = drawn(task_figure(weighed)).data
    assert [bar.x[0] for bar in bars] == [4.5, -0.5, None]
    assert total.x[0] == 4.0


def test_curves_tell_how_trials_ended() -> None:
    page = page_of((100, 1.0), (110, 2.0), (120, 3.0))
    states = ("ended early", "failed", "finished")
    trials = tuple(
        replace(one, state=state, picked=state == "finished", curve=(1.0, 2.0))
        for one, state in zip(page.trials, states, strict=True)
    )
    legend, early, failed, picked = drawn(curve_figure(replace(page, trials=trials))).data
    assert legend.x == (None,)
    assert [one.line.dash for one in (early, failed, picked)] == ["dash", "dot", "solid"]
    assert picked.line.width > early.line.width
    assert list(early.x) == [1, 2]


def test_absent_parameters_stand_below_the_values_at_a_dash() -> None:
    page = page_of((100, 1.0), (110, 2.0), (120, 3.0))
    params: list[dict[str, Any]] = [
        {"weighting": "EW", "lr": 1e-4},
        {"weighting": "GradOPS", "alpha": -1.0, "lr": 1e-1},
        {"weighting": "GradOPS", "alpha": 1.0, "lr": 1e-2},
    ]
    trials = tuple(replace(one, params=own) for one, own in zip(page.trials, params, strict=True))
    one = parallel_figure(replace(page, trials=trials))
    figure = drawn(one)
    names = list(figure.layout.xaxis.ticktext)
    assert names == ["weighting", "lr", "alpha", "parameters", "Δm, %"]
    first, second, third = (line.y for line in figure.data[:3])  # worst first
    ticks = [(note.x, note.y, note.text) for note in figure.layout.annotations]
    assert (first[2], third[2]) == (0, 1)
    assert 0.1 < second[2] < 0.2
    assert [tick for tick in ticks if tick[2] == "–"] == [(2, 0, "–")]
    assert {(2, second[2], "-1"), (2, 1, "1")} <= set(ticks)
    # On a logarithmic axis.
    assert [line[1] for line in (first, second, third)] == pytest.approx([0, 1, 2 / 3], abs=1e-4)
    assert "“–”" in one.caption


def test_importances_name_what_has_too_few_trials() -> None:
    page = a_page(30)
    importances = {"delta_m": {"weighting": 0.5, "k": 0.25}}
    one = importance_figure(replace(page, importances=importances))
    assert list(drawn(one).data[0].x) == [25.0, 50.0]  # the most important at the top
    for absent in ("alpha", "s", "lr", "select", "rotograd_lr"):
        assert absent in one.caption
    assert "fANOVA" in one.caption
    assert importance_figure(replace(page, importances={})).figure is None


@pytest.mark.parametrize("severity", [-0.1, -0.11, 0.0, -0.9])
def test_conflicts_are_shares_below_each_severity(severity: float) -> None:
    profile = a_profile(20, 3)
    page = replace(a_page(1), profile=profile, severity=severity)
    heat = drawn(conflict_figure(page)).data[0]
    assert list(heat.y) == list(profile.layer_names)
    assert min(abs(x - severity) for x in heat.x) < 1e-9
    defined = profile.steps * profile.pairs - profile.undefined.sum(axis=0)
    for column, below in enumerate(heat.x):
        scores = np.array(list(profile.scores(float(below)).values()))
        shares = [row[column] for row in heat.z]
        np.testing.assert_allclose(shares, 100 * scores / defined, atol=6e-4)


def test_of_many_layers_the_worst_are_drawn() -> None:
    profile = a_profile(200, 2)
    one = conflict_figure(replace(a_page(1), profile=profile))
    names = list(drawn(one).data[0].y)
    assert set(names) == set(profile.ranking(-0.1)[:150])
    assert names == [name for name in profile.layer_names if name in set(names)]
    assert "Of 200 layers, the 150 worst are shown" in one.caption


def test_every_figure_has_a_caption_and_a_description() -> None:
    page = a_page(30)
    text = without_script(render(page))
    assert text.count("<figcaption>") == text.count('role="img" aria-label="') - 1 == 6
    for draw in (front_figure, task_figure, curve_figure, parallel_figure, importance_figure):
        one = draw(page)
        assert len(one.caption) > 80
        assert len(one.alt) > 30
