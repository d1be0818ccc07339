"""Who looks on at the tasks' gradients of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Watcher(Protocol):
    """Is told the directions of the tasks' gradients of the shared parameters.

    Attributes:
        waiting: Whether it has not been told those of this step yet.
    """

    @property
    def waiting(self) -> bool:
        """See above."""

    def take_rows(self, rows: Tensor) -> None:
        """Given the gradients ``[T, d]``, each up to a positive factor; valid until the return."""

    def take_gramians(self, layers: Sequence[str], gramians: Tensor) -> None:
        """Given the Gramians ``[L, T, T]`` of the layers that any task reaches, by name."""
