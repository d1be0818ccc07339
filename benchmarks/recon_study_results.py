"""The results of the trainings of the Recon study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from libmtl_recon import ConflictProfile
from libmtl_recon.conflicts.grid import BINS

S, K = -0.1, 25  # of Appendix B.1
SHOWN = {
    "none": "all shared",
    "conflict": "Recon",
    "norms_first": "norms first",
    "random": "RSL",
    "random_params": "RSP",
    "first": "FSK",
    "last": "LSK",
}


@dataclass(frozen=True)
class Training:
    """The result of a training.

    Attributes:
        select: How layers were chosen, or `none` for hard parameter sharing.
        task: The only task that was trained; None for both.
        steps: The number of scored steps after which it ended; None if it was trained to the end.
        parameters: The number of parameters of the encoder.
        accuracy: Each task's accuracy on test data, at the epoch with the best mean validation
            accuracy; empty if the run ended before.
        profile: The conflicts in the shared layers; None for one task.
    """

    weighting: str
    select: str
    k: int
    s: float
    seed: int
    pair: str
    task: str | None
    steps: int | None
    parameters: int
    accuracy: dict[str, float]
    profile: ConflictProfile | None

    @classmethod
    def read(cls, record: dict[str, Any]) -> Training:
        """Create a result from the record of a training."""
        names = ("weighting", "select", "k", "s", "seed", "pair", "task", "steps", "parameters")
        profile = None
        if record["profile"] is not None:
            profile = ConflictProfile.from_json(json.dumps(record["profile"]))
        return cls(
            **{name: record[name] for name in names},
            accuracy=_at_the_best_epoch(record["passes"]),
            profile=profile,
        )

    def severe(self, below: float, layers: Sequence[str] | None = None) -> float:
        """Return the percentage of steps in which gradients conflict.

        Args:
            below: Cosines below this are counted; a multiple of 0.005.
            layers: Count (steps x layers) in those of these layers that are shared; None counts the
                whole gradient of all shared layers.
        """
        profile = self.profile
        if profile is None:
            return float("nan")
        if layers is None:
            counts = np.zeros(BINS) if profile.whole is None else profile.whole.sum(axis=0)[:BINS]
        else:
            rows = [i for i, name in enumerate(profile.layer_names) if name in layers]
            counts = profile.histogram[rows].sum(axis=0)
        return 100 * float(counts[: round((below + 1) * 200)].sum() / max(counts.sum(), 1))


def _at_the_best_epoch(passes: Sequence[dict[str, Any]]) -> dict[str, float]:
    by_mode: dict[str, list[dict[str, float]]] = {"train": [], "val": [], "test": []}
    for one in passes:
        by_mode[one["mode"]].append(one["accuracy"])
    if not by_mode["test"]:
        return {}
    best = int(np.argmax([np.mean(list(acc.values())) for acc in by_mode["val"]]))
    return by_mode["test"][best]


class Results:
    """The complete trainings, and their gains over single-task training.

    Args:
        trainings: All trainings.

    Attributes:
        methods: The trainings of both tasks with the paper's K and S.
        doses: The trainings of both tasks with EW that were split by a ranking, with any K and S.
    """

    def __init__(self, trainings: Sequence[Training]) -> None:
        ended = [t for t in trainings if t.steps is None]
        both = [t for t in ended if t.task is None]
        self.methods = [t for t in both if (t.k, t.s) == (K, S)]
        self.doses = [t for t in both if (t.weighting, t.select) == ("EW", "conflict")]
        self.weightings = list(dict.fromkeys(t.weighting for t in self.methods))
        self.selections = [s for s in SHOWN if any(t.select == s for t in self.methods)]
        self.seeds = sorted({t.seed for t in both})
        self._alone = {(t.seed, t.task): t.accuracy[t.task] for t in ended if t.task}

    def gain(self, training: Training) -> float:
        """Return Δm over single-task training with the same seed, in percent."""
        alone = {task: self._alone[training.seed, task] for task in training.accuracy}
        return 100 * float(np.mean([acc / alone[t] - 1 for t, acc in training.accuracy.items()]))

    def pick(self, weighting: str, select: str) -> list[Training]:
        """Return the trainings with the paper's K and S, one per seed."""
        own = [t for t in self.methods if (t.weighting, t.select) == (weighting, select)]
        return sorted(own, key=lambda t: t.seed)

    def before_and_after(
        self, weighting: str, select: str, below: float
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the severe conflicts in the layers that stay shared, ``[seeds, 2]``, in percent.

        Before means in the training of the same seed in which all layers are shared.
        """
        plain = {t.seed: t for t in self.pick(weighting, "none")}
        rows = []
        for training in self.pick(weighting, select):
            if training.profile is not None and training.seed in plain:
                kept = training.profile.layer_names
                before = plain[training.seed].severe(below, kept)
                rows.append([before, training.severe(below, kept)])
        return np.asarray(rows, dtype=np.float64).reshape(len(rows), 2)

    def paired(self, select: str, other: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the gain of one choice of layers over another, ``[weightings, seeds]``."""
        rows = []
        for weighting in self.weightings:
            one, two = self.pick(weighting, select), self.pick(weighting, other)
            if [t.seed for t in one] == [t.seed for t in two] == self.seeds:
                rows.append([self.gain(a) - self.gain(b) for a, b in zip(one, two, strict=True)])
        return np.asarray(rows, dtype=np.float64).reshape(len(rows), len(self.seeds))


def read_trainings(folder: Path) -> list[Training]:
    """Return all finished trainings of a study, including the runs that only scored."""
    files = sorted((folder / "runs").glob("*.json"))
    return [Training.read(json.loads(file.read_text("utf-8"))) for file in files]
