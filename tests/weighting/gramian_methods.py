"""The weighting functions under one signature, and task gradients to try them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from libmtl_recon.weighting import (
    GradVac,
    NashMTL,
    aligned_mtl_weights,
    cagrad_weights,
    fairgrad_weights,
    gradops_weights,
    imtl_g_weights,
    mgda_weights,
    nash_mtl_weights,
    pcgrad_weights,
    upgrad_weights,
)

Weigh = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Method:
    """A weighting function, and what holds for it.

    Attributes:
        weigh: Of a Gramian.
        power: The weights of s M are s^power those of M.
        alone: The weight of one task whose gradient has length 2.
        opposite: The weights of gradients (1, 0) and (-2, 0).
        signed: Whether weights may be negative.
        drops_zero: Whether a gradient of zero changes nothing for the others.
    """

    weigh: Weigh
    power: float
    alone: float
    opposite: tuple[float, float]
    signed: bool = False
    drops_zero: bool = True


def seeded(weigh: Callable[..., Tensor]) -> Weigh:
    """Return the method with the same random orders in each call."""
    return lambda gramian: weigh(gramian, generator=torch.Generator().manual_seed(1))


METHODS = {
    "GradOPS": Method(gradops_weights, 0, 1, (0, 0), signed=True),
    "GradOPS, α = -1": Method(partial(gradops_weights, alpha=-1.0), 0, 1, (0, 0), signed=True),
    "PCGrad": Method(seeded(pcgrad_weights), 0, 1, (3, 1.5)),
    "GradVac": Method(
        seeded(lambda gramian, generator: GradVac(generator=generator).weights(gramian)),
        *(0, 1, (3, 1.5)),
    ),
    "CAGrad": Method(cagrad_weights, 0, 1.4, (0.7, 0.5), drops_zero=False),
    "CAGrad, c = 0.9": Method(
        partial(cagrad_weights, c=0.9), 0, 1.9, (0.95, 0.5), drops_zero=False
    ),
    "MGDA": Method(mgda_weights, 0, 1, (2 / 3, 1 / 3), drops_zero=False),
    "MGDA, l2": Method(
        partial(mgda_weights, normalization="l2"), -0.5, 0.5, (0.5, 0.25), drops_zero=False
    ),
    "IMTL-G": Method(imtl_g_weights, 0, 1, (2 / 3, 1 / 3), signed=True),
    "Nash-MTL": Method(nash_mtl_weights, -0.5, 0.5, (0, 0)),
    "Nash-MTL with its state": Method(
        lambda gramian: NashMTL(max_norm=None).weights(gramian), -0.5, 0.5, (1, 1)
    ),
    "Aligned-MTL": Method(aligned_mtl_weights, 0, 1, (-0.2, 0.4), signed=True),
    "UPGrad": Method(upgrad_weights, 0, 1, (1.5, 0.75), drops_zero=False),
    "FairGrad, α = ½": Method(partial(fairgrad_weights, alpha=0.5), -1 / 3, 4 ** (-1 / 3), (0, 0)),
    "FairGrad, α = 2": Method(partial(fairgrad_weights, alpha=2.0), -2 / 3, 4 ** (-2 / 3), (0, 0)),
}


def draw(seed: int, tasks: int, decades: float = 2.0, dimension: int = 20) -> np.ndarray:
    """Task gradients ``[T, d]`` of which some conflict, over ``decades`` of length."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(tasks, dimension)) - 0.4 * rng.normal(size=dimension)
    return rows * 10 ** rng.uniform(-decades / 2, decades / 2, size=(tasks, 1))


def gramian_of(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(rows @ rows.T)


SEEDS = st.integers(0, 10**6)
