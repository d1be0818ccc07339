"""The operations of a forward pass, with their inputs and their nodes in the graph.

The gradient of a layer's weight follows from the layer's input and the gradient of its output.
Therefore the inputs are recorded, which autograd keeps for the backward pass anyway, and the place
of each output in the graph, which remains correct if the output is changed in place afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn.utils.rnn import PackedSequence

from libmtl_recon.errors import ReconError
from libmtl_recon.gradients.operations import Operation, of_module
from libmtl_recon.module_names import COMPILED, layer_name


@dataclass(frozen=True)
class Call:
    """One call of a known operation with a layer's weight.

    Attributes:
        name: The layer's name, which is its module's path in the network.
        operation: The operation that was called.
        inputs: Its inputs; for an embedding, the indices.
        dtype: The dtype of its output, in which the operation was computed.
        shape: The shape of its output.
        node: The output's node in the graph, which has one output.
        below: The graph edges of its inputs that are not parameters of the operation.
        version: The version of the inputs in the forward pass.
    """

    name: str
    operation: Operation
    inputs: Tensor
    dtype: torch.dtype
    shape: torch.Size
    node: Node
    below: tuple[tuple[Node, int], ...]
    version: int

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """The groups g, the positions N, and the sizes a and b of the weight's sides, per group."""
        n = self.operation.positions(self.inputs.shape, self.shape)
        return (self.operation.groups, n, *self.operation.sides())

    def check_unchanged(self) -> None:
        """Check that the inputs are unchanged since the forward pass.

        Raises:
            ReconError: They were changed in place, or their memory was freed.
        """
        if self.inputs.numel() and not self.inputs.untyped_storage().nbytes():
            raise not_as_it_was(self.name, "freed")
        if self.inputs._version != self.version:
            raise not_as_it_was(self.name, "changed in place")


def not_as_it_was(name: str, what: str) -> ReconError:
    """Return the error for inputs of a layer that were freed, or changed in place."""
    return ReconError(
        f"The input of the layer {name} was {what} after the forward pass, and its "
        "gradients need it as it was. Make a new tensor of it instead."
    )


@dataclass
class Calls:
    """The calls of one or more forward passes.

    Attributes:
        calls: The calls, by their nodes.
        outputs: The places of all modules' output tensors, with their numbers of elements.
        others: The modules that use their weights in other operations, such as recurrent ones,
            with their numbers of positions.
        tensors: Weak references to the modules' outputs, by the modules' names.
        hooked: The module with a tensor with a hook among its inputs or outputs; empty if none.
    """

    calls: dict[Node, Call] = field(default_factory=dict)
    outputs: dict[tuple[Node, int], int] = field(default_factory=dict)
    others: list[tuple[nn.Module, int]] = field(default_factory=list)
    tensors: list[tuple[str, ref[Tensor]]] = field(default_factory=list)
    hooked: str = ""

    def add(self, other: Calls) -> None:
        """Add the calls of another forward pass."""
        self.calls |= other.calls
        self.outputs |= other.outputs
        self.others += other.others
        self.tensors += other.tensors
        self.hooked = self.hooked or other.hooked

    def find_hooked(self) -> str:
        """Return the layer with a tensor with a hook among its inputs or outputs; empty if none."""
        for name, tensor in self.tensors:
            self._note_hooks(name, tensor())
        return self.hooked

    def _note_hooks(self, name: str, tensor: Any) -> None:
        if type(tensor) is Tensor and tensor.grad_fn is not None and tensor._backward_hooks:
            self.hooked = self.hooked or layer_name(name)

    def note(self, name: str, module: nn.Module, given: Any, output: Any) -> None:
        """Record one call."""
        operation = of_module(module, given) if type(given) is Tensor else None
        if operation is None and module._parameters:
            self._note_other(module, given)
        self._note_hooks(name, given)
        # Parameters and other subclasses of Tensor are not followed.
        if type(output) is not Tensor:
            return
        self._note_hooks(name, output)
        self.tensors.append((name, ref(output)))
        if output.grad_fn is not None:
            self._note_output(name, operation, given, output)

    def _note_other(self, module: nn.Module, given: Any) -> None:
        inputs = given.data if isinstance(given, PackedSequence) else given
        matrices = any(p is not None and p.ndim > 1 for p in module._parameters.values())
        if matrices and type(inputs) is Tensor and inputs.numel():
            width = inputs.shape[-1] if inputs.ndim else 1
            self.others.append((module, inputs.numel() // width))

    def _note_output(
        self, name: str, operation: Operation | None, given: Any, output: Tensor
    ) -> None:
        edge = get_gradient_edge(output)
        self.outputs[edge.node, edge.output_nr] = output.numel()
        # A global module hook runs before ours, and may have replaced the output.
        sure = not nn.modules.module._global_forward_hooks
        if operation is not None and sure and edge.output_nr == 0:
            self.calls[edge.node] = Call(
                layer_name(name),
                operation,
                given.detach(),
                output.dtype,
                output.shape,
                edge.node,
                (get_gradient_edge(given)[:2],) if given.requires_grad else (),
                given._version,
            )


def has_hooks(parameter: Tensor) -> bool:
    """Return whether a parameter has hooks on its gradient or on its accumulation."""
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


@contextmanager
def noted(network: nn.Module) -> Iterator[Calls]:
    """Record, inside the ``with`` block, which of a network's modules are called.

    Args:
        network: It is not changed, but has hooks inside the block. Modules compiled by
            ``torch.compile`` or ``torch.jit`` have none.
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
    if isinstance(network, torch.jit.ScriptModule):  # it does not accept hooks
        return
    yield path, network
    for name, child in network.named_children():
        yield from _modules(child, f"{path}.{name}" if path else name)
