"""A label that says whether it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Masked(NamedTuple):
    """One task's label of a sample, which may be missing; or the labels of a batch.

    A data set returns one for a sample, and PyTorch's own collation makes one for the batch.

    Attributes:
        label: The label. Where it is missing: anything of the same shape and dtype, which nobody
            looks at.
        present: Whether the sample has it, a bool; for a batch of B samples, ``[B]``.

    Example:
        >>> from torch.utils.data import default_collate
        >>> default_collate([{"digit": Masked(7, True)}, {"digit": Masked(0, False)}])
        {'digit': Masked(label=tensor([7, 0]), present=tensor([ True, False]))}
    """

    label: Any
    present: Any

    def to(self, *args: Any, **kwargs: Any) -> Masked:
        """Move the label as ``Tensor.to`` would.

        ``present`` stays where it is, on the CPU as a rule: it decides what is computed, and
        asking a GPU for it would mean waiting for it.
        """
        return Masked(_move(self.label, lambda tensor: tensor.to(*args, **kwargs)), self.present)


def _move(value: Any, move: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {key: _move(item, move) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_move(item, move) for item in value]
        # Named tuples take their items one by one.
        return getattr(type(value), "_make", type(value))(items)
    return move(value) if hasattr(value, "to") else value
