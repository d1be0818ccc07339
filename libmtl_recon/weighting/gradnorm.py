"""GradNorm, of "GradNorm: Gradient Normalization for Adaptive Loss Balancing" (ICML 2018).

Its weights are trained together with the network, so that the weighted gradient of a task is
longer if the task trains more slowly (Section 3.1, Algorithm 1). In each step it needs the T
gradients' lengths, from the Gramian, and the T losses.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon.states import checked_state
from libmtl_recon.weighting.checked_gramian import check_gramian
from libmtl_recon.weighting.checking import (
    check_number,
    check_same_shape,
    is_vector,
    loss_values,
)
from libmtl_recon.weighting.leader import Leader, Moments


class GradNorm:
    """GradNorm for a training loop, with the weights that it trains.

    Args:
        alpha: α, the strength with which slowly training tasks are favoured; 0 makes all weighted
            gradients equally long. The authors use 1.5 where tasks differ, and 0.12 where they are
            similar.
        lr: The learning rate of Adam, which trains the weights; the authors use 0.025.
        first_losses: ``[T]``, the losses Lᵢ(0) that later ones are compared with. Default: those of
            the first step. If these depend strongly on the initialisation, the authors use
            theoretical values, such as log C for a cross entropy of C classes.

    Raises:
        UsageError: α or ``lr`` is not a number of at least 0, or the first losses are not finite
            numbers of at least 0.

    Example:
        >>> import torch
        >>> norm = GradNorm(alpha=1.5)
        >>> gramian = torch.diag(torch.tensor([4.0, 1.0]))
        >>> norm.weights(gramian, losses=[2.0, 3.0]).tolist()  # those of before the first step
        [1.0, 1.0]
        >>> [round(weight, 3) for weight in norm.weights(gramian, losses=[1.0, 3.0]).tolist()]
        [0.975, 1.025]
    """

    def __init__(
        self,
        alpha: float = 1.5,
        *,
        lr: float = 0.025,
        first_losses: Sequence[float] | Tensor | Mapping[str, Any] | None = None,
    ) -> None:
        self.alpha = check_number("alpha", alpha, 0.0, way_out="The authors use 1.5.")
        self.lr = check_number("lr", lr, 0.0, way_out="The authors use 0.025.")
        self._given = None
        if first_losses is not None:
            self._given = loss_values("first_losses", first_losses)
        self.reset()

    @property
    def tasks(self) -> int | None:
        """The number of tasks of the state, or of the first losses; None if not known yet."""
        return None if self._first is None else len(self._first)

    def reset(self) -> None:
        """Forget all steps and set the weights back to ones."""
        self._first: Tensor | None = self._given
        self._weights: nn.Parameter | None = None
        self._unit = 0.0
        self._adam = Leader()

    def weights(self, gramian: Any, losses: Any) -> Tensor:
        """Return the weights of this step, and train those of the next.

        As in Algorithm 1, the weights of a step depend on the steps before it only.

        Args:
            gramian: ``[T, T]``, dot products of the gradients of these losses: a tensor of any real
                dtype, a NumPy array or a list of lists.
            losses: ``[T]``, the unweighted losses of this step: numbers, scalars, or a dict in the
                order of the tasks.

        Returns:
            ``[T]``, float64, on the Gramian's device (on the CPU if that has no float64), not
            negative, of sum T.

        Raises:
            UsageError: The Gramian is not a Gramian matrix of finite numbers, the losses are not T
                finite numbers of at least 0, or the number of tasks differs from the last step's.
        """
        matrix = check_gramian(gramian)
        own = matrix.cpu()
        now = loss_values("losses", losses, len(own))
        if self._first is None:
            self._first = now
        check_same_shape(own, self._first.expand(len(self._first), -1))
        if self._weights is None:
            self._weights = nn.Parameter(torch.ones_like(now))
        used: Tensor = self._weights.detach().clone()
        lengths = own.diagonal().clamp_min(0.0).sqrt()
        self._train(self._weights, lengths, inverse_rates(now, self._first, self.alpha))
        return used.to(matrix.device)

    @torch.enable_grad()
    def _train(self, weights: nn.Parameter, lengths: Tensor, rates: Tensor) -> None:
        # In units of the first gradients, so that Adam's epsilon is small relative to short ones.
        self._unit = self._unit or float(lengths.max())
        imbalance(weights, lengths / (self._unit or 1.0), rates).backward()
        self._adam.step([("weights", weights)], self.lr)
        with torch.no_grad():
            weights.clamp_(min=0.0)
            weights.mul_(len(weights) / weights.sum())

    def state_dict(self) -> dict[str, Any]:
        """Return a state for :meth:`load_state_dict`: weights, first losses and Adam's moments."""
        return {
            "weights": None if self._weights is None else self._weights.detach().clone(),
            "first_losses": self._first,
            "unit": self._unit,
            "adam": copy.deepcopy(self._adam.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state that :meth:`state_dict` returned.

        Raises:
            UsageError: It is another, or damaged.
        """
        weights, first, unit, adam = _checked(state)
        self.reset()
        self._first, self._unit, self._adam = first, unit, adam
        if weights is not None:
            self._weights = nn.Parameter(weights)


def _checked(state: Any) -> tuple[Tensor | None, Tensor | None, float, Leader]:
    """Return the entries of a state: weights, first losses, unit, and Adam with its moments."""
    found = checked_state(
        "GradNorm",
        state,
        {
            "weights": lambda one: one is None or is_vector(one),
            "first_losses": lambda one: one is None or is_vector(one),
            "unit": lambda unit: isinstance(unit, float) and 0 <= unit < math.inf,
            "adam": lambda adam: isinstance(adam, Mapping),
        },
    )
    weights, first = (_own(found[key]) for key in ("weights", "first_losses"))
    adam, moments = Leader(), dict(found["adam"])
    shapes = {}
    if weights is not None:
        adam.moments["weights"] = Moments(weights)
        shapes = {key: value.shape for key, value in adam.state_dict().items()}
    checked_state(
        "GradNorm",
        found,
        {
            "first_losses": lambda _: (
                weights is None or (first is not None and len(first) == len(weights))
            ),
            "adam": lambda _: {key: _shape(value) for key, value in moments.items()} == shapes,
        },
    )
    adam.load_state_dict(moments)
    return weights, first, float(found["unit"]), adam


def _shape(value: object) -> torch.Size | None:
    finite = isinstance(value, Tensor) and bool(value.isfinite().all())
    return value.shape if isinstance(value, Tensor) and finite else None


def _own(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().cpu().double().clone()


def inverse_rates(losses: Tensor, first: Tensor, alpha: float) -> Tensor:
    """Return the relative inverse training rates to the power of α.

    A task whose first loss was zero (such as a satisfied hinge loss) counts as unchanged. If all
    losses are zero now, all rates are equal.

    Args:
        losses: ``[T]``.
        first: ``[T]``, the losses of the first epoch.
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
    """Return the loss of the weights: the distance of the gradients' lengths from their targets.

    Args:
        weights: ``[T]``, the weights of the tasks, with respect to which it is differentiated.
        lengths: ``[T]``, the lengths of the task gradients.
        rates: ``[T]``, from :func:`inverse_rates`.

    Returns:
        A scalar, Σ |wᵢ ‖gᵢ‖ - G rᵢ^α|, where G is the mean of the weighted lengths, treated as a
        constant.
    """
    weighted = weights * lengths
    wanted = (weighted.mean() * rates).detach()
    return (weighted - wanted).abs().sum()
