"""What is wrong with a checkpoint is said, with what to do about it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from libmtl_recon import ReconError, split_layers
from libmtl_recon.splitting.checkpoint import load_model, load_optimizer, read_checkpoint
from libmtl_recon.splitting.split import split_beside
from libmtl_recon.splitting.task_selection import TaskSelection

GOOD = {"0.weight": torch.ones(2, 3), "0.bias": torch.ones(2)}


def read(folder: Path, saved: Any = GOOD) -> Any:
    torch.save(saved, folder / "c.pt")
    return read_checkpoint("CHECKPOINT", folder / "c.pt")


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ({"state_dict": GOOD}, "Its entry 'state_dict' looks like one; save only that entry"),
        ({**GOOD, "epoch": 3}, r"'epoch' is not a tensor \(its type is int\)"),
        ({float("nan"): torch.ones(1)}, "does not contain a state dict"),
        ([torch.ones(1)], "does not contain a state dict"),
        ({"model": GOOD, "optimizer": {"state": {}, "param_groups": []}}, "an optimiser's state"),
        ({"model": GOOD, "optimizer": 3}, "an optimiser's state that is not a state dict"),
    ],
)
def test_what_is_saved_is_no_state_dict(saved: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ReconError, match=f"CHECKPOINT .*c.pt .*{said}"):
        read(tmp_path, saved)


def test_what_is_no_file_of_a_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "c.pt"
    file.touch()
    with pytest.raises(ReconError, match="is empty, perhaps because a disk was full"):
        read_checkpoint("CHECKPOINT", file)
    with pytest.raises(ReconError, match="cannot be read: Is a directory"):
        read_checkpoint("CHECKPOINT", tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ReconError, match="it is a device or a pipe"):
        read_checkpoint("CHECKPOINT", tmp_path / "pipe")
    with pytest.raises(ReconError, match="is not a checkpoint"):
        read_checkpoint("CHECKPOINT", "a\0b")


def test_a_checkpoint_without_check_sums_is_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        found = read(tmp_path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert found.model.keys() == GOOD.keys()


def test_numbers_of_another_kind_are_refused(tmp_path: Path) -> None:
    for layers in ([], ["0"]):
        network = split_beside(nn.Sequential(nn.Linear(3, 2)), layers, TaskSelection(["a", "b"]))
        for dtype, kind in ((torch.complex64, "complex"), (torch.int32, "whole")):
            checkpoint = read(tmp_path, {**GOOD, "0.weight": torch.ones(2, 3, dtype=dtype)})
            with pytest.raises(
                ReconError,
                match=rf"0\.weight has {kind} .* the network has real "
                r"numbers",
            ):
                load_model(network, checkpoint, lambda _: False)
        half = read(tmp_path, {key: value.half() for key, value in GOOD.items()})
        assert load_model(network, half, lambda _: False) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"exp_avg": torch.ones(9)}, r"exp_avg of the shape \[9\] for one of \[2, 3\]"),
        ({"exp_avg": None}, "exp_avg that is missing or not a number"),
        ({"step": "3"}, "step that is missing or not a number"),
        ({"other": torch.ones(())}, "other that is missing or not a number"),
    ],
)
def test_an_optimisers_state_must_fit(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Linear(3, 2))
    adam = torch.optim.Adam(plain.parameters())
    plain(torch.ones(1, 3)).sum().backward()
    adam.step()
    saved = {"model": plain.state_dict(), "optimizer": adam.state_dict()}
    split = split_layers(nn.Sequential(nn.Linear(3, 2)), ["0"], ["a", "b"])
    ours = torch.optim.Adam(split.parameters())
    load_optimizer(split, ours, read(tmp_path, saved))
    assert len(ours.state) == 4
    saved["optimizer"]["state"][0].update(change)
    with pytest.raises(ReconError, match=said):
        load_optimizer(split, ours, read(tmp_path, saved))
