"""Load a trained network as the start of a LibMTL model with split layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl.split_source import unsaid
from libmtl_recon.splitting.checkpoint import Checkpoint, load_model
from libmtl_recon.splitting.split import is_split
from libmtl_recon.splitting.state import plain_names


def load_start(model: Any, checkpoint: Checkpoint) -> list[str]:
    """Load a model, or its encoder alone, into a LibMTL model whose layers are split.

    The checkpoint is from before the split, or of a split model; then this model was built as the
    checkpoint describes or, without a description, by flags, which must give the same layers.

    Args:
        model: LibMTL's model, with its decoders and weighting.
        checkpoint: Its keys are those of the whole model or those of its encoder.

    Returns:
        The keys of weightings' own parameters that only one of the two has: the weighting may be
        another one now.

    Raises:
        ReconError: It does not fit, or is of a split network without a description of the split
            and the model has other layers.
    """
    names = plain_names(model)
    split = {key for plain, keys in names.items() for key in keys if key != plain}
    given = set(checkpoint.model) | {f"encoder.{key}" for key in checkpoint.model}
    if split & given and not checkpoint.splits and not split <= given:
        raise unsaid(checkpoint)
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, nn.Module) and is_split(encoder) and _is_encoders(encoder, checkpoint):
        if checkpoint.optimizer is not None:
            raise ReconError(
                f"{checkpoint.source} has the state of an optimiser, but only the state dict of "
                "an encoder. Save the whole model's state dict with it."
            )
        return load_model(encoder, checkpoint, lambda _: False)
    return load_model(model, checkpoint, lambda key: not model.is_architectures(key))


def load_split(model: Any, checkpoint: Checkpoint) -> None:
    """Load a trained LibMTL model for its architecture; a weighting's parameters may be missing.

    Raises:
        ReconError: The checkpoint does not fit the model.
    """
    known = getattr(model, "is_architectures", lambda key: "." in key)
    load_model(model, replace(checkpoint, optimizer=None), lambda key: not known(key))


def _is_encoders(encoder: nn.Module, checkpoint: Checkpoint) -> bool:
    inside = {*plain_names(encoder), *encoder.state_dict()}
    return sum(key in inside for key in checkpoint.model) > len(checkpoint.model) / 2
