"""Attention in evaluation: by the function that training computes, not by torch's other one.

In evaluation without gradients ``nn.TransformerEncoder``, ``nn.TransformerEncoderLayer`` and
``nn.MultiheadAttention`` may take a way of their own (torch's fast path), which gives zeros at
padded positions where training and everything else computes values, and NaN for a row that is
padded throughout. Whether they take it depends on their parameters being plain tensors, so that a
split network, the same network unsplit, and the one taken out or exported would be evaluated by
different functions.
"""

from __future__ import annotations

import torch


def evaluate_as_trained() -> None:
    """Have attention modules compute in evaluation what they compute in training.

    It holds in the whole process, since what is compared with a split network must be evaluated
    like it.
    """
    torch.backends.mha.set_fastpath_enabled(False)
