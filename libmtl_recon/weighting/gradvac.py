"""GradVac, of "Gradient Vaccine" (ICLR 2021).

Source: "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
Multilingual Models", Algorithm 1.

Each task's gradient is turned, task after task, until its cosine with another's is what that
cosine has been in the past. What comes out is a combination of the T gradients, so it is done on
their Gramian; where the parameters are taken in groups, on one Gramian a group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.weighting.checked_gramian import check_gramian
from libmtl_recon.weighting.checking import check_number, check_orders, check_same_shape
from libmtl_recon.weighting.orders import draw_orders

# A target this close to 1 would need a turn of infinite length.
_TINY = 1e-8
_BETA, _GUARD = "With 0, the targets never change; the authors use 0.01.", "Leave it out for none."


def gradvac_weights(
    gramians: Any,
    targets: Any,
    orders: Sequence[Sequence[int]],
    beta: float,
    *,
    guard: float = 0.0,
    always: bool = True,
) -> tuple[Tensor, Tensor]:
    """The weights of the original gradients whose combination is GradVac's update.

    Args:
        gramians: ``[..., T, T]``, dot products of the task gradients, one Gramian for each group
            of parameters; tensors of any real dtype, NumPy arrays or lists. float64 is advised.
        targets: ``[..., T, T]``: φ̂, what the cosine of task i's gradient with gⱼ is raised to.
            The paper starts at zeros.
        orders: T of the same length: the tasks that task i is compared with, in that order. The
            paper draws them at random from the others.
        beta: β, the decay of a target's running mean: how far it moves to this step's cosine, from
            0 to 1.
        guard: Added where a length divides. Without it, a pair with a gradient of zero is left
            alone.
        always: Move the target of every pair; otherwise only where the gradient was turned.

    Returns:
        The weights ``[..., T]`` and the targets of the next step ``[..., T, T]``, in float64, on
        the Gramians' device (on the CPU, where that has no float64). ``weights @ gradients`` is
        the sum of the turned gradients of a group.

    Raises:
        UsageError: The Gramians are not symmetric matrices of finite numbers, the targets have
            another shape or are no cosines, the orders are not T of the same length, β is not from
            0 to 1, or the guard is negative.
    """
    matrix = check_gramian(gramians, groups=True, parameter="gramians")
    wanted = _check_targets(targets, matrix)
    places = check_orders(orders, matrix.shape[-1])
    check_number("beta", beta, 0.0, 1.0, _BETA)
    check_number("guard", guard, 0.0, way_out=_GUARD)
    return turned(matrix, wanted, places, beta, guard=guard, always=always)


class GradVac:
    """Weigh tasks by GradVac in a training loop, with its running means of the cosines.

    In each step, gradients are turned until their cosines are no smaller than what they have been
    in the past, and the running means φ̂ move by β to this step's cosines (Algorithm 1). In the
    first step the targets are zeros, so that it is PCGrad's.

    Args:
        beta: β, how far the running means move in each step, from 0 to 1; the authors take 0.01.
        guard: Added where a length divides.
        generator: What draws the orders of the tasks; PyTorch's default one if left out.

    Raises:
        UsageError: β is not from 0 to 1, or the guard is negative.

    Example:
        >>> import torch
        >>> vaccine = GradVac(beta=0.5)
        >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
        >>> vaccine.weights(gradients @ gradients.T).tolist()
        [2.0, 1.5]
        >>> vaccine.targets.round(decimals=4).tolist()
        [[0.0, -0.3536], [-0.3536, 0.0]]
    """

    def __init__(
        self,
        beta: float = 0.01,
        *,
        guard: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        self.beta = check_number("beta", beta, 0.0, 1.0, _BETA)
        self.guard = check_number("guard", guard, 0.0, way_out=_GUARD)
        self.generator = generator
        self.targets: Tensor | None = None

    def reset(self) -> None:
        """Forget all steps."""
        self.targets = None

    def weights(self, gramian: Any) -> Tensor:
        """Return the weights of a step, and move the targets.

        Args:
            gramian: ``[T, T]``, dot products of the task gradients, or ``[..., T, T]``, one Gramian
                for each group of parameters; as for :func:`gradvac_weights`.

        Returns:
            ``[T]``, or ``[..., T]``, float64, on the Gramian's device (on the CPU, where that has
            no float64).

        Raises:
            UsageError: The Gramian is not one of finite numbers, or has another shape than that of
                the step before.
        """
        matrix = check_gramian(gramian, groups=True)
        targets = torch.zeros_like(matrix) if self.targets is None else self.targets
        check_same_shape(matrix, targets)
        orders = draw_orders(matrix.shape[-1], self.generator)
        found, moved = turned(matrix.cpu(), targets.cpu(), orders, self.beta, guard=self.guard)
        self.targets = moved
        return found.to(matrix.device)

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` takes: the targets, None before the first step."""
        return {"targets": None if self.targets is None else self.targets.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` returned."""
        targets = state["targets"]
        self.targets = None if targets is None else targets.detach().cpu().double()


def turned(
    matrix: Tensor,
    targets: Tensor,
    orders: Sequence[Sequence[int]],
    beta: float,
    *,
    guard: float = 0.0,
    always: bool = True,
) -> tuple[Tensor, Tensor]:
    """As :func:`gradvac_weights`, of Gramians in float64 that may hold NaN."""
    device = matrix.device
    moved = targets.detach().to(device, copy=True).double()
    tasks = matrix.shape[-1]
    own = torch.arange(tasks, device=device)
    norms = matrix.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    coefficients = torch.eye(tasks, dtype=matrix.dtype, device=device).expand_as(matrix).clone()
    # Entry (i, j): the dot product of task i's gradient, as far as it is turned, with gⱼ.
    products = matrix.clone()
    for others in torch.tensor(orders, device=device).T:
        length = (coefficients * products).sum(dim=-1).clamp_min(0.0).sqrt()
        measure = length * norms[..., others] + guard
        # Not a number with a gradient of zero, or of one whose square has left its dtype.
        cosine = torch.where(measure > 0, products[..., own, others] / measure, math.nan)
        target = moved[..., own, others]
        # Rounding may take a cosine beyond 1.
        sine = (1 - cosine.square()).clamp_min(0.0).sqrt()
        wanted = (1 - target.square()).clamp_min(0.0).sqrt().clamp_min(_TINY)
        turn = length * (target * sine - cosine * wanted) / (norms[..., others] * wanted + guard)
        below = cosine < target
        turn = torch.where(below, turn, 0.0)
        coefficients[..., own, others] += turn
        products += turn[..., None] * matrix[..., others, :]
        mean = (1 - beta) * target + beta * cosine
        moves = ~cosine.isnan() if always else below
        moved[..., own, others] = torch.where(moves, mean, target)
    return coefficients.sum(dim=-2), moved


def _check_targets(targets: Any, matrix: Tensor) -> Tensor:
    try:
        found = torch.as_tensor(targets).detach().to(matrix)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            "targets", "must be numbers in the shape of the gramians", targets, "Start with zeros."
        ) from error
    if found.shape != matrix.shape or not bool((found.abs() <= 1).all()):
        raise UsageError(
            "targets",
            f"must be cosines from -1 to 1 in the shape of the gramians, {list(matrix.shape)}",
            targets if found.shape == matrix.shape else list(found.shape),
            "Start with zeros, then pass what this function returned in the step before.",
        )
    return found
