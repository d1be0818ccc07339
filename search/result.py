"""Read the measurements of a run from its record."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libmtl_recon_search.objective import Metrics

from libmtl_recon import ReconError


@dataclass
class Result:
    """The measurements of a run.

    Attributes:
        higher_is_better: For each task and metric, whether more is better.
        parameters: The network's number of parameters.
        weightings: The weightings that LibMTL had.
        epochs: For ``train``, ``val`` and ``test``, the metrics after each epoch, counted over all
            calls of ``Trainer.train``.
        step_time: The median seconds of a training step; None if the run did not train or was cut
            off, or if its record is older than this.
        memory: The most bytes that it held: on CUDA devices, or of the process. None as above, and
            where the system does not tell.
        known: The script's flags, without their dashes; None if nobody asked, or if it reads its
            command line without argparse.
        several: Those of them that take several values.
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
    # In which epoch each of these was measured: the script's own number, which each call of
    # `train` begins anew, is of no use where there are several.
    _places: dict[str, list[int]] = field(
        default_factory=lambda: {"train": [], "val": [], "test": []}
    )
    _trained: int = 0

    def add(self, event: dict[str, Any]) -> None:
        """Take in one event."""
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
        # What is measured between two epochs is of the former, once; what a script looks at beside
        # that, and all that comes before its training, is its own business.
        if place is not None and place not in self._places[mode]:
            self._places[mode].append(place)
            self.epochs[mode].append(_with_nan(event["metrics"]))

    def test_after(self, epoch: int, on: str) -> Metrics:
        """The metrics on the test data in the epoch of this measurement.

        Args:
            epoch: Its place in ``epochs[on]``.
            on: The data that it is of.

        Raises:
            ReconError: The test data was not looked at in that epoch.
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
    def status(self) -> int | None:
        """The exit status; None if the run was cut off."""
        status: int | None = self.notes.get("ended", {}).get("status")
        return status

    @property
    def finished(self) -> bool:
        """Whether the run ended well."""
        return self.status == 0

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that were trained."""
        return tuple(self.higher_is_better)


def read_events(file: Path, start: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The complete lines of a file from a position on, each with the position behind it."""
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
