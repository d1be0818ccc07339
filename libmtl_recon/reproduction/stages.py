"""The layers found in stages of a training, and what splitting them gives (Tables 12 and 13)."""

from __future__ import annotations

from collections.abc import Sequence

from libmtl_recon.conflicts.compare import chance_distance, overlap
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.conflicts.stages import ranking_distances, stages_of
from libmtl_recon.reproduction.asked import Weighting
from libmtl_recon.reproduction.tables import Table, headings, metric_names, size_cells
from libmtl_recon.search import Network, Performance, TrainedNetwork, Training, Trainings

_ALL = "all steps"


def names_of(profile: ConflictProfile, count: int) -> list[tuple[str, ConflictProfile]]:
    """Return the stages of a profile with their names, and the whole profile last.

    Args:
        profile: The profile of one training.
        count: The number of stages.

    Raises:
        UsageError: The profile has too few blocks of steps for them.
        ReconError: It is a sum of several runs.
    """
    found, first = [], 1
    for part in stages_of(profile, count):
        last = first + part.steps - 1
        found.append((f"steps {first:,} to {last:,}", part))
        first = last + 1
    return [*found, (_ALL, profile)]


def distances(stages: Sequence[tuple[str, ConflictProfile]], S: float, K: int | None) -> Table:
    """Return the distances between the rankings of stages (Table 12).

    Args:
        stages: The stages with their names, the whole training last.
        S: The severity.
        K: Also count how many of the K worst layers of all steps each stage has; None leaves this
            out.

    Raises:
        UsageError: S is not a valid severity.
    """
    rankings = [profile.ranking(S) for _, profile in stages]
    between = ranking_distances(rankings)
    names = [name for name, _ in stages]
    rows = []
    for place, name in enumerate(names):
        cells = [f"{value:.2f}" for value in between[place, : place + 1]]
        cells += ["-"] * (len(names) - len(cells))
        if K is not None:
            cells.append(f"{overlap(rankings[place], rankings[-1], K):.0%}")
        rows.append((name, *cells))
    chance = chance_distance(len(rankings[0]))
    worst = [] if K is None else [f"of the {K} worst"]
    return Table(
        f"Distances of Eq. 22 between the rankings of {len(rankings[0])} layers at S = {S:g}; "
        f"{chance:.2f} by chance; steps are those that were scored",
        ("stage", *names, *worst),
        tuple(rows),
    )


def train_stages(
    trainings: Trainings,
    network: Network,
    stages: Sequence[tuple[str, ConflictProfile]],
    weighting: Weighting,
    K: int,
    S: float,
    *,
    seed: int = 0,
    single: bool = True,
) -> Table:
    """Train the network split by the layers of each stage (Table 13).

    Stages with the same layers are trained once.

    Args:
        trainings: The trainings of the script, opened.
        network: Its network.
        stages: The stages with their names, the whole training last.
        weighting: The weighting of all trainings.
        K: The number of layers to split.
        S: The severity.
        seed: The seed of all trainings.
        single: Whether Δm is relative to networks that are trained for one task each, as in the
            paper; otherwise it is relative to the network with all layers shared.

    Raises:
        ReconError: A training failed, or the script measures nothing.
    """
    shared = weighting.training(seed=seed)
    alone = [Training(task=task, seed=seed) for task in network.tasks] if single else []
    layers = [tuple(profile.layers(S, K)) for _, profile in stages]
    split = [weighting.training(own, seed) for own in layers]
    found = trainings.train([*alone, shared, *split], "networks of the stages")
    base, networks = found[: len(alone)], found[len(alone) :]
    compared = trainings.compare(networks, base or networks[:1])
    names = [f"{weighting.title}, all shared", *(name for name, _ in stages)]
    same = ["", *(f"{overlap(own, layers[-1], K):.0%}" for own in layers)]
    metrics = metric_names(compared[0].metrics)
    rows = [
        (name, *_cells(one, metrics), agreement)
        for name, one, agreement in zip(names, compared, same, strict=True)
    ]
    if single:
        rows.insert(0, _single_row(trainings, network, base, metrics))
    what = "networks of single tasks" if single else "the network with all layers shared"
    return Table(
        f"Test performance at the best epoch of the network split in {K} layers, chosen in each "
        f"stage at S = {S:g}; Δm relative to {what}, seed {seed}",
        ("layers of", *headings(metrics), "of the layers of all steps"),
        tuple(rows),
    )


def _cells(one: Performance, metrics: Sequence[tuple[str, str]]) -> list[str]:
    values = [f"{one.metrics[task][name]:.4f}" for task, name in metrics]
    return [*values, f"{one.delta_m:+.2f}", *size_cells(one.parameters)]


def _single_row(
    trainings: Trainings,
    network: Network,
    base: Sequence[TrainedNetwork],
    metrics: Sequence[tuple[str, str]],
) -> tuple[str, ...]:
    """Return the row of the single-task networks, each at its own best epoch."""
    alone = [trainings.compare([one], [one])[0] for one in base]
    by_task = dict(zip(network.tasks, alone, strict=True))
    values = [f"{by_task[task].metrics[task][name]:.4f}" for task, name in metrics]
    size = size_cells(sum(one.parameters for one in alone))
    return ("single-task", *values, "", *size, "")
