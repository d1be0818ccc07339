"""The orders in which PCGrad and GradVac go over pairs of tasks."""

from __future__ import annotations

import random


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
