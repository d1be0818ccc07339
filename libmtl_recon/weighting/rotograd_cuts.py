"""The cuts of the graph between the rotated representation and the heads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.errors import ReconError


@dataclass(frozen=True)
class Cut:
    """The cut of one task.

    Attributes:
        source: The rotated representation, with the graph that leads to it.
        leaf: The same tensor without that graph: the start of the head's graph.
        mark: An object that distinguishes it from the task's other cuts.
    """

    source: Tensor
    leaf: Tensor
    mark: object

    def gradient(self) -> Tensor:
        """Return the gradient of the head's loss with respect to the leaf."""
        found = self.leaf.grad
        return torch.zeros_like(self.leaf) if found is None else found


class Cuts:
    """The cuts of one step. They hold graphs, so a copy of the module has none."""

    def __init__(self) -> None:
        self._of: dict[str, Cut] = {}

    def add(self, task: str, source: Tensor) -> Tensor:
        """Cut the graph after a representation, and return the input of the head."""
        cut = Cut(source, source.detach().requires_grad_(), object())
        cut.leaf.register_hook(partial(self._refuse_another, task, cut.mark))
        self._of[task] = cut
        return cut.leaf

    def of(self, task: str) -> Cut:
        """Return the task's last cut.

        Raises:
            ReconError: There is none.
        """
        if task not in self._of:
            raise ReconError(
                f"The head of task {task!r} has received no input from RotoGrad's rotation since "
                "the last backward pass. Call the model in training mode, with gradients "
                "enabled, before each backward pass."
            )
        return self._of[task]

    def clear(self) -> None:
        """Delete the cuts and their graphs."""
        self._of.clear()

    def _refuse_another(self, task: str, mark: object, gradient: Tensor) -> None:
        if task not in self._of or self._of[task].mark is not mark:
            raise ReconError(
                f"A loss depends on several calls of the head of task {task!r}, but RotoGrad "
                "records only the last one. Call each head once per step, on all of its inputs."
            )

    def __deepcopy__(self, memo: Any) -> Cuts:
        return Cuts()

    def __reduce__(self) -> tuple[type[Cuts], tuple[()]]:
        return Cuts, ()
