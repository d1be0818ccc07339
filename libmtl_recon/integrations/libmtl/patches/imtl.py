"""LibMTL's IMTL inverts a matrix that need not have an inverse.

Where a task's gradient is zero it makes NaN of all parameters, and where gradients are parallel it
stops. In float32, so it does where a square leaves the range. Its weights solve a linear system in
T numbers, which is solved here in units of the gradients' lengths, by a pseudo-inverse; a task
without a gradient takes no part in it.

Source: "Towards Impartial Multi-task Learning" (ICLR 2021), Section 3.1.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.gradients import gramian
from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch

# Singular values of the cosines' matrix below this are those of dependent gradients, and a system
# counts as solved up to this.
_DEPENDENT, _SOLVED = 1e-12, 1e-6


def impartial_weights(products: Tensor) -> Tensor:
    """The weights α of sum 1 whose combination has the same projection onto each gradient.

    Args:
        products: ``[T, T]``, float64, on the CPU: the Gramian of the task gradients.

    Returns:
        ``[T]``, float64; 0 for a gradient of zero, all alike if all are. Where several would do
        (parallel gradients), those of the least norm in units of the gradients' lengths.
    """
    tasks = len(products)
    norms = products.diagonal().clamp_min(0.0).sqrt()
    there = norms > 0
    if not bool(there.any()) or not bool(torch.isfinite(products).all()):
        return torch.full_like(norms, 1 / tasks)
    own = norms[there]
    shares = own.min() / own  # what β = α n counts for in the sum of α
    cosine = products[there][:, there] / own / own[:, None]
    ones = torch.ones_like(own)
    parts = torch.linalg.pinv(cosine, rtol=_DEPENDENT, hermitian=True) @ ones
    if not torch.allclose(cosine @ parts, ones, rtol=0, atol=_SOLVED) or shares @ parts == 0:
        # All projections are 0 then: some combination of the gradients is.
        parts = _cancelling(cosine, shares)
    weights = torch.zeros_like(norms)
    weights[there] = parts * shares / (shares @ parts)
    return weights


def _cancelling(cosine: Tensor, shares: Tensor) -> Tensor:
    """The β that combine the vectors to as little as can be, with Σ shares β = 1."""
    count = len(cosine)
    system = cosine.new_zeros(count + 1, count + 1)
    system[:-1, :-1] = cosine
    system[:-1, -1] = -1.0
    system[-1, :-1] = shares
    goal = cosine.new_zeros(count + 1, 1)
    goal[-1] = 1.0
    # By singular values, of which rounding leaves some just above zero.
    solution = torch.linalg.lstsq(system, goal, rcond=_DEPENDENT, driver="gelsd").solution
    return solution[:-1, 0]  # type: ignore[no-any-return]


def backward(self: Any, losses: Tensor, **_: Any) -> NDArray[Any]:
    """IMTL's update, with its learned scales of the losses; returns the weights ``[T]``."""
    scaled = self.loss_scale.exp() * losses - self.loss_scale
    per_grads, grads = None, self._get_grads(scaled, mode="backward")
    if self.rep_grad:
        per_grads, grads = grads
    weights = impartial_weights(gramian(grads).cpu()).to(grads)
    self._backward_new_grads(weights, per_grads=per_grads, grads=grads)
    found: NDArray[Any] = weights.cpu().numpy()
    return found


def _needed(libmtl: ModuleType) -> bool:
    return "torch.inverse" in source_of(libmtl.weighting.IMTL.backward)


def _apply(libmtl: ModuleType) -> None:
    original = libmtl.weighting.IMTL.backward
    libmtl.weighting.IMTL.backward = functools.wraps(original)(backward)


PATCH = Patch(
    name="imtl-inverse",
    reason="LibMTL's IMTL makes NaN where a task's gradient is zero, and stops where two are "
    "parallel",
    needed=_needed,
    apply=_apply,
)
