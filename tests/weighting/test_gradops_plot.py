"""The picture of logs: what it says, and that its curves are the means that it claims."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from libmtl_recon import UsageError
from libmtl_recon.weighting.gradops_log import GradOPSLog
from libmtl_recon.weighting.gradops_plot import draw_logs, running_mean

NAN = float("nan")


def make(alpha: float, steps: int = 60, tasks: tuple[str, ...] = ("left", "right")) -> GradOPSLog:
    rng = np.random.default_rng(0)
    shape = steps, len(tasks)
    rates = rng.random(steps)
    factors, speeds = rng.random(shape) + 0.5, rng.random(shape) + 0.5
    factors[3:9, 0] = speeds[3:9, 0] = NAN
    rates[5:6] = NAN
    return GradOPSLog(tasks, alpha, np.arange(1.0, steps + 1), rates, factors, speeds)


def text_of(file: Path, *args: object, **kwargs: object) -> str:
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_logs(*args, file, **kwargs)
    return file.read_text()


def test_one_run_has_a_line_a_task(tmp_path: Path) -> None:
    text = text_of(tmp_path / "p.svg", [make(-2.0)], smooth=5)
    for part in ("left<", "right<", "weight w", "relative speed r", "pairs in conflict"):
        assert part in text, part
    assert "GradOPS, α = −2: running means over 5 steps" in text


def test_several_runs_have_a_column_a_task_and_are_sorted_by_alpha(tmp_path: Path) -> None:
    logs = [make(1.0), make(-3.0), make(0.0)]
    text = text_of(tmp_path / "p.svg", logs, smooth=1)
    places = [text.index(f"{label}<") for label in ("left", "right", "α = −3", "α = 0", "α = 1")]
    assert places == sorted(places)
    assert "GradOPS: each step" in text


@pytest.mark.parametrize("alphas", [(-1.0, -1.0), (NAN, -1.0), (NAN, NAN)])
def test_runs_that_alpha_does_not_tell_apart_keep_their_names(
    tmp_path: Path, alphas: tuple[float, float]
) -> None:
    names = ["one.csv", "two.csv"]
    text = text_of(tmp_path / "p.svg", [make(alpha) for alpha in alphas], names=names)
    for name, alpha in zip(names, alphas, strict=True):
        assert (f"{name}<" if np.isnan(alpha) else f"{name}: α = −1<") in text


@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_short_and_long_runs_are_drawn(tmp_path: Path, steps: int) -> None:
    for logs in ([make(NAN, steps)], [make(2.0, steps), make(-2.0, 60)]):
        draw_logs(logs, tmp_path / "p.png")
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_other_tasks_are_refused(tmp_path: Path) -> None:
    logs = [make(0.0), make(1.0, tasks=("left", "other"))]
    with pytest.raises(UsageError, match=r"two.csv must have the same tasks .*left, right"):
        draw_logs(logs, tmp_path / "p.png", names=["one.csv", "two.csv"])
    with pytest.raises(UsageError, match="at least one"):
        draw_logs([], tmp_path / "p.png")
    with pytest.raises(UsageError, match="from 1 up"):
        draw_logs(logs[:1], tmp_path / "p.png", smooth=0)
    with pytest.raises(UsageError, match="ends in"):
        draw_logs(logs[:1], tmp_path / "p.txt")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.just(NAN), st.floats(-1e3, 1e3)), min_size=1, max_size=40),
    st.integers(1, 50),
)
def test_a_running_mean_is_the_mean_around_each_place(values: list[float], window: int) -> None:
    array: NDArray[np.float64] = np.array(values)
    found = running_mean(array, window)
    for place in range(len(array)):
        start = max(place - (window - 1) // 2, 0)
        part = array[start : place + window // 2 + 1]
        known = part[~np.isnan(part)]
        expected = known.mean() if len(known) else NAN
        np.testing.assert_allclose(found[place], expected, rtol=1e-9, atol=1e-9)
    if window == 1:
        np.testing.assert_allclose(found, array, rtol=0, atol=1e-9)
