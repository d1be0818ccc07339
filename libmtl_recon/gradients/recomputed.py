"""Backward passes that compute layers again leave their buffers as one such pass leaves them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

# By their names: the buffers, and what is in them.
_Values = dict[str, tuple[Tensor | None, Tensor | None]]


class RecomputedBuffers:
    """The buffers of modules while several backward passes go through the same checkpoints.

    A checkpoint computes its part again in each pass, and a batch norm in it counts the batch
    again. Of what each pass changes the first change stays, or none.

    Args:
        modules: Those whose buffers are looked after.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = [module for module in modules if module._buffers]
        self._versions = [_versions(module) for module in self._modules]
        self._first: dict[int, _Values] = {}

    def keep(self) -> None:
        """Have :meth:`after_pass` take back every change from now on."""
        self._first = {place: _values(module) for place, module in enumerate(self._modules)}

    def forget(self) -> None:
        """Let the first change stay again."""
        self._first = {}

    def after_pass(self) -> None:
        """Take back what a pass has changed in a module that an earlier pass had changed."""
        for place, module in enumerate(self._modules):
            if _versions(module) == self._versions[place]:
                continue
            first = self._first.get(place)
            if first is None:
                self._first[place] = _values(module)
            else:
                for name, (buffer, value) in first.items():
                    if buffer is not None and value is not None:
                        # Its version stays, for the graph may have saved it.
                        buffer.data.copy_(value)
                    module._buffers[name] = buffer
            self._versions[place] = _versions(module)


def _values(module: nn.Module) -> _Values:
    return {
        name: (buffer, None if buffer is None else buffer.detach().clone())
        for name, buffer in module._buffers.items()
    }


def _versions(module: nn.Module) -> list[tuple[str, int, int]]:
    """What tells whether buffers were written to; a batch norm's counter is always."""
    return [
        (name, id(buffer), 0 if buffer is None else buffer._version)
        for name, buffer in module._buffers.items()
    ]
