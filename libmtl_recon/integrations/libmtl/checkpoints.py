"""State dicts of LibMTL's models: those of another weighting load, those of another split do not.

Differences are reported when a state dict is loaded, by ``load_state_dict`` or by LibMTL's own
``load_path``, whose ``strict=False`` would leave parameters that do not fit random.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import nn

from libmtl_recon.conflicts.layers import COMPILED, plain_name
from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl.wrapper import Call

_logger = logging.getLogger(__name__)

# Parameters that LibMTL's UW, GradNorm and IMTL learn, each with its own meaning.
_LEARNED = "loss_scale"
_ROTATIONS = "rotograd"
# The key of the weighting in the metadata of a state dict.
_WEIGHTING = "libmtl_recon_weighting"
_SPLIT_KEY = re.compile(r"(?P<layer>.+)\.tasks\.(?P<task>[^.]+)\.(?P<name>[^.]+)")
_SHOWN = 8  # names of layers; a network has hundreds


def watch_state_dicts(call: Call) -> None:
    """Make a model of LibMTL that was built check the state dicts that it loads."""
    call.owner.register_state_dict_post_hook(_note_weighting)
    call.owner.register_load_state_dict_pre_hook(_match)


def fitted(model: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict with the model's names, as far as it is one of this network.

    Args:
        model: LibMTL's model. Its norms keep statistics per task from here on, if the state dict
            does.
        state_dict: The state dict; not changed.

    Raises:
        ReconError: It is of another split, or its decoders expect rotations.
    """
    from libmtl_recon.splitting.state import plain_names, split_statistics

    found = dict(state_dict)
    _match(model, found, "", getattr(state_dict, "_metadata", {}).get("", {}))
    split_statistics(model, found)
    for plain, own in plain_names(model).items():
        if plain not in own and plain in found:
            value = found.pop(plain)
            found.update({key: value.clone() for key in own})
    return found


def _note_weighting(model: Any, _: Any, __: str, metadata: dict[str, Any]) -> None:
    metadata[_WEIGHTING] = _weighting_name(model)


def _match(
    model: Any, state_dict: dict[str, Any], prefix: str, metadata: Mapping[str, Any], *_: Any
) -> None:
    """Make a state dict, which is torch's copy of the caller's, fit the model if possible."""
    _match_compilation(model, state_dict, prefix)
    _match_weighting(model, state_dict, prefix, metadata.get(_WEIGHTING))
    _match_split(model, [k.removeprefix(prefix) for k in state_dict if k.startswith(prefix)])


def _match_compilation(model: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    """Ignore the prefix that ``torch.compile`` adds to names: it changes no values."""
    own = {prefix + key for key in model.state_dict()}
    compiled = any(COMPILED in key.split(".") for key in own)
    if not compiled and not any(COMPILED in key.split(".") for key in state_dict):
        return
    by_plain = {plain_name(key): key for key in own}
    for key in [key for key in state_dict if key.startswith(prefix) and key not in own]:
        plain = plain_name(key)
        fitting = by_plain.get(plain, key if compiled else plain)
        state_dict[fitting] = state_dict.pop(key)


def _match_weighting(
    model: Any, state_dict: dict[str, Any], prefix: str, saved_under: str | None
) -> None:
    """Allow a weighting's own learned parameters to be missing or of another weighting."""
    key, weighting = f"{prefix}{_LEARNED}", _weighting_name(model)
    own = model._parameters.get(_LEARNED)
    if own is None and key in state_dict:
        del state_dict[key]
        _logger.info(
            "Recon: the checkpoint's %s, which %s learned, is left out: %s does not use it",
            _LEARNED,
            saved_under or "a weighting",
            weighting,
        )
    elif own is not None and (key not in state_dict or saved_under not in (None, weighting)):
        state_dict[key] = own.detach().clone()
        _logger.info(
            "Recon: the checkpoint has no %s of %s, which starts anew", _LEARNED, weighting
        )
    _match_rotations(model, state_dict, prefix)


def _match_rotations(model: Any, state_dict: dict[str, Any], prefix: str) -> None:
    """Make RotoGrad's rotations fit; refuse its decoders for a weighting without rotations."""
    saved = [key for key in state_dict if key.startswith(f"{prefix}{_ROTATIONS}")]
    if _ROTATIONS in model._modules:
        if not saved:
            model.restart_rotations()
            for name, value in model.state_dict().items():
                if name.startswith(_ROTATIONS):
                    state_dict[f"{prefix}{name}"] = value.clone()
            _logger.info("Recon: the checkpoint has no rotations of RotoGrad, which start anew")
        # Rotations are made when their size is known, and a checkpoint determines it.
        for name in (_ROTATIONS, f"{_ROTATIONS}_leader"):
            model.get_submodule(name).make_room(state_dict, f"{prefix}{name}.")
        return
    if any(key.startswith(f"{prefix}{_ROTATIONS}.rotations.") for key in saved):
        raise ReconError(
            "The checkpoint was saved under --weighting RotoGrad, whose decoders expect rotated "
            f"representations, and --weighting {_weighting_name(model)} does not rotate them. "
            "Load it with --weighting RotoGrad, or save one from there whose decoders include the "
            "rotations, with torch.save(model.folded_state_dict(), path)."
        )
    for key in saved:  # for its mode scale, which is only a counter
        del state_dict[key]


def _match_split(model: nn.Module, keys: Collection[str]) -> None:
    """Check layers that are task-specific in only one of the model and the state dict.

    A plain layer's values are copied for each task, as the split itself does; a task's own values
    cannot be loaded into a shared layer.
    """
    found = _split_in(model, keys)
    own = _split_layers_of(model)
    if not found and not own:
        return
    foreign = [layer for layer in found if layer not in own]
    if foreign and not own:
        raise ReconError(
            f"The checkpoint is of a network with {len(found)} task-specific layers "
            f"({_shorten(found)}), which are shared in this one: each has one value per task and "
            "no shared one. Build the network with --arch Recon, and with the --recon_k and "
            "--recon_layers with which it was saved."
        )
    if foreign:
        raise ReconError(
            "The checkpoint has other task-specific layers than this network. Only in the "
            f"checkpoint: {_shorten(foreign)}; only in the network: "
            f"{_shorten([layer for layer in own if layer not in found]) or 'none'}. Use the "
            "--recon_k, --recon_s and --recon_layers with which it was saved."
        )
    for layer, tasks in found.items():
        if tasks != own[layer]:
            raise ReconError(
                "The checkpoint's task-specific layers are for the tasks "
                f"{_shorten(sorted(tasks))}, those of this network for "
                f"{_shorten(sorted(own[layer]))}. Load a checkpoint with the tasks with which it "
                "was saved."
            )
    given = {plain_name(key).rpartition(".")[0] for key in keys}
    plain = [layer for layer in own if layer not in found and plain_name(layer) in given]
    if plain:
        _logger.info(
            "Recon: the checkpoint shares %s; each task gets its own copy",
            _shorten(plain),
        )


def _split_in(model: nn.Module, keys: Iterable[str]) -> dict[str, set[str]]:
    """Return the layers for which a state dict has per-task parameters, with their tasks."""
    modules = {plain_name(name): module for name, module in model.named_modules()}
    found: dict[str, set[str]] = {}
    for key in keys:
        parts = _SPLIT_KEY.fullmatch(plain_name(key))
        layer = None if parts is None else modules.get(parts["layer"])
        # Norms that are shared may still keep statistics, which are buffers, per task.
        if parts is not None and layer is not None and parts["name"] in _parameter_names(layer):
            found.setdefault(parts["layer"], set()).add(parts["task"])
    return found


def _split_layers_of(model: nn.Module) -> dict[str, set[str]]:
    from libmtl_recon.splitting.task_specific import CHILD, TaskSpecific

    return {
        name: set(module._modules[CHILD]._modules)  # type: ignore[union-attr]  # is always there
        for name, module in model.named_modules()
        if isinstance(module, TaskSpecific) and _parameter_names(module)
    }


def _parameter_names(module: nn.Module) -> set[str]:
    """Return the names of a layer's own parameters, those of its tasks if it is split."""
    from libmtl_recon.splitting.task_specific import CHILD, TaskSpecific

    names = {name for name, value in module._parameters.items() if value is not None}
    if not isinstance(module, TaskSpecific):
        return names
    tasks = module._modules[CHILD]._modules.values()  # type: ignore[union-attr]  # is always there
    # A norm that stays shared has only statistics per task; its parameters are its own.
    return {name for values in tasks if values is not None for name in values._parameters}


def _weighting_name(model: Any) -> str:
    """Return the weighting's class name; LibMTL mixes it in as the model class's last base."""
    return type(model).__bases__[-1].__name__


def _shorten(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
