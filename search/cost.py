"""Measure the cost of training in a run: the time of a step, and memory."""

from __future__ import annotations

import statistics
import sys
import time
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Any

# Left out of the median, where there are twice as many: kernels are chosen and memory is taken.
WARM_UP = 5
_STATUS = Path("/proc/self/status")


class StepClock:
    """The times between an optimiser's steps.

    It reads a clock after each step and nothing else, so that what is trained stays the same and
    no accelerator is waited for. LibMTL itself reads each batch's losses back before it
    differentiates them: by then an accelerator has done the step before, so that the times
    between steps are those of its work, too.
    """

    def __init__(self) -> None:
        self._seconds = array("d")  # behind another step of the same pass
        self._first_seconds = array("d")  # of the first step of a pass
        self._last = 0.0
        self._begins = True
        self._optimizer: Any = None
        self._handle: Any = None

    def follow(self, optimizer: Any) -> None:
        """Listen to an optimiser from now on, in place of an earlier one; a pass begins.

        Args:
            optimizer: One that is none of torch.optim's is left alone, and its steps have no time.
        """
        from torch.optim import Optimizer

        if optimizer is not self._optimizer:
            self.stop()
            self._optimizer = optimizer
            # One that wraps another may be an Optimizer that was never initialised as such.
            if isinstance(optimizer, Optimizer) and hasattr(
                optimizer, "_optimizer_step_post_hooks"
            ):
                self._handle = optimizer.register_step_post_hook(self._stepped)
        self.begin()

    def begin(self) -> None:
        """Do not count the waiting time at the start or end of a pass over the data."""
        self._last, self._begins = time.perf_counter(), True

    def stop(self) -> None:
        """Listen no longer."""
        if self._handle is not None:
            self._handle.remove()
        self._optimizer = self._handle = None

    def _stepped(self, *_: Any) -> None:
        now = time.perf_counter()
        (self._first_seconds if self._begins else self._seconds).append(now - self._last)
        self._last, self._begins = now, False

    @property
    def step_time(self) -> float | None:
        """The median in seconds, without the first :data:`WARM_UP`; None where no step was seen.

        The first step of each pass over the data also waits for its loader, and counts only where
        no pass has a second one.
        """
        seconds = self._seconds or self._first_seconds
        kept = seconds[min(WARM_UP, len(seconds) // 2) :]
        return statistics.median(kept) if kept else None


def peak_memory(model: Any) -> int | None:
    """The most memory that this process has held so far, in bytes.

    Where the model is on CUDA devices, what PyTorch has allocated on all of them; else what is
    resident of the process, with Python and PyTorch themselves, but without processes that it has
    started, such as a loader's workers. None where the system does not tell.
    """
    import torch

    if any(parameter.is_cuda for parameter in model.parameters()):
        devices = range(torch.cuda.device_count())
        return sum(torch.cuda.max_memory_allocated(device) for device in devices)
    # Not getrusage, where there is this: a program that was started by another has the other's
    # peak there.
    with suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
