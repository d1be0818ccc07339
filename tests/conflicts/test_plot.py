from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from libmtl_recon import ConflictProfile, ReconError, UsageError
from libmtl_recon.conflicts import plot
from libmtl_recon.conflicts.grid import EDGES
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.plot import _SEVERE, _columns, _draw, draw_profile
from libmtl_recon.pictures import check_picture

Make = Callable[..., ConflictProfile]
STARTS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.mark.parametrize("suffix", STARTS)
def test_the_ending_chooses_the_format(
    profile: ConflictProfile, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"picture{suffix}"
    draw_profile(profile, file)
    assert file.read_bytes().startswith(STARTS[suffix])


def test_a_picture_names_each_layer_and_the_run(profile: ConflictProfile, tmp_path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_profile(profile, tmp_path / "picture.svg", S=-0.2)
    text = (tmp_path / "picture.svg").read_text()
    for expected in ("conv1", "bn1", "block.0.fc", "digits, EW, 4 steps, 2 tasks", "S = -0.2"):
        assert f"{expected}<" in text, expected
    # The S-conflict scores at -0.2, as shares of 4 steps: conv1 and bn1 1 each, block.0.fc none.
    assert text.count(">25.0<") == 2


@pytest.mark.parametrize("S", [-0.1, -0.095, -0.005, 0.0, -0.995])
def test_the_columns_end_at_s_and_hold_all_cosines(profile: ConflictProfile, S: float) -> None:
    edges, shares = _columns(profile, S)
    assert S in edges
    assert edges[0] == EDGES[0]
    assert edges[-1] == EDGES[-1]
    defined = 4 - profile.undefined[0]
    assert np.allclose(shares.sum(axis=1), 100.0)
    below = shares[:, edges[:-1] < S].sum(axis=1)
    scores = np.array(list(profile.scores(S).values()))
    assert np.allclose(below, 100.0 * scores / defined)


@pytest.mark.parametrize("S", [-0.995, 0.0])
def test_what_is_extreme_is_drawn_too(make_profile: Make, tmp_path: Path, S: float) -> None:
    names = [Layer(f"a.very.long.name.of.a.layer.{n}", "Linear", ((2,),)) for n in range(70)]
    for cosine in (-1.0, 1.0, float("nan")):
        assert_each_is_named(make_profile([[cosine]] * 70, names), tmp_path / "p.svg", S)
    assert_each_is_named(make_profile([[0.3]], names[:1]), tmp_path / "p.svg", S)


def assert_each_is_named(profile: ConflictProfile, file: Path, S: float) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_profile(profile, file, S)
    text = file.read_text(encoding="utf-8")
    assert [text.count(f">{layer.title}<") for layer in profile.architecture] == [1] * len(
        profile.architecture
    )


def many(make_profile: Make, layers: int, name: str = "layer{}.conv") -> ConflictProfile:
    """Layers of which every third conflicts, each a bit more than the last."""
    rows = [
        [-0.2] * (n // 3) + [0.1] * (400 - n // 3) if n % 3 == 0 else [0.1] * 400
        for n in range(layers)
    ]
    return make_profile(rows, [Layer(name.format(n), "Conv2d", ((2,),)) for n in range(layers)])


def dark(axes: Any) -> list[int]:
    """The rows whose bars are dark."""
    bars = sorted(axes.patches, key=lambda bar: bar.get_y())
    return [row for row, bar in enumerate(bars) if to_hex(bar.get_facecolor()) == _SEVERE]


@pytest.mark.parametrize("K", [1, 7, 30])
def test_dark_bars_and_names_are_the_k_worst(make_profile: Make, K: int) -> None:
    profile = many(make_profile, 30)
    left, right = _draw(profile, -0.1, K).axes[:2]
    worst = {profile.layer_names.index(name) for name in profile.layers(-0.1, K)}
    assert set(dark(right)) == worst
    coloured = [row for row, t in enumerate(left.get_yticklabels()) if t.get_color() == _SEVERE]
    assert set(coloured) == worst
    (label,) = right.get_legend().get_texts()
    assert label.get_text() == f"the K = {K} worst at S = -0.1"


def test_without_a_k_the_legend_says_what_dark_bars_are(make_profile: Make) -> None:
    profile = many(make_profile, 30)
    right = _draw(profile, -0.1, None).axes[1]
    scores = list(profile.scores(-0.1).values())
    assert dark(right) == [row for row, score in enumerate(scores) if score > max(scores) / 2]
    (label,) = right.get_legend().get_texts()
    assert label.get_text() == "above half of the worst, at S = -0.1"


def test_where_nothing_conflicts_nothing_is_dark(make_profile: Make) -> None:
    right = _draw(make_profile([[0.5], [0.1], [0.3]]), -0.1, None).axes[1]
    assert dark(right) == []
    assert right.get_legend() is None


@pytest.mark.parametrize("K", [0, 4, True, 1.0])
def test_k_is_a_number_of_layers(profile: ConflictProfile, tmp_path: Path, K: Any) -> None:
    with pytest.raises(UsageError, match="K must be a whole number from 1 to 3"):
        draw_profile(profile, tmp_path / "p.png", K=K)


def overlapping(boxes: list[Any]) -> list[tuple[Any, Any]]:
    return [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]


@pytest.mark.parametrize(
    ("layers", "S"),
    [(1, -0.1), (1, 0.0), (3, -0.1), (3, 0.0), (3, -0.9), (41, 0.0), (106, -0.9), (500, -0.1)],
)
def test_no_text_lies_upon_another(make_profile: Make, layers: int, S: float) -> None:
    profile = many(make_profile, layers, "features.denseblock{0}.denselayer{0}.conv1")
    figure = _draw(profile, S, max(1, layers // 4))
    assert figure.get_size_inches()[1] < 27
    figure.canvas.draw()
    for axes in figure.axes[:2]:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            shown = [label.get_window_extent() for label in labels if label.get_text()]
            assert overlapping(shown) == []
    left, right = figure.axes[:2]
    above = [left.texts[0].get_window_extent(), right.get_legend().get_window_extent()]
    above.append(figure._suptitle.get_window_extent())
    for bar in left.child_axes:
        above += [
            t.get_window_extent() for t in (*bar.get_xticklabels(), bar.title) if t.get_text()
        ]
    assert overlapping(above) == []


def test_the_worst_of_many_layers_are_named(make_profile: Make) -> None:
    profile = many(make_profile, 500)
    left = _draw(profile, -0.1, 5).axes[0]
    names = [label.get_text() for label in left.get_yticklabels()]
    assert 100 < len(names) < 250
    assert profile.ranking(-0.1)[0] in names


def test_of_very_many_layers_the_worst_are_drawn(make_profile: Make, tmp_path: Path) -> None:
    profile = many(make_profile, 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot, "_MOST_ROWS", 20)
        left, right = _draw(profile, -0.1, 5).axes[:2]
        title = left.figure._suptitle.get_text()
    worst = sorted(profile.ranking(-0.1)[:20], key=profile.layer_names.index)
    assert [label.get_text() for label in left.get_yticklabels()] == worst
    assert [worst[row] for row in dark(right)] == sorted(
        profile.layers(-0.1, 5), key=profile.layer_names.index
    )
    assert "the 20 worst of 60" in title


def test_names_are_shown_as_they_are(make_profile: Make, tmp_path: Path) -> None:
    """Not as formulas, without control characters, and of bounded length."""
    odd = ["a$\\frac$", "_hidden", "x\x1b[2Jy\nz", "n" * 500, "[/x]", "層"]
    layers = [Layer(name, "Linear", ((2,),)) for name in odd]
    profile = make_profile([[-0.2]] * len(odd), layers, "data $x$")
    draw_profile(profile, tmp_path / "p.png", K=2)
    figure = _draw(profile, -0.1, None)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0] == "a\\$\\frac\\$"
    assert labels[2] == "x\\x1b[2Jy\\nz"
    assert len(labels[3]) == 48
    assert labels[4:] == odd[4:]


def test_a_name_that_is_none_of_a_picture_is_refused(
    profile: ConflictProfile, tmp_path: Path
) -> None:
    for name in ("picture", "picture.gif", "png"):
        with pytest.raises(UsageError, match=r"file must be a file name that ends in \.png, \.svg"):
            draw_profile(profile, tmp_path / name)
    with pytest.raises(UsageError, match=r"--plot must lie in a folder that exists"):
        check_picture("--plot", tmp_path / "none" / "p.png")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_explained(
    profile: ConflictProfile, tmp_path: Path
) -> None:
    (tmp_path / "p.png").symlink_to("/dev/full")
    with pytest.raises(ReconError, match=r"Cannot write the picture to .*p\.png"):
        draw_profile(profile, tmp_path / "p.png")


def test_a_severity_is_checked(profile: ConflictProfile, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="S must be a multiple"):
        draw_profile(profile, tmp_path / "p.png", S=0.3)


def test_no_window_system_and_no_global_state_is_touched(
    profile: ConflictProfile, tmp_path: Path
) -> None:
    sys.modules.pop("matplotlib.pyplot", None)
    draw_profile(profile, tmp_path / "p.png")
    assert "matplotlib.pyplot" not in sys.modules
