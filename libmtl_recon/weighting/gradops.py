"""GradOPS, Algorithm 1 of "Gradient Deconfliction via Orthogonal Projections onto Subspaces".

The paper projects gradients of millions of entries by Gram-Schmidt. Every projected gradient
is a combination of the T original ones, so all of it can be done in T dimensions on the
Gramian: with M the Gramian, the coefficients of g'ᵢ are row i of M⁻¹ divided by its i-th entry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    projection = deconflict(matrix)
    factors = tradeoff(projection, matrix, alpha)
    return (factors @ projection.coefficients).to(gramian.device)


@dataclass(frozen=True)
class Projection:
    """The projected gradients g'ᵢ in terms of the original ones.

    Attributes:
        coefficients: ``[T, T]``, float64: g'ᵢ = Σⱼ coefficients[i, j] gⱼ. Row i is the unit row
            where task i conflicts with no other, and zero where g'ᵢ is zero.
        own: ``[T]``, float64: the dot products g'ᵢ · gᵢ.
        conflicting: ``[T]``, bool: which tasks were projected. Their g'ᵢ is orthogonal to every
            other gradient.
    """

    coefficients: Tensor
    own: Tensor
    conflicting: Tensor


def deconflict(gramian: Tensor) -> Projection:
    """Project each conflicting gradient (Algorithm 1, lines 3 to 10; Eq. 1, 2).

    Args:
        gramian: ``[T, T]``, float64.
    """
    lengths = gramian.diagonal().clamp_min(0.0)
    norms = lengths.sqrt()
    present = norms > 0
    off_diagonal = gramian - gramian.diagonal().diag()
    conflicting = (off_diagonal < 0).any(dim=1) & present
    coefficients = torch.diag(present.double())
    own = lengths.clone()
    if bool(conflicting.any()):
        kept = present.nonzero().flatten()
        # Unit diagonal, so that gradients of very different length do not look dependent.
        cosine = gramian[kept][:, kept] / norms[kept] / norms[kept, None]
        rows, sines = _orthogonal_rows(cosine)
        for position, task in enumerate(kept.tolist()):
            if conflicting[task]:
                coefficients[task, kept] = rows[position] * norms[task] / norms[kept]
                own[task] *= sines[position]
    return Projection(coefficients, own, conflicting)


def tradeoff(projection: Projection, gramian: Tensor, alpha: float) -> Tensor:
    """The factors wᵢ of the projected gradients (Eq. 3, 4 and 5).

    Args:
        projection: What :func:`deconflict` made of the Gramian.
        gramian: ``[T, T]``, float64.
        alpha: The exponent α.

    Returns:
        ``[T]``, float64; wᵢ = 0 where g'ᵢ is zero, and a mean of 1 over the others.
    """
    factors = torch.zeros_like(projection.own)
    moving = projection.own > 0
    if not bool(moving.any()):
        return factors
    # Eq. 3, R = G'·g / ‖g‖, as a sum without cancellation: of the g'ₖ of other tasks only the
    # unprojected ones, gₖ itself, are not orthogonal to g, and their dot products are not
    # negative. The mean in Eq. 4 cancels in Eq. 5.
    others = (gramian - gramian.diagonal().diag())[~projection.conflicting].sum(dim=0)
    norms = gramian.diagonal()[moving].sqrt()
    exponents = alpha * ((projection.own + others)[moving] / norms).log()
    # In logarithms up to here, so that r^α does not overflow.
    powers = (exponents - exponents.max()).exp()
    factors[moving] = powers / powers.mean()
    return factors


def _orthogonal_rows(cosine: Tensor) -> tuple[Tensor, Tensor]:
    """The part of each vector that is orthogonal to all the others.

    Args:
        cosine: The vectors' Gramian ``[n, n]``, with unit diagonal.

    Returns:
        Its coefficients ``[n, n]``, row i for vector i, and its squared length ``[n]`` (the
        squared sine of the angle to the others' span); zeros where it lies in that span.
    """
    if float(torch.linalg.eigvalsh(cosine)[0]) > _DEPENDENT:
        inverse = torch.linalg.inv(cosine)
        sines = 1.0 / inverse.diagonal()
        return inverse * sines[:, None], sines
    count = cosine.shape[0]
    rows, sines = torch.zeros_like(cosine), torch.zeros(count, dtype=cosine.dtype)
    for index in range(count):
        others = [other for other in range(count) if other != index]
        target = cosine[others, index]
        pseudo = torch.linalg.pinv(cosine[others][:, others], rtol=_DEPENDENT, hermitian=True)
        solution = pseudo @ target
        sine = 1.0 - float(target @ solution)
        if sine > _DEPENDENT:
            rows[index, index] = 1.0
            rows[index, others] = -solution
            sines[index] = sine
    return rows, sines
