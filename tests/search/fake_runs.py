"""Runs that train nothing: what they measure is made up by the test, in no time."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from libmtl_recon_search.child import Job
from libmtl_recon_search.record import read_record
from libmtl_recon_search.result import Result

from libmtl_recon import ConflictProfile, ReconError
from libmtl_recon.conflicts.grid import BINS
from libmtl_recon.conflicts.layers import Layer

TASKS = ("a", "b")
LAYERS = 12
WEIGHTINGS = ("EW", "GradOPS", "UW")

KNOWN = [[f"l{i}", "Linear", [[2, 2]]] for i in range(LAYERS)]

Curves = tuple[Sequence[float], Sequence[float]]
"""The accuracy on the validation and on the test data, epoch by epoch."""


@dataclass(frozen=True)
class Asked:
    """What a run was asked for, as its command line says.

    Attributes:
        K: How many layers are split.
        alone: The one task that is trained; None for all of them.
        select: How the layers are chosen.
        flags: What else stands on the command line, by flag.
    """

    weighting: str
    alpha: float | None
    K: int
    seed: int
    alone: str | None
    select: str = "conflict"
    flags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def by(cls, job: Job) -> Asked:
        """Read the command line as a script would."""
        parser = argparse.ArgumentParser(allow_abbrev=False)
        parser.add_argument("--weighting", required=True)
        parser.add_argument("--gradops_alpha", type=float)
        parser.add_argument("--recon_k", type=int, default=0)
        parser.add_argument("--recon_select", default="conflict")
        parser.add_argument("--seed", type=int, required=True)
        given, others = parser.parse_known_args(job.arguments)
        flags = {
            name.removeprefix("--"): value
            for name, value in zip(others, [*others[1:], ""], strict=True)
            if name.startswith("--")
        }
        alpha, K, seed = given.gradops_alpha, given.recon_k, given.seed
        return cls(given.weighting, alpha, K, seed, job.task, given.recon_select, flags)


World = Callable[[Asked, str], Curves]
"""What a run measures of a task."""


class FailedStartError(ReconError):
    """Stands in for the error of a run."""

    def __init__(self, status: int, job: Job) -> None:
        super().__init__(f"The run `{' '.join(job.arguments)}` failed.")
        self.reason = f"failed with exit status {status}. Its error: ..."


class FakeRunner:
    """Stands in for the runner: no processes, the measurements of a world.

    Args:
        world: What is measured.

    Attributes:
        trained: The runs that were trained, in order; what was there already is not in it.
        started: The runs that ended when the network was built.
        early: Those of them that were ended early.
        interrupt: Raise this in the place of the next training for which it gives true.
        asked: What the runs were asked for, in the order of ``trained``.
        known: The script's flags; None if it does not say.
        several: Those of them that take several values.
        killed_after: A training is killed after so many events, and made once more.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.trained: list[Job] = []
        self.asked: list[Asked] = []
        self.early: list[Job] = []
        self.started: list[Job] = []
        self.stopped = False
        self.interrupt: Callable[[Asked], bool] = lambda _: False
        self.known: tuple[str, ...] | None = None
        self.several: tuple[str, ...] = ()
        self.killed_after = 0

    def __call__(self, *_: Any, **__: Any) -> FakeRunner:
        """Itself, where a runner would be made."""
        return self

    def busy(self, _: Job) -> bool:
        return False

    def stop(self) -> None:
        self.stopped = True

    def run(self, job: Job, follow: Callable[[Result], bool] = lambda _: True) -> Result:
        finished = read_record(job.events)
        if finished is not None:
            return finished
        if job.describe:
            return Result(known=self.known, several=self.several)
        asked = Asked.by(job)
        if job.start:
            return self._start(job, asked)
        if job.profile is None and self.interrupt(asked):
            raise KeyboardInterrupt
        self.trained.append(job)
        self.asked.append(asked)
        if self.killed_after:
            cut_off = Result()
            for event in self._events(job, asked)[: self.killed_after]:
                cut_off.add(event)
                follow(cut_off)
            follow(Result())
        result = Result()
        job.events.parent.mkdir(parents=True, exist_ok=True)
        with job.events.open("w", encoding="utf-8") as file:
            for event in self._events(job, asked):
                file.write(json.dumps(event) + "\n")
                file.flush()
                result.add(event)
                if not follow(result):
                    self.early.append(job)
                    result.notes["ended early"] = True
                    return result
        if job.profile is not None:
            job.profile.write_text(flat_profile().to_json(), encoding="utf-8")
        return result

    def _start(self, job: Job, asked: Asked) -> Result:
        """Build the network; the flag --refused is none that the script knows."""
        self.started.append(job)
        if "--refused" in job.arguments or asked.weighting not in WEIGHTINGS:
            raise FailedStartError(2, job)
        if "--broken" in job.arguments:
            raise FailedStartError(1, job)
        result = Result()
        for event in (
            self._events(job, asked)[0],
            {"event": "layers", "count": LAYERS, "layers": KNOWN},
        ):
            result.add(event)
        return result

    def _events(self, job: Job, asked: Asked) -> list[dict[str, Any]]:
        tasks = TASKS if job.task is None else (job.task,)
        curves = {task: self.world(asked, task) for task in tasks}
        events: list[dict[str, Any]] = [
            {
                "event": "built",
                "higher_is_better": {task: {"Acc": True} for task in tasks},
                "parameters": 100 + 10 * asked.K,
                "weightings": WEIGHTINGS,
            }
        ]
        epochs = len(next(iter(curves.values()))[0])
        for epoch in range(epochs):
            for place, mode in enumerate(("val", "test")):
                values = {task: curves[task][place][epoch] for task in tasks}
                metrics = {t: {"Acc": None if v != v else v} for t, v in values.items()}
                events.append(
                    {"event": "measured", "epoch": epoch, "mode": mode, "metrics": metrics}
                )
        return [*events, {"event": "ended", "status": 0}]


def flat_profile() -> ConflictProfile:
    """A profile whose layers conflict less and less, so that the K worst are the first K."""
    scores = np.tile(np.arange(LAYERS)[::-1] + 1, (10, 1))
    counts = np.zeros((10, LAYERS, BINS), np.int64)
    counts[:, :, 0] = scores
    counts[:, :, -1] = 100 - scores
    names = tuple(Layer(f"l{i}", "Linear", ((2, 2),)) for i in range(LAYERS))
    zero = np.zeros((10, LAYERS), np.int64)
    whole = np.zeros((10, BINS + 1), np.int64)
    whole[:, 0], whole[:, BINS - 1] = 30, 70
    return ConflictProfile(names, TASKS, counts, zero, np.full(10, 100), whole=whole)


def write_search(folder: Path, **changes: Any) -> Path:
    """A configuration for fake runs; arguments replace its keys."""
    (folder / "main.py").write_text("never run", encoding="utf-8")
    values: dict[str, Any] = {
        "script": "main.py",
        "space": {"weighting": ["EW"], "s": [-0.1], "k": {"low": 0, "high": LAYERS - 1}},
        "trials": 6,
        "finalists": {"count": 1, "seeds": []},
        "confirm": [1, 2],
        "workers": 1,
    }
    file = folder / "study.yaml"
    file.write_text(json.dumps({**values, **changes}), encoding="utf-8")  # JSON is YAML
    return file
