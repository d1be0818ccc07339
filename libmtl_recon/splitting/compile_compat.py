"""Networks that ``torch.compile`` compiled, which are not split as they are.

The compiler traces a network with plain tensors in mind; of the bundles between task-specific
layers it makes errors that name nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from libmtl_recon.conflicts.layers import COMPILED
from libmtl_recon.splitting.attention import evaluate_as_trained

# The function below that runs a network out of the compiler's sight, once it is needed.
_untraced: list[Callable[..., Any]] = []


def is_compiled(module: nn.Module) -> bool:
    """Whether this very module was compiled, by ``torch.compile`` or its own ``compile``."""
    return COMPILED in module._modules or module._compiled_call_impl is not None


def uncompiled(network: nn.Module) -> nn.Module:
    """The network itself, of what ``torch.compile`` may have wrapped; its parts as they are."""
    while COMPILED in network._modules:
        network = network._modules[COMPILED]  # type: ignore[assignment]  # is never None
    return network


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
    network = uncompiled(network)
    for module in list(network.modules()):
        module._compiled_call_impl = None
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = without_compilation(child)
    return network


def run_uncompiled(network: nn.Module) -> None:
    """Have a network run as it was written, also inside of what ``torch.compile`` compiled.

    The compiler breaks its graph before the network and goes on behind it. Functions that the
    network's code calls, and that are compiled, run as they were written, too.
    """
    leave_to_python()
    # A graph module holds no method of its own through copying and pickling, and needs none.
    if "forward" not in vars(network) and not isinstance(network, GraphModule):
        # Of this object alone, and bound, so that a deep copy of the network runs itself.
        vars(network)["forward"] = MethodType(_out_of_sight, network)


def leave_to_python() -> None:
    """Have ``torch.compile`` leave our files, through which bundles go, to Python; once."""
    if not _untraced:
        torch._dynamo.trace_rules.add(__name__.rpartition(".")[0])
        _untraced.append(torch._dynamo.disable(_as_written))


def _out_of_sight(network: Any, *args: Any, **kwargs: Any) -> Any:
    """A network's own ``forward``, in which ``torch.compile`` changes nothing."""
    return _untraced[0](network, *args, **kwargs)


# Pickle finds a bound method by its name. The compiler goes by that of the code, and traces what
# is called forward there, wherever it stands.
_out_of_sight.__name__ = "forward"


def _as_written(network: Any, *args: Any, **kwargs: Any) -> Any:
    evaluate_as_trained()  # a script may have switched back since the split
    if not hasattr(torch.compiler, "set_stance"):  # before PyTorch 2.6
        return type(network).forward(network, *args, **kwargs)
    with torch.compiler.set_stance("force_eager"):
        return type(network).forward(network, *args, **kwargs)
