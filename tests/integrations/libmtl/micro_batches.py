"""Several ``backward`` calls before one optimiser step: do their gradients add up?

Also a program, for processes of their own (LibMTL's main branch, patches switched off): the file to
write and then the weightings' names.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from small_problem import Encoder as PlainEncoder
from small_problem import batches, make_trainer

# isort: split
import numpy as np
import torch
from torch import Tensor, nn

# LibMTL's own functions differentiate for these as if every parameter were reached.
ALL_REACHED = ("FairGrad", "Nash_MTL")
REP_GRAD = ("GradDrop", "GradNorm", "IMTL", "MGDA")
SEVERAL_BATCHES = ("MoDo", "SDMGrad")
MICRO_BATCHES = 3

Gradients = dict[str, Tensor]


class Encoder(nn.Module):
    """With a branch that only every other micro-batch reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 8), nn.Linear(8, 6)
        self.sometimes = nn.Linear(8, 6)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        hidden = torch.tanh(self.one(x))
        out = self.two(hidden)
        return torch.tanh(out + self.sometimes(hidden) if self.calls % 2 else out)


class Runs:
    """A Trainer's model on the same micro-batches, whatever their number before a step."""

    def __init__(self, name: str, **changes: Any) -> None:
        self.name, self.multi_input = name, changes.get("multi_input", False)
        encoder = PlainEncoder if name in ALL_REACHED else Encoder
        self.trainer = make_trainer(name, 3, **{"encoder_class": encoder, **changes})
        self.model = self.trainer.model
        self.model.train()
        # Some weightings begin in the second epoch; STCH looks back then.
        self.model.epoch = 0 if name == "STCH" else 2
        self.model.train_loss_buffer = np.ones((3, 4)) * [[1.0], [1.5], [2.0]]
        self.drawn = 0

    def backward(self) -> None:
        """Make the next micro-batch's gradients."""
        count = 3 if self.name in SEVERAL_BATCHES else 1
        losses = torch.stack([self.losses(self.drawn + i) for i in range(count)]).squeeze(0)
        self.drawn += 1
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(self.drawn)
        self.model.backward(losses, **self.trainer.kwargs["weight_args"])

    def losses(self, number: int) -> Tensor:
        """The losses ``[T]`` of one batch."""
        x, labels = self.batch(number)
        x = x.to(next(iter(self.model.parameters())).dtype)
        if not self.multi_input:
            found: Tensor = self.trainer._compute_loss(self.model(x), labels)
            return found
        whole = torch.zeros(len(labels))
        for place, (task, label) in enumerate(labels.items()):
            prediction = self.model(x + place, task)[task]
            whole[place] = self.trainer._compute_loss(prediction, label, task)
        return whole

    def batch(self, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """One batch."""
        x, labels = batches(3, count=8)[number % 8]
        return x.to(torch.get_default_dtype()), labels

    def gradients(self) -> Gradients:
        """Copies of all gradients that there are."""
        named = self.model.named_parameters()
        return {n: p.grad.detach().to_dense() + 0 for n, p in named if p.grad is not None}


def one_by_one(runs: Runs) -> list[Gradients]:
    """Each micro-batch's gradients alone."""
    found = []
    for _ in range(MICRO_BATCHES):
        runs.model.zero_grad()
        runs.backward()
        found.append(runs.gradients())
    return found


def together(runs: Runs, start: Callable[[nn.Module], None] = nn.Module.zero_grad) -> Gradients:
    """Return the gradients of all micro-batches before one step."""
    start(runs.model)
    for _ in range(MICRO_BATCHES):
        runs.backward()
    return runs.gradients()


def summed(parts: list[Gradients]) -> Gradients:
    """Return the expected gradients of all micro-batches together."""
    names = sorted({name for part in parts for name in part})
    return {n: torch.stack([p[n] for p in parts if n in p]).sum(0) for n in names}


def error(found: Gradients, wanted: Gradients) -> float:
    """The largest difference relative to a parameter's largest entry; infinite if one is absent."""
    if found.keys() != wanted.keys():
        return float("inf")
    pairs = [(found[name], wanted[name]) for name in wanted]
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs)


def settings(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the other settings to test with a weighting."""
    for multi_input in (False, True):
        for rep_grad in (False, True):
            if (not rep_grad or name in REP_GRAD) and (rep_grad or name != "GradDrop"):
                yield (
                    f"{name}, {multi_input=}, {rep_grad=}",
                    {"multi_input": multi_input, "rep_grad": rep_grad},
                )


def errors(name: str) -> dict[str, float]:
    """Return the errors of a weighting's accumulated gradients, by setting."""
    found = {}
    for key, changes in settings(name):
        wanted = summed(one_by_one(Runs(name, **changes)))
        found[key] = error(together(Runs(name, **changes)), wanted)
    return found


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    path, *names = sys.argv[1:]
    found = {key: value for name in names for key, value in errors(name).items()}
    Path(path).write_text(json.dumps(found), encoding="utf-8")
