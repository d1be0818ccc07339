"""The record of a run: one JSON object per line, written during the run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from libmtl_recon_search.cost import StepClock, peak_memory

from libmtl_recon import Measurement, TrainerHook, known_weightings
from libmtl_recon.output import warn

CANNOT_WRITE = 74  # the exit status of a run that cannot write its record (EX_IOERR)
DIGEST = "digest"


class Recorder(TrainerHook):
    """Record the first Trainer's calls of ``train``, one JSON object per line.

    The line before the last has the costs of the training, if any: the median seconds of an
    optimiser's step, and the peak memory in bytes; see :mod:`~libmtl_recon_search.cost`. On several
    ranks, which step together and have equal parts of a batch, these are the costs of rank 0. The
    last line has the digest of those before it, by which damage is detected. If a line cannot be
    written, the process ends, since a run without a record is useless.

    Args:
        file: The record; None on ranks that do not write.
    """

    def __init__(self, file: Path | None) -> None:
        self._trainer: Any = None
        self._trained = False
        self._clock = StepClock()
        self._digest = hashlib.sha256()
        try:
            self._stream = None if file is None else file.open("wb")
        except OSError as error:
            give_up(error)

    def write(self, event: str, **values: Any) -> None:
        """Write one line immediately."""
        if self._stream is None:
            return
        line = json.dumps({"event": event, **values}).encode() + b"\n"
        self._digest.update(line)
        try:
            self._stream.write(line)
            self._stream.flush()
        except OSError as error:
            give_up(error)

    def end(self, status: int) -> None:
        """Write the last lines, and flush them to the disk."""
        self._clock.stop()
        if self._trained:
            memory = peak_memory(self._trainer.model)
            self.write("cost", step_time=self._clock.step_time, memory=memory)
        self.write("ended", status=status, **{DIGEST: self._digest.hexdigest()})
        if self._stream is None:
            return
        try:
            os.fsync(self._stream.fileno())
            self._stream.close()
        except OSError as error:
            give_up(error)

    def built(self, trainer: Any) -> None:
        """Record the network, its metrics, and the known weightings."""
        if self._trainer is not None:
            return
        self._trainer = trainer
        higher = {
            task: dict(zip(about["metrics"], map(bool, about["weight"]), strict=True))
            for task, about in trainer.task_dict.items()
        }
        parameters = sum(p.numel() for p in trainer.model.parameters())
        self.write(
            "built",
            higher_is_better=higher,
            parameters=parameters,
            weightings=known_weightings(),
        )

    def training(self, trainer: Any) -> None:
        """Start timing steps; record it if the script trains another model as well."""
        if not self._is_first(trainer):
            self.write("another model")
            return
        self._trained = True
        self._clock.follow(getattr(trainer, "optimizer", None))

    def measured(self, trainer: Any, measurement: Measurement) -> None:
        """Record measurements, with null for NaN and infinity, which JSON lacks."""
        if not self._is_first(trainer):
            return
        self.write(
            "measured",
            epoch=measurement.epoch,
            mode=measurement.mode,
            losses=_finite(measurement.losses),
            metrics={task: _finite(values) for task, values in measurement.metrics.items()},
        )
        self._clock.begin()

    def _is_first(self, trainer: Any) -> bool:
        return trainer is self._trainer or trainer.model is self._trainer.model


def give_up(error: OSError) -> NoReturn:
    """End the process immediately; the search then reports that it cannot write."""
    with contextlib.suppress(OSError):
        warn(f"libmtl-recon: error: {error}")
    os._exit(CANNOT_WRITE)


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
