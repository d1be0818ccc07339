"""Measure the costs of training in a run: step time and memory."""

from __future__ import annotations

import statistics
import sys
import time
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Any

# Steps left out of the median if there are twice as many: kernels are chosen and memory allocated.
WARM_UP = 5
_STATUS = Path("/proc/self/status")


class StepClock:
    """The times between an optimiser's steps.

    It only reads a clock after each step, so that the training is unchanged and there is no
    synchronisation with an accelerator. LibMTL itself copies each batch's losses to the CPU before
    it differentiates them: the accelerator has then finished the last step, so that the times
    between steps include its work.
    """

    def __init__(self) -> None:
        self._seconds = array("d")  # after another step of the same pass
        self._first_seconds = array("d")  # of the first step of a pass
        self._last = 0.0
        self._begins = True
        self._optimizer: Any = None
        self._handle: Any = None

    def follow(self, optimizer: Any) -> None:
        """Follow an optimiser from now on, instead of an earlier one; a pass begins.

        Args:
            optimizer: An optimiser. If it is not one of torch.optim, its steps are not timed.
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
        """Stop following the optimiser."""
        if self._handle is not None:
            self._handle.remove()
        self._optimizer = self._handle = None

    def _stepped(self, *_: Any) -> None:
        now = time.perf_counter()
        (self._first_seconds if self._begins else self._seconds).append(now - self._last)
        self._last, self._begins = now, False

    @property
    def step_time(self) -> float | None:
        """Return the median in seconds, without the first :data:`WARM_UP`; None without steps.

        The first step of each pass over the data also waits for its loader, and only counts if no
        pass has a second step.
        """
        seconds = self._seconds or self._first_seconds
        kept = seconds[min(WARM_UP, len(seconds) // 2) :]
        return statistics.median(kept) if kept else None


def peak_memory(model: Any) -> int | None:
    """Return the peak memory of this process so far, in bytes.

    If the model is on CUDA devices, this is the memory that PyTorch has allocated on all of them;
    otherwise the resident memory of the process, including Python and PyTorch, but without child
    processes such as a loader's workers. None if the system does not report it.
    """
    import torch

    if any(parameter.is_cuda for parameter in model.parameters()):
        devices = range(torch.cuda.device_count())
        return sum(torch.cuda.max_memory_allocated(device) for device in devices)
    # Preferred to getrusage, which reports the parent's peak for a program started by another.
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
