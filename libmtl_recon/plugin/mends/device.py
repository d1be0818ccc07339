"""LibMTL's Trainer puts everything on ``cuda:0``, whether there is one or not."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import torch

from libmtl_recon.errors import UsageError
from libmtl_recon.plugin.features import source_of
from libmtl_recon.plugin.mends.mend import Mend

VARIABLE = "LIBMTL_RECON_DEVICE"
_FIXED = "cuda:0"  # LibMTL's own
_CHOSEN = "_libmtl_recon_device"


def choose_device() -> torch.device:
    """The device to train on: ``LIBMTL_RECON_DEVICE``, else CUDA, else MPS, else the CPU.

    Raises:
        UsageError: The variable names no device of this machine.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted:
        return _parse(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _parse(wanted: str) -> torch.device:
    usable = ["cpu"]
    usable += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    usable += ["mps"] if torch.backends.mps.is_available() else []
    if wanted not in usable and not (wanted == "cuda" and torch.cuda.is_available()):
        raise UsageError(
            VARIABLE,
            f"must name a device of this machine ({', '.join(usable)})",
            wanted,
            "Set it to one of these, or leave it unset to have one chosen.",
        )
    return torch.device(wanted)


def _get(trainer: Any) -> torch.device:
    device: torch.device | None = vars(trainer).get(_CHOSEN)
    return choose_device() if device is None else device


def _set(trainer: Any, device: torch.device | str) -> None:
    # What LibMTL says leaves the choice to us; another device is the script's own wish.
    fixed = str(device) == _FIXED
    vars(trainer)[_CHOSEN] = choose_device() if fixed else torch.device(device)


def _needed(libmtl: ModuleType) -> bool:
    return repr(_FIXED) in source_of(libmtl.Trainer.__init__)


def _apply(libmtl: ModuleType) -> None:
    libmtl.Trainer.device = property(_get, _set, doc="The device of the model and the data.")


MEND = Mend(
    name="device",
    reason=f"LibMTL's Trainer fixes the device to {_FIXED}",
    needed=_needed,
    apply=_apply,
)
