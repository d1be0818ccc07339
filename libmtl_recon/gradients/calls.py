"""Which modules a forward pass called, with what inputs, and where their outputs are in the graph.

The gradient of a layer's weight follows from the layer's input and the gradient of its output. So
the inputs are noted, which autograd keeps for the backward pass anyway, and of the outputs the
place in the graph, which stays right if an output is changed in place afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from libmtl_recon.errors import ReconError
from libmtl_recon.module_names import COMPILED, layer_name

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Modules whose weight enters their output in one known operation.
_KNOWN = (nn.Linear, nn.Embedding, *CONVOLUTIONS, *TRANSPOSED)


@dataclass(frozen=True)
class Call:
    """One call of a module whose weight enters its output in one known operation.

    Attributes:
        name: The layer's, which is the module's path in the network.
        module: It.
        inputs: What it was given; of an embedding the indices.
        dtype: Of its output, in which the operation was computed.
        shape: Of its output.
        node: The output's node in the graph, which has one output.
        below: Where the graph goes on behind the input; None if that needs no gradient.
    """

    name: str
    module: nn.Module
    inputs: Tensor
    dtype: torch.dtype
    shape: torch.Size
    node: Node
    below: GradientEdge | None
    version: int

    @property
    def bias_axis(self) -> int:
        """The axis of the output along which the bias lies."""
        return 1 if isinstance(self.module, CONVOLUTIONS + TRANSPOSED) else -1

    def check_unchanged(self) -> None:
        """Refuse inputs that are not what they were in the forward pass.

        Raises:
            ReconError: They were changed in place, or their memory was freed.
        """
        freed = self.inputs.numel() and not self.inputs.untyped_storage().nbytes()
        if freed or self.inputs._version != self.version:
            raise ReconError(
                f"The input of the layer {self.name} was "
                f"{'freed' if freed else 'changed in place'} after the forward pass, and its "
                "gradients need it as it was. Make a new tensor of it instead."
            )


@dataclass
class Calls:
    """What one or more forward passes called.

    Attributes:
        calls: By their nodes.
        outputs: The places of all modules' tensors, and how many numbers these have.
    """

    calls: dict[Node, Call] = field(default_factory=dict)
    outputs: dict[tuple[Node, int], int] = field(default_factory=dict)

    def note(self, name: str, module: nn.Module, given: Any, output: Any) -> None:
        """Note one call, if its output is a plain tensor with a graph."""
        # Parameters, and what behaves like tensors of its own kind, is not followed.
        if type(output) is not Tensor or output.grad_fn is None:
            return
        edge = get_gradient_edge(output)
        self.outputs[edge.node, edge.output_nr] = output.numel()
        if type(given) is Tensor and edge.output_nr == 0 and _is_known(module, given):
            below = get_gradient_edge(given) if given.requires_grad else None
            self.calls[edge.node] = Call(
                layer_name(name),
                module,
                given.detach(),
                output.dtype,
                output.shape,
                edge.node,
                below,
                given._version,
            )


@contextmanager
def noted(network: nn.Module) -> Iterator[Calls]:
    """Inside the ``with`` block, note which of a network's modules are called.

    Args:
        network: Not changed; has hooks meanwhile. What ``torch.compile`` has compiled has none.
    """
    found = Calls()
    with ExitStack() as hooks:
        for name, module in _modules(network):
            hook = module.register_forward_hook(
                _noting(found, name), prepend=True, with_kwargs=True
            )
            hooks.callback(hook.remove)
        yield found


def _noting(found: Calls, name: str) -> Any:
    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            found.note(name, module, args[0] if args else kwargs.get("input"), output)

    return note


def _modules(network: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    if COMPILED in network._modules or network._compiled_call_impl is not None:
        return
    yield path, network
    for name, child in network.named_children():
        yield from _modules(child, f"{path}.{name}" if path else name)


def _is_known(module: nn.Module, given: Tensor) -> bool:
    weight = module._parameters.get("weight")
    if type(module) not in _KNOWN or weight is None or weight.is_complex():
        return False
    if "forward" in vars(module):  # a script's own, of this module alone
        return False
    # One sample without a batch axis has one axis less.
    return not isinstance(module, CONVOLUTIONS + TRANSPOSED) or given.ndim == weight.ndim
