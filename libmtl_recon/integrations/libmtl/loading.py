"""``--load_path``: load a checkpoint completely, or refuse it and name what does not fit."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl.checkpoints import fitted
from libmtl_recon.integrations.libmtl.split_source import checkpoint_file

_logger = logging.getLogger(__name__)

_SHOWN = 5  # names of each kind; a network has hundreds


def load_strictly(model: Any, given: str | os.PathLike[str]) -> str:
    """Load a checkpoint into a model, from whichever device its tensors were saved.

    Args:
        model: LibMTL's model.
        given: The file, or a folder with a ``best.pt``.

    Returns:
        The file's path.

    Raises:
        UsageError: There is no such file.
        ReconError: It is not a checkpoint, or not one of this network; the message names the
            missing and unexpected keys, and those with another shape.
    """
    from libmtl_recon.splitting.torch_files import read_saved, refuse_other_numbers, state_dict_in

    path = Path(checkpoint_file(given))
    source = f"--load_path {path}"
    state = fitted(model, state_dict_in(source, read_saved(source, path)))
    own = model.state_dict()
    _refuse_another_network(path, own, state)
    refuse_other_numbers(source, own, state)
    for name in own.keys() - state.keys():
        _logger.info("Recon: %s has no %s, which starts anew", path, name)
    for name in state.keys() - own.keys():
        _logger.info("Recon: %s in %s belongs to another weighting and is left out", name, path)
    try:
        model.load_state_dict({name: state.get(name, value) for name, value in own.items()})
    except RuntimeError as error:
        raise ReconError(f"{source} does not fit this network. {error}") from error
    return os.fspath(path)


def _refuse_another_network(
    path: Path, own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    # A weighting's own parameters (UW's loss_scale) belong to the model, not to a submodule.
    missing = [name for name in own if name not in state and "." in name]
    unexpected = [name for name in state if name not in own and "." in name]
    other = [
        f"{name} ({list(state[name].shape)} instead of {list(own[name].shape)})"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
    faults = [f"{kind}: {_shorten(names)}" for kind, names in kinds if names]
    if faults:
        raise ReconError(
            f"--load_path: {path} is the checkpoint of another network ({'; '.join(faults)}), of "
            "which LibMTL would have loaded the matching part and left the rest random. Use the "
            "architecture, encoder, decoders and task names with which it was saved, and for "
            "--arch Recon the same layers."
        )


def _shorten(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
