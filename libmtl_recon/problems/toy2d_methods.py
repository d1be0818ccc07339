"""The update of each method for two tasks, in closed form and for many points at once.

Each function computes from Gramians of two gradients, ``[N, 2, 2]``, the weights ``[N, 2]`` of
these gradients in the update. With more tasks most methods have no closed form; LibMTL's classes,
and :func:`libmtl_recon.gradops_weights`, support any number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.problems.toy2d_landscape import Array

# CAGrad's own constant, as in its paper's illustrative example.
CAGRAD_C = 0.5
_TINY = 1e-300


def gd(gramian: Array) -> Array:
    """Return the weights of gradient descent on the sum of the losses."""
    return np.ones_like(gramian[:, 0])


def mgda(gramian: Array) -> Array:
    """Return the weights of MGDA, the shortest convex combination."""
    first, both, second = _parts(gramian)
    share = np.clip((second - both) / np.maximum(first + second - 2 * both, _TINY), 0.0, 1.0)
    return np.stack([share, 1 - share], axis=1)


def cagrad(gramian: Array) -> Array:
    """Return the weights of CAGrad (its Eq. 4): the best worst improvement within c‖g₀‖ of g₀.

    g₀ is the mean gradient.
    """
    first, both, second = _parts(gramian)
    # The dual: minimise g_w·g₀ + c‖g₀‖‖g_w‖ over g_w = s g₁ + (1 - s) g₂, which in s is a linear
    # term plus the root of a quadratic a s² + 2 b s + d.
    a, b, d = np.maximum(first + second - 2 * both, _TINY), both - second, second
    radius = CAGRAD_C * 0.5 * np.sqrt(np.maximum(first + second + 2 * both, _TINY))
    # Its derivative is zero where (a s + b) / √((a s + b)² + a d - b²) is this sine.
    sine = 0.5 * (second - first) / (radius * np.sqrt(a))
    inside = np.abs(sine) < 1
    rest = np.maximum(a * d - b * b, 0.0) / np.where(inside, 1 - sine * sine, 1.0)
    share = np.clip(np.where(inside, (sine * np.sqrt(rest) - b) / a, sine > 0), 0.0, 1.0)
    length = np.sqrt(np.maximum((a * share + 2 * b) * share + d, _TINY))
    pull = radius / length
    return np.stack([0.5 + pull * share, 0.5 + pull * (1 - share)], axis=1)


def imtl_g(gramian: Array) -> Array:
    """Return the weights of IMTL-G: equal projections onto both gradients, weights of sum 1."""
    inverse = 1 / np.sqrt(_squares(gramian))
    weights: Array = inverse / inverse.sum(axis=1, keepdims=True)
    return weights


def pcgrad(gramian: Array) -> Array:
    """Return the weights of PCGrad: gradients without their components opposing the other."""
    weights: Array = 1 - np.minimum(gramian[:, 0, 1], 0.0)[:, None] / _squares(gramian)
    return weights


def gradops(gramian: Array, alpha: Array | float) -> Array:
    """Return the weights of GradOPS (Algorithm 1).

    Args:
        gramian: ``[N, 2, 2]``.
        alpha: The exponent α, one for all points or ``[N]``.
    """
    squares, dot = _squares(gramian), gramian[:, 0, 1][:, None]
    opposed = np.minimum(dot, 0.0)
    # g'₁ = g₁ - (g₁·g₂ / ‖g₂‖²) g₂ where they conflict, and G'·g₁ = ‖g'₁‖² there.
    pulls = (squares - opposed**2 / _swap(squares) + np.maximum(dot, 0.0)) / np.sqrt(squares)
    logs = np.expand_dims(alpha, -1) * np.log(np.maximum(pulls, _TINY))
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    factors = 2 * powers / powers.sum(axis=1, keepdims=True)
    weights: Array = factors - _swap(factors) * opposed / squares
    return weights


def _parts(gramian: Array) -> tuple[Array, Array, Array]:
    return gramian[:, 0, 0], gramian[:, 0, 1], gramian[:, 1, 1]


def _squares(gramian: Array) -> Array:
    return np.stack([gramian[:, 0, 0], gramian[:, 1, 1]], axis=1)


def _swap(pairs: Array) -> NDArray[np.float64]:
    return pairs[:, ::-1]
