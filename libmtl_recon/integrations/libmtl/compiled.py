"""Networks that a script compiles by ``torch.compile``, in LibMTL's Trainer."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import nn

from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl.flags import ARCHITECTURES
from libmtl_recon.integrations.libmtl.wrapper import Call

_logger = logging.getLogger(__name__)


def prepare(call: Call) -> None:
    """Make a Trainer that is about to build its model train compiled networks like others."""
    keep_graphs()
    architecture = call.arguments["architecture"]
    if getattr(architecture, "__name__", architecture) in ARCHITECTURES:
        call.arguments["encoder_class"] = plainly(call.arguments["encoder_class"])


def refuse_split(call: Call) -> None:
    """Refuse to train a Trainer's network that was compiled after it was split."""
    refuse_compiled_split(call.owner.model)


def keep_graphs() -> None:
    """Let backward passes go through a compiled network's graph more than once.

    Gradient-based weightings do so once per task. By default the compiler lets a backward pass
    reuse memory of the graph, after which the next pass is refused.
    """
    # torch has no such attribute before it is imported.
    config: Any = import_module("torch._functorch.config")
    if hasattr(config, "donated_buffer"):
        config.donated_buffer = False


def plainly(encoder_class: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Return an encoder class whose networks are not compiled; log it where they were."""

    @functools.wraps(encoder_class, updated=())
    def make_plain() -> nn.Module:
        from libmtl_recon.splitting.compile_compat import (
            compiled_parts,
            run_uncompiled,
            without_compilation,
        )

        network = encoder_class()
        if isinstance(network, torch.jit.ScriptModule) or not isinstance(network, nn.Module):
            return network
        if compiled_parts(network):
            _logger.info(
                "Recon: the encoder runs without torch.compile, which cannot trace task-specific "
                "layers; the results are the same"
            )
            network = without_compilation(network)
        run_uncompiled(network)
        return network

    return make_plain


def refuse_compiled_split(model: nn.Module) -> None:
    """Refuse to train a network that was compiled after it was split.

    Raises:
        ReconError: The network was compiled after it was split.
    """
    from libmtl_recon.splitting.compile_compat import is_compiled
    from libmtl_recon.splitting.task_specific import TaskSpecific

    for name, module in model.named_modules():
        if is_compiled(module) and any(isinstance(part, TaskSpecific) for part in module.modules()):
            raise ReconError(
                f"{name or 'The model'} was compiled with torch.compile after --arch Recon had "
                "split its layers, which torch.compile cannot trace. Leave torch.compile out, or "
                "use it in the encoder class, where it is skipped automatically."
            )
