"""The log of a GradOPS run for TensorBoard; this needs the package ``tensorboard``."""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.files import check_name, exists, is_folder
from libmtl_recon.weighting.gradops import GradOPSStep
from libmtl_recon.weighting.numbered import is_ours, names_for, note_ours

_logger = logging.getLogger(__name__)

# At most this much of the log is lost if the run is killed.
_FLUSH_SECONDS = 10


def check_tensorboard(parameter: str, folder: str | Path) -> None:
    """Check that events can be written to this folder, or to a numbered one.

    Events that this process has written are accepted: the folder of the next log gets a number.

    Raises:
        ReconError: TensorBoard is not installed.
        UsageError: The folder has the events of another run, or is a file.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ReconError(
            f"{parameter} needs the package tensorboard, which is not installed. Install it with "
            "`pip install 'libmtl-recon[tensorboard]'`, or log to a .csv file instead."
        )
    path = Path(folder)
    check_name(parameter, folder)
    if exists(path) and not is_folder(path):
        raise UsageError(parameter, "must be a folder", str(folder), "Name another.")
    if _has_events(path) and not is_ours(path):
        raise UsageError(
            parameter,
            "must be a folder without events, so that runs do not mix",
            str(folder),
            "Give each run a new folder next to the others: TensorBoard compares them.",
        )


class TensorBoardLog:
    """The scalars ``gradops/w/TASK``, ``gradops/r/TASK`` and ``gradops/conflict_rate`` of a run.

    The folder is created with the first step. If another model of this process logs to it, this
    one logs to DIR-2, DIR-3, …, which is printed.

    Args:
        folder: A folder without events.
        tasks: The names of all tasks.
    """

    def __init__(self, folder: str | Path, tasks: Sequence[str]) -> None:
        check_tensorboard("folder", folder)
        self._folder = Path(folder)
        self._writer: Any = None
        self._tasks = list(tasks)

    def write(
        self, number: int, epoch: int | None, step: GradOPSStep, present: Sequence[int]
    ) -> None:
        """Write one step; see :meth:`libmtl_recon.weighting.gradops_log.CSVLog.write`."""
        if self._writer is None:
            self._begin()
        scalars = {"gradops/conflict_rate": step.conflict_rate}
        for place, factor, speed in zip(
            present, step.factors.tolist(), step.speeds.tolist(), strict=True
        ):
            scalars[f"gradops/w/{self._tasks[place]}"] = factor
            scalars[f"gradops/r/{self._tasks[place]}"] = speed
        for name, value in scalars.items():
            if not math.isnan(value):
                self._writer.add_scalar(name, value, number)

    def close(self) -> None:
        """Write pending events."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        wanted = self._folder
        free = (path for path in names_for(wanted) if not is_ours(path) and not _has_events(path))
        self._folder = next(free)
        note_ours(self._folder)
        if self._folder != wanted:
            _logger.info(
                "GradOPS: another model of this run logs to %s; this one's folder is %s",
                wanted,
                self._folder,
            )
        self._writer = SummaryWriter(str(self._folder), flush_secs=_FLUSH_SECONDS)


def _has_events(folder: Path) -> bool:
    return next(folder.glob("events.out.tfevents.*"), None) is not None
