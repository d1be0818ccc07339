"""What the weightings of the shared parameters' gradients have in common."""

from __future__ import annotations

import random
from typing import Any, NoReturn

from torch import Tensor

from libmtl_recon.errors import UsageError


def shared_gradients(model: Any, losses: Tensor) -> Tensor:
    """The gradient of each task, ``[T, d]``.

    Raises:
        UsageError: ``rep_grad`` is on.
    """
    if model.rep_grad:
        refuse_rep_grad()
    model._compute_grad_dim()
    gradients: Tensor = model._compute_grad(losses, mode="backward")
    return gradients


def refuse_rep_grad() -> NoReturn:
    """Refuse the gradients of the representation.

    Raises:
        UsageError: Always.
    """
    raise UsageError(
        "--rep_grad",
        "cannot be combined with a weighting of the gradients of the shared parameters",
        True,
        "Leave --rep_grad out.",
    )


def draw_orders(tasks: int, *, own: bool) -> list[list[int]]:
    """In which order each task meets the tasks: LibMTL's numbers, drawn as LibMTL draws them.

    Args:
        tasks: T.
        own: Whether a task meets itself, too.
    """
    orders = []
    for task in range(tasks):
        order = [other for other in range(tasks) if own or other != task]
        random.shuffle(order)
        orders.append(order)
    return orders
