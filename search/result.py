"""The measurements of a run, read from its record."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libmtl_recon_search.objective import Metrics

from libmtl_recon import Layer, ReconError


@dataclass
class Result:
    """The measurements of a run.

    Attributes:
        higher_is_better: For each task and metric, whether higher is better.
        parameters: The network's number of parameters.
        weightings: The weightings that LibMTL had.
        epochs: For ``train``, ``val`` and ``test``, the metrics after each epoch, counted over all
            calls of ``Trainer.train``.
        step_time: The median seconds of a training step; None if the run did not train or was cut
            off, or if its record has an older format.
        memory: The peak memory in bytes, on CUDA devices or of the process; None as above, and if
            the system does not report it.
        known: The script's flags, without their dashes; None if they were not requested, or if the
            script reads its command line without argparse.
        several: The flags that accept several values.
        notes: Other events, e.g. ``reused``.
    """

    higher_is_better: dict[str, dict[str, bool]] = field(default_factory=dict)
    parameters: int = 0
    weightings: tuple[str, ...] = ()
    epochs: dict[str, list[Metrics]] = field(
        default_factory=lambda: {"train": [], "val": [], "test": []}
    )
    step_time: float | None = None
    memory: int | None = None
    known: tuple[str, ...] | None = None
    several: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    # The epoch of each measurement. The script's own number, which starts again with each call of
    # `train`, cannot be used if there are several calls.
    _places: dict[str, list[int]] = field(
        default_factory=lambda: {"train": [], "val": [], "test": []}
    )
    _trained: int = 0

    def add(self, event: dict[str, Any]) -> None:
        """Add one event."""
        if event["event"] == "built":
            self.higher_is_better = event["higher_is_better"]
            self.parameters = event["parameters"]
            self.weightings = tuple(event["weightings"])
        elif event["event"] == "measured":
            self._measured(event)
        elif event["event"] == "cost":
            self.step_time, self.memory = event["step_time"], event["memory"]
        elif event["event"] == "flags":
            self.known = None if event["known"] is None else tuple(event["known"])
            self.several = tuple(event["several"])
        else:
            self.notes[event["event"]] = event

    def _measured(self, event: dict[str, Any]) -> None:
        mode = event["mode"]
        self._trained += mode == "train"
        place = self._trained if self._trained else event["epoch"]
        # The first measurement between two epochs belongs to the former; others, and all before the
        # training, are ignored.
        if place is not None and place not in self._places[mode]:
            self._places[mode].append(place)
            self.epochs[mode].append(_with_nan(event["metrics"]))

    def test_after(self, epoch: int, on: str) -> Metrics:
        """Return the metrics on the test data in the epoch of a measurement.

        Args:
            epoch: Its place in ``epochs[on]``.
            on: The data that it is of.

        Raises:
            ReconError: The test data was not evaluated in that epoch.
        """
        place = self._places[on][epoch]
        if place not in self._places["test"]:
            raise ReconError(
                f"The script measured its {on} data in an epoch in which it did not measure its "
                "test data, on which the best configuration is compared with EW. Make it pass "
                "test_dataloaders to Trainer.train."
            )
        return self.epochs["test"][self._places["test"].index(place)]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Return the network's shared layers, if the run was asked for them."""
        noted = self.notes.get("layers", {}).get("layers", [])
        return tuple(Layer(name, kind, tuple(map(tuple, shapes))) for name, kind, shapes in noted)

    @property
    def status(self) -> int | None:
        """Return the exit status; None if the run was cut off."""
        status: int | None = self.notes.get("ended", {}).get("status")
        return status

    @property
    def finished(self) -> bool:
        """Return whether the run finished successfully."""
        return self.status == 0

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that were trained."""
        return tuple(self.higher_is_better)


def read_events(file: Path, start: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Iterate over the complete lines of a file from a position on, each with its end position."""
    if not file.exists():
        return
    with file.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return  # still being written
            start += len(line)
            yield json.loads(line), start


def _with_nan(metrics: dict[str, dict[str, float | None]]) -> Metrics:
    return {
        task: {name: math.nan if value is None else value for name, value in values.items()}
        for task, values in metrics.items()
    }
