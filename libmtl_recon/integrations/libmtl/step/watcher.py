"""Observer of the tasks' gradients of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Watcher(Protocol):
    """Observer of the directions of the tasks' gradients of the shared parameters.

    Attributes:
        waiting: Whether it has not yet received those of this step.
    """

    @property
    def waiting(self) -> bool:
        """Whether it has not yet received the gradients of this step."""

    def take_rows(self, rows: Tensor) -> None:
        """Take the gradients ``[T, d]``, each up to a positive factor; valid until the return."""

    def take_gramians(self, layers: Sequence[str], gramians: Tensor) -> None:
        """Take the Gramians ``[L, T, T]`` of the layers that any task reaches, by name."""
