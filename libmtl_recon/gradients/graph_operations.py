"""Operations with a layer's weight that no module calls, found in the autograd graph.

Attention modules project by functions, scripts call ``linear`` and ``conv2d`` with parameters of
their own, and a layer that a split network calls once per task does not return a plain tensor. A
node of the graph keeps what the gradient of its weight is computed from. Operations that are not
recognised here, for example because another PyTorch version names them differently, are left to
autograd, and computed by rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from libmtl_recon.gradients.calls import Call, not_as_it_was
from libmtl_recon.gradients.operations import Kind, Operation


class _Form(NamedTuple):
    """The meaning of a node's edges, and the name of the attribute with its saved inputs."""

    inputs: int
    weight: int
    bias: int | None
    saved: str


_FORMS = {
    "AddmmBackward0": _Form(inputs=1, weight=2, bias=0, saved="mat1"),
    "MmBackward0": _Form(inputs=0, weight=1, bias=None, saved="self"),
    "ConvolutionBackward0": _Form(inputs=0, weight=1, bias=2, saved="input"),
}


def call_at(node: Node, names: Mapping[int, str]) -> Call | None:
    """Return the operation's call that created a node; None if it has no weight of the network.

    Args:
        node: The node of the graph.
        names: The layers' names, by the ids of the network's parameters.

    Raises:
        ReconError: The inputs were changed in place.
    """
    kind = type(node).__name__
    form = _FORMS.get(kind)
    if form is None:
        return _embedding(node, names) if kind == "EmbeddingBackward0" else None
    weight, turned = _leaf(node.next_functions[form.weight][0], matrix=form.saved != "input")
    if weight is None or id(weight) not in names or weight.is_complex():
        return None
    try:
        return _read(node, form, weight, turned, names)
    except AttributeError:  # another PyTorch version, whose nodes save other attributes
        return None


def _embedding(node: Any, names: Mapping[int, str]) -> Call | None:
    weight, _ = _leaf(node.next_functions[0][0])
    if weight is None or id(weight) not in names or weight.is_complex():
        return None
    try:
        # No padding index is saved as -1, which reads as a huge number here.
        padding = node._saved_padding_idx
        operation = Operation(
            Kind.EMBEDDING,
            weight,
            padding_index=padding if padding < len(weight) else None,
            by_frequency=node._saved_scale_grad_by_freq,
        )
        indices = _saved(node, "indices", names[id(weight)])
        metadata = node._input_metadata[0]
    except AttributeError:  # another PyTorch version, whose nodes save other attributes
        return None
    if indices is None:
        return None
    shape = torch.Size(metadata.shape)
    name, version = names[id(weight)], indices._version
    return Call(name, operation, indices, metadata.dtype, shape, node, (), version)


def _read(
    node: Any, form: _Form, weight: Tensor, turned: bool, names: Mapping[int, str]
) -> Call | None:
    bias = None if form.bias is None else _leaf(node.next_functions[form.bias][0])[0]
    metadata = node._input_metadata[0]
    if metadata.dtype.is_complex:  # a real weight's gradient is the real part of the product
        return None
    shape = torch.Size(metadata.shape)
    channels = shape[1]
    # A bias that is added along another axis, or computed from a parameter, is not a layer's.
    if bias is not None and (bias.shape != (channels,) or id(bias) not in names):
        bias = None
    operation = _operation(node, form, weight, turned, bias)
    inputs = None if operation is None else _saved(node, form.saved, names[id(weight)])
    if operation is None or inputs is None:
        return None
    below = [node.next_functions[form.inputs]]
    if form.bias is not None and bias is None:
        below.append(node.next_functions[form.bias])
    return Call(
        names[id(weight)],
        operation,
        inputs,
        metadata.dtype,
        shape,
        node,
        tuple(edge for edge in below if edge[0] is not None),
        inputs._version,
    )


def _operation(
    node: Any, form: _Form, weight: Tensor, turned: bool, bias: Tensor | None
) -> Operation | None:
    if form.saved != "input":
        factors = () if form.bias is None else (node._saved_alpha, node._saved_beta)
        if any(factor != 1 for factor in factors):
            return None
        return Operation(Kind.LINEAR if turned else Kind.MATRIX, weight, bias)
    axes = weight.ndim - 2
    stride, dilation, padding = (
        tuple(sizes) * (axes // len(sizes))  # one number stands for all axes
        for sizes in (node._saved_stride, node._saved_dilation, node._saved_padding)
    )
    return Operation(
        Kind.TRANSPOSED if node._saved_transposed else Kind.CONVOLUTION,
        weight,
        bias,
        stride,
        dilation,
        tuple(size for size in reversed(padding) for _ in range(2)),
        groups=node._saved_groups,
    )


def _saved(node: Any, what: str, name: str) -> Tensor | None:
    """Return an input that a node saved; None if it is not available unchanged."""
    raw = getattr(node, f"_raw_saved_{what}")
    # An unpack hook recomputes the tensor (checkpoints) or loads it, each time it is read.
    if raw.unpack_hook is not None:
        return None
    try:
        saved = getattr(node, f"_saved_{what}")
    except RuntimeError as error:
        if "inplace" in str(error):
            raise not_as_it_was(name, "changed in place") from error
        return None  # the graph was freed, which autograd will report
    if type(saved) is not Tensor or saved.layout != torch.strided:
        return None
    return saved.detach()


def _leaf(node: Any, *, matrix: bool = False) -> tuple[Tensor | None, bool]:
    """Return the leaf behind a node, up to its dtype, and for a matrix whether it is transposed."""
    turned = False
    while node is not None:
        match type(node).__name__:
            case "AccumulateGrad":
                return node.variable, turned
            case "TBackward0" | "TransposeBackward0" | "PermuteBackward0" if matrix:
                turned ^= _swaps(node)
            case "ToCopyBackward0":  # autocast's
                pass
            case _:
                return None, False
        node = node.next_functions[0][0]
    return None, False


def _swaps(node: Any) -> bool:
    # Axes counted from the end read as huge numbers here, whose parity is still correct.
    match type(node).__name__:
        case "TransposeBackward0":
            return bool(node._saved_dim0 % 2 != node._saved_dim1 % 2)
        case "PermuteBackward0":
            return [axis % 2 for axis in node._saved_dims] == [1, 0]
        case _:
            return True
