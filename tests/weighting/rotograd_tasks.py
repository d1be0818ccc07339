"""A small problem of any number of tasks, outside of LibMTL."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from libmtl_recon import RotoGrad
from libmtl_recon.weighting.leader import Leader


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def a_rotation(size: int, seed: int) -> Tensor:
    skew = randn(size, size, seed=seed)
    return torch.matrix_exp(skew - skew.T)


def rotated_rotograd(tasks: list[str], size: int, **settings: object) -> RotoGrad:
    """One whose rotations are not the identity any more."""
    rotograd = RotoGrad(tasks, size, **settings).double()
    for place, task in enumerate(tasks):
        rotograd.rotations[task].start_at(a_rotation(size, 100 + place))
    return rotograd


class Problem:
    """A fixed problem of T tasks on one encoder of 8 channels."""

    def __init__(self, tasks: int, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(3)
        self.tasks = [f"t{t}" for t in range(tasks)]
        self.x = randn(16, 4, seed=1).to(dtype)
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh()).to(dtype)
        self.heads = nn.ModuleDict({task: nn.Linear(8, 1) for task in self.tasks}).to(dtype)
        self.wanted = {
            t: torch.tanh(self.x @ randn(4, 1, seed=9 + i).to(dtype))
            for i, t in enumerate(self.tasks)
        }

    def losses(
        self, rotograd: RotoGrad, scales: dict[str, float] | None = None
    ) -> dict[str, Tensor]:
        z = self.encoder(self.x)
        return {
            task: (head(rotograd.rotate(z, task)) - self.wanted[task]).square().mean()
            * (scales or {}).get(task, 1.0)
            for task, head in self.heads.items()
        }

    def encoder_gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.encoder.parameters()])

    def clear(self) -> None:
        for parameter in [*self.encoder.parameters(), *self.heads.parameters()]:
            parameter.grad = None


def train(rotograd: RotoGrad, problem: Problem, steps: int, lr: float = 1e-2) -> None:
    """Train the rotations alone, and nothing else."""
    leader = Leader().to(problem.x.dtype)
    for _ in range(steps):
        problem.clear()
        rotograd.backward(problem.losses(rotograd))
        leader.step(rotograd.named_parameters(), lr)
