from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from libmtl_recon import ConflictProfile, ReconError, UsageError
from libmtl_recon.conflict.grid import EDGES
from libmtl_recon.conflict.layers import Layer
from libmtl_recon.conflict.plot import _columns, draw_profile
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
    (tmp_path / "p.png").mkdir()
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
