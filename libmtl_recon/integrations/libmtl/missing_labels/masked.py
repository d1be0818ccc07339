"""A label together with whether it is present."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Masked(NamedTuple):
    """One task's label of a sample, which may be missing; or the labels of a batch.

    A data set returns one for a sample, and PyTorch's own collation makes one for the batch.

    Attributes:
        label: The label. Where it is missing: any value of the same shape and dtype, which is
            ignored.
        present: Whether the sample has the label, a bool; for a batch of B samples, ``[B]``.

    Example:
        >>> from torch.utils.data import default_collate
        >>> default_collate([{"digit": Masked(7, True)}, {"digit": Masked(0, False)}])
        {'digit': Masked(label=tensor([7, 0]), present=tensor([ True, False]))}
    """

    label: Any
    present: Any

    def to(self, *args: Any, **kwargs: Any) -> Masked:
        """Move the label as ``Tensor.to`` would.

        ``present`` stays on its device, usually the CPU: it decides what is computed, and reading
        it from a GPU would mean waiting for the GPU.
        """
        return Masked(_move(self.label, lambda tensor: tensor.to(*args, **kwargs)), self.present)


def _move(value: Any, move: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {key: _move(item, move) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_move(item, move) for item in value]
        # Named tuples take their items as separate arguments.
        return getattr(type(value), "_make", type(value))(items)
    return move(value) if hasattr(value, "to") else value
