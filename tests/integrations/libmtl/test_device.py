"""The device: chosen, named, or refused with what there is."""

from __future__ import annotations

from typing import Any

from small_problem import make_trainer

# isort: split
import pytest
import torch
from LibMTL.utils import set_device

from libmtl_recon import UsageError
from libmtl_recon.integrations.libmtl.data_parallel.devices import leave_visible
from libmtl_recon.integrations.libmtl.device import choose_device


class Machine:
    """A machine with GPUs, some of them visible to CUDA, as CUDA_VISIBLE_DEVICES says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: int = 0, mps: bool = False) -> None:
        self.gpus = gpus
        monkeypatch.delenv("LIBMTL_RECON_DEVICE", raising=False)
        # Set first, so that it is put back whatever LibMTL's set_device does to it.
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        monkeypatch.setattr(torch.cuda, "device_count", self.count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: self.count() > 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    def count(self) -> int:
        import os

        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        if named is None:
            return self.gpus
        return sum(name.isdigit() and int(name) < self.gpus for name in named.split(","))


@pytest.mark.parametrize(
    ("gpus", "mps", "gpu_id", "device"),
    [
        (0, False, "0", "cpu"),  # LibMTL's default on a machine without GPUs
        (0, False, "3", "cpu"),
        (0, True, "0", "mps"),
        (2, False, "0", "cuda:0"),
        (2, False, "1", "cuda:0"),  # the only one that CUDA sees
        (2, False, "-1", "cpu"),
        (2, False, "", "cpu"),
        (2, True, "", "mps"),
    ],
)
def test_the_device_is_the_best_that_gpu_id_leaves(
    gpus: int, mps: bool, gpu_id: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, gpus, mps)
    set_device(gpu_id)
    assert choose_device() == torch.device(device)


def test_a_gpu_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    Machine(monkeypatch, gpus=2)
    set_device("5")
    with pytest.raises(UsageError, match=r"--gpu_id must name a GPU .* from 0 to 1 \(got '5'\)"):
        make_trainer("EW")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5", "put back"
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")
    assert choose_device() == torch.device("cpu"), "the variable has the last word"


@pytest.mark.parametrize(
    ("wanted", "device"),
    [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("mps", "mps"), ("mps:0", "mps")],
)
def test_the_variable_chooses(wanted: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, gpus=2, mps=True)
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", wanted)
    assert choose_device() == torch.device(device)


@pytest.mark.parametrize("wanted", ["cuda:7", "gpu", "cuda:x", "CPU", "xpu", "cuda:-1", "meta"])
def test_what_it_may_not_name_is_refused(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, gpus=1)
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", wanted)
    with pytest.raises(UsageError, match=r"must name a device .* \(cpu, cuda:0\) \(got") as caught:
        choose_device()
    assert caught.value.value == wanted
    assert "hides" not in str(caught.value)


def test_a_gpu_hidden_by_gpu_id_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, gpus=2)
    set_device("1")
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cuda:1")
    with pytest.raises(UsageError, match=r"CUDA_VISIBLE_DEVICES=1, as LibMTL's --gpu_id sets it"):
        choose_device()


def test_what_libmtl_announced_wrongly_is_put_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Machine(monkeypatch, gpus=1)
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")
    trainer: Any = make_trainer("EW")
    assert trainer.device == torch.device("cpu")
    assert "Recon: training on cpu" in capsys.readouterr().out
    Machine(monkeypatch, gpus=0)
    make_trainer("EW")
    assert "training on" not in capsys.readouterr().out


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    for name, value in (
        *(("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", size), ("LOCAL_WORLD_SIZE", size)),
        *(("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", 29500)),
    ):
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("gpus", "gpu_id", "device"),
    [
        (2, "0", "cuda:{rank}"),  # LibMTL's default, by which both would see one GPU
        (4, "0", "cuda:{rank}"),
        (4, "2,3", "cuda:{rank}"),  # counted from 0 by CUDA
        (0, "0", "cpu"),
        (2, "-1", "cpu"),
    ],
)
def test_each_rank_has_a_gpu_of_its_own(
    gpus: int, gpu_id: str, device: str, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, gpus)
    as_rank(monkeypatch, rank, 2)
    leave_visible(set_device, gpu_id)
    assert choose_device() == torch.device(device.format(rank=rank))
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")
    assert choose_device() == torch.device("cpu")


def test_fewer_gpus_than_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, 2)
    as_rank(monkeypatch, 0, 4)
    with pytest.raises(UsageError, match=r"--nproc-per-node must be at most .* 2 \(got 4\)"):
        choose_device()
    with pytest.raises(UsageError, match=r"--gpu_id must name as many GPUs .*, 4 \(got '1,2'\)"):
        leave_visible(set_device, "1,2")


def test_one_process_is_given_what_gpu_id_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    Machine(monkeypatch, 2)
    leave_visible(set_device, "1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
