"""The benchmark of per-task gradients runs, on a tiny network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gradients.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def table(shown: str) -> list[dict[str, str]]:
    """The lines of a table, by its head."""
    rows = [row.split("|") for row in shown.splitlines() if row.startswith("|")]
    head, rule, *lines = [[cell.strip() for cell in row[1:-1]] for row in rows]
    assert len(rule) == len(head)
    return [dict(zip(head, line, strict=True)) for line in lines]


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import side_by_side

    return side_by_side


@pytest.mark.slow
def test_a_line_compares_the_columns_and_is_not_measured_again(tmp_path: Path) -> None:
    flags = [
        *("--network", "tiny", "--device", "cpu", "--tasks", "3", "--rounds", "1", "--batch", "4"),
        *("--weightings", "PCGrad", "--columns", "stored", "ours", "autojac-1", "libmtl"),
        *("--out", str(tmp_path / "lines.json")),
    ]
    shown = run(*flags)
    (line,) = table(shown)
    assert (line["network"], line["weighting"], line["T"]) == ("tiny", "PCGrad", "3")
    ratios = ["stored / bare", "ours / bare", "autojac-1 / bare", "LibMTL / bare"]
    for cell in ("bare ms", *ratios, "LibMTL / ours", "autojac-1 / ours", "memory stored"):
        assert float(line[cell]) > 0
    assert "autogram / bare" not in line
    kept = json.loads((tmp_path / "lines.json").read_text())
    assert len(kept) == 1
    assert run(*flags) == shown
    assert json.loads((tmp_path / "lines.json").read_text()) == kept


@pytest.fixture
def line(side_by_side: ModuleType, monkeypatch: pytest.MonkeyPatch) -> object:
    from gradients_worker import Memory, Refused, Setting, Took

    # A step's seconds and those before the weighting and in it; the first round is for warming up.
    took = {
        "bare": [(9.0, 9.0, 9.0), (0.15, 0.05, 0.1), (0.3, 0.1, 0.2), (0.2, 0.05, 0.15)],
        "ours": [(9.0, 9.0, 9.0), (0.2, 0.07, 0.1), (0.4, 0.1, 0.3), (0.25, 0.05, 0.18)],
        "libmtl": [(9.0, 9.0, 9.0), (0.6, 0.05, 0.5), (0.8, 0.1, 0.7), (0.7, 0.05, 0.6)],
        "autojac": [(9.0, 9.0, 9.0), (0.6, 0.05, 0.4), (0.8, 0.1, 0.8), (0.7, 0.05, 0.6)],
        "autogram": [],
    }
    peaks = {"libmtl": 700, "ours": 200, "bare": 100, "autojac": 500}

    class Worker:
        def __init__(self, way: str, _: Setting) -> None:
            self.way, self.steps = way, iter(took[way])

        def step(self) -> Took | Refused:
            return Took(*next(self.steps)) if self.way != "autogram" else Refused("ValueError: no")

        def end(self) -> Memory:
            return Memory(peaks[self.way], 200)

    setting = Setting("PCGrad", 3, False, "tiny", 4, 32, "cpu", steps=4)
    return side_by_side.measure(setting, list(took), Worker)


COLUMNS = ["bare", "ours", "autojac", "autogram", "libmtl"]


def test_a_line_has_the_medians_of_the_rounds(side_by_side: ModuleType, line: object) -> None:
    found = dict(zip(side_by_side.labels(COLUMNS), side_by_side.cells(line, COLUMNS), strict=True))
    assert found["bare ms"] == "150"
    assert found["rounds"] == "3"
    # The first round's forward pass took 0.02 s longer than that of the bare passes.
    assert found["ours / bare"] == "1.20 (1.20–1.50)"
    assert found["LibMTL / ours"] == "2.80 (2.00–3.00)"
    assert found["TorchJD / ours"] == "3.33 (2.67–3.33)"
    assert (found["memory LibMTL"], found["memory ours"]) == ("3.00", "0.50")
    assert (found["autogram / bare"], found["memory autogram"]) == ("", "")


def test_a_refusal_stands_under_the_table(
    side_by_side: ModuleType,
    line: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(side_by_side, "measure", lambda *_: line)
    for _ in range(2):  # the second time it is read
        side_by_side.print_table([(line.setting, COLUMNS)], COLUMNS, tmp_path / "out.json")
        out = capsys.readouterr().out
        assert out.splitlines()[-1] == "autogram, tiny T = 3, PCGrad: ValueError: no"
        monkeypatch.setattr(side_by_side, "measure", None)


def test_allocated_bytes_are_counted(side_by_side: ModuleType) -> None:
    from gradients_worker import Allocations

    kept = torch.zeros(1000)
    allocations = Allocations("cpu")
    with allocations:
        first = kept + 1
        second = first + 1
        del first
        third = second + 1
    assert third.shape == kept.shape
    assert 8000 <= allocations.peak() < 8200


def test_the_published_table_has_its_rows(
    monkeypatch: pytest.MonkeyPatch, side_by_side: ModuleType
) -> None:
    import gradients

    rows = list(gradients.table("cpu", gradients.COLUMNS[:7]))
    assert len({setting for setting, _ in rows}) == len(rows) == 20
    many = [setting for setting, _ in rows if setting.tasks == 40]
    assert {(one.network, one.size) for one in many} == {("resnet18", 32)}
    for setting, columns in rows:
        assert ("libmtl" in columns) == (setting.weighting == "PCGrad")
        assert columns[0] == "bare"
        assert {"stored", "ours"} <= set(columns)


@pytest.mark.parametrize("name", ["mlp", "lstm", "segnet", "vit"])
def test_the_networks_take_their_inputs(name: str, side_by_side: ModuleType) -> None:
    from networks import NETWORKS

    network, size = NETWORKS[name], 16
    labels = network.labels(2, 3, size)
    encoder, head = network.encoder(size), network.head()
    predicted = head(encoder(network.inputs(3, size)))
    loss = torch.nn.functional.cross_entropy(predicted, labels[0])
    loss.backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_the_help_says_what_is_measured() -> None:
    shown = run("--help")
    words = ("--tasks", "--weightings", "--rounds", "--device", "--table", "--out", "--columns")
    for word in (*words, "bare backward passes", "[T, d]"):
        assert word in shown


def test_all_columns_make_the_same_update(side_by_side: ModuleType) -> None:
    from gradients_worker import Setting, _backward, _batch, _trainer, quietly

    def gradients(way: str) -> list[torch.Tensor]:
        setting = Setting("GradOPS", 3, False, "tiny", 4, 8, "cpu", steps=1)
        trainer = _trainer(way, setting)
        trainer.model.backward = _backward(trainer.model, way, "GradOPS")
        batch = _batch(setting)
        with quietly():
            trainer.train([batch], [batch], epochs=1)
        return [parameter.grad for parameter in trainer.model.parameters()]

    from libmtl_recon.integrations.libmtl import prepared_arguments

    try:
        expected = gradients("ours")
        for way in ("stored", "ghost", "recording", "autojac", "autojac-1", "autogram"):
            torch.testing.assert_close(gradients(way), expected, rtol=1e-4, atol=1e-6)
    finally:
        prepared_arguments.forget()
