"""What a reproduction trains: weightings, and the layers that each network splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libmtl_recon.conflicts.profile import check_split_count
from libmtl_recon.profiles.selection import select_layers
from libmtl_recon.search import Network, TrainedNetwork, Training, Trainings

# As in the tables of the Recon paper.
SHORT = {
    "conflict": "Recon",
    "random": "RSL",
    "random_params": "RSP",
    "first": "FSK",
    "last": "LSK",
    "norms": "norms first",
}


@dataclass(frozen=True)
class Weighting:
    """A weighting of a script.

    Attributes:
        name: Its name in LibMTL.
        flags: Words of the command line for this weighting alone.
    """

    name: str
    flags: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name with its flags, for tables and pictures."""
        return " ".join([self.name, *(word.removeprefix("--") for word in self.flags)])

    def training(self, layers: Sequence[str] = (), seed: int = 0, score_every: int = 0) -> Training:
        """Return a training with this weighting."""
        return Training(self.name, self.flags, tuple(layers), seed, None, score_every)


@dataclass(frozen=True)
class Source:
    """Where the layers to split come from.

    Attributes:
        given: The ID of a profile, or its file; None for the joint training.
        score_every: Of the joint training, count the conflicts of each n-th step.
        seed: The seed of the joint training.
        weighting: Its weighting.
    """

    given: str | None = None
    score_every: int = 1
    seed: int = 0
    weighting: Weighting = Weighting("EW")

    def train(self, trainings: Trainings) -> TrainedNetwork:
        """Train all tasks jointly, and count the conflicts."""
        joint = self.weighting.training(seed=self.seed, score_every=self.score_every)
        return trainings.train([joint], "joint training, scored")[0]

    def file(self, trainings: Trainings) -> str:
        """Return the profile's ID or file; without one, train all tasks jointly."""
        if self.given is not None:
            return self.given
        return str(self.train(trainings).file)


def check_counts(parameter: str, counts: Sequence[int], network: Network) -> None:
    """Check numbers of layers to split.

    Raises:
        UsageError: A number is below 1, or leaves no layer shared.
    """
    for count in counts:
        check_split_count(parameter, count, len(network.layers))


def chosen(
    network: Network, K: int, S: float, source: str, select: str = "conflict", seed: int = 0
) -> tuple[str, ...]:
    """Return the layers that one way of choosing splits.

    Args:
        network: The network.
        K: The number of layers.
        S: The severity.
        source: The ID or the file of a profile.
        select: One of :data:`~libmtl_recon.conflicts.baselines.SELECTIONS`.
        seed: The seed of a random choice.

    Raises:
        UsageError: K leaves no layer shared, or S is not a valid severity.
        ReconError: The profile is not of this network.
    """
    return select_layers(network.layers, K, S, source, select=select, seed=seed).names
