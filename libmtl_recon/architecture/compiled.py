"""Networks that ``torch.compile`` compiled, which are not split as they are.

The compiler traces a network with plain tensors in mind; of the bundles between task-specific
layers it makes errors that name nothing.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

from libmtl_recon.conflict.layers import COMPILED


def is_compiled(module: nn.Module) -> bool:
    """Whether this very module was compiled, by ``torch.compile`` or its own ``compile``."""
    return COMPILED in module._modules or module._compiled_call_impl is not None


def compiled_parts(network: nn.Module) -> list[str]:
    """The paths of the modules of a network that were compiled; the network's own is empty."""
    return [name for name, module in network.named_modules() if is_compiled(module)]


def without_compilation(network: nn.Module) -> nn.Module:
    """The network that was compiled, wholly or in parts; it then runs as it was written.

    Args:
        network: Changed in its parts.

    Returns:
        The network, or the one that it is the compiled form of.
    """
    while COMPILED in network._modules:
        network = network._modules[COMPILED]  # type: ignore[assignment]  # is never None
    for module in list(network.modules()):
        module._compiled_call_impl = None
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = without_compilation(child)
    return network


def run_uncompiled(network: nn.Module) -> None:
    """Have the functions that a network's code calls run uncompiled, too."""
    if hasattr(torch.compiler, "set_stance") and "forward" not in vars(network):
        # Of this object alone, and bound, so that a deep copy of the network runs itself.
        vars(network)["forward"] = MethodType(forward, network)


def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """A network's own ``forward``, in which ``torch.compile`` changes nothing."""
    with torch.compiler.set_stance("force_eager"):
        return type(self).forward(self, *args, **kwargs)
