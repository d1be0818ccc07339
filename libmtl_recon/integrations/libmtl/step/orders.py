"""The orders in which PCGrad and GradVac iterate over pairs of tasks."""

from __future__ import annotations

import random


def draw_orders(tasks: int, *, own: bool) -> list[list[int]]:
    """Return, per task, the order of the tasks it is paired with, drawn as LibMTL draws them.

    Args:
        tasks: T.
        own: Whether a task is also paired with itself.
    """
    orders = []
    for task in range(tasks):
        order = [other for other in range(tasks) if own or other != task]
        random.shuffle(order)
        orders.append(order)
    return orders
