"""The buffers of modules that several backward passes recompute."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

# The buffers by name, and copies of their values.
_Values = dict[str, tuple[Tensor | None, Tensor | None]]


class RecomputedBuffers:
    """Keep modules' buffers right while several backward passes go through the same checkpoints.

    A checkpoint recomputes its part in each pass, and a batch norm in it counts the batch again.
    Only the first change of each buffer stays, or none, as after one such pass.

    Args:
        modules: The modules whose buffers are restored.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = [module for module in modules if module._buffers]
        self._versions = [_versions(module) for module in self._modules]
        self._first: dict[int, _Values] = {}

    def keep(self) -> None:
        """Make :meth:`after_pass` undo every change from now on."""
        self._first = {place: _values(module) for place, module in enumerate(self._modules)}

    def forget(self) -> None:
        """Let the first change of each buffer stay from now on."""
        self._first = {}

    def after_pass(self) -> None:
        """Undo what a pass changed in a module that an earlier pass had changed."""
        for place, module in enumerate(self._modules):
            if _versions(module) == self._versions[place]:
                continue
            first = self._first.get(place)
            if first is None:
                self._first[place] = _values(module)
            else:
                for name, (buffer, value) in first.items():
                    if buffer is not None and value is not None:
                        # Through .data its version stays, since the graph may have saved it.
                        buffer.data.copy_(value)
                    module._buffers[name] = buffer
            self._versions[place] = _versions(module)


def _values(module: nn.Module) -> _Values:
    return {
        name: (buffer, None if buffer is None else buffer.detach().clone())
        for name, buffer in module._buffers.items()
    }


def _versions(module: nn.Module) -> list[tuple[str, int, int]]:
    """Return the identities and versions of buffers, by which a write is detected."""
    return [
        (name, id(buffer), 0 if buffer is None else buffer._version)
        for name, buffer in module._buffers.items()
    ]
