"""The check of one task's loss before it is differentiated."""

from __future__ import annotations

from torch import Tensor

from libmtl_recon.errors import UsageError


def check_loss(task: str, loss: object) -> None:
    """Check that a loss is a real tensor of one number with a graph.

    Args:
        task: The task's name.
        loss: Its loss.

    Raises:
        UsageError: It is not.
    """
    name = f"The loss of task {task!r}"
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise UsageError(
            name,
            "must be a tensor of one number",
            list(loss.shape) if isinstance(loss, Tensor) else loss,
            "Take the mean over the samples, without .item() or float(); for a task that is absent "
            "in this step pass None.",
        )
    if loss.is_complex():
        raise UsageError(name, "must be real", loss.dtype, "Take its absolute value.")
    if not loss.requires_grad:
        raise UsageError(
            name,
            "must have a graph, because it is differentiated",
            "a constant",
            "Compute it from the network's outputs, without detach() and no_grad(); for a task "
            "that is absent in this step pass None.",
        )
