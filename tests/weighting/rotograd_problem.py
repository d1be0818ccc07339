"""A small problem of three tasks, the same on every machine, for RotoGrad and the authors' program.

No random numbers, which differ between versions: everything is filled with sines.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

TASKS = ("a", "b", "c")
CHANNELS = 5
STEPS = 60
LR, ROTATION_LR = 0.01, 0.005
# The tasks' losses differ in size, as those do that RotoGrad is made for.
SIZES = (1.0, 5.0, 0.2)


def filled(*shape: int, seed: float) -> Tensor:
    """Numbers from -1 to 1 without a pattern that matters."""
    count = torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(count * 12.9898 + seed * 78.233).reshape(shape)


def rotation(size: int, seed: float) -> Tensor:
    """A rotation of its own for each seed: the Cayley transform of a skew matrix."""
    skew = filled(size, size, seed=seed).tril(-1)
    skew = skew - skew.T
    eye = torch.eye(size, dtype=torch.float64)
    return torch.linalg.solve(eye - skew, eye + skew)


def _fill(module: nn.Module, seed: float) -> nn.Module:
    with torch.no_grad():
        for place, parameter in enumerate(module.parameters()):
            parameter.copy_(0.7 * filled(*parameter.shape, seed=seed + 0.1 * place))
    return module.double()


class Mean(nn.Module):
    """The mean over the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


def networks(kind: str) -> tuple[nn.Module, list[nn.Module]]:
    """An encoder to ``CHANNELS`` channels and a head a task, for ``flat`` or ``images``."""
    if kind == "flat":
        encoder: nn.Module = nn.Sequential(nn.Linear(4, CHANNELS), nn.Tanh())
        heads: list[nn.Module] = [
            nn.Sequential(nn.Linear(CHANNELS, 3), nn.Tanh(), nn.Linear(3, 1)) for _ in TASKS
        ]
    else:
        encoder = nn.Sequential(nn.Conv2d(2, CHANNELS, 1), nn.Tanh())
        heads = [
            nn.Sequential(nn.Conv2d(CHANNELS, 3, 1), nn.Tanh(), Mean(), nn.Linear(3, 1))
            for _ in TASKS
        ]
    return _fill(encoder, 1.0), [_fill(head, 2.0 + place) for place, head in enumerate(heads)]


def inputs(kind: str, step: int) -> Tensor:
    """One of four batches, in turn."""
    shape = (6, 4) if kind == "flat" else (3, 2, 2, 3)
    return filled(*shape, seed=50.0 + step % 4)


def losses(x: Tensor, predictions: list[Tensor]) -> list[Tensor]:
    """The three losses, which pull apart."""
    first, second = x.flatten(1)[:, :1], x.flatten(1)[:, 1:2]
    wanted = (first, -first + 0.5 * second, second * first)
    return [
        size * (prediction - goal).square().mean()
        for size, prediction, goal in zip(SIZES, predictions, wanted, strict=True)
    ]


def cases() -> Iterator[tuple[str, str, str, int, str]]:
    """The authors' version, mode, kind, rotated channels and map of each comparison."""
    for mode in ("full", "rotate"):
        for kind in ("flat", "images"):
            for size in (CHANNELS, 3):
                yield "0.1.6.0", mode, kind, size, "matrix_exp"
    yield "0.1.6.0", "full", "flat", CHANNELS, "cayley"
    yield "0.1.4", "gradnorm", "flat", CHANNELS, "matrix_exp"
