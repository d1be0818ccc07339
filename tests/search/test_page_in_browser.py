"""The page of a study as a browser shows it: drawn, self-contained, on a phone and on paper."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from libmtl_recon_search.page.html import write_html
from libmtl_recon_search.page.model import Page
from page_examples import HOSTILE, a_page

PHONE = 390
PAPER = 688  # pixels between margins of 14 mm on A4

# What a figure consists of once it is drawn.
COUNT = """() => Object.fromEntries([...document.querySelectorAll('.plot')].map(plot => {
  const count = (what) => plot.querySelectorAll(what).length;
  const box = plot.querySelector('.main-svg')?.getBoundingClientRect();
  return [plot.id.slice(5), {
    ready: plot.classList.contains('js-plotly-plot'),
    area: box ? box.width * box.height : 0,
    points: count('.scatterlayer .point'),
    lines: count('.scatterlayer path.js-line'),
    bars: count('.barlayer .point path'),
    image: count('.hm image'),
    axes: count('.xaxislayer-above .xtick'),
  }];
}))"""


@dataclass
class Shown:
    """A page that a browser has opened, and what went on meanwhile."""

    tab: Any
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.tab.evaluate(COUNT)
        return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium on this machine (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Shown]]:
    """Write a page and open it in a window of so many pixels."""
    tabs = []

    def show(page: Page, width: int = 1280) -> Shown:
        file = tmp_path / "report.html"
        write_html(page, file)
        shown = Shown(browser.new_page(viewport={"width": width, "height": 844}))
        tabs.append(shown.tab)
        shown.tab.on("pageerror", lambda error: shown.faults.append(str(error)))
        shown.tab.on(
            "console", lambda said: said.type == "error" and shown.faults.append(said.text)
        )
        shown.tab.on("request", lambda request: shown.requests.append(request.url))
        shown.tab.goto(file.as_uri())
        assert not shown.faults
        asked = [url for url in shown.requests if not url.startswith(("data:", "blob:"))]
        assert asked == [file.as_uri()]
        return shown

    yield show
    for tab in tabs:
        tab.close()


def finished(page: Page) -> int:
    return sum(1 for trial in page.trials if trial.values)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(a_page(1), id="one trial"),
        pytest.param(a_page(30, objectives=2, tasks=20, layers=60), id="20 tasks", marks=SLOW),
        pytest.param(a_page(300, layers=200), id="300 trials", marks=SLOW),
    ],
)
def test_every_figure_is_drawn(page: Page, show: Callable[..., Shown]) -> None:
    figures = show(page).figures()
    assert all(one["ready"] and one["area"] > 50_000 for one in figures.values())
    whole, tasks = finished(page), len(page.trials[0].per_task)
    expected = {"front", "tasks", "curves", "parallel", "conflicts"}
    assert set(figures) == expected | ({"importances"} if page.importances else set())
    # The finished trials, EW and the ring around the picked one.
    assert figures["front"]["points"] == whole + 2
    feasible = sum(1 for trial in page.trials if trial.values and trial.feasible)
    rows = min(feasible, 13) + 1
    assert figures["tasks"]["bars"] == rows * tasks
    assert figures["tasks"]["points"] == rows
    assert figures["curves"]["lines"] == len(page.trials) + 1
    # Parameters, how many there are of the network, and the objectives.
    varying = dict.fromkeys(name for t in page.trials if t.values for name in t.params)
    own = 0 if len(page.objectives) > 1 else 1
    assert figures["parallel"]["axes"] == len(varying) + own + len(page.objectives)
    assert figures["parallel"]["lines"] == whole
    assert figures["conflicts"]["image"] == 1
    if page.importances:
        bars = sum(map(len, page.importances.values()))
        assert figures["importances"]["bars"] == bars


def test_a_study_without_trials_says_so_in_place_of_figures(show: Callable[..., Shown]) -> None:
    shown = show(a_page(0, layers=0))
    assert shown.figures() == {}
    assert shown.tab.locator("p.empty").count() == 8  # the result, six figures and the table


@pytest.mark.parametrize(("trials", "objectives"), [(0, 1), (30, 4)])
def test_a_phone_scrolls_tables_and_not_the_page(
    trials: int, objectives: int, show: Callable[..., Shown]
) -> None:
    tab = show(a_page(trials, objectives, tasks=20, layers=60), PHONE).tab
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE
    tab.evaluate("window.scrollTo(100, 0)")
    assert tab.evaluate("window.scrollX") == 0
    if trials:
        box = tab.locator("#trials .scroll")
        assert box.evaluate("box => box.scrollWidth > box.clientWidth")
        # Turned round and back.
        tab.set_viewport_size({"width": 844, "height": PHONE})
        tab.wait_for_function(
            "document.querySelector('#plot-front .main-svg').getBoundingClientRect().width > 600"
        )
        tab.set_viewport_size({"width": PHONE, "height": 844})
        last = "document.querySelector('#plot-conflicts .main-svg')"
        tab.wait_for_function(f"{last}.getBoundingClientRect().width < 400")
        assert tab.evaluate("document.documentElement.scrollWidth") == PHONE
        for figure in ("front", "tasks", "curves", "importances", "conflicts"):
            width = tab.locator(f"#plot-{figure} .main-svg").first.bounding_box()["width"]
            assert 340 <= width <= PHONE, figure


def test_a_page_on_paper_fits_between_its_margins(show: Callable[..., Shown]) -> None:
    shown = show(a_page(30, 2, layers=150))
    tab = shown.tab
    before = tab.locator("#plot-front .main-svg").first.bounding_box()["width"]
    tab.set_viewport_size({"width": PAPER, "height": 1000})
    tab.emulate_media(media="print")
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    ends = tab.evaluate(
        "[...document.querySelectorAll('.main-svg, table')]"
        ".map(one => one.getBoundingClientRect().right)"
    )
    assert max(ends) <= PAPER
    heights = tab.evaluate(
        "[...document.querySelectorAll('figure')].map(e => e.getBoundingClientRect().height)"
    )
    assert max(heights) <= 1010, "a figure is higher than a page"
    assert len(heights) == 6
    for hidden in ("nav", ".filters", ".copy >> nth=0"):
        assert not tab.locator(hidden).is_visible()
    tab.emulate_media(media="screen")
    tab.set_viewport_size({"width": 1280, "height": 844})
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    tab.wait_for_timeout(300)
    assert tab.locator("#plot-front .main-svg").first.bounding_box()["width"] == before


def test_hostile_names_stay_text(show: Callable[..., Shown]) -> None:
    page = a_page(12, 2)
    trials = tuple(
        replace(
            trial,
            plan=HOSTILE,
            weighting=HOSTILE,
            params={HOSTILE: f"{HOSTILE}{trial.number}"},
            reason=HOSTILE,
            violated=HOSTILE,
            command=HOSTILE,
            per_task={HOSTILE + task: value for task, value in trial.per_task.items()},
        )
        for trial in page.trials
    )
    importances = {"delta_m": {HOSTILE: 0.5}}
    settings = ((HOSTILE, HOSTILE),)
    named = replace(page, name=HOSTILE, script=HOSTILE, verdict=HOSTILE, notes=(HOSTILE,))
    shown = show(replace(named, trials=trials, importances=importances, settings=settings))
    tab = shown.tab
    assert tab.evaluate("window.hit") is None
    assert tab.locator("main img").count() == 0
    assert tab.locator("script").count() == 3
    # A name is shown as it is, and no part of a template, in figures too.
    hover(tab, "#plot-front .scatterlayer .point >> nth=0")
    assert "</script><script>" in tab.locator("#plot-front .hovertext").text_content()
    assert "%{x}" in tab.locator("#plot-front .hovertext").text_content()


def hover(tab: Any, what: str) -> None:
    tab.locator(what).scroll_into_view_if_needed()
    box = tab.locator(what).bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2 - 3, box["y"] + box["height"] / 2)
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    tab.wait_for_selector(".hovertext")


def test_trials_are_sorted_and_found_and_commands_copied(show: Callable[..., Shown]) -> None:
    page = a_page(30)
    tab = show(page).tab
    values = [trial.values["delta_m"] for trial in page.trials if trial.values]
    assert page.reference is not None
    values.append(page.reference.values["delta_m"])
    column = "[...document.querySelectorAll('#all-trials tbody tr')].map(r => r.cells[2].innerText)"

    tab.click("#all-trials .sort >> nth=2")
    cells = tab.evaluate(column)
    best = [f"{value:+.2f}" for value in sorted(values, reverse=True)]
    assert cells == best + ["–"] * (31 - len(best))
    tab.click("#all-trials .sort >> nth=2")
    assert tab.evaluate(column) == best[::-1] + ["–"] * (31 - len(best))

    tab.select_option("#state", "failed")
    failed = [trial for trial in page.trials if trial.state == "failed"]
    assert tab.locator("#all-trials tbody tr:visible").count() == len(failed)
    assert tab.locator("#count").inner_text() == f"{len(failed)} of 31 shown"
    tab.select_option("#state", "")
    tab.fill("#needle", "gradops nan")
    found = [trial for trial in failed if trial.weighting == "GradOPS"]
    assert tab.locator("#all-trials tbody tr:visible").count() == len(found)

    tab.click(".copy >> nth=0")
    tab.wait_for_function("document.querySelector('.copy').textContent !== 'copy'")
    said = tab.locator(".copy").first.inner_text()
    assert said in ("copied", "selected")
    if said == "selected":  # where a page from a file has no clipboard
        assert tab.evaluate("getSelection().toString()") == page.command


def test_axes_of_the_front_are_chosen(show: Callable[..., Shown]) -> None:
    page = a_page(12, objectives=4)
    tab = show(page).tab
    assert tab.locator("#plot-front .xtitle").text_content() == "parameters"
    tab.select_option("select[data-choice='0']", "time per step, s")
    assert tab.locator("#plot-front .xtitle").text_content() == "time per step, s"
    drawn = tab.evaluate("document.getElementById('plot-front').data.flatMap(trace => trace.x)")
    times = {trial.values["step_time"] for trial in page.trials if trial.values}
    assert times <= set(drawn)
    # The constraint is one of parameters, which are not drawn any more.
    assert not tab.locator("#plot-front .shapelayer path").count()
