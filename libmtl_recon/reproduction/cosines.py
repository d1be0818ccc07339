"""The distributions of cosines of weightings, with and without splits (Recon's Figures 1, 4-10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libmtl_recon.conflicts.intervals import EDGES, check_severe, intervals
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.reproduction.asked import SHORT, Source, Weighting, chosen
from libmtl_recon.reproduction.tables import Table
from libmtl_recon.search import Network, Trainings


@dataclass(frozen=True)
class Split:
    """The splits with which weightings are trained again.

    Attributes:
        K: The number of layers.
        S: The severity by which they are chosen.
        source: Where they come from.
        selections: How they are chosen, as in ``--recon_select``: ``conflict`` (Recon) for each
            weighting, others for the first weighting alone.
    """

    K: int
    S: float
    source: Source
    selections: tuple[str, ...] = ("conflict",)


@dataclass(frozen=True)
class Distribution:
    """The conflicts in a training.

    Attributes:
        weighting: The title of the weighting.
        how: How the split layers were chosen, as the tables of the paper call it; empty if all
            layers are shared.
        profile: The counts in the shared layers.
    """

    weighting: str
    how: str
    profile: ConflictProfile

    @property
    def title(self) -> str:
        """The heading of its column."""
        return f"{self.weighting} w/ {self.how}" if self.how else self.weighting


def train_cosines(
    trainings: Trainings,
    network: Network,
    weightings: Sequence[Weighting],
    split: Split | None,
    *,
    seed: int = 0,
    score_every: int = 1,
) -> list[Distribution]:
    """Train each weighting, plain and split, and count its conflicts.

    Args:
        trainings: The trainings of the script, opened.
        network: Its network.
        weightings: The weightings; others are compared with the first.
        split: The splits; None for none.
        seed: The seed of all trainings.
        score_every: Count the conflicts of each n-th step.

    Returns:
        The distributions in the order of the paper's tables: each weighting without a split, then
        with its splits.

    Raises:
        UsageError: There are not as many layers, or S is not a valid severity.
        ReconError: A training failed.
    """
    asked = [(one, "", one.training(seed=seed, score_every=score_every)) for one in weightings]
    if split is not None:
        source = split.source.file(trainings)
        for place, one in enumerate(weightings):
            for select in split.selections:
                if place > 0 and select != "conflict":
                    continue
                layers = chosen(network, split.K, split.S, source, select, seed)
                training = one.training(layers, seed, score_every)
                asked.append((one, SHORT[select], training))
    order = {one: place for place, one in enumerate(weightings)}
    asked.sort(key=lambda row: order[row[0]])  # stable: a weighting comes before its splits
    networks = trainings.train([training for _, _, training in asked], "trainings, scored")
    found = []
    for (one, how, _), trained in zip(asked, networks, strict=True):
        assert trained.profile is not None  # each is scored
        found.append(Distribution(one.title, how, trained.profile))
    return found


def tabulate(
    found: Sequence[Distribution], edges: Sequence[float] = EDGES, severe: float | None = None
) -> Table:
    """Return the shares of the cosines in intervals (Tables 6 and 8 to 10).

    Args:
        found: The distributions; the reduction is relative to the first.
        edges: The edges of the intervals; see
            :func:`~libmtl_recon.conflicts.intervals.intervals`.
        severe: The edge below which the reduction is computed; None for the second one.

    Raises:
        UsageError: The edges are invalid, or ``severe`` is not one of them.
    """
    severe = check_severe("severe", severe, edges)
    shares = intervals([one.profile for one in found], edges, severe=severe)
    return Table(
        "Percentages of steps and pairs of tasks by the cosine of two tasks' gradients, all shared "
        f"layers together; the reduction is that of cosines below {severe:g}, relative to "
        f"{found[0].title}",
        ("cosine", *(one.title for one in found)),
        shares.rows,
    )
