"""A problem of three tasks to be scored, and its cosines taken by hand."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import itertools
import random
from collections.abc import Sequence
from typing import Any

import LibMTL.weighting as weightings
import numpy as np
import torch
from LibMTL import Trainer
from LibMTL.architecture import HPS
from torch import Tensor, nn
from trainer_arguments import WEIGHT_ARGUMENTS, classifications

from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.integrations.libmtl.scoring import ScoringHook

TASKS = ("left", "right", "middle")
EPOCHS, BATCHES, SIZE = 2, 4, 12


class Encoder(nn.Module):
    """With all that makes training depend on its random numbers and on its running state."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 8)
        self.bn1 = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.3)
        self.fc2 = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(torch.tanh(self.bn1(self.fc1(x)))))


class Recorded:
    """Mixed into a weighting: keeps each step's cosines, taken by hand."""

    cosines: list[list[list[float]]]

    def backward(self, losses: Tensor, **kwargs: Any) -> Any:
        if not hasattr(self, "cosines"):
            self.cosines = []
        layers = [[p for p in m.parameters() if p.requires_grad] for m in self.encoder.children()]
        step = []
        for layer in (parameters for parameters in layers if parameters):
            rows = [self._gradient(losses, task, layer) for task in range(len(losses))]
            step.append([_cosine(a, b) for a, b in itertools.combinations(rows, 2)])
        self.cosines.append(step)
        return super().backward(losses, **kwargs)

    def _gradient(self, losses: Tensor, task: int, layer: Sequence[Tensor]) -> Any:
        name = self.task_name[task]
        if hasattr(self, "rotograd"):
            cut = self.rotograd.cuts.of(name)
            (seeds,) = torch.autograd.grad(losses[task], cut.leaf, retain_graph=True)
            outputs = cut.source
        elif self.rep_grad:
            leaf = self.rep_tasks[name]
            (seeds,) = torch.autograd.grad(losses[task], leaf, retain_graph=True)
            outputs = self.rep[name] if isinstance(self.rep, dict) else self.rep
        else:
            outputs, seeds = losses[task], None
        parts = torch.autograd.grad(outputs, layer, seeds, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for g, p in zip(parts, layer, strict=True)]
        return torch.cat([g.flatten() for g in parts]).double().numpy()


def _cosine(u: Any, v: Any) -> float:
    norms = float(np.linalg.norm(u) * np.linalg.norm(v))
    return float(u @ v) / norms if norms else float("nan")


class Batches:
    """Images in, one class for each task out."""

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(3)
        for _ in range(BATCHES):
            x = torch.randn(SIZE, 6, generator=generator)
            yield x, {task: (x[:, i] > 0).long() for i, task in enumerate(TASKS)}


class OneTask(Batches):
    """With ``multi_input`` each task has its own loader, and labels that are tensors."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __iter__(self) -> Any:
        for x, labels in super().__iter__():
            yield x + self.index, labels[TASKS[self.index]]


def build(
    weighting: type,
    encoder: type[nn.Module] = Encoder,
    tasks: Sequence[str] = TASKS,
    **options: Any,
) -> Any:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)  # PCGrad and GradVac draw from it
    return Trainer(
        task_dict=classifications(tasks),
        weighting=weighting,
        architecture=options.pop("architecture", HPS),
        encoder_class=encoder,
        decoders=nn.ModuleDict({task: nn.Linear(5, 2) for task in tasks}),
        rep_grad=options.pop("rep_grad", False),
        multi_input=options.pop("multi_input", False),
        optim_param=options.pop("optim_param", {"optim": "adam", "lr": 0.01}),
        scheduler_param=None,
        weight_args=WEIGHT_ARGUMENTS.get(weighting.__name__, {}),
        arch_args=options.pop("arch_args", {}),
        **options,
    )


def train(trainer: Any, loader: Any = None) -> dict[str, Tensor]:
    """Train; returns the final state, and the losses of each epoch under ``losses``."""
    loader = loader or Batches()
    trainer.train(loader, loader, EPOCHS)
    state = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    return state | {"losses": torch.from_numpy(trainer.model.train_loss_buffer)}


def scored(weighting: type, **options: Any) -> tuple[ScoringHook, Any, dict[str, Tensor]]:
    loader = options.pop("loader", None)
    hook = ScoringHook()
    with trainer_hooks(hook):
        trainer = build(weighting, **options)
        state = train(trainer, loader)
    return hook, trainer, state


def recorded(name: str) -> type:
    return type(name, (Recorded, getattr(weightings, name)), {})


def expected(cosines: list[list[list[float]]], S: float) -> list[int]:
    """Definition 3, over the cosines that were taken by hand."""
    return [sum(c < S for step in cosines for c in step[layer]) for layer in range(len(cosines[0]))]
