"""The picture of a search holds every plan, by a name of its own."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest
from libmtl_recon_search.plots import Dot, draw_improvement

MANY = ["EW", "GradOPS", "UW", "MGDA", "PCGrad", "CAGrad", "IMTL", "Nash_MTL", "$x^2$", "[/x]"]


def drawn(dots: list[Dot], file: Path) -> str:
    reference, best = Dot("EW", 1_000_000, 0.4), dots[-1]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_improvement(dots, reference, best, 1_900_000, "val", file)
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize("whole", [True, False])
def test_every_weighting_is_drawn_and_named(whole: bool, tmp_path: Path) -> None:
    dots = [Dot(name, 1_000_000 + 9 * i, 0.1 * i, whole) for i, name in enumerate(MANY)]
    text = drawn(dots, tmp_path / "picture.svg")
    ending = "" if whole else ", ended early"
    for name in (f"{one}{ending}" for one in MANY):
        assert text.count(f">{name}<") == 1, name
    for name in ("EW, plain sharing", "best", "single-task networks"):
        assert text.count(f">{name}<") == 1, name


def test_ticks_do_not_lie_upon_one_another(tmp_path: Path) -> None:
    dots = [Dot("EW", parameters, 1.0) for parameters in (123_456_789, 987_654_321)]
    text = drawn(dots, tmp_path / "picture.svg")
    ticks = re.findall(r">([\d.]+[kMG])</text>", text)
    assert ticks[:3] == ["250M", "500M", "750M"]
    assert len(ticks) <= 6
