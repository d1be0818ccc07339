"""Make the recomputation of a non-reentrant ``torch.utils.checkpoint`` use the same tasks.

The recomputation runs after the ``with`` block that chose a task has ended, and on a GPU in another
thread, so the network would compute other tasks than in the forward pass. The result would be an
error or, if the shapes are the same, the gradient of another task.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from libmtl_recon.splitting.task_selection import all_choices, choosing

# What ``checkpoint`` is made of, by its name in newer and older versions of PyTorch. It is given
# the function to call again in the backward pass, and does not itself call it in the forward pass.
GENERATORS = (
    "_checkpoint_without_reentrant_generator_impl",
    "_checkpoint_without_reentrant_generator",
)


def recomputing_alike(
    generator: Callable[..., Any], block: Callable[[], AbstractContextManager[Any]]
) -> Callable[..., Any]:
    """Wrap one of the ``GENERATORS``, so that the backward pass computes for the current tasks.

    Args:
        generator: PyTorch's generator.
        block: A function that returns the context in which a network's code runs.
    """

    @functools.wraps(generator)
    def run(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        chosen = all_choices()

        @functools.wraps(function, updated=())
        def again(*args: Any, **kwargs: Any) -> Any:
            with choosing(chosen), block():
                return function(*args, **kwargs)

        return generator(again, *args, **kwargs)

    return run
