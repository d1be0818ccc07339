"""Performance against the number of split layers and the severity (Figure 3 of the Recon paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from libmtl_recon.reproduction.asked import Source, Weighting, chosen
from libmtl_recon.reproduction.tables import (
    Table,
    headings,
    mean_and_spread,
    metric_names,
    size_cells,
)
from libmtl_recon.search import Network, Performance, Training, Trainings


@dataclass(frozen=True)
class Dose:
    """The performance of one K and S.

    Attributes:
        K: The number of split layers; 0 if all are shared.
        S: The severity; None if all are shared.
        performances: The performance with each seed.
    """

    K: int
    S: float | None
    performances: tuple[Performance, ...]

    @property
    def gains(self) -> list[float]:
        """Δm with each seed, in percent."""
        return [one.delta_m for one in self.performances]


@dataclass(frozen=True)
class Grid:
    """The values of K and S that are trained.

    Attributes:
        ks: The numbers of layers, each at the severity S.
        ss: The severities, each with K layers; may be empty.
        K: The number of layers for the severities.
        S: The severity for the numbers of layers.
    """

    ks: tuple[int, ...]
    ss: tuple[float, ...]
    K: int
    S: float

    @property
    def points(self) -> list[tuple[int, float | None]]:
        """Each K and S once, after the network with all layers shared, for which S is None."""
        both = [*((k, self.S) for k in self.ks), *((self.K, s) for s in self.ss)]
        return [(0, None), *dict.fromkeys(both)]


def train_doses(
    trainings: Trainings,
    network: Network,
    weighting: Weighting,
    grid: Grid,
    source: Source,
    seeds: Sequence[int],
    *,
    single: bool = True,
) -> list[Dose]:
    """Train the network with each K and S and each seed.

    All seeds split the same layers. Points with the same layers are trained once.

    Args:
        trainings: The trainings of the script, opened.
        network: Its network.
        weighting: The weighting of all trainings.
        grid: The values of K and S.
        source: Where the layers come from.
        seeds: The seeds.
        single: Whether Δm is relative to networks that are trained for one task each with the same
            seed; otherwise it is relative to the network with all layers shared.

    Raises:
        UsageError: A value of K or S is invalid.
        ReconError: A training failed, or the script measures nothing.
    """
    file = source.file(trainings)
    points = grid.points
    layers = [() if S is None else chosen(network, K, S, file) for K, S in points]
    by_seed = []
    for seed in seeds:
        alone = [Training(task=task, seed=seed) for task in network.tasks] if single else []
        split = [weighting.training(own, seed) for own in layers]
        found = trainings.train([*alone, *split], f"seed {seed}")
        base, networks = found[: len(alone)], found[len(alone) :]
        by_seed.append(trainings.compare(networks, base or networks[:1]))
    return [Dose(K, S, tuple(own[place] for own in by_seed)) for place, (K, S) in enumerate(points)]


def tabulate(doses: Sequence[Dose], weighting: Weighting, single: bool) -> Table:
    """Return a table with one row per K and S, means and standard deviations over the seeds."""
    metrics = metric_names(doses[0].performances[0].metrics)
    rows = []
    for dose in doses:
        values = [
            mean_and_spread([one.metrics[task][name] for one in dose.performances], 4, "")
            for task, name in metrics
        ]
        size = size_cells(float(np.mean([one.parameters for one in dose.performances])))
        S = "" if dose.S is None else f"{dose.S:g}"
        rows.append((str(dose.K), S, *values, mean_and_spread(dose.gains), *size))
    what = "networks of single tasks" if single else "the network with all layers shared"
    seeds = len(doses[0].performances)
    return Table(
        f"Test performance of {weighting.title} at the best epoch, mean and standard deviation "
        f"over {seeds} {'seed' if seeds == 1 else 'seeds'}; Δm relative to {what}",
        ("K", "S", *headings(metrics)),
        tuple(rows),
    )
