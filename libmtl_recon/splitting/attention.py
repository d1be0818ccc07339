"""Make attention in evaluation compute the same function as in training, without the fast path.

In evaluation without gradients ``nn.TransformerEncoder``, ``nn.TransformerEncoderLayer`` and
``nn.MultiheadAttention`` may take a way of their own (torch's fast path), which gives zeros at
padded positions where training and everything else computes values, and NaN for a row that is
padded throughout. Whether they take it depends on their parameters being plain tensors, so that a
split network, the same network unsplit, and the one taken out or exported would be evaluated by
different functions.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import nn

_ATTENTION = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def evaluate_as_trained(network: nn.Module | None = None) -> bool:
    """Make attention modules compute the same function in evaluation as in training.

    It holds in the whole process, since what is compared with a split network must be evaluated
    like it.

    Args:
        network: Only if there are such modules in this network; which is looked up once.

    Returns:
        Whether there are.
    """
    if network is not None:
        if network not in _known:
            _known[network] = any(isinstance(part, _ATTENTION) for part in network.modules())
        if not _known[network]:
            return False
    torch.backends.mha.set_fastpath_enabled(False)
    return True
