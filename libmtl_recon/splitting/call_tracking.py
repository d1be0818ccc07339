"""Track which module calls computed the output of a network, by watching torch functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from libmtl_recon.splitting import inplace
from libmtl_recon.splitting.pytree import leaves
from libmtl_recon.splitting.task_tensor import TaskTensor

# What these give of a tensor is the same for all tasks.
_OF_ANY = frozenset(
    (
        *("size", "dim", "ndim", "numel", "nelement", "element_size", "stride", "shape", "dtype"),
        *("storage_offset", "device", "get_device", "layout", "is_contiguous", "is_complex"),
        *("is_floating_point", "is_cuda", "is_cpu", "is_meta", "is_sparse", "is_quantized"),
        *("is_nested", "is_leaf", "is_inference", "is_same_size", "requires_grad", "retains_grad"),
        *("__len__", "__hash__", "_version", "data_ptr"),
    )
)


class Follower(TorchFunctionMode):
    """Record, inside its ``with`` block, which calls computed each tensor.

    A set of calls is a number in which bit k represents call k.

    Args:
        known: Tensors that all calls may share: parameters and buffers.

    Attributes:
        calls: For each module call, its number and the position of the call that contains it.
        steering: The calls whose values Python code has branched on.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.calls: list[tuple[int, int | None]] = []
        self.steering = 0
        self._known = {id(tensor): tensor for tensor in known}
        self._open: list[int] = []
        # Each is kept, so that no other comes to have its id; a weak reference would forbid torch
        # to have it become a task tensor, when one is written into it.
        self._made: dict[int, tuple[Tensor, int]] = {}
        self._written: dict[int, tuple[StorageWeakRef, int]] = {}

    def enter(self, number: int) -> None:
        """Record the start of a module's call."""
        self.calls.append((number, self._open[-1] if self._open else None))
        self._open.append(len(self.calls) - 1)

    def leave(self, given: Any, output: Any) -> None:
        """Record the end of the call that began last.

        Args:
            given: The arguments of the module.
            output: Its output.
        """
        bits = self._now()
        self._open.pop()
        for tensor in _tensors(output):
            # What came from code that no mode sees.
            if id(tensor) not in self._made and not self._is_known(tensor) and _computed(tensor):
                self._note(tensor, bits | self.behind(given))

    def behind(self, value: Any) -> int:
        """Return the calls that computed a value."""
        bits = 0
        for tensor in _tensors(value):
            bits |= self._of(tensor)
        return bits

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function, and record its inputs and outputs."""
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        bits = self.behind(given)
        before = [_version(tensor) for tensor in given]
        result = func(*args, **kwargs)
        now = bits | self._now()
        made = _tensors(result)
        if not made and isinstance(result, bool | int | float | complex | list | tuple):
            name = getattr(func, "__name__", "")
            if name == "__get__":
                name = getattr(getattr(func, "__self__", None), "__name__", name)
            if name not in _OF_ANY and not isinstance(result, torch.Size):
                self.steering |= bits
        for tensor in made:
            if not self._is_known(tensor):
                self._note(tensor, now)
        written = [t for t, version in zip(given, before, strict=True) if _version(t) != version]
        if inplace.writes(getattr(func, "__name__", "")):  # inference tensors count no writes
            written += _tensors(args[:1])
        for tensor in written:
            if not self._is_known(tensor):
                self._note_write(tensor, now)
        return result

    def _now(self) -> int:
        return sum(1 << index for index in self._open)

    def _note(self, tensor: Tensor, bits: int) -> None:
        self._made[id(tensor)] = tensor, bits | self._made.get(id(tensor), (tensor, 0))[1]

    def _note_write(self, tensor: Tensor, bits: int) -> None:
        """Record a write into memory that other tensors may share."""
        for memory in _memory(tensor):
            before = self._written.get(memory.cdata, (memory, 0))[1]
            self._written[memory.cdata] = (memory, before | bits)

    def _of(self, tensor: Tensor) -> int:
        if self._is_known(tensor):
            return 0
        # What has no record is some constant, unless autograd knows better.
        known = self._made.get(id(tensor))
        bits = self._all() * _computed(tensor) if known is None else known[1]
        for memory in _memory(tensor):
            bits |= self._written.get(memory.cdata, (memory, 0))[1]
        return int(bits)

    def _all(self) -> int:
        return (1 << len(self.calls)) - 1

    def _is_known(self, tensor: Tensor) -> bool:
        parts = _parts(tensor)
        return all(id(part) in self._known for part in parts)


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.parts if type(tensor) is TaskTensor else (tensor,)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> list[StorageWeakRef]:
    # Sparse tensors have none of their own.
    return [
        StorageWeakRef(part.untyped_storage())
        for part in _parts(tensor)
        if part.layout == torch.strided
    ]


def _version(tensor: Tensor) -> list[int]:
    return inplace.versions(_parts(tensor))


def _computed(tensor: Tensor) -> bool:
    return any(part.requires_grad and not part.is_leaf for part in _parts(tensor))
