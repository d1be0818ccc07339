"""``--recon_amp bf16``: the forward pass under autocast, everything else unchanged."""

from __future__ import annotations

import logging
import warnings
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.prepared_arguments import prepared_training
from libmtl_recon.integrations.libmtl.wrapper import Call

_logger = logging.getLogger(__name__)


def set_precision(call: Call) -> None:
    """Run a Trainer's model from now on in the precision that the script's arguments set."""
    trainer = call.owner
    if prepared_training().get("recon_amp") == "bf16" and "forward" not in vars(trainer.model):
        autocast_forward(trainer.model, trainer.device)


def autocast_forward(model: Any, device: torch.device) -> None:
    """Run a model's forward pass, in training and in evaluation, in bfloat16 under autocast.

    Its outputs are converted back to float32, from which losses and metrics are computed as
    before: a metric may use NumPy, which has no bfloat16, and a loss (``nn.BCELoss``) may not
    support autocast. Parameters and their gradients are in float32 throughout.

    Args:
        model: LibMTL's model; changed in place.
        device: Its device.

    Raises:
        UsageError: This device does not support bfloat16.
    """
    if not computes_in_bfloat16(device):
        raise UsageError(
            "--recon_amp",
            f"needs a device that computes in bfloat16, which {device} does not",
            "bf16",
            "Leave --recon_amp out.",
        )
    _logger.info("Recon: forward passes in bfloat16 (autocast on %s)", device.type)
    # Set on this object alone, and bound, so that a deep copy of the model runs itself.
    vars(model)["forward"] = MethodType(_forward, model)
    vars(model)["_prepare_rep"] = MethodType(_prepare_rep, model)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Return whether autocast gives bfloat16 on this device; where it cannot, it only warns."""
    one = torch.ones(1, 1, device=device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.autocast(device.type, dtype=torch.bfloat16):
                return (one @ one).dtype == torch.bfloat16
    except RuntimeError:
        return False


def _forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    device = next(self.parameters()).device
    with torch.autocast(device.type, dtype=torch.bfloat16):
        predictions = type(self).forward(self, *args, **kwargs)
    return _in_float32(predictions)


def _prepare_rep(self: Any, representation: Any, *args: Any, **kwargs: Any) -> Any:
    # With `rep_grad` its gradients are what is weighted, which is not done in bfloat16.
    if self.rep_grad:
        representation = _in_float32(representation)
    return type(self)._prepare_rep(self, representation, *args, **kwargs)


def _in_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, dict):
        return {key: _in_float32(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_in_float32(item) for item in value]
        # Named tuples take their items as separate arguments.
        return getattr(type(value), "_make", type(value))(items)
    return value
