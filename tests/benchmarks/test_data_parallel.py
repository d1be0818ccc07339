"""The benchmark of data-parallel steps: what it makes of its measurements, and that it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FLAGS = (
    "--network tiny --tasks 3 --ranks 2 --methods GradOPS --batch 4 --size 8 --rounds 1 --steps 2"
)

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Linux alone tells what a connection has sent"
)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import data_parallel

    return data_parallel


def line(shown: str, method: str) -> dict[str, str]:
    """A method's line of a table, by its head."""
    rows = [row.split("|")[1:-1] for row in shown.splitlines() if row.startswith("|")]
    head, _, *lines = [[cell.strip() for cell in row] for row in rows]
    (found,) = (own for own in lines if own[1] == method)
    return dict(zip(head, found, strict=True))


@pytest.mark.slow
def test_what_is_counted_follows_from_the_sizes_and_the_kernel_agrees(
    benchmark: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = [*FLAGS.split(), "--out", str(tmp_path / "out.json")]
    benchmark.main(flags)
    shown = capfd.readouterr().out
    kept = json.loads((tmp_path / "out.json").read_text())
    assert [job["job"]["ranks"] for job in kept] == [2, 1]
    first, second = ({turn["method"]: turn for turn in own} for own in kept[0]["turns"])
    # A convolution of 3 x 3 from 3 channels to 4, and three heads from 4 numbers to 10 classes.
    shared, trained, parameters = 4 * 28, 4 * 28 + 3 * 50, 2 + 6
    gradients = 4 * trained + parameters
    header, labels, scores = 8 * 64, 8 * 4, 4 * 4 * 10
    for rank in (first, second):
        for turn in rank.values():
            assert (turn["shared"], turn["trained"]) == (shared, trained)
            assert turn["sent"]["gradients"] == gradients
            assert turn["sent"]["predictions"] == header + 3 * (labels + scores)
        # As many positions as make products dear: the rows, of which each rank is sent its half.
        assert rank["GradOPS"]["sent"]["rows"] == 4 * 3 * shared / 2
        assert rank["GradOPS"]["sent"]["gramians"] == 8 * (3 * 3 + 3)
        assert "rows" not in rank["EW"]["sent"]
    for method in ("EW", "GradOPS"):
        found = line(shown, method)
        assert (found["W"], found["gradients"]) == ("2", f"{gradients / 1e6:.3f}")
        # Small messages have headers that are large beside them.
        assert 1.0 < float(found["kernel ÷ counted"]) < 1.4
    assert line(shown, "EW")["memory"] == "0.000 (0.00)"
    assert kept[1]["turns"][0][0]["sent"] == {}
    benchmark.main(flags)
    assert capfd.readouterr().out == shown
    assert json.loads((tmp_path / "out.json").read_text()) == kept


def test_a_line_says_how_much_more_it_is_than_averaging(benchmark: ModuleType) -> None:
    def turn(method: str, seconds: float, sent: dict[str, float], **other: Any) -> Any:
        about = {"on_wire": 0.0, "memory": 0, "resident": 0, "trained": 500, "shared": 250}
        return benchmark.Turn(method, [9.0, seconds, seconds], sent, **{**about, **other})

    job = benchmark.Job("tiny", 4, 8, 2, 2, ("EW", "GradOPS"), rounds=2, steps=3)
    ew = {"gradients": 2000.0, "predictions": 400.0}
    ours = {"gradients": 2000.0, "rows": 500.0, "plan": 100.0, "predictions": 400.0}
    ranks = [
        [
            turn("EW", 1.0, ew, memory=1000, resident=5000),
            turn("GradOPS", 2.0, ours, memory=1400, resident=5400, on_wire=3030.0),
            turn("EW", 1.0, ew, memory=1100, resident=5000),
            turn("GradOPS", 4.0, ours, memory=1600, resident=5400, on_wire=3030.0),
        ],
        [
            turn("EW", 1.0, ew, memory=1000, resident=5000),
            turn("GradOPS", 3.0, ours | {"rows": 700.0}, memory=1200, on_wire=3230.0),
            turn("EW", 3.0, ew, memory=1000, resident=5000),
            turn("GradOPS", 4.0, ours | {"rows": 700.0}, memory=1200, on_wire=3230.0),
        ],
    ]
    alone = [[turn("EW", 1.0, {}), turn("GradOPS", 2.5, {})] * 2]
    cells = benchmark.cells(
        benchmark.Measured(job, ranks), benchmark.Measured(job, alone), "GradOPS"
    )
    found = dict(zip(benchmark.labels(), cells, strict=True))
    # 2 d (W - 1) / W numbers of d = 500 are 2000 bytes, of which there are 2700 on average.
    assert benchmark.all_reduce(500, 2) == 2000
    assert (found["÷ all-reduce"], found["kernel ÷ counted"]) == ("1.350", "1.0097")
    # [T, d] is 2000 bytes, and the rank with most has 1600 - 1100 above EW in the round with most.
    assert found["memory"] == "0.250 (0.20)"
    assert found["CPU ÷ EW"] == "2.25 (2.00–2.50)"
    assert found["CPU ÷ 1"] == "2.60 (2.00–3.20)"
    assert (found["rows"], found["other"], found["predictions"]) == ("0.001", "0.000", "0.000")
    assert found["products"] == ""
