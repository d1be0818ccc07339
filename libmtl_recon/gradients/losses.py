"""The check of the tasks' losses before they are differentiated."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from libmtl_recon.errors import UsageError


def check_losses(losses: Mapping[str, object]) -> None:
    """Check the losses of the tasks that are present in a step.

    Args:
        losses: The losses by task.

    Raises:
        UsageError: As for :func:`check_loss`; or one tensor is the loss of two tasks.
    """
    tasks: dict[int, str] = {}
    for task, loss in losses.items():
        check_loss(task, loss)
        other = tasks.setdefault(id(loss), task)
        if other != task:
            raise UsageError(
                f"The loss of task {task!r}",
                f"must be its own, and not the same tensor as the loss of task {other!r}",
                loss,
                "Compute each task's loss by itself, not their sum; for a task that is absent in "
                "this step pass None.",
            )


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
            "Take the mean over the samples, without .item() or float(), and pass each task's loss "
            "by itself, without torch.stack; for a task that is absent in this step pass None.",
        )
    # That of a split network's output for all tasks refuses this, and names what to do.
    has_graph = loss.grad_fn is not None or loss.requires_grad
    if loss.is_complex():
        raise UsageError(name, "must be real", loss.dtype, "Take its absolute value.")
    if not has_graph:
        raise UsageError(
            name,
            "must have a graph, because it is differentiated",
            "a constant",
            "Compute it from the network's outputs, without detach() and no_grad(); for a task "
            "that is absent in this step pass None.",
        )
