"""Return the output of a split network by task, at any depth of nesting."""

from __future__ import annotations

from functools import partial
from typing import Any

from libmtl_recon.errors import UsageError
from libmtl_recon.splitting.names import common_names, nameless
from libmtl_recon.splitting.pytree import mapped
from libmtl_recon.splitting.task_tensor import TaskTensor, task_tensors_in


def by_task(output: Any) -> dict[str, Any]:
    """Return the output of each task's plain network, by the task's name.

    Args:
        output: The output of a split network, or a result computed from it: a task tensor, or
            tuples, lists, dicts and dataclasses (such as a ``ModelOutput`` of Transformers) that
            contain task tensors.

    Returns:
        A dict with, for each task in their order, the same structure with the task's tensor in
        place of each task tensor. Values that do not differ between tasks are in all of them. A
        value that was computed for one task only is None for the others. If the network computed
        one task only, the dict has only this task.

    Raises:
        UsageError: Nothing in the output differs between tasks.
        ReconError: The output has no names of tasks, or comes from networks of different tasks.

    Example:
        >>> import torch
        >>> from libmtl_recon import TaskTensor, by_task
        >>> both = TaskTensor([torch.zeros(2), torch.ones(2)], tasks=["digit", "article"])
        >>> by_task({"logits": both})["article"]
        {'logits': tensor([1., 1.])}
    """
    task_tensors = task_tensors_in(output)
    if not task_tensors:
        raise UsageError(
            "output",
            "must contain a tensor that depends on a task-specific layer",
            type(output).__name__,
            "A value that depends on none is the same for every task; use it directly.",
        )
    tasks = common_names((each._tasks for each in task_tensors), "by_task")
    if tasks is None:
        raise nameless()
    alone = {each._task for each in task_tensors if each._task is not None}
    every = any(each._task is None for each in task_tensors)
    return {
        task: mapped(output, partial(_seen, place=place))
        for place, task in enumerate(tasks)
        if every or place in alone
    }


def _seen(leaf: Any, place: int) -> Any:
    """Return the value of a leaf for one task."""
    if type(leaf) is not TaskTensor:
        return leaf
    if leaf._task is None:
        return leaf.parts[place]
    return leaf.parts[0] if leaf._task == place else None
