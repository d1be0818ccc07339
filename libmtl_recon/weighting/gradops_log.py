"""The log of a GradOPS run as CSV: weights wᵢ, speeds rᵢ and conflicts, one row per step."""

from __future__ import annotations

import csv
import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.files import check_writable, exists, refusal
from libmtl_recon.weighting.gradops import GradOPSStep
from libmtl_recon.weighting.numbered import is_ours, names_for, note_ours

_logger = logging.getLogger(__name__)

_COMMON = ("step", "epoch", "alpha", "conflict_rate")


def check_log(parameter: str, file: str | Path) -> None:
    """Check that a log with this name, or with a numbered one, can be created.

    A file that this process has written is accepted: the next log gets a number.

    Raises:
        UsageError: The file exists from another run, does not end in .csv, or its folder does not
            exist.
    """
    path = Path(file)
    if path.suffix.lower() != ".csv":
        raise UsageError(
            parameter, "must be a file name that ends in .csv", str(file), "Change the ending."
        )
    check_writable(parameter, file)
    if exists(file) and not is_ours(path):
        raise UsageError(
            parameter,
            "must be a new file, so that no run overwrites the log of another",
            str(file),
            "Use another name, or move the old log away.",
        )


class CSVLog:
    """A CSV file with one row per step, written immediately, so that a crash loses none.

    The file is created with the first row: a run that never trains creates none. If another model
    of this process has a log of this name, the name of this one is FILE-2, FILE-3, …, which is
    logged.

    Args:
        file: A new .csv file.
        tasks: The names of all tasks, T of them.
        alpha: The exponent α; None if static weights are used.
    """

    def __init__(self, file: str | Path, tasks: Sequence[str], alpha: float | None) -> None:
        check_log("file", file)
        self._path = Path(file)
        self._tasks = len(tasks)
        self._alpha = "" if alpha is None else f"{alpha:g}"
        self._header = [*_COMMON, *(f"w {t}" for t in tasks), *(f"r {t}" for t in tasks)]
        self._stream: Any = None
        self._broken = False

    def write(
        self, number: int, epoch: int | None, step: GradOPSStep, present: Sequence[int]
    ) -> None:
        """Write one step's row.

        Args:
            number: The step, counted from 1.
            epoch: The epoch, counted from 0, if known.
            step: The result of GradOPS for the P tasks that are present.
            present: Their places among all tasks; the cells of other tasks stay empty.
        """
        if self._broken:
            return
        factors, speeds = [""] * self._tasks, [""] * self._tasks
        for place, factor, speed in zip(
            present, step.factors.tolist(), step.speeds.tolist(), strict=True
        ):
            factors[place], speeds[place] = _cell(factor), _cell(speed)
        common = [number, "" if epoch is None else epoch, self._alpha, _cell(step.conflict_rate)]
        try:
            self._row([*common, *factors, *speeds])
        except OSError as error:
            # Weeks of training are worth more than the rest of the log.
            self._broken = True
            warnings.warn(
                f"The log {self._path} ends at step {number - 1}: {error.strerror or error}. "
                "Training continues without it.",
                stacklevel=2,
            )

    def close(self) -> None:
        """Close the file. Its rows can be read even if it is not closed."""
        if self._stream is not None:
            self._stream.close()

    def _row(self, cells: Sequence[object]) -> None:
        first = self._stream is None
        if first:
            self._stream = self._begun()
        writer = csv.writer(self._stream, lineterminator="\n")
        if first:
            writer.writerow(self._header)
        writer.writerow(cells)

    def _begun(self) -> TextIO:
        wanted = self._path
        for path in names_for(wanted, wanted.suffix):
            try:
                # Line-buffered; mode x never overwrites another run's file, earlier or concurrent.
                stream = path.open("x", encoding="utf-8", newline="", buffering=1)
            except FileExistsError:
                check_log("file", wanted)
                continue
            note_ours(path)
            self._path = path
            if path != wanted:
                _logger.info(
                    "GradOPS: %s is the log of another model of this run; this one's is %s",
                    wanted,
                    path,
                )
            return stream
        raise AssertionError("names_for never ends")


@dataclass(frozen=True)
class GradOPSLog:
    """The contents of a log of N steps and T tasks; NaN denotes an empty cell.

    Attributes:
        tasks: The names of the tasks.
        alpha: The exponent α; NaN for static weights.
        steps: ``[N]``, the numbers of the steps.
        conflict_rate: ``[N]``.
        factors: ``[N, T]``: wᵢ.
        speeds: ``[N, T]``: rᵢ.
    """

    tasks: tuple[str, ...]
    alpha: float
    steps: NDArray[np.float64]
    conflict_rate: NDArray[np.float64]
    factors: NDArray[np.float64]
    speeds: NDArray[np.float64]

    def means(self) -> GradOPSMeans:
        """Return the means over the steps, without empty cells."""
        return GradOPSMeans(
            factors=tuple(map(_mean, self.factors.T)),
            speeds=tuple(map(_mean, self.speeds.T)),
            conflict_rate=_mean(self.conflict_rate),
        )


@dataclass(frozen=True)
class GradOPSMeans:
    """The means over the steps of a log; NaN if no step has a value.

    Attributes:
        factors: The means of wᵢ of the T tasks.
        speeds: The means of rᵢ of the T tasks.
        conflict_rate: The mean conflict rate of pairs of tasks.
    """

    factors: tuple[float, ...]
    speeds: tuple[float, ...]
    conflict_rate: float


def read_log(file: str | Path) -> GradOPSLog:
    """Read a log, including that of a run that is still training or was killed.

    Raises:
        ReconError: It cannot be read, is not such a log, or has no step.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        no_text = isinstance(error, UnicodeDecodeError)
        reason = "it is not text in UTF-8" if no_text else refusal(error)
        raise ReconError(
            f"Cannot read the log {path}: {reason}. Pass the log of a run with GradOPS."
        ) from error
    # A row that a crash truncated has no end of line.
    try:
        rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
    except csv.Error as error:
        raise ReconError(f"{path} is not a log of GradOPS: {error}.") from error
    tasks = _tasks_of(rows[0]) if rows else ()
    if not tasks:
        raise ReconError(f"{path} is not a log of GradOPS: its first line is not that of a log.")
    if len(rows) == 1:
        raise ReconError(
            f"The log {path} contains no step yet. Try again once the run has started."
        )
    try:
        table = np.array([list(_numbers(row, len(rows[0]))) for row in rows[1:]])
    except ValueError as error:
        raise ReconError(f"The log {path} is damaged: {error}. Remove that line.") from error
    start, count = len(_COMMON), len(tasks)
    return GradOPSLog(
        tasks=tasks,
        alpha=float(table[0, 2]),
        steps=table[:, 0],
        conflict_rate=table[:, 3],
        factors=table[:, start : start + count],
        speeds=table[:, start + count :],
    )


def _tasks_of(header: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks in the header of a log; empty if the line is not such a header."""
    names = header[len(_COMMON) :]
    half = len(names) // 2
    tasks = tuple(name[2:] for name in names[:half])
    expected = [*_COMMON, *(f"w {t}" for t in tasks), *(f"r {t}" for t in tasks)]
    return tasks if list(header) == expected else ()


def _numbers(row: Sequence[str], width: int) -> Iterator[float]:
    if len(row) != width:
        raise ValueError(f"a line has {len(row)} cells instead of {width}, {','.join(row)!r}")
    return (float(cell) if cell else math.nan for cell in row)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
