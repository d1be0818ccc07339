"""The picture of distributions of cosines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from example_profiles import of_whole

from libmtl_recon.reproduction import cosines_picture
from libmtl_recon.reproduction.cosines import Distribution


@pytest.mark.parametrize(
    ("cosines", "limits"), [((-0.72, 0.31), (-0.8, 0.4)), ((-0.99, 0.99), (-1.0, 1.0))]
)
def test_the_picture_of_few_cosines_has_whole_bins(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cosines: tuple[float, float],
    limits: tuple[float, float],
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(cosines_picture, "write_picture", lambda one, _: figures.append(one))
    found = Distribution("EW", "", of_whole(dict.fromkeys(cosines, 1)))
    cosines_picture.draw_cosines([found], tmp_path / "one.png")
    assert figures[0].axes[0].get_xlim() == pytest.approx(limits)
