"""Handle networks compiled by ``torch.compile``, which are split in their uncompiled form.

The compiler expects plain tensors. For the task tensors between task-specific layers it raises
errors that do not name the cause.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from libmtl_recon.conflicts.layers import COMPILED
from libmtl_recon.splitting.attention import evaluate_as_trained
from libmtl_recon.splitting.differentiating import refuse_transform_around
from libmtl_recon.splitting.inplace import running
from libmtl_recon.splitting.replacements import per_task_calls

# The function below that runs a network out of the compiler's sight, once it is needed.
_untraced: list[Callable[..., Any]] = []


def is_compiled(module: nn.Module) -> bool:
    """Return whether this module itself was compiled, by either way of compiling."""
    return COMPILED in module._modules or module._compiled_call_impl is not None


def uncompiled(network: nn.Module) -> nn.Module:
    """Return the network that ``torch.compile`` may have wrapped, without unwrapping parts."""
    while COMPILED in network._modules:
        network = network._modules[COMPILED]  # type: ignore[assignment]  # is never None
    return network


def compiled_parts(network: nn.Module) -> list[str]:
    """Return the paths of the compiled modules of a network; the network's own path is empty."""
    return [name for name, module in network.named_modules() if is_compiled(module)]


def without_compilation(network: nn.Module) -> nn.Module:
    """Return the uncompiled network of one that was compiled, wholly or in parts.

    Args:
        network: The network; its compiled parts are replaced in place.

    Returns:
        The network, or the network of which it is the compiled form.
    """
    network = uncompiled(network)
    for module in list(network.modules()):
        module._compiled_call_impl = None
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = without_compilation(child)
    return network


class OwnForward(functools.partial[Any]):
    """A ``forward`` of one network, which takes precedence over that of its class.

    Unlike a bound method, it is copied and pickled together with the network.
    """


def run_uncompiled(network: nn.Module) -> None:
    """Make a network run uncompiled, also inside code that ``torch.compile`` compiled.

    The compiler breaks its graph before the network and continues after it. Compiled functions that
    the network's code calls run uncompiled, too.
    """
    leave_to_python()
    # A graph module holds no attributes of its own through copying and pickling, and needs none.
    if "forward" not in vars(network) and not isinstance(network, GraphModule):
        vars(network)["forward"] = OwnForward(run_untraced, network)


def leave_to_python() -> None:
    """Exclude this package's files, which handle task tensors, from ``torch.compile``; once."""
    if not _untraced:
        # For single functions there is `disable`, for files nothing that is public.
        torch._dynamo.trace_rules.add(__name__.rpartition(".")[0])
        _untraced.append(torch.compiler.disable(_as_written))


def run_untraced(network: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a network's code for task tensors, excluded from ``torch.compile``."""
    return _untraced[0](network, *args, **kwargs)


def _as_written(network: nn.Module, *args: Any, **kwargs: Any) -> Any:
    refuse_transform_around()
    evaluate_as_trained(network)  # a script may have switched back since the split
    forward = type(network).forward
    with (
        running(network, (args, kwargs)),
        per_task_calls(),
        torch.compiler.set_stance("force_eager"),
    ):
        return forward(network, *args, **kwargs)
