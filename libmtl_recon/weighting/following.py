"""Copies of a module that was not complete yet: they get what it has got meanwhile.

RotoGrad makes its rotations in the first step, when the size of the representation is known. A
copy that was made before (an average of the weights, :class:`torch.optim.swa_utils.AveragedModel`)
would stay without, and whoever goes through the parameters of both would pair wrong ones.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from typing import Any, Self

from torch import nn

from libmtl_recon.weighting.full_precision import FullPrecision


class Following(FullPrecision):
    """A module whose parts are made late, and a copy of which makes the same parts.

    It does so whenever its parameters, buffers or state are asked for. What is made starts as it
    would by itself; only which parts there are follows the module that was copied.
    """

    def __init__(self) -> None:
        super().__init__()
        self._source = Source()

    def follow(self, source: Self) -> None:
        """Make the parts that the module that was copied has, and this one has not."""
        raise NotImplementedError

    def catch_up(self) -> None:
        """Follow the module of which this is a copy, if it is one and that still exists."""
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
        """As every module's; parameters and buffers are listed by it."""
        self.catch_up()
        yield from super().named_modules(memo, prefix, remove_duplicate)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.catch_up()
        super()._save_to_state_dict(destination, prefix, keep_vars)


class Source:
    """The module that was copied, as long as there is one; saved, it is forgotten."""

    def __init__(self, module: Any = None) -> None:
        self._module = None if module is None else weakref.ref(module)

    def module(self) -> Any:
        """The module, or None."""
        return None if self._module is None else self._module()

    def __deepcopy__(self, memo: Any) -> Source:
        return Source(self.module())

    def __reduce__(self) -> tuple[type[Source], tuple[()]]:
        return Source, ()
