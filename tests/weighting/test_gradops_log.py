"""The log of a GradOPS run: what is written comes back, whatever became of the run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from libmtl_recon import ReconError, UsageError
from libmtl_recon.weighting import gradops_log, numbered
from libmtl_recon.weighting.gradops import GradOPSStep, gradops_step
from libmtl_recon.weighting.gradops_log import CSVLog, check_log, read_log

TASKS = ("left", "right, too", 'the "third"')


def step(factors: list[float], speeds: list[float], rate: float = 0.5) -> GradOPSStep:
    return GradOPSStep(torch.ones(len(factors)), torch.tensor(factors), torch.tensor(speeds), rate)


def write_some(file: Path) -> None:
    log = CSVLog(file, TASKS, -1.5)
    log.write(1, 0, step([0.5, 1.0, 1.5], [1.25, 1.0, 0.75]), [0, 1, 2])
    log.write(2, 0, step([0.5, 1.5], [1.5, 0.5], rate=math.nan), [0, 2])
    log.write(3, None, step([2.0, 0.0, 1.0], [1.0, math.nan, 1.0], rate=1.0), [0, 1, 2])
    log.close()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "run.csv"
    write_some(file)
    log = read_log(file)
    assert log.tasks == TASKS
    assert log.alpha == -1.5
    nan = math.nan
    np.testing.assert_array_equal(log.steps, [1, 2, 3])
    np.testing.assert_array_equal(log.conflict_rate, [0.5, nan, 1.0])
    np.testing.assert_array_equal(log.factors, [[0.5, 1, 1.5], [0.5, nan, 1.5], [2, 0, 1]])
    np.testing.assert_array_equal(log.speeds, [[1.25, 1, 0.75], [1.5, nan, 0.5], [1, nan, 1]])


def test_means_leave_empty_cells_out(tmp_path: Path) -> None:
    log = CSVLog(tmp_path / "run.csv", TASKS, None)
    log.write(1, 0, step([0.5, 1.5], [1.5, 0.5], rate=math.nan), [0, 2])
    log.write(2, 0, step([1.0, 1.5], [math.nan, 1.0], rate=math.nan), [0, 2])
    log.close()
    means = read_log(tmp_path / "run.csv").means()
    np.testing.assert_array_equal(means.factors, [0.75, math.nan, 1.5])
    np.testing.assert_array_equal(means.speeds, [1.5, math.nan, 0.75])
    assert math.isnan(means.conflict_rate)


def test_a_step_of_gradops_is_logged_as_it_was(tmp_path: Path) -> None:
    rows = torch.randn(3, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    made = gradops_step(rows @ rows.T, -2.0)
    log = CSVLog(tmp_path / "run.csv", TASKS, -2.0)
    log.write(1, 0, made, [0, 1, 2])
    read = read_log(tmp_path / "run.csv")  # while it is still open
    np.testing.assert_allclose(read.factors[0], made.factors, rtol=1e-5)
    np.testing.assert_allclose(read.speeds[0], made.speeds, rtol=1e-5)
    log.close()


def test_a_run_that_never_trains_leaves_no_log(tmp_path: Path) -> None:
    CSVLog(tmp_path / "run.csv", TASKS, None).close()
    assert not list(tmp_path.iterdir())


def test_static_weights_have_no_alpha(tmp_path: Path) -> None:
    log = CSVLog(tmp_path / "run.csv", ["a"], None)
    log.write(1, 0, step([1.0], [1.0]), [0])
    assert math.isnan(read_log(tmp_path / "run.csv").alpha)
    log.close()


def test_a_row_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "run.csv"
    write_some(file)
    whole = file.read_text()
    file.write_text(whole + "4,1,-1.5,0.3")
    assert read_log(file).steps.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is not a log of GradOPS"),
        ("step,loss\n1,2\n", "is not a log of GradOPS"),
        ("step,epoch,alpha,conflict_rate,w a,r b\n", "is not a log of GradOPS"),
        ("step,epoch,alpha,conflict_rate,w a,r a\n", "contains no step yet"),
        ("step,epoch,alpha,conflict_rate,w a,r a\n1,0,0\n", "is damaged: a line has 3 cells"),
        ("step,epoch,alpha,conflict_rate,w a,r a\n1,0,0,x,1,1\n", "is damaged"),
    ],
)
def test_what_is_no_log_is_said_to_be_none(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "run.csv"
    file.write_text(content)
    with pytest.raises(ReconError, match=says):
        read_log(file)


def test_a_log_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="No such file"):
        read_log(tmp_path / "none.csv")
    (tmp_path / "run.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReconError, match="it is not text in UTF-8"):
        read_log(tmp_path / "run.csv")


def test_no_run_writes_over_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if other processes had written what this one does.
    monkeypatch.setattr(numbered, "note_ours", lambda path: None)
    monkeypatch.setattr(gradops_log, "note_ours", lambda path: None)
    write_some(tmp_path / "run.csv")
    with pytest.raises(UsageError, match="file must be a new file"):
        CSVLog(tmp_path / "run.csv", TASKS, 0.0)
    late = CSVLog(tmp_path / "late.csv", TASKS, 0.0)
    write_some(tmp_path / "late.csv")  # by another run, meanwhile
    with pytest.raises(UsageError, match="must be a new file"):
        late.write(1, 0, step([1, 1, 1], [1, 1, 1]), [0, 1, 2])
    assert read_log(tmp_path / "late.csv").alpha == -1.5


@pytest.mark.usefixtures("shown")
def test_each_model_of_a_run_has_a_log_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, old = tmp_path / "run.csv", tmp_path / "run-2.csv"
    old.write_text("from before", encoding="utf-8")
    logs = [CSVLog(file, TASKS, alpha) for alpha in (1.0, 2.0, 3.0)]  # before any has trained
    for log in logs:
        log.write(1, 0, step([1, 1, 1], [1, 1, 1]), [0, 1, 2])
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"GradOPS: {file} is the log of another model of this run; this one's is {tmp_path / name}"
        for name in ("run-3.csv", "run-4.csv")
    ]
    check_log("--gradops_log", file)  # for a model that is made now
    for log in logs:
        log.write(2, 0, step([1, 1, 1], [1, 1, 1]), [0, 1, 2])
        log.close()
    assert old.read_text(encoding="utf-8") == "from before"
    for name, alpha in (("run.csv", 1.0), ("run-3.csv", 2.0), ("run-4.csv", 3.0)):
        found = read_log(tmp_path / name)
        assert (found.alpha, found.steps.tolist()) == (alpha, [1, 2])


@pytest.mark.parametrize(
    ("name", "says"), [("run.txt", "ends in .csv"), ("none/run.csv", "a folder that exists")]
)
def test_bad_names_are_refused_before_the_run(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_log("--gradops_log", tmp_path / name)


def test_a_full_disk_ends_the_log_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CSVLog(tmp_path / "run.csv", TASKS, 0.0)
    log.write(1, 0, step([1, 1, 1], [1, 1, 1]), [0, 1, 2])

    class Full:
        def writerow(self, row: object) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(gradops_log.csv, "writer", lambda *args, **kwargs: Full())
    with pytest.warns(UserWarning, match="ends at step 1: No space left on device"):
        log.write(2, 0, step([1, 1, 1], [1, 1, 1]), [0, 1, 2])
    log.write(3, 0, step([1, 1, 1], [1, 1, 1]), [0, 1, 2])  # silent by now
    log.close()
    monkeypatch.undo()
    assert read_log(tmp_path / "run.csv").steps.tolist() == [1]
