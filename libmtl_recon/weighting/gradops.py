"""GradOPS, Algorithm 1 of "Gradient Deconfliction via Orthogonal Projections onto Subspaces".

The paper projects gradients of millions of entries by Gram-Schmidt. Every projected gradient
is a combination of the T original ones, so the projection can be computed in T dimensions from the
Gramian: with M the Gramian, the coefficients of g'ᵢ are row i of M⁻¹ divided by its i-th entry.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.weighting.checked_gramian import check_gramian
from libmtl_recon.weighting.least_norm import shortest_combination

# The precision of a Gramian in float64. A gradient counts as lying inside the span of the others if
# the squared sine of its angle to that span is below this, and a direction counts as part of that
# span if its eigenvalue is above this. For float32 gradients that are dependent up to rounding, the
# squared sine is about 1e-14.
_DEPENDENT = 1e-12

Stationary = Literal["stop", "min_norm"]
STATIONARY: tuple[Stationary, ...] = get_args(Stationary)


@dataclass(frozen=True)
class GradOPSStep:
    """The result of GradOPS for one step.

    Attributes:
        weights: ``[T]``, float64: the update is Σ weights[i] gᵢ, a combination of the *original*
            gradients. The weight of a gradient of zero is zero; others may have any sign.
        factors: ``[T]``, float64: wᵢ of Eq. 5, or the static weights: the update is Σ wᵢ g'ᵢ.
            Zero where g'ᵢ is zero; therefore all are zero if ``min_norm`` computed the weights.
        speeds: ``[T]``, float64: rᵢ of Eq. 4, above 1 for the dominating tasks; NaN where g'ᵢ is
            zero.
        conflict_rate: The fraction of pairs of tasks with a nonzero gradient whose dot product is
            negative; NaN if there is no pair.
    """

    weights: Tensor
    factors: Tensor
    speeds: Tensor
    conflict_rate: float


def gradops_weights(
    gramian: Any,
    alpha: float = 0.0,
    static: Sequence[float] | None = None,
    stationary: Stationary = "stop",
) -> Tensor:
    """Return the weights of the task gradients whose combination is the GradOPS update.

    ``weights @ gradients`` is G'_new = Σ wᵢ g'ᵢ of Algorithm 1.

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised
            (:func:`libmtl_recon.gradients.gramian` makes one of any gradients).
        alpha: The exponent α of Eq. 5. Positive values favour the dominating tasks, negative
            ones the dominated; 0 gives wᵢ = 1.
        static: T positive numbers wᵢ that replace Eq. 5 (Appendix C.3, where their sum is T). α
            must then be 0.
        stationary: The update where all g'ᵢ are zero although the gradients are not. ``stop``, as
            in the paper: no update. ``min_norm``, of this library: the shortest convex combination
            of the gradients, which is a descent direction for all tasks unless it is zero.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU if that has no float64).

    Raises:
        UsageError: The Gramian is not a Gramian matrix of finite numbers, α is not finite, the
            static weights are not T positive numbers, or there is no such ``stationary``.

    Cases that the paper leaves open:

    * A task whose gradient is zero is treated as absent.
    * A gradient in the span of the others (parallel, opposite, or linearly dependent in any
      other way) is projected to g'ᵢ = 0 if it conflicts with one of them. Such a task adds
      nothing to the update and is left out of the means in Eq. 4 and 5 (the T₊ of Theorem 2):
      its rᵢ may be 0, and with α < 0 it would take the weight of the others. If no task is
      left, the weights are zero.
    * All weights may be zero where the point is not Pareto stationary. All g'ᵢ are zero where
      each gradient conflicts and lies in the span of the others; from this the proof of the
      paper's Theorem 1 concludes that a *convex* combination of them is zero, which does not
      follow from linear dependence. (Three gradients at 0°, 5° and 100° in a plane have a
      common descent direction.) ``stationary="min_norm"`` continues there.
    * Two gradients conflict if their dot product is negative, however small it is.
    * rᵢ^α is computed by logarithms, so it does not overflow for any finite α.
    * A single task is trained as without other tasks: its weight is 1.

    Example:
        >>> import torch
        >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
        >>> weights = gradops_weights(gradients @ gradients.T, alpha=0.0)
        >>> (weights @ gradients.double()).tolist()  # (½, ½) + (0, 1): nobody loses
        [0.5, 1.5]
    """
    matrix = check_gramian(gramian)
    step = gradops_step(matrix.cpu(), alpha, static, stationary)
    return step.weights.to(matrix.device)


def gradops_step(
    gramian: Tensor,
    alpha: float = 0.0,
    static: Sequence[float] | None = None,
    stationary: Stationary = "stop",
) -> GradOPSStep:
    """Compute :func:`gradops_weights`, wᵢ, rᵢ and the conflict rate; all on the CPU.

    The Gramian is copied from its device once; nothing else synchronises with the device.
    """
    matrix = check_gramian(gramian).cpu()
    check_alpha("alpha", alpha)
    check_stationary("stationary", stationary)
    fixed = None if static is None else check_static("static", static, len(matrix), alpha)
    projection = deconflict(matrix)
    pulls = scalar_projections(projection, matrix)
    moving = pulls > 0
    speeds = torch.full_like(pulls, math.nan)
    speeds[moving] = pulls[moving] / pulls[moving].mean()
    factors = tradeoff(pulls, alpha) if fixed is None else torch.where(moving, fixed, 0.0)
    weights = factors @ projection.coefficients
    if stationary == "min_norm" and not bool(moving.any()):
        weights = shortest_combination(matrix, _DEPENDENT)
    return GradOPSStep(
        weights=weights,
        factors=factors,
        speeds=speeds,
        conflict_rate=_conflict_rate(matrix),
    )


@dataclass(frozen=True)
class Projection:
    """The projected gradients g'ᵢ as combinations of the original ones.

    Attributes:
        coefficients: ``[T, T]``, float64: g'ᵢ = Σⱼ coefficients[i, j] gⱼ. Row i is the unit row
            where task i conflicts with no other, and zero where g'ᵢ is zero.
        own: ``[T]``, float64: the dot products g'ᵢ · gᵢ, which are equal to ‖g'ᵢ‖².
        conflicting: ``[T]``, bool: whether each task was projected. If so, its g'ᵢ is orthogonal to
            every other gradient.
    """

    coefficients: Tensor
    own: Tensor
    conflicting: Tensor


def deconflict(gramian: Tensor) -> Projection:
    """Project each conflicting gradient (Algorithm 1, lines 3 to 10; Eq. 1, 2).

    Args:
        gramian: ``[T, T]``, float64, symmetric.
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
        # Unit diagonal, so that gradients of very different lengths do not appear dependent.
        cosine = gramian[kept][:, kept] / norms[kept] / norms[kept, None]
        rows, sines = _orthogonal_rows(cosine)
        for position, task in enumerate(kept.tolist()):
            if conflicting[task]:
                coefficients[task, kept] = rows[position] * norms[task] / norms[kept]
                own[task] *= sines[position]
    return Projection(coefficients, own, conflicting)


def scalar_projections(projection: Projection, gramian: Tensor) -> Tensor:
    """Compute Rᵢ = G'·gᵢ / ‖gᵢ‖ (Eq. 3), the length of G' = Σ g'ᵢ along each original gradient.

    Args:
        projection: The result of :func:`deconflict` for the Gramian.
        gramian: ``[T, T]``, float64.

    Returns:
        ``[T]``, float64: above 0 where g'ᵢ is not zero, otherwise 0.
    """
    moving = projection.own > 0
    # A sum without cancellation: of the g'ₖ of other tasks, only the unprojected ones (gₖ itself)
    # are not orthogonal to gᵢ, and their dot products are not negative.
    others = (gramian - gramian.diagonal().diag())[~projection.conflicting].sum(dim=0)
    pulls = torch.zeros_like(projection.own)
    pulls[moving] = (projection.own + others)[moving] / gramian.diagonal()[moving].sqrt()
    return pulls


def tradeoff(pulls: Tensor, alpha: float) -> Tensor:
    """Return the factors wᵢ of the projected gradients (Eq. 4 and 5).

    Args:
        pulls: ``[T]``, float64: Rᵢ, or 0 where g'ᵢ is zero.
        alpha: The exponent α.

    Returns:
        ``[T]``, float64; wᵢ = 0 where g'ᵢ is zero, and the mean over the others is 1.
    """
    factors = torch.zeros_like(pulls)
    moving = pulls > 0
    if not bool(moving.any()):
        return factors
    # The mean of Eq. 4 cancels in Eq. 5, so r may be taken relative to any task: here to the one
    # whose power is the largest, so that none is above 1.
    logs = pulls[moving].log()
    powers = (alpha * (logs - (logs.max() if alpha > 0 else logs.min()))).exp()
    factors[moving] = powers / powers.mean()
    return factors


def check_alpha(parameter: str, alpha: object) -> float:
    """Check an exponent α, and return it.

    Raises:
        UsageError: It is not a finite number.
    """
    number = isinstance(alpha, numbers.Real) and not isinstance(alpha, bool)
    if not number or not math.isfinite(alpha):  # type: ignore[arg-type]  # a number, by now
        raise UsageError(
            parameter,
            "must be a finite number",
            alpha,
            "Try values from -5 to 5; 0 is the plain sum of the deconflicted gradients.",
        )
    return float(alpha)  # type: ignore[arg-type]


def check_stationary(parameter: str, value: object) -> None:
    """Check the argument ``stationary``.

    Raises:
        UsageError: It is not one of the two choices.
    """
    if not isinstance(value, str) or value not in STATIONARY:
        raise UsageError(
            parameter,
            f"must be {' or '.join(STATIONARY)}",
            value,
            "The paper uses stop; min_norm uses the shortest convex combination of the gradients.",
        )


def check_static(parameter: str, given: Sequence[float], tasks: int, alpha: float) -> Tensor:
    """Check static weights (Appendix C.3).

    Args:
        parameter: The name of the argument.
        given: The weights, one per task.
        tasks: The number of tasks T.
        alpha: The exponent α, which they replace.

    Returns:
        ``[T]``, float64.

    Raises:
        UsageError: They are not T finite positive numbers, or α is not 0.
    """
    found = [given] if isinstance(given, (str, numbers.Real)) else list(given)
    for weight in found:
        number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight <= 0:
            raise UsageError(
                parameter,
                "must be finite numbers above 0",
                given,
                "Leave a task out of the training instead of giving it a weight of 0.",
            )
    if len(found) != tasks:
        raise UsageError(
            parameter,
            f"must be {tasks} numbers, one per task, in the order of the tasks",
            given,
            f"Pass {tasks} of them.",
        )
    if alpha != 0:
        raise UsageError(
            parameter,
            f"cannot be combined with `alpha` {alpha:g}, because they replace its weights",
            given,
            "Leave one of the two out.",
        )
    return torch.tensor([float(weight) for weight in found], dtype=torch.float64)


def _orthogonal_rows(cosine: Tensor) -> tuple[Tensor, Tensor]:
    """Return the component of each vector orthogonal to all the others.

    Args:
        cosine: The vectors' Gramian ``[n, n]``, with unit diagonal.

    Returns:
        The coefficients ``[n, n]`` of the components, row i for vector i, and their squared lengths
        ``[n]`` (the squared sines of the angles to the others' spans); zeros where a vector lies in
        that span.
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
        pseudo = torch.linalg.pinv(
            cosine[others][:, others], atol=_DEPENDENT, rtol=0.0, hermitian=True
        )
        solution = pseudo @ target
        sine = 1.0 - float(target @ solution)
        if sine > _DEPENDENT:
            rows[index, index] = 1.0
            rows[index, others] = -solution
            sines[index] = sine
    return rows, sines


def _conflict_rate(gramian: Tensor) -> float:
    kept = gramian.diagonal() > 0
    count = int(kept.sum())
    if count < 2:
        return math.nan
    negative = int((gramian[kept][:, kept] < 0).sum())  # each pair twice
    return negative / (count * (count - 1))
