"""Baselines for the choice of layers: those of the paper (section 5.3, Appendix C), and norms."""

from __future__ import annotations

import random
from collections.abc import Sequence

from libmtl_recon.conflicts.layers import Layer

# The choices of `select` with their descriptions, for help and messages.
SELECTIONS = {
    "conflict": "the K worst (Recon)",
    "random": "K at random (RSL)",
    "random_params": "at random, as many parameters as the K worst have (RSP)",
    "first": "the first K (FSK)",
    "last": "the last K (LSK)",
    "norms": "normalisation layers first, then the others, each in network order",
}
# The choices that use conflicts, and those that draw by a seed.
MEASURED = ("conflict", "random_params")
SEEDED = ("random", "random_params")


def random_layers(layers: Sequence[Layer], K: int, seed: int) -> list[str]:
    """Return K layers at random (RSL)."""
    return [layer.name for layer in random.Random(seed).sample(list(layers), K)]


def random_parameters(layers: Sequence[Layer], parameters: int, seed: int) -> list[str]:
    """Return random layers with at most, and nearly, a given number of parameters (RSP).

    In random order, each layer that still fits is added. Small layers fill the rest that large ones
    leave, so that the difference is less than the smallest layer that was not added.
    """
    order = random.Random(seed).sample(list(layers), len(layers))
    chosen, total = [], 0
    for layer in order:
        if total + layer.parameters <= parameters:
            chosen.append(layer.name)
            total += layer.parameters
    return chosen


def first_layers(layers: Sequence[Layer], K: int) -> list[str]:
    """Return the first K layers, in network order (FSK)."""
    return [layer.name for layer in layers[:K]]


def last_layers(layers: Sequence[Layer], K: int) -> list[str]:
    """Return the last K layers, in network order (LSK)."""
    return [layer.name for layer in layers[-K:]]


def norms_first(layers: Sequence[Layer], K: int | None = None) -> list[str]:
    """Return the first K of: normalisation layers, then all others, each in network order.

    Args:
        layers: The layers in network order; :attr:`Layer.norm` tells which are norms. Without
            norms, this is :func:`first_layers`.
        K: The number of layers; None ranks all.
    """
    return [layer.name for layer in sorted(layers, key=lambda layer: not layer.norm)][:K]
