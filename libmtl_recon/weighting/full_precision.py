"""Modules whose state needs more than half precision."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn


class FullPrecision(nn.Module):
    """A module that ``.to()`` and similar methods convert, except to float16 or bfloat16."""

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        def keep_digits(tensor: Tensor) -> Tensor:
            moved: Tensor = fn(tensor)
            half = moved.dtype in (torch.float16, torch.bfloat16)
            return tensor.to(moved.device) if half else moved

        super()._apply(keep_digits, recurse)  # type: ignore[no-untyped-call]
        return self
