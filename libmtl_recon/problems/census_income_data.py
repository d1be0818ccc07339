"""The public files of UCI's Census-Income (KDD) as tensors: read, divided, encoded.

A record has 42 fields. Income, marital status and education are the labels; the instance weight
is the number of people that a record represents and, as the data set's documentation advises, is
not a feature. Of the remaining 38 the nominal ones are encoded one-hot, the continuous ones
standardised.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from libmtl_recon.errors import ReconError

TASKS = ("income", "marital", "education")
FIELDS, EDUCATION, MARITAL, WEIGHT, INCOME = 42, 4, 7, 24, 41
# Age, wage per hour, capital gains and losses, dividends, persons worked for, weeks worked.
CONTINUOUS = (0, 5, 16, 17, 18, 30, 39)
# Most of these are zero and a few are large: they are transformed to log(1 + x).
SKEWED = (5, 16, 17, 18)
NOMINAL = tuple(
    field
    for field in range(FIELDS)
    if field not in (*CONTINUOUS, EDUCATION, MARITAL, WEIGHT, INCOME)
)
# "At least college" of Appendix B: anyone who went to college, with a degree or without.
COLLEGE = (
    "Some college but no degree",
    "Associates degree-occup /vocational",
    "Associates degree-academic program",
    "Bachelors degree(BA AB BS)",
    "Masters degree(MA MS MEng MEd MSW MBA)",
    "Prof school degree (MD DDS DVM LLB JD)",
    "Doctorate degree(PhD EdD)",
)
PAGE = "https://archive.ics.uci.edu/dataset/117/census+income+kdd"
SUBFOLDER = "census-income"
FILES = {"data": "census-income.data", "test": "census-income.test"}


@dataclass(frozen=True)
class Records:
    """Encoded records of people.

    Attributes:
        codes: int64 ``[N, 31]``, the index of each nominal value among all one-hot columns.
        numbers: float32 ``[N, 7]``, the continuous fields.
        labels: float32 ``[N]`` of zeros and ones per task.
        width: The number of one-hot columns.
    """

    codes: Tensor
    numbers: Tensor
    labels: dict[str, Tensor]
    width: int

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, index: NDArray[np.int64]) -> Records:
        """Return the records at these places."""
        chosen = torch.from_numpy(index)
        labels = {task: values[chosen] for task, values in self.labels.items()}
        return Records(self.codes[chosen], self.numbers[chosen], labels, self.width)


def load(folder: Path, seed: int) -> dict[str, Records]:
    """Return the training, validation and test part.

    With both files the training file is the training part and the other is halved, as in
    Appendix B; a single file is divided 4 : 1 : 1, which are the same proportions.

    Args:
        folder: The folder with ``census-income.data`` and ``census-income.test``, or one of them,
            with or without ``.gz``.
        seed: Decides which records are in which part.

    Raises:
        ReconError: Neither file exists, or one has invalid contents.
    """
    found = {name: path for name, file in FILES.items() if (path := _find(folder, file))}
    if not found:
        raise ReconError(
            f"The Census-Income data are not in {folder}: it has neither {FILES['data']} nor "
            f"{FILES['test']} (with or without .gz). Download the data set from {PAGE}, unpack "
            f"it, and put one of the two files or both in a folder {SUBFOLDER} inside the "
            "folder that the environment variable LIBMTL_RECON_DATA names."
        )
    tables = {name: read(path) for name, path in found.items()}
    everyone = encode([row for rows in tables.values() for row in rows])
    rng = np.random.default_rng(seed)
    if len(tables) == 2:
        count = len(tables["data"])
        rest = count + rng.permutation(len(tables["test"]))
        middle = len(rest) // 2
        places = {"train": np.arange(count), "val": rest[:middle], "test": rest[middle:]}
    else:
        order = rng.permutation(len(everyone))
        sixth = len(order) // 6
        places = {
            "train": order[2 * sixth :],
            "val": order[:sixth],
            "test": order[sixth : 2 * sixth],
        }
    return _standardised({part: everyone.take(index) for part, index in places.items()})


def _find(folder: Path, file: str) -> Path | None:
    for path in (folder / file, folder / f"{file}.gz"):
        if path.is_file():
            return path
    return None


def read(path: Path) -> list[list[str]]:
    """Return the fields of each record of a file.

    Raises:
        ReconError: The file cannot be read, is empty, or has a line that is not a record.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("ascii")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ReconError(f"{path} cannot be read ({error}). Download it again: {PAGE}") from error
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.rstrip(". ").split(",")]
        if len(fields) != FIELDS:
            raise ReconError(
                f"{path}, line {number}: a record must have {FIELDS} fields, but this line has "
                f"{len(fields)}. Download the file again: {PAGE}"
            )
        rows.append(fields)
    if not rows:
        raise ReconError(f"{path} holds no records. Download it again: {PAGE}")
    return rows


def encode(rows: Sequence[Sequence[str]]) -> Records:
    """Encode records as numbers; a nominal value's place is its rank in alphabetical order.

    Raises:
        ReconError: A continuous field is not a number.
    """
    columns = [np.asarray(column) for column in zip(*rows, strict=True)]
    codes, width = [], 0
    for field in NOMINAL:
        values, places = np.unique(columns[field], return_inverse=True)
        codes.append(places + width)
        width += len(values)
    try:
        numbers = np.stack([columns[field].astype(np.float64) for field in CONTINUOUS], axis=1)
    except ValueError as error:
        raise ReconError(
            f"The fields {CONTINUOUS} of the Census-Income data must be numbers ({error}). "
            f"Download the files again: {PAGE}"
        ) from error
    for place, field in enumerate(CONTINUOUS):
        if field in SKEWED:
            numbers[:, place] = np.log1p(numbers[:, place])
    labels = {
        "income": columns[INCOME] == "50000+",
        "marital": columns[MARITAL] == "Never married",
        "education": np.isin(columns[EDUCATION], COLLEGE),
    }
    return Records(
        torch.from_numpy(np.stack(codes, axis=1)),
        torch.from_numpy(numbers.astype(np.float32)),
        {task: torch.from_numpy(values.astype(np.float32)) for task, values in labels.items()},
        width,
    )


def _standardised(parts: dict[str, Records]) -> dict[str, Records]:
    """Standardise continuous fields to the training part's mean 0 and deviation 1."""
    train = parts["train"].numbers
    mean, deviation = train.mean(0), train.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    return {
        part: Records(r.codes, (r.numbers - mean) / scale, r.labels, r.width)
        for part, r in parts.items()
    }


class People(Dataset[Any]):
    """Data set that encodes records per batch: stored one-hot, they would be ten times as large.

    Args:
        records: The people.
    """

    def __init__(self, records: Records) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the people at these places.

        Returns:
            float32 features ``[B, width + 7]`` and each task's float32 labels ``[B, 1]``.
        """
        places = torch.as_tensor(index)
        records = self.records
        features = torch.zeros(len(places), records.width + records.numbers.shape[1])
        features.scatter_(1, records.codes[places], 1.0)
        features[:, records.width :] = records.numbers[places]
        return features, {task: y[places].unsqueeze(1) for task, y in records.labels.items()}


def make_loader(people: People, batch_size: int, *, shuffle: bool) -> DataLoader[Any]:
    """Return a loader that requests whole batches."""
    order = RandomSampler(people) if shuffle else SequentialSampler(people)
    return DataLoader(
        people, sampler=BatchSampler(order, batch_size, drop_last=False), batch_size=None
    )
