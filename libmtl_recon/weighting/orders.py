"""Random orders in which the tasks are gone through."""

from __future__ import annotations

import torch

from libmtl_recon.errors import UsageError


def draw_orders(tasks: int, generator: torch.Generator | None = None) -> list[list[int]]:
    """Draw, for each task, the order in which it meets the others.

    Args:
        tasks: T.
        generator: What draws, on any device; PyTorch's default one on the CPU if left out.

    Returns:
        T lists of T - 1 tasks' places.

    Raises:
        UsageError: The generator is none of PyTorch's.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise UsageError(
            "generator",
            "must be a torch.Generator",
            generator,
            "Leave it out to use the default generator.",
        )
    device = torch.device("cpu") if generator is None else generator.device
    orders = []
    for task in range(tasks):
        drawn = torch.randperm(tasks, generator=generator, device=device).tolist()
        orders.append([other for other in drawn if other != task])
    return orders
