"""A task tensor: T tensors, one per task, that torch functions treat as one tensor.

A torch function that is applied to a task tensor (a parameter, or an activation computed from it)
runs once per task and returns a task tensor. The ``forward`` of a module needs no change for this.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from libmtl_recon.errors import ReconError
from libmtl_recon.splitting import inplace
from libmtl_recon.splitting.agreement import agree, is_one
from libmtl_recon.splitting.differentiating import (
    OF_ONE_TENSOR,
    HandleOfAll,
    is_backward,
    keep_graph_until_last,
    of_one_tensor,
    refuse_traced_duals,
    refuse_transform_around,
)
from libmtl_recon.splitting.names import ByTask, checked_names, common_names
from libmtl_recon.splitting.pytree import LEAVES, leaves, mapped, rebuilt, updated
from libmtl_recon.splitting.unassigned import Origin, common_origin, refuse_unassigned

_GET_GRAD = vars(torch._C.TensorBase)["grad"].__get__


class TaskTensor(ByTask, Tensor):
    """One tensor per task, in the order of the tasks: ``out["digit"]``, ``out.by_task()``.

    It has the attributes, methods and operators of a tensor, which are applied once per task. A
    result that is not a tensor (a shape, a truth value) must be the same for every task, and is
    returned as it is. Iterating, unpacking and indexing with numbers mean the same as for a tensor,
    since networks do so with their activations: ``for row in out`` iterates over rows, not over
    tasks.

    It is a tensor for Python and for C++, but has no values of its own: an operation that accesses
    it below the level of torch functions, where no task can be chosen, is refused.

    A task tensor with a single part may belong to one task. Combined with task tensors of all
    tasks, it gives a result for that task only.

    Args:
        parts: T tensors, or one.
        task: If there is one part: the position of its task in the order of the tasks.
        tasks: The names of all tasks, in their order. Results computed from it have them too.

    Raises:
        ReconError: The parts are not plain tensors, or the names are not one per task.

    Example:
        >>> import torch
        >>> both = TaskTensor([torch.zeros(2), torch.ones(2)], tasks=["digit", "article"])
        >>> (both * 2 + 1)["article"]
        tensor([3., 3.])
        >>> [part.tolist() for part in (both * 2 + 1).parts]
        [[1.0, 1.0], [3.0, 3.0]]
        >>> both.shape
        torch.Size([2])
    """

    _parts: tuple[Tensor, ...]
    _origin: Origin | None

    @staticmethod
    def __new__(
        cls: type[TaskTensor],
        parts: Sequence[Tensor],
        task: int | None = None,
        tasks: Sequence[str] | None = None,
    ) -> TaskTensor:
        """Create a tensor without storage that represents the parts."""
        parts = tuple(parts) if isinstance(parts, Iterable) else ()
        if not parts or any(type(p) is TaskTensor or not isinstance(p, Tensor) for p in parts):
            found = ", ".join(sorted({type(part).__name__ for part in parts})) or repr(parts)
            raise ReconError(
                "A task tensor is made of one plain tensor per task, and of at least one "
                f"(got {found})."
            )
        if task is not None and len(parts) > 1:
            raise ReconError("A task tensor of a single task must have one part.")
        # Without the shape, C++ that reads it raises errors of its own before ours is reached.
        shape = () if parts[0].is_nested else parts[0].shape
        requires_grad = any(part.requires_grad for part in parts)
        self: TaskTensor = Tensor._make_wrapper_subclass(
            cls, shape, dtype=torch.float32, requires_grad=requires_grad
        )
        self._parts = parts
        self._task = task
        self._tasks = None if tasks is None else checked_names(tasks, len(parts), task)
        self._origin = None
        return self

    def __init__(
        self,
        parts: Sequence[Tensor],
        task: int | None = None,
        tasks: Sequence[str] | None = None,
    ) -> None:
        pass

    @property
    def task(self) -> int | None:
        """The position of the only task with a part; None if there is one part per task."""
        return self._task

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The T tensors.

        Raises:
            ReconError: They are the output of a C++ function that detached them from their graph.
        """
        _refuse_cut_off(self)
        return self._parts

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a torch function once per task."""
        kwargs = kwargs or {}
        name = name_of(func)
        first = args[0] if args else None
        if func == _GET_GRAD and not any(
            part.is_leaf or part.retains_grad for part in task_tensors_in(first)[0]._parts
        ):
            return None  # as for any activation, but without torch's warning, which compilers cause
        if name in ("_make_dual", "_unpack_dual"):
            refuse_traced_duals()
            refuse_transform_around()
        if is_backward(func):
            refuse_transform_around()
            given = task_tensors_in((args, kwargs))
            alone = any(each._task is not None for each in given)
            if not alone:
                refuse_unassigned(given)
            func = keep_graph_until_last(func, 1 if alone else len(given[0]._parts))
        if getattr(func, "__name__", "") == "__set__":
            args = (first, _one_each(args[1], first))
        elif isinstance(first, Tensor) and type(first) is not TaskTensor and inplace.writes(name):
            return _write(func, first, args, kwargs)
        if any(
            isinstance(o, Tensor) and type(o) is not TaskTensor for o in leaves(kwargs.get("out"))
        ):
            raise inplace.into_shared(f"{name}(out=...)")
        inplace.refuse_shared_statistics(func, args, kwargs)
        return per_task(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub takes it for a method
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Refuse operations that would use the task tensor as a tensor with values."""
        raise ReconError(
            f"{func} accessed a tensor that differs between tasks below the level of torch "
            "functions, where no task can be chosen (C++ extensions do so, and transforms of "
            "torch.func outside of `with libmtl_recon.splitting.per_task_calls():`). Call that "
            "code with each value of `.by_task()`, or leave the layers before it shared."
        )

    def __reduce_ex__(self, protocol: Any) -> tuple[type, tuple[Any, ...]]:
        return TaskTensor, (self.parts, self._task, self._tasks)

    def __deepcopy__(self, memo: dict[int, Any]) -> TaskTensor:
        parts = [copy.deepcopy(part, memo) for part in self.parts]
        return TaskTensor(parts, self._task, self._tasks)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise ReconError(
            "A tensor that differs between tasks cannot be converted to a NumPy array. Convert "
            "one of its `.parts`."
        )

    def numpy(self, *_: Any, **__: Any) -> Any:
        """Refuse the conversion, because a NumPy array cannot differ between tasks."""
        return self.__array__()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]  # torch's own is untyped
        return f"TaskTensor({list(self._parts)!r})"

    def __format__(self, specification: str) -> str:
        return repr(self)

    __hash__ = object.__hash__


def per_task(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function once per task, each task tensor in its arguments replaced by the task's part.

    Returns:
        The combined results: a task tensor; tuples, lists and dicts of task tensors; or the value
        that is the same for all tasks.

    Raises:
        ReconError: Task tensors have different numbers of tasks, a value that is not a tensor
            differs between tasks, or the function wrote into a tensor that they share.
    """
    tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    task_tensors = [tensor for tensor in tensors if type(tensor) is TaskTensor]
    shared = [tensor for tensor in tensors if type(tensor) is not TaskTensor]
    for each in task_tensors:
        _refuse_cut_off(each)
    tasks, only = _meet(func, task_tensors)
    before = inplace.versions(shared)
    results = [
        func(*(pick(a, task) for a in args), **{k: pick(v, task) for k, v in kwargs.items()})
        for task in tasks
    ]
    if inplace.versions(shared) != before:
        raise inplace.into_shared(name_of(func))
    return combine(results, func, task_tensors, only)


def _meet(
    func: Callable[..., Any], task_tensors: Sequence[TaskTensor]
) -> tuple[Sequence[int], int | None]:
    """Return the tasks for which to run a function, and the only task if there is one."""
    common_names((each._tasks for each in task_tensors), name_of(func))
    single = {each._task for each in task_tensors if each._task is not None}
    counts = {len(each._parts) for each in task_tensors if each._task is None}
    if len(single) > 1:
        raise ReconError(
            f"{name_of(func)} received values of different single tasks ({sorted(single)}). "
            "Values that the tasks compute separately cannot be mixed."
        )
    if len(counts) > 1 or (single and counts and max(single) >= min(counts)):
        raise ReconError(
            f"{name_of(func)} received task-specific tensors of {sorted(counts)} tasks. All "
            "layers of a network must be split for the same tasks."
        )
    if single:
        return tuple(single), single.pop()
    return range(counts.pop()), None


def _write(
    func: Callable[..., Any], shared: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Write tasks' values into a shared tensor, which thereby becomes a task tensor."""
    name = name_of(func)
    inplace.refuse_kept(shared, name)
    memory = inplace.memory_of(shared, name)
    given = task_tensors_in((args[1:], kwargs))
    other = next((tensor for tensor in given if tensor._task is not None), given[0])
    written = TaskTensor([shared.clone() for _ in other._parts], other._task, other._tasks)
    result = per_task(func, (written, *args[1:]), kwargs)
    inplace.swap(shared, written, name)
    del written
    if not memory.expired():  # the old values outlive the tensor, so something else reads them
        raise inplace.held_elsewhere(name)
    return None if result is None else shared


def name_of(func: Callable[..., Any]) -> str:
    """Return a torch function's name, for a message, or the attribute that it gets or sets."""
    name = getattr(func, "__name__", repr(func))
    if name in ("__get__", "__set__"):
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return str(name)


def task_tensors_in(value: Any) -> list[TaskTensor]:
    """Return the task tensors in a value, also inside tuples, lists, dicts and dataclasses."""
    return [leaf for leaf in leaves(value) if type(leaf) is TaskTensor]


def pick(value: Any, task: int) -> Any:
    """Return a value with each task tensor in it replaced by one task's part."""
    if type(value) is TaskTensor:
        return value._parts[task if value._task is None else 0]
    if isinstance(value, LEAVES):
        return value
    return mapped(value, lambda leaf: pick(leaf, task) if type(leaf) is TaskTensor else leaf)


def combine(
    values: Sequence[Any],
    func: Callable[..., Any],
    given: Sequence[TaskTensor] = (),
    task: int | None = None,
) -> Any:
    """Combine the results of all tasks into one value; the inverse of :func:`pick`.

    Args:
        values: One result per task.
        func: The function that returned them.
        given: The task tensors in its arguments.
        task: The only task that was computed, if it was only one.
    """
    first = values[0]
    if all(isinstance(value, Tensor) for value in values):
        known = [part for each in given for part in each._parts]
        if len(values) > 1 and is_one(values, known):
            return first
        names = next((each._tasks for each in given if each._tasks is not None), None)
        together = TaskTensor(values, task)
        together._tasks = names  # which were checked
        together._origin = common_origin(given)
        return together
    if isinstance(first, torch.Size) or not isinstance(first, tuple | list | dict):
        if all(agree(first, value) for value in values):
            return first
        if isinstance(first, RemovableHandle):
            return HandleOfAll(values)
        if name_of(func) in OF_ONE_TENSOR:
            raise of_one_tensor(name_of(func))
        raise ReconError(
            f"{name_of(func)} returned different values for the tasks "
            f"({', '.join(map(str, values))}), so the network's code would have to branch "
            "differently for each task, which a split network cannot do. Split only layers "
            "whose results do not determine Python's control flow."
        )
    if len({len(value) for value in values}) != 1:
        raise ReconError(
            f"{name_of(func)} returned results of different lengths for different tasks."
        )
    if isinstance(first, dict):
        return updated(
            first, {k: combine([v[k] for v in values], func, given, task) for k in first}
        )
    columns = zip(*values, strict=True)
    return rebuilt(first, [combine(column, func, given, task) for column in columns])


def cut_off(name: str) -> ReconError:
    """Return the error for split layers inside a custom autograd function of this name."""
    return ReconError(
        f"{name} computed a tensor that differs between tasks inside a custom autograd function, "
        "where it has no gradient. With torch.utils.checkpoint use use_reentrant=False; apply "
        "such a function to the output of a split network inside `with "
        "libmtl_recon.splitting.per_task_calls():`; or leave the layers inside it shared."
    )


def _refuse_cut_off(tensor: TaskTensor) -> None:
    if torch.compiler.is_compiling():
        return
    # Only C++ gives the stand-in a gradient function; what torch functions compute is in the parts.
    with torch._C.DisableTorchFunctionSubclass():
        node = tensor.grad_fn
    if node is not None:
        raise cut_off(type(node).__name__)


def _one_each(value: Any, owner: Any) -> Any:
    """Return the value to set an attribute to; a plain tensor is copied for each part."""
    if isinstance(value, Tensor) and type(value) is not TaskTensor and type(owner) is TaskTensor:
        return TaskTensor([value.detach().clone() for _ in owner._parts], owner._task, owner._tasks)
    return value
