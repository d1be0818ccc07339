"""Check a Gramian of task gradients, and convert it to float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.gradients import exact_device

# The largest difference of the entries (i, j) and (j, i), relative to the lengths of the two
# gradients, that counts as rounding: at least this, and so many machine epsilons of the dtype.
_SYMMETRIC, _ROUNDINGS = 1e-3, 8
_WAY_OUT = "Pass G @ G.T, where row t of G is the gradient of task t."


def check_gramian(gramian: Any, *, groups: bool = False, parameter: str = "gramian") -> Tensor:
    """Check a Gramian of task gradients.

    Args:
        gramian: ``[T, T]``: a tensor of real numbers, a NumPy array, or a list of lists.
        groups: Also accept ``[..., T, T]``, one Gramian per group of parameters.
        parameter: The name of the argument.

    Returns:
        A copy in float64, exactly symmetric, on the same device (on the CPU if that has no
        float64).

    Raises:
        UsageError: It has another shape or type, holds NaN or infinity, or is not the Gramian of
            any vectors: it is not symmetric, or a square on its diagonal is negative.
    """
    given = _as_tensor(parameter, gramian)
    square = given.ndim >= 2 and given.shape[-1] == given.shape[-2]
    if not square or (given.ndim != 2 and not groups):
        shape = "square matrices [..., T, T]" if groups else "a square matrix [T, T]"
        raise UsageError(parameter, f"must be {shape}", list(given.shape), _WAY_OUT)
    if given.numel() == 0:
        raise UsageError(parameter, "must have at least one task", list(given.shape), _WAY_OUT)
    matrix = given.detach().to(exact_device(given.device)).to(torch.float64)
    squares = matrix.diagonal(dim1=-2, dim2=-1)
    if not bool(torch.isfinite(matrix).all()):
        broken = ~torch.isfinite(squares).reshape(-1, squares.shape[-1]).all(dim=0)
        tasks = broken.nonzero().flatten().tolist()
        raise UsageError(
            parameter,
            "must hold finite numbers",
            f"not finite for tasks {tasks}" if tasks else "not finite off its diagonal",
            "Look for NaN or inf in these tasks' losses.",
        )
    lengths = squares.clamp_min(0.0).sqrt()
    if bool((squares < -_SYMMETRIC * squares.abs().amax(dim=-1, keepdim=True)).any()):
        raise UsageError(
            parameter,
            "must have no negative number on its diagonal, which holds the squared lengths of the "
            "gradients",
            float(squares.min()),
            _WAY_OUT,
        )
    epsilon = torch.finfo(given.dtype).eps if given.is_floating_point() else 0.0
    allowed = max(_SYMMETRIC, _ROUNDINGS * epsilon) * lengths[..., :, None] * lengths[..., None, :]
    # Where a length underflows in the dtype (1e-25 squared, in float32), nothing can be checked.
    unknown = allowed == 0
    apart = (matrix - matrix.mT).abs()
    if bool(((apart > allowed) & ~unknown).any()):
        raise UsageError(
            parameter,
            "must be symmetric, because dot products are",
            f"entries (i, j) and (j, i) that differ by {float(apart.max()):g}",
            _WAY_OUT,
        )
    # A matrix product may round (i, j) and (j, i) to different signs, so that i would conflict with
    # j, but not j with i.
    matrix = (matrix + matrix.mT) / 2
    _check_positive(parameter, matrix.cpu(), max(_SYMMETRIC, _ROUNDINGS * epsilon))
    return matrix


def of_gramian(gramian: Any, solve: Callable[[Tensor], Tensor]) -> Tensor:
    """Check a Gramian, and compute its weights.

    Args:
        gramian: As for :func:`check_gramian`.
        solve: A function that computes the weights ``[T]`` from the Gramian in float64, on the CPU.

    Returns:
        ``[T]``, on the Gramian's device (on the CPU if that has no float64).
    """
    matrix = check_gramian(gramian)
    return solve(matrix.cpu()).to(matrix.device)


def _check_positive(parameter: str, matrix: Tensor, allowed: float) -> None:
    """Check that a symmetric matrix is the Gramian of some vectors.

    Raises:
        UsageError: Some combination of vectors would have a negative squared length.
    """
    lengths = matrix.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    units = torch.where(lengths > 0, 1 / lengths, 0.0)
    least = torch.linalg.eigvalsh(units[..., :, None] * matrix * units[..., None, :]).min()
    if least < -allowed * matrix.shape[-1]:
        raise UsageError(
            parameter,
            "must have no negative eigenvalue, since it holds the dot products of vectors",
            f"a matrix of cosines with an eigenvalue of {float(least):.3g}",
            _WAY_OUT,
        )


def _as_tensor(parameter: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        found = value
    else:
        try:
            array = np.asarray(value)
            if array.dtype.kind not in "iufb":
                raise TypeError(f"an array of {array.dtype}")
            found = torch.as_tensor(array.astype(np.float64) if array.dtype.kind != "b" else array)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                parameter, "must be a matrix of numbers [T, T]", value, _WAY_OUT
            ) from error
    found = found.to_dense() if found.layout != torch.strided else found
    if found.dtype == torch.bool or found.is_complex():
        raise UsageError(parameter, "must hold real numbers", str(found.dtype), _WAY_OUT)
    return found
