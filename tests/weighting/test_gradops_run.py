"""GradOPS's flags through a whole LibMTL script: what they write, refuse and leave alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from libmtl_recon import SingleTask, run_script
from libmtl_recon.weighting.gradops_log import read_log

SCRIPT = Path(__file__).parents[1] / "scripts" / "two_tasks.py"
STEPS = 16  # two epochs of eight batches


def train(*flags: str) -> int:
    return run_script(SCRIPT, ["--weighting", "GradOPS", *flags])


@pytest.fixture(autouse=True)
def _one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")


def test_a_run_logs_every_step(tmp_path: Path) -> None:
    file = tmp_path / "run.csv"
    assert train("--gradops_alpha=-2", "--gradops_log", str(file)) == 0
    log = read_log(file)
    assert log.tasks == ("sign", "size")
    assert log.alpha == -2
    assert log.steps.tolist() == list(range(1, STEPS + 1))
    np.testing.assert_allclose(log.factors.sum(axis=1), 2.0, rtol=1e-5)
    np.testing.assert_allclose(log.speeds.sum(axis=1), 2.0, rtol=1e-5)
    slower = log.speeds[:, 0] < log.speeds[:, 1]
    np.testing.assert_array_equal(slower, log.factors[:, 0] > log.factors[:, 1])
    assert set(log.conflict_rate) <= {0.0, 1.0}


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own, of numpy and protobuf
def test_static_weights_are_scaled_and_events_written(tmp_path: Path) -> None:
    file, events = tmp_path / "run.csv", tmp_path / "events"
    flags = ("--gradops_weights", "2,6", "--gradops_log", str(file))
    assert train(*flags, "--gradops_tensorboard", str(events)) == 0
    log = read_log(file)
    assert np.isnan(log.alpha)
    np.testing.assert_array_equal(log.factors, np.tile([0.5, 1.5], (STEPS, 1)))
    assert len(list(events.glob("events.out.tfevents.*"))) == 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--gradops_weights", "1,2,3"), "--gradops_weights must be 2 numbers"),
        (("--gradops_weights", "1;2"), "must be a comma-separated list of numbers"),
        (("--gradops_weights", "1,0"), "must be finite numbers above 0"),
        (("--gradops_weights", "1,2", "--gradops_alpha", "1"), "Leave one of the two out"),
        (("--gradops_alpha", "nan"), "--gradops_alpha must be a finite number"),
        (("--gradops_log", "run.txt"), "--gradops_log must be a file name that ends in .csv"),
        (("--gradops_log", "old.csv"), "--gradops_log must be a new file"),
        (("--gradops_tensorboard", "old.csv"), "--gradops_tensorboard must be a folder"),
    ],
)
def test_what_the_flags_cannot_mean_is_refused_before_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.csv").touch()
    assert train(*flags) == 2
    shown = capsys.readouterr()
    assert says in shown.err
    assert "Epoch: 0000" not in shown.out


def test_one_task_is_trained_as_without_gradops(tmp_path: Path) -> None:
    for weighting in ("GradOPS", "EW"):
        flags = ["--weighting", weighting, "--dump", str(tmp_path / weighting)]
        assert run_script(SCRIPT, flags, hooks=[SingleTask("size")]) == 0
    ours, plain = (torch.load(tmp_path / weighting) for weighting in ("GradOPS", "EW"))
    assert torch.equal(ours["losses"], plain["losses"])
    assert ours["after"].keys() == plain["after"].keys()
    for name, value in plain["after"].items():
        assert torch.equal(ours["after"][name], value), name
