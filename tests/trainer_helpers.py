"""What the tests of Lightning's and of Transformers' trainer share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def by_length(matrix: Tensor) -> Tensor:
    """Gradients are made as long as that of the first task."""
    return (matrix[0, 0] / matrix.diagonal()).sqrt()


class Counting:
    """A weighting with a state: how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def weights(self, matrix: Tensor) -> Tensor:
        self.asked += 1
        return torch.full((len(matrix),), 1.0 / self.asked)

    def state_dict(self) -> dict[str, int]:
        return {"asked": self.asked}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.asked = state["asked"]


def assert_same_state(one: nn.Module, other: nn.Module, *, rtol: float, atol: float) -> None:
    for (name, found), wanted in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol, msg=name)
