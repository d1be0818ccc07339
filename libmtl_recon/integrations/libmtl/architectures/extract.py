"""One task's plain network, taken out of a model of LibMTL."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl.architectures.branches import TaskByTask
from libmtl_recon.integrations.libmtl.architectures.task_parts import BY_NUMBER
from libmtl_recon.integrations.libmtl.encoder_lists import returns_list
from libmtl_recon.splitting import extract
from libmtl_recon.splitting.arguments import checked_module, checked_task
from libmtl_recon.splitting.attention import evaluate_as_trained
from libmtl_recon.splitting.compile_compat import uncompiled

_OURS = "libmtl_recon."


class EncoderAndDecoder(nn.Sequential):
    """One task's encoder and decoder, of which the encoder may return a list for all tasks.

    Attributes:
        place: The task's place in such a list.
    """

    place: int

    def forward(self, inputs: Any) -> Any:
        """Return the task's prediction."""
        for name, module in self.named_children():
            inputs = module(inputs)
            if name == "encoder" and isinstance(inputs, list) and hasattr(self, "place"):
                inputs = inputs[self.place]
        return inputs


def extract_task(model: nn.Module, task: str) -> nn.Module:
    """Return one task's network as a plain module, which shares no memory with the model.

    Its parameters and buffers are the task's, under the names that they had before the split, and
    all its classes are those from before it. Its outputs are the model's for that task; a rotation
    that RotoGrad learned is merged into the decoder.

    Args:
        model: A network split by :func:`~libmtl_recon.split_layers`; or LibMTL's model, with
            ``--arch Recon`` or ``HPS``.
        task: The task's name.

    Returns:
        For a split network, that network for the task. For LibMTL's model, ``nn.Sequential`` with
        the parts ``encoder`` and ``decoder``; or :class:`EncoderAndDecoder` if the encoder returns
        a list, or if that is not known because the model was never called. Over another base than
        HPS, that base's own class with this task alone, which returns ``{task: prediction}``.

    Raises:
        UsageError: The model has no such task.
        ReconError: There is no network to extract, or RotoGrad's rotation cannot be merged into
            the decoder.
    """
    model = uncompiled(checked_module(model, "model"))
    evaluate_as_trained(model)  # the extracted network is compared with the model, and exported
    if not hasattr(model, "decoders"):
        return extract.extract_task(model, task)
    names: list[str] = list(model.task_name)  # type: ignore[arg-type]  # LibMTL's
    checked_task(task, names)
    base = _architecture(model)
    if base.__name__ == "HPS":
        whole: Any = model
        parts = nn.Sequential()
        if returns_list(model) is not False:
            parts = EncoderAndDecoder()
            parts.place = names.index(task)
        # In one copy, so that parts they have in common stay shared.
        encoder, decoder = _copy_of((whole.encoder, whole.decoders[task]), model)
        parts.add_module("encoder", extract.taken_out(encoder, task))
        parts.add_module("decoder", extract.taken_out(decoder, task))
        _fold(parts, decoder, model, task)
        return parts.train(model.training)
    if not hasattr(model, "base_attributes"):
        raise ReconError(
            "A task's network can be extracted from the architecture Recon, over any base, and "
            f"from HPS; this model's architecture is {base.__name__}, and nothing was split in it."
        )
    return _alone(model, base, task, names)


def _alone(model: Any, base: type[nn.Module], task: str, names: list[str]) -> nn.Module:
    """Return an instance of the base's own class with one task."""
    alone: Any = base.__new__(base)
    vars(alone).update({name: vars(model)[name] for name in model.base_attributes})
    for kind in ("_parameters", "_buffers", "_modules"):
        own = {k: v for k, v in vars(model)[kind].items() if model.is_architectures(k)}
        vars(alone)[kind] = own
    # Hooks hold the model that they were registered with, which a copy would include.
    for table in (name for kind in extract.HOOK_TABLES.items() for name in (kind[0], *kind[1])):
        vars(alone)[table] = copy.copy(vars(model)[table])
    extract.drop_hooks(alone)
    if alone.rep_grad:  # its tensors are of the last step
        alone.rep_grad, alone.rep, alone.rep_tasks = False, {}, {}
    alone.kwargs = {k: v for k, v in alone.kwargs.items() if not k.startswith("recon_")}
    alone = _copy_of(alone, model)
    place = names.index(task)
    for name, module in list(alone.named_modules()):
        if isinstance(module, nn.ModuleDict) and list(module) == names:
            for other in names:
                if other != task:
                    del module[other]
        elif isinstance(module, nn.ModuleList) and name.split(".")[-2:-1] == [BY_NUMBER]:
            kept = module[place]
            for index in reversed(range(len(module))):
                del module[index]
            module.append(kept)
        if isinstance(vars(module).get("task_name"), TaskByTask):
            vars(module).update(task_name=[task], task_num=1)
    alone.train(model.training)
    network = extract.taken_out(alone, task)
    _fold(network, alone.decoders[task], model, task)
    return network


def _copy_of(part: Any, model: nn.Module) -> Any:
    """Return a deep copy of a part, without a copy of the model that a hook on it may hold."""
    return copy.deepcopy(part, {id(model): model})


def _fold(network: nn.Module, decoder: nn.Module, model: Any, task: str) -> None:
    """Merge the rotation in front of a copied decoder into it, if RotoGrad learned one.

    Args:
        network: The copy that the decoder is part of.
        decoder: The decoder; changed in place.
        model: The original model.
        task: The decoder's task.

    Raises:
        ReconError: The decoder does not begin with a linear layer, or its weight is also used
            elsewhere in the network.
    """
    if not hasattr(model, "folded_state_dict"):
        return
    folded, inside = model.folded_state_dict(), f"decoders.{task}."
    own = {k.removeprefix(inside): v for k, v in folded.items() if k.startswith(inside)}
    every = list(network.named_parameters(remove_duplicate=False))
    for key, parameter in decoder.named_parameters():
        names = [name for name, other in every if other is parameter]
        if len(names) > 1 and not torch.equal(parameter, own[key]):
            raise ReconError(
                f"The rotation of task {task!r} cannot be merged into its decoder, because the "
                f"weight that it would go into is one and the same in {' and '.join(names)}."
            )
    decoder.load_state_dict(own)


def _architecture(model: nn.Module) -> type[nn.Module]:
    """Return LibMTL's class that the model is built from: the first in the MRO that is not ours."""
    for parent in type(model).__mro__[1:]:
        if not parent.__module__.startswith(_OURS):
            found: type[nn.Module] = parent
            break
    return found
