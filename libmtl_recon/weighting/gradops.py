"""GradOPS, Algorithm 1 of "Gradient Deconfliction via Orthogonal Projections onto Subspaces".

The paper projects gradients of millions of entries by Gram-Schmidt. Every projected gradient
is a combination of the T original ones, so all of it can be done in T dimensions on the
Gramian: with M the Gramian, the coefficients of g'ᵢ are row i of M⁻¹ divided by its i-th entry.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from libmtl_recon.errors import UsageError

# A gradient counts as lying inside the span of the others when the squared sine of its angle to
# that span is below this. Float32 gradients that are dependent up to rounding have about 1e-14.
_DEPENDENT = 1e-12


def gradops_weights(gramian: Tensor, alpha: float) -> Tensor:
    """The weights of the original gradients whose combination is the GradOPS update.

    ``weights @ gradients`` is G'_new = Σ wᵢ g'ᵢ of Algorithm 1.

    Args:
        gramian: ``[T, T]``, dot products of the task gradients, of any floating dtype.
        alpha: The exponent α of Eq. 5. Positive values favour the dominating tasks, negative
            ones the dominated; 0 gives wᵢ = 1.

    Returns:
        ``[T]``, float64, on the Gramian's device.

    Raises:
        UsageError: The Gramian is not a square matrix of finite numbers, or α is not finite.

    A task whose gradient is zero takes no part: it conflicts with none and gets weight 0. A task
    whose g'ᵢ is zero (its gradient lies in the span of the others) adds nothing to the update
    and is left out of the means in Eq. 4 and 5, where its rᵢ could be 0 and α negative.

    Example:
        >>> import torch
        >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
        >>> weights = gradops_weights(gradients @ gradients.T, alpha=0.0)
        >>> (weights @ gradients.double()).tolist()  # (½, ½) + (0, 1): nobody loses
        [0.5, 1.5]
    """
    if not math.isfinite(alpha):
        raise UsageError("alpha", "must be a finite number", alpha, "Try values from -5 to 5.")
    if gramian.ndim != 2 or gramian.shape[0] != gramian.shape[1]:
        raise UsageError("gramian", "must be a matrix [T, T]", list(gramian.shape), "Pass G @ G.T.")
    matrix = gramian.detach().to(device="cpu", dtype=torch.float64)
    if not bool(torch.isfinite(matrix).all()):
        tasks = (~torch.isfinite(matrix.diagonal())).nonzero().flatten().tolist()
        raise UsageError(
            "gramian",
            "must hold finite numbers",
            f"not finite for tasks {tasks}",
            "Look for NaN or inf in these tasks' losses.",
        )
    coefficients = deconflict(matrix)
    scale = tradeoff(coefficients, matrix, alpha)
    return (scale @ coefficients).to(gramian.device)


def deconflict(gramian: Tensor) -> Tensor:
    """The coefficients of the projected gradients g'ᵢ (Algorithm 1, lines 3 to 10; Eq. 1, 2).

    Args:
        gramian: ``[T, T]``, float64.

    Returns:
        ``[T, T]``, float64: g'ᵢ = Σⱼ coefficients[i, j] gⱼ. Row i is the unit row where task i
        conflicts with no other, and zero where g'ᵢ is zero.
    """
    norms = gramian.diagonal().clamp_min(0.0).sqrt()
    present = norms > 0
    coefficients = torch.diag(present.double())
    conflicting = ((gramian - gramian.diagonal().diag()) < 0).any(dim=1) & present
    if not bool(conflicting.any()):
        return coefficients
    kept = present.nonzero().flatten()
    # Unit diagonal, so that gradients of very different length do not look dependent.
    cosine = gramian[kept][:, kept] / norms[kept] / norms[kept, None]
    rows = _orthogonal_rows(cosine)
    for position, task in enumerate(kept.tolist()):
        if conflicting[task]:
            coefficients[task, kept] = rows[position] * norms[task] / norms[kept]
    return coefficients


def tradeoff(coefficients: Tensor, gramian: Tensor, alpha: float) -> Tensor:
    """The factors wᵢ of the projected gradients (Eq. 3, 4 and 5).

    Args:
        coefficients: ``[T, T]``, float64, of :func:`deconflict`.
        gramian: ``[T, T]``, float64.
        alpha: The exponent α.

    Returns:
        ``[T]``, float64; wᵢ = 0 where g'ᵢ is zero, and a mean of 1 over the others.
    """
    scale = torch.zeros(gramian.shape[0], dtype=torch.float64)
    moving = coefficients.any(dim=1)
    if not bool(moving.any()):
        return scale
    # Eq. 3, R = G'·g / ‖g‖. The mean in Eq. 4 cancels in Eq. 5.
    projection = coefficients.sum(dim=0) @ gramian[:, moving] / gramian.diagonal()[moving].sqrt()
    # R ≥ ‖g'‖² / ‖g‖ > 0 for these tasks; in logarithms, r^α cannot overflow.
    exponents = alpha * projection.clamp_min(torch.finfo(torch.float64).tiny).log()
    powers = (exponents - exponents.max()).exp()
    scale[moving] = powers / powers.mean()
    return scale


def _orthogonal_rows(cosine: Tensor) -> Tensor:
    """Row i holds the coefficients of the part of vector i that is orthogonal to all others.

    ``cosine`` is a Gramian ``[n, n]`` with unit diagonal.
    """
    if float(torch.linalg.eigvalsh(cosine)[0]) > _DEPENDENT:
        inverse: Tensor = torch.linalg.inv(cosine)
        return inverse / inverse.diagonal()[:, None]
    count = cosine.shape[0]
    rows = torch.zeros_like(cosine)
    for index in range(count):
        others = [other for other in range(count) if other != index]
        target = cosine[others, index]
        pseudo = torch.linalg.pinv(cosine[others][:, others], rtol=_DEPENDENT, hermitian=True)
        solution = pseudo @ target
        if 1.0 - float(target @ solution) > _DEPENDENT:
            rows[index, index] = 1.0
            rows[index, others] = -solution
    return rows
