"""TensorBoard reads what GradOPS logged; no run mixes with another."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from libmtl_recon import ReconError, UsageError
from libmtl_recon.weighting import numbered
from libmtl_recon.weighting.gradops import GradOPSStep
from libmtl_recon.weighting.gradops_tensorboard import TensorBoardLog, check_tensorboard


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own, of numpy and protobuf
def test_the_scalars_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TensorBoardLog(tmp_path / "run", ["left", "right"])
    assert not (tmp_path / "run").exists()
    both = GradOPSStep(torch.ones(2), torch.tensor([0.5, 1.5]), torch.tensor([1.25, 0.75]), 1.0)
    one = GradOPSStep(torch.ones(1), torch.tensor([1.0]), torch.tensor([math.nan]), math.nan)
    log.write(1, 0, both, [0, 1])
    log.write(2, 0, one, [1])
    log.close()
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    found = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    assert found == {
        "gradops/w/left": [(1, 0.5)],
        "gradops/w/right": [(1, 1.5), (2, 1.0)],
        "gradops/r/left": [(1, 1.25)],
        "gradops/r/right": [(1, 0.75)],
        "gradops/conflict_rate": [(1, 1.0)],
    }
    check_tensorboard("--gradops_tensorboard", tmp_path / "run")  # for another model of this run
    TensorBoardLog(tmp_path / "run", ["left", "right"]).write(1, 0, both, [0, 1])
    assert len(list((tmp_path / "run").iterdir())) == 1
    assert len(list((tmp_path / "run-2").iterdir())) == 1
    monkeypatch.setattr(numbered, "_written", set())  # as if another process had written them
    with pytest.raises(UsageError, match="a folder without events"):
        check_tensorboard("--gradops_tensorboard", tmp_path / "run")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UsageError, match="must be a folder"):
        check_tensorboard("--gradops_tensorboard", tmp_path / "run")


def test_without_tensorboard_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ReconError, match=r"pip install 'libmtl-recon\[tensorboard\]'"):
        check_tensorboard("--gradops_tensorboard", tmp_path)
