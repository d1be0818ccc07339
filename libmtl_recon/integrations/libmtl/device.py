"""The device to train on, which LibMTL's Trainer fixes to ``cuda:0``."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.data_parallel.devices import device_of_rank
from libmtl_recon.integrations.libmtl.data_parallel.environment import world

_logger = logging.getLogger(__name__)

VARIABLE = "LIBMTL_RECON_DEVICE"
# The variable set by LibMTL's --gpu_id, after which CUDA sees the named GPUs only.
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_FIXED = "cuda:0"  # LibMTL's own
_CHOSEN = "_libmtl_recon_device"


def choose_device() -> torch.device:
    """Return the device to train on: ``LIBMTL_RECON_DEVICE``, else CUDA, else MPS, else the CPU.

    Raises:
        UsageError: The variable or ``--gpu_id`` names a device that this machine does not have.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted:
        return _parse(wanted)
    found = world()
    if found is not None:
        return device_of_rank(found)
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    _refuse_missing_gpu()
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _parse(wanted: str) -> torch.device:
    usable = ["cpu"]
    usable += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    usable += ["mps"] if torch.backends.mps.is_available() else []
    # CUDA and MPS without a number mean their first device.
    first = {"cuda": "cuda:0", "mps:0": "mps", "cpu:0": "cpu"}
    if first.get(wanted, wanted) not in usable:
        visible = os.environ.get(_VISIBLE)
        hidden = (
            f" {_VISIBLE}={visible}, as LibMTL's --gpu_id sets it, hides all other GPUs and "
            "numbers those that it names from cuda:0."
            if visible is not None and wanted.startswith("cuda")
            else ""
        )
        raise UsageError(
            VARIABLE,
            f"must name a device of this machine ({', '.join(usable)})",
            wanted,
            f"Set it to one of these, or leave it unset to have one chosen.{hidden}",
        )
    return torch.device(first.get(wanted, wanted))


def _refuse_missing_gpu() -> None:
    """Refuse to train on the CPU if ``--gpu_id`` names a GPU that a machine with GPUs lacks.

    Without any GPU, LibMTL's default ``--gpu_id 0`` has no meaning.
    """
    visible = os.environ.get(_VISIBLE, "")
    if not visible or visible.startswith("-"):
        return  # nothing was requested, or all GPUs are hidden on purpose
    del os.environ[_VISIBLE]
    try:
        there = torch.cuda.device_count()
    finally:
        os.environ[_VISIBLE] = visible
    if there:
        raise UsageError(
            "--gpu_id",
            f"must name a GPU of this machine, from 0 to {there - 1}",
            visible,
            f"Leave it out for the first one; {VARIABLE}=cpu trains on the CPU.",
        )


def _get(trainer: Any) -> torch.device:
    device: torch.device | None = vars(trainer).get(_CHOSEN)
    return choose_device() if device is None else device


def _set(trainer: Any, device: torch.device | str) -> None:
    # LibMTL's own value leaves the choice to us; another device was chosen by the script.
    if str(device) != _FIXED:
        vars(trainer)[_CHOSEN] = torch.device(device)
        return
    chosen = choose_device()
    vars(trainer)[_CHOSEN] = chosen
    announced = "cuda:0" if torch.cuda.is_available() else "cpu"
    if str(chosen) != announced:  # by LibMTL, which does not know about the choice
        _logger.info("Recon: training on %s", chosen)


trainer_device = property(_get, _set, doc="The device of the model and the data.")
