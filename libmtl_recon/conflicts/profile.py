"""The conflict profile: counts of the cosines between task gradients, layer by layer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.conflicts.file_format import FORMAT, Contents, check_size, decode, encode
from libmtl_recon.conflicts.grid import BINS, check_severity
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.texts import bounded

__all__ = [
    "FORMAT",
    "ConflictProfile",
    "check_count",
    "check_reached",
    "check_severity",
    "check_split_count",
    "no_profile",
]

Counts = NDArray[np.int64]
# Characters of the tasks' names in a printed profile.
_LONGEST = 200


@dataclass(frozen=True, eq=False, repr=False)
class ConflictProfile:
    """Counts of the cosines between task gradients, which give the layers' scores for every S.

    The counts are kept in blocks of steps, from which the stability of a ranking is estimated.

    Attributes:
        architecture: The L layers, in network order.
        tasks: The T tasks' names.
        counts: ``[blocks, L, 400]``, the number of (step, pair of tasks) whose cosine is in
            [-1 + b/200, -1 + (b+1)/200); the last bin is closed.
        undefined: ``[blocks, L]``, the number of (step, pair of tasks) whose cosine is undefined,
            because a gradient was zero or one of the tasks had no label in the step.
        block_steps: ``[blocks]``, the number of steps in each block.
        whole: ``[blocks, 401]``, the same counts for the gradient of all layers together, with the
            undefined cosines in the last column; None in profiles that did not count it.
        provenance: The origin of the profile: data set, weighting, versions, seed, date.
    """

    architecture: tuple[Layer, ...]
    tasks: tuple[str, ...]
    counts: Counts
    undefined: Counts
    block_steps: Counts
    provenance: Mapping[str, Any] = field(default_factory=dict)
    whole: Counts | None = None

    def __post_init__(self) -> None:
        blocks, layers = len(self.block_steps), len(self.architecture)
        try:
            check_size(layers, blocks)
        except ValueError as error:
            raise ReconError(f"This conflict profile is invalid: {error}.") from error
        found = self.counts.shape, self.undefined.shape
        if found != ((blocks, layers, BINS), (blocks, layers)):
            raise ReconError(
                f"A conflict profile of {blocks} blocks and {layers} layers needs counts of shape "
                f"{(blocks, layers, BINS)} and {(blocks, layers)}, but has {found}."
            )
        if self.whole is not None and self.whole.shape != (blocks, BINS + 1):
            raise ReconError(
                f"The counts of the whole gradient need the shape {(blocks, BINS + 1)}, but have "
                f"{self.whole.shape}."
            )
        totals = [self.counts.sum(axis=2) + self.undefined]
        totals += [] if self.whole is None else [self.whole.sum(axis=1, keepdims=True)]
        if any((total != self.block_steps[:, None] * self.pairs).any() for total in totals):
            raise ReconError(
                "A conflict profile must count every pair of tasks once per step and layer, but "
                "its counts do not add up; the profile was changed or damaged."
            )
        for name in ("counts", "undefined", "block_steps", "whole"):
            given = getattr(self, name)
            # Read-only arrays are not copied, since they may be large.
            if given is None or (
                given.dtype == np.int64 and given.base is None and not given.flags.writeable
            ):
                continue
            own = np.array(given, np.int64)
            own.setflags(write=False)
            object.__setattr__(self, name, own)
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))

    def __repr__(self) -> str:
        tasks = bounded(", ".join(self.tasks), _LONGEST)
        return (
            f"ConflictProfile({len(self.architecture)} layers, {self.steps} steps, tasks {tasks})"
        )

    @property
    def pairs(self) -> int:
        """The number of pairs of tasks."""
        return len(self.tasks) * (len(self.tasks) - 1) // 2

    @property
    def steps(self) -> int:
        """The number of training steps that were scored."""
        return int(self.block_steps.sum())

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers' names, in network order."""
        return tuple(layer.name for layer in self.architecture)

    @property
    def parameter_counts(self) -> tuple[int, ...]:
        """The layers' numbers of parameters, in network order."""
        return tuple(layer.parameters for layer in self.architecture)

    @property
    def reached(self) -> tuple[Layer, ...]:
        """The layers in which the gradients of two tasks met, in network order.

        They have a defined cosine. A layer without any is reached by fewer than two tasks, or its
        gradients were zero in all steps. If no layer has one, all are returned: such a profile does
        not tell them apart.
        """
        defined = self.histogram.sum(axis=1).tolist()
        if not any(defined):
            return self.architecture
        return tuple(layer for layer, met in zip(self.architecture, defined, strict=True) if met)

    @property
    def histogram(self) -> Counts:
        """The sum of the counts of all blocks, ``[L, 400]``."""
        total: Counts = self.counts.sum(axis=0)
        return total

    @property
    def id(self) -> str:
        """An identifier of this profile, of twelve characters."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def scores(self, S: float) -> dict[str, int]:
        """Return each layer's S-conflict score, summed over the steps (Definition 3, Algorithm 1).

        Args:
            S: The severity, a multiple of 0.005 with -1 < S ≤ 0.

        Returns:
            For each layer, the number of (step, pair of tasks) whose cosine is strictly below S.

        Raises:
            UsageError: S is invalid.
        """
        below = check_severity("S", S)
        scores = self.histogram[:, :below].sum(axis=1)
        return dict(zip(self.layer_names, scores.tolist(), strict=True))

    def ranking(self, S: float) -> list[str]:
        """Return the layers from worst to best; layers with equal scores are in network order.

        Those that are not :attr:`reached` by two tasks come last.

        Args:
            S: The severity, as for :meth:`scores`.
        """
        scores, reached = self.scores(S), {layer.name for layer in self.reached}
        return sorted(scores, key=lambda name: (-scores[name], name not in reached))

    def layers(self, S: float, K: int) -> list[str]:
        """Return the K layers with the highest S-conflict scores, worst first (Algorithm 1).

        Args:
            S: The severity, as for :meth:`scores`.
            K: The number of layers, from 1 to all that are :attr:`reached` by two tasks.

        Raises:
            UsageError: S or K is invalid.
        """
        check_count("K", K, len(self.architecture))
        check_reached("K", K, len(self.reached), "this profile")
        return self.ranking(S)[:K]

    def to_json(self) -> str:
        """Return the profile as a readable JSON text."""
        return encode(
            Contents(
                self.architecture,
                self.tasks,
                self.counts,
                self.undefined,
                self.block_steps,
                self.provenance,
                self.whole,
            )
        )

    @classmethod
    def from_json(cls, text: str, source: str = "the text") -> ConflictProfile:
        """Create a profile from a text written by :meth:`to_json`.

        Args:
            text: The JSON text.
            source: The name of its file, for the message.

        Raises:
            ReconError: It is not a conflict profile, or is damaged.
        """
        try:
            contents = decode(text)
        except ValueError as error:
            raise ReconError(f"{source} is not a readable conflict profile: {error}.") from error
        try:
            return cls(*contents)
        except ReconError as error:
            raise ReconError(f"{source} is not a readable conflict profile. {error}") from error


def no_profile(parameter: str, given: object) -> UsageError:
    """Return the error for an argument that is not a profile."""
    way_out = "ConflictProfile.from_json(text) reads one from the text of its file."
    if callable(getattr(given, "profile", None)):
        way_out = "Pass what its method `profile` returns: probe.profile()."
    return UsageError(parameter, "must be a ConflictProfile", type(given).__name__, way_out)


def check_count(
    parameter: str, count: object, layers: int, what: str = "the number of shared layers"
) -> None:
    """Check a number of layers K.

    Args:
        parameter: The name of the caller's argument, for the message.
        count: The number K.
        layers: The number of layers of the network.
        what: What that number is, for the message.

    Raises:
        UsageError: K is not an integer from 1 to the number of layers.
    """
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= layers:
        raise UsageError(
            parameter,
            f"must be a whole number from 1 to {layers}, {what}",
            count,
            f"Choose how many of the worst layers to split, at most {layers}.",
        )


def check_reached(parameter: str, count: int, reached: int, profile: str) -> None:
    """Check that there are as many layers that two tasks reach as are to be chosen.

    Args:
        parameter: The name of the caller's argument, for the message.
        count: The number K.
        reached: The number of layers that two tasks reach.
        profile: The name of the profile that knows it, for the message.

    Raises:
        UsageError: There are fewer.
    """
    if count > reached:
        raise UsageError(
            parameter,
            f"must be at most {reached}, the number of layers in which gradients of two tasks met "
            f"by {profile}",
            count,
            "Lower it: a layer that one task alone reaches has no conflicts.",
        )


def check_split_count(parameter: str, count: object, layers: int) -> None:
    """Check the number of layers to split, which must leave one layer shared.

    Args:
        parameter: The name of the caller's argument, for the message.
        count: The number K.
        layers: The number of layers of the network.

    Raises:
        UsageError: K is not an integer from 1 to one less than the number of layers.
    """
    check_count(parameter, count, layers)
    if count == layers:
        raise UsageError(
            parameter,
            f"must leave a layer shared, so be below {layers}, the number of shared layers",
            count,
            "Lower it: if nothing is shared, each task is trained on its own.",
        )
