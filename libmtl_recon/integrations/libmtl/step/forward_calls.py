"""What the forward passes of a step called, noted for the Gramian of its losses."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from libmtl_recon.gradients.calls import Calls, noted
from libmtl_recon.integrations.libmtl.shared_layers import sharing_root


class ForwardCalls:
    """One model's forward passes since its last step.

    Attributes:
        wanted: Whether they are noted: where its weighting asks for the Gramian.
        watched: Whether they are noted because somebody counts conflicts.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.watched = False
        self._passes: deque[Calls] = deque(maxlen=1)

    @contextmanager
    def noting(self, model: Any) -> Iterator[None]:
        """Inside the ``with`` block, note one forward pass of a model's shared layers."""
        passes = model.task_num if model.multi_input else 1
        if self._passes.maxlen != passes:
            self._passes = deque(maxlen=passes)
        with noted(sharing_root(model, list(model.get_share_params()))) as calls:
            self._passes.append(calls)
            yield

    def together(self) -> Calls:
        """Those of all passes of the step."""
        if len(self._passes) == 1:
            return self._passes[0]
        found = Calls()
        for calls in self._passes:
            found.calls |= calls.calls
            found.outputs |= calls.outputs
        return found

    def forget(self) -> None:
        """Forget them, and with them the graph."""
        self._passes.clear()
