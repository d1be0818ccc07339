"""Modules with one set of parameters or buffers per task: the implementation of `split`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.splitting.compile_compat import leave_to_python
from libmtl_recon.splitting.task_selection import TaskSelection
from libmtl_recon.splitting.task_tensor import TaskTensor, pick, task_tensors_in

# The child module in which a split module keeps its tasks' values.
CHILD = "tasks"

# The copies made of each parameter, so that layers that share one share its copies.
Copies = dict[nn.Parameter, dict[str, nn.Parameter]]


class TaskValues(nn.Module):
    """One task's parameters and buffers of one module; never called."""

    def register_forward_hook(self, hook: Any, **kwargs: Any) -> Any:
        """Register a forward hook; refuses that of TorchJD's Engine, which would miss parameters.

        Raises:
            ReconError: The hook is the Engine's.
        """
        if type(hook).__module__.startswith("torchjd."):
            raise ReconError(
                "TorchJD's Engine computes a Gramian from the calls of the modules that hold "
                "parameters, and would leave out a task's copies in a split layer, which are "
                "used without a call. Give it only the modules before the first split, or "
                "compute the Jacobian with torchjd.autojac."
            )
        return super().register_forward_hook(hook, **kwargs)


class Tasks(nn.Module):
    """The values of all tasks; a child that is never called."""

    def forward(self, *_: Any, **__: Any) -> Any:
        """Refuse a call: the split module's code used this as one of its layers.

        Raises:
            ReconError: Always.
        """
        raise ReconError(
            f"The code of a split layer calls all of its child modules, and so also {CHILD!r}, "
            "which holds the tasks' values. Such a layer cannot be split; leave it shared."
        )


class TaskSpecific(nn.Module):
    """The class of a split module: its split parameters and buffers are read as task tensors.

    The values live in the child ``tasks``, one :class:`TaskValues` per task, so that the keys of
    the state dict read ``layer1.0.bn1.tasks.digit.weight``.
    """

    _selection: TaskSelection
    _split_names: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_split_names", ()):
            owners = self._modules[CHILD]._modules  # type: ignore[union-attr]  # is always there
            parts = [getattr(owners[task], name) for task in self._selection.active]
            return TaskTensor(parts, self._selection.chosen_place, self._selection.tasks)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dict__.get("_split_names", ()):
            super().__setattr__(name, value)
            return
        owners = self._modules[CHILD]._modules  # type: ignore[union-attr]  # is always there
        whose = value.task if type(value) is TaskTensor else None
        tasks = self._selection.active if whose is None else (self._selection.tasks[whose],)
        for index, task in enumerate(tasks):
            setattr(owners[task], name, _of_task(value, index))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's own ``forward``; for one task's input, with that task's values only."""
        whose = {each.task for each in task_tensors_in((args, kwargs))} - {None}
        if self._selection.chosen is not None or len(whose) != 1:
            return super().forward(*args, **kwargs)
        with self._selection.only(self._selection.tasks[cast(int, whose.pop())]):
            return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class was made at run time: pickle and deepcopy make it anew from the plain one.
        state = self.__getstate__()  # type: ignore[no-untyped-call]  # of object, or an RNN's own
        return _blank, (plain_class(self),), state


class TaskSpecificRNN(TaskSpecific):
    """The class of a split recurrent module, whose list of weights is passed to torch."""

    @property
    def _flat_weights(self) -> list[Any]:
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, _: list[Any]) -> None:
        """Ignore the list, which always follows from the weights."""

    _flat_weights_names: list[str]

    def _weights_have_changed(self) -> bool:
        return False

    def flatten_parameters(self) -> None:
        """Do nothing: cuDNN's packing is for one set of weights."""


class TaskSpecificNorm(TaskSpecific):
    """The class of a split norm, which runs for one task after the other if this is required.

    With ``momentum=None``, the weight of a batch is one over the number of batches, which may
    differ between tasks. Shared statistics (``mixed``) are updated by each task in turn.
    """

    momentum: float | None

    def forward(self, input: Tensor) -> Any:
        """Normalise ``[B, C, ...]``."""
        counted = self.momentum is None and "num_batches_tracked" in self._split_names
        mixed = "running_mean" not in self._split_names and type(input) is TaskTensor
        if not counted and not mixed:
            return super().forward(input)
        place = self._selection.chosen_place
        if place is None and type(input) is TaskTensor:
            place = input.task
        parts = []
        for index in range(len(self._selection.tasks)) if place is None else [place]:
            with self._selection.only(self._selection.tasks[index]):
                out = super().forward(pick(input, index))
            parts.append(pick(out, index))
        return TaskTensor(parts, place, self._selection.tasks)


_classes: dict[type[nn.Module], type[nn.Module]] = {}


def task_specific_class(plain: type[nn.Module]) -> type[nn.Module]:
    """Return the split subclass of a plain class, which is created once."""
    if plain not in _classes:
        _classes[plain] = _derive(plain)
    return _classes[plain]


def _derive(plain: type[nn.Module]) -> type[nn.Module]:
    mixin: type[nn.Module] = TaskSpecific
    if issubclass(plain, nn.RNNBase):
        mixin = TaskSpecificRNN
    elif issubclass(plain, torch.nn.modules.batchnorm._NormBase):
        mixin = TaskSpecificNorm
    return type(
        f"TaskSpecific{plain.__name__}",
        (mixin, plain),
        {"__module__": __name__, "_plain_class": plain, "__doc__": plain.__doc__},
    )


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module has, or had before its split."""
    found: type[nn.Module] = vars(type(module)).get("_plain_class", type(module))
    return found


def make_task_specific(
    module: nn.Module,
    names: Iterable[str],
    selection: TaskSelection,
    copies: Copies | None = None,
) -> None:
    """Replace the named parameters and buffers of a module by one copy per task, in place.

    Args:
        module: The module, whose class becomes a subclass of its former class.
        names: The names of the module's own parameters or buffers, which are not None.
        selection: The choice of tasks of the network that contains the module.
        copies: The copies of the network's parameters so far, to which the new ones are added.

    Raises:
        UsageError: The module already has an attribute ``tasks``.
    """
    names = tuple(names)
    copies = {} if copies is None else copies
    if not isinstance(module, TaskSpecific):
        _change_class(module, selection)
    holder = module._modules[CHILD]
    # Under `inference_mode` the copies could not be trained afterwards.
    with torch.inference_mode(False):
        for task in selection.tasks:
            values = holder._modules.get(task) or TaskValues()  # type: ignore[union-attr]
            for name in names:
                _copy_into(values, module, name, task, copies)
            if task not in holder._modules:  # type: ignore[union-attr]
                holder.add_module(task, values)  # type: ignore[union-attr]
            values.train(module.training)
    for name in names:
        module._parameters.pop(name, None)
        module._buffers.pop(name, None)
    vars(module)["_split_names"] += names
    # Recurrent modules keep stale references otherwise.
    vars(module).pop("_flat_weights", None)


def make_plain(module: nn.Module, task: str) -> None:
    """Undo a module's split, in place: it keeps one task's values and gets its former class.

    Args:
        module: The split module; the values of other tasks are dropped.
        task: The task whose values are kept.
    """
    values = module._modules.pop(CHILD)._modules[task]  # type: ignore[union-attr]
    own = vars(module)
    names, order = own.pop("_split_names"), own.pop("_plain_order")
    del own["_selection"]
    module.__class__ = plain_class(module)
    for kind in ("_parameters", "_buffers"):
        held = own[kind]
        held.update({n: v for n, v in vars(values)[kind].items() if n in names})
        for name in [name for name in order if name in held]:
            held[name] = held.pop(name)  # state dicts keep this order
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def values_of(module: nn.Module, task: str) -> dict[str, Tensor]:
    """Return a split module's parameters and buffers of one task; empty if it is not split."""
    if not isinstance(module, TaskSpecific):
        return {}
    values = module._modules[CHILD]._modules[task]  # type: ignore[union-attr]
    return {name: getattr(values, name) for name in module._split_names}


def _change_class(module: nn.Module, selection: TaskSelection) -> None:
    if hasattr(module, CHILD):
        raise UsageError(
            "layers",
            f"must not have an attribute {CHILD!r} of their own, which a split layer needs",
            type(module).__name__,
            f"Rename the attribute {CHILD!r} of that class.",
        )
    order = (*module._parameters, *module._buffers)
    module.add_module(CHILD, Tasks())
    module.__class__ = task_specific_class(type(module))
    vars(module).update(_selection=selection, _split_names=(), _plain_order=order)


def _copy_into(values: nn.Module, module: nn.Module, name: str, task: str, copies: Copies) -> None:
    parameter = module._parameters.get(name)
    if parameter is None:
        persistent = name not in module._non_persistent_buffers_set
        values.register_buffer(name, module._buffers[name].clone(), persistent)  # type: ignore[union-attr]
        return
    own = copies.setdefault(parameter, {})
    if task not in own:
        own[task] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
    values.register_parameter(name, own[task])


def _of_task(value: Any, index: int) -> Any:
    if type(value) is TaskTensor:
        return value.parts[index]
    if isinstance(value, nn.Parameter):
        return nn.Parameter(value.detach().clone(), value.requires_grad)
    return value.clone() if isinstance(value, Tensor) else value


def _blank(plain: type[nn.Module]) -> nn.Module:
    # The process may be another one than that which split the network.
    leave_to_python()
    made = task_specific_class(plain)
    return made.__new__(made)
