"""Calls in the forward passes of a step, recorded for the Gramian of its losses."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from libmtl_recon.gradients.calls import Calls, noted
from libmtl_recon.integrations.libmtl.shared_layers import sharing_root

# The properties of a forward pass that matter to how gradients are computed.
Kind = tuple[Any, ...]
_MOST_KINDS = 256


class ForwardCalls:
    """Record of one model's forward passes since its last step.

    Where rows turn out to be faster, passes of the same kind are not recorded again: a step of
    a small network takes a few milliseconds, and inspecting its graph one more.

    Attributes:
        wanted: Whether calls are recorded because the weighting needs the Gramian.
        watched: Whether calls are recorded because conflicts are counted.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.watched = False
        self._passes: deque[Calls] = deque(maxlen=1)
        self._kinds: deque[Kind] = deque(maxlen=1)
        self._stored: set[Kind] = set()

    @contextmanager
    def noting(self, model: Any, arguments: Any) -> Iterator[None]:
        """Record one forward pass of a model's shared layers inside the ``with`` block.

        Args:
            model: LibMTL's model.
            arguments: The arguments of the pass.
        """
        passes = model.task_num if model.multi_input else 1
        if self._passes.maxlen != passes:
            self._passes, self._kinds = deque(maxlen=passes), deque(maxlen=passes)
        shared = list(model.get_share_params())
        kind = _kind(shared, arguments)
        self._kinds.append(kind)
        if kind in self._stored:
            yield
            return
        with noted(sharing_root(model, shared)) as calls:
            self._passes.append(calls)
            yield

    def store_from_now_on(self) -> None:
        """Stop recording passes of the same kinds as this step's."""
        if len(self._stored) >= _MOST_KINDS:
            self._stored.clear()
        self._stored.update(self._kinds)

    @property
    def together(self) -> Calls | None:
        """Return the calls of all passes of the step; None if none was recorded."""
        if len(self._passes) == 1:
            return self._passes[0]
        found = Calls()
        for calls in self._passes:
            found.add(calls)
        return found if self._passes else None

    def forget(self) -> None:
        """Forget the calls, and the graph with them."""
        self._passes.clear()
        self._kinds.clear()


def _kind(shared: list[Any], arguments: Any) -> Kind:
    shapes = [leaf.shape for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
    return (*shapes, sum(parameter.requires_grad for parameter in shared))
