"""The formulas of RotoGrad for the factors of the T gradients.

Notation: gₖ is the gradient of task k's loss with respect to its representation, ‖gₖ‖ its norm over
the whole batch, ‖gₖ⁰‖ this norm at the start of training.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scaling_weights(norms: Tensor, first_norms: Tensor) -> Tensor:
    """Return the factors of gₖ in C Σ gₖ/‖gₖ‖ (RotoGrad, ICLR 2022, section 4.1).

    C = Σ αₖ‖gₖ‖ is a weighted mean of the norms, in which those that have decreased less since the
    start have a larger weight: αₖ ∝ ‖gₖ‖/‖gₖ⁰‖, Σ αₖ = 1.

    Args:
        norms: ‖gₖ‖ ``[T]``, float64, not negative.
        first_norms: ‖gₖ⁰‖ ``[T]``, float64; only used where ‖gₖ‖ > 0, and above 0 there.

    Returns:
        C/‖gₖ‖ ``[T]``, float64; 0 for a gradient of zero, which is left out.
    """
    moving = norms > 0
    weights = torch.zeros_like(norms)
    if bool(moving.any()):
        speeds = norms[moving] / first_norms[moving]
        common = (speeds / speeds.sum()) @ norms[moving]
        weights[moving] = common / norms[moving]
    return weights


def training_rates(losses: Tensor, first_losses: Tensor, alpha: float) -> Tensor:
    """Return the relative inverse training rates rₖ = (ρₖ / mean ρ)^a, with ρₖ = Lₖ/Lₖ⁰.

    Args:
        losses: Lₖ ``[T]``, float64, not negative.
        first_losses: Lₖ⁰ ``[T]``, float64, above 0.
        alpha: The exponent a: 0 gives 1 for all.

    Returns:
        ``[T]``, float64.
    """
    rates = losses / first_losses
    mean = rates.mean()
    return torch.ones_like(rates) if mean == 0 else (rates / mean) ** alpha


def gradnorm_weights(log_weights: Tensor) -> Tensor:
    """Return the weights wₖ = T softmax(ω)ₖ, ``[T]``, for T numbers ω."""
    return len(log_weights) * torch.softmax(log_weights, dim=0)


def gradnorm_gradient(weights: Tensor, norms: Tensor, common: Tensor, rates: Tensor) -> Tensor:
    """Return the gradient of Σ |wₖ‖gₖ‖ - ‖mean wg‖ rₖ| for ω, with wₖ's normaliser fixed.

    The authors' first program (rotograd 0.1.4) computes it in the same way.

    Args:
        weights: wₖ ``[T]``.
        norms: ‖gₖ‖ ``[T]``.
        common: ‖mean wg‖, a number.
        rates: rₖ ``[T]``.

    Returns:
        ``[T]``, float64.
    """
    return torch.sign(weights * norms - common * rates) * norms * weights
