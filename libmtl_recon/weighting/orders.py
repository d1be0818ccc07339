"""Random orders of the tasks."""

from __future__ import annotations

import torch

from libmtl_recon.errors import UsageError


def draw_orders(tasks: int, generator: torch.Generator | None = None) -> list[list[int]]:
    """Draw, for each task, the order in which it is compared with the others.

    Args:
        tasks: The number of tasks T.
        generator: The random generator, on any device. Default: PyTorch's own on the CPU.

    Returns:
        T lists of T - 1 tasks' places.

    Raises:
        UsageError: The generator is not a ``torch.Generator``.
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
