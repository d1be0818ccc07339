"""Modules that create parts late, and whose earlier copies create the same parts.

RotoGrad creates its rotations in the first step, when the size of the representation is known. A
copy that was made before (such as :class:`torch.optim.swa_utils.AveragedModel`, an average of the
weights) would have no rotations, and code that pairs the parameters of both would pair wrong ones.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from typing import Any, Self

from torch import nn

from libmtl_recon.weighting.full_precision import FullPrecision


class Following(FullPrecision):
    """A module that creates parts late, and whose copies create the same parts.

    A copy creates them when its parameters, buffers or state are accessed. The new parts have their
    own initial values; only the set of parts is that of the module that was copied.
    """

    def __init__(self) -> None:
        super().__init__()
        self._source = Source()

    def follow(self, source: Self) -> None:
        """Create the parts that the copied module has, and this one lacks."""
        raise NotImplementedError

    def catch_up(self) -> None:
        """Follow the module that this is a copy of, if there is one and it still exists."""
        source = self._source.module()
        if source is not None:
            source.catch_up()
            self.follow(source)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(self), memo))
        twin._source = Source(self)
        return twin

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """See :meth:`torch.nn.Module.named_modules`, by which parameters and buffers are listed."""
        self.catch_up()
        yield from super().named_modules(memo, prefix, remove_duplicate)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.catch_up()
        super()._save_to_state_dict(destination, prefix, keep_vars)


class Source:
    """A weak reference to the copied module, which is not saved."""

    def __init__(self, module: Any = None) -> None:
        self._module = None if module is None else weakref.ref(module)

    def module(self) -> Any:
        """Return the module, or None."""
        return None if self._module is None else self._module()

    def __deepcopy__(self, memo: Any) -> Source:
        return Source(self.module())

    def __reduce__(self) -> tuple[type[Source], tuple[()]]:
        return Source, ()
