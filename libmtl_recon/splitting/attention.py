"""Make attention in evaluation compute the same function as in training, without the fast path.

In evaluation without gradients, ``nn.TransformerEncoder``, ``nn.TransformerEncoderLayer`` and
``nn.MultiheadAttention`` may use a separate implementation (torch's fast path). It returns zeros at
padded positions, where the ordinary implementation computes values, and NaN for a row that is
fully padded. It is only used if the parameters are plain tensors, so that a split network, the
same network before its split, and an extracted or exported one would be evaluated by different
functions.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import nn

_ATTENTION = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def evaluate_as_trained(network: nn.Module | None = None) -> bool:
    """Make attention modules compute the same function in evaluation as in training.

    This applies to the whole process, since the networks that a split network is compared with must
    be evaluated in the same way.

    Args:
        network: Nothing is done if this network has no such modules. It is searched only once.

    Returns:
        Whether the network has such modules.
    """
    if network is not None:
        if network not in _known:
            _known[network] = any(isinstance(part, _ATTENTION) for part in network.modules())
        if not _known[network]:
            return False
    torch.backends.mha.set_fastpath_enabled(False)
    return True
