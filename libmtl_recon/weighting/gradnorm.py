"""GradNorm's numbers, T of each; who trains the weights keeps them, and the first epoch's losses.

Source: "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks"
(ICML 2018), Section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_rates(losses: Tensor, first: Tensor, alpha: float) -> Tensor:
    """The relative inverse training rates to the power of α.

    A task whose first loss was zero (a hinge that is met) counts as one that has not moved, and
    where all losses are zero now no rate differs from another.

    Args:
        losses: ``[T]``.
        first: ``[T]``, those of the first epoch.
        alpha: GradNorm's exponent.

    Returns:
        ``[T]``, in the losses' dtype.
    """
    ratios = torch.where(first == 0, 1.0, losses / first)
    mean = ratios.mean()
    if mean == 0:
        return torch.ones_like(ratios)
    rates: Tensor = (ratios / mean) ** alpha
    return rates


def imbalance(weights: Tensor, lengths: Tensor, rates: Tensor) -> Tensor:
    """What the weights are trained by: how far their gradients' lengths are from those wanted.

    Args:
        weights: ``[T]``, those of the tasks, to be differentiated.
        lengths: ``[T]``, of the task gradients.
        rates: ``[T]``, from :func:`inverse_rates`.

    Returns:
        A scalar, Σ |wᵢ ‖gᵢ‖ - G rᵢ^α|, where G is the mean of the weighted lengths, of which no
        gradient is taken.
    """
    weighted = weights * lengths
    wanted = (weighted.mean() * rates).detach()
    return (weighted - wanted).abs().sum()
