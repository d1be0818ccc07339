"""LibMTL's MGDA may stop before it has found the combination of least norm, or never.

For three tasks or more it searches until a step changes the weights by less than 1e-5, which need
not be near the solution, and need not happen: the release's loop, which is to end after 250 steps,
counts none, and the main branch's ends without a result. Here the solution is found by an
active-set method, exactly, after a few solves of a T x T system.

For two tasks it is LibMTL's closed form, which keeps both weights above 0; but it is given the
gradients in units of the longest, since it squares them in their own dtype. A normaliser of zero
(the length of a gradient of zero, the loss of a hinge that is met) divides nothing, where LibMTL
makes NaN of all parameters.

Sources: "Multi-Task Learning as Multi-Objective Optimization" (NeurIPS 2018), Equation 4, for what
is solved; Wolfe, "Finding the nearest point in a polytope" (Mathematical Programming, 1976), for
how.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.gradients import gramian, isometric_rows
from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch
from libmtl_recon.weighting.least_norm import least_norm_weights


def in_units_of_the_longest(gradients: Tensor) -> Tensor:
    """T vectors ``[T, T]``, float64, on the CPU, with the gradients' inner products but for a unit.

    Args:
        gradients: ``[T, d]``.
    """
    rows = isometric_rows(gramian(gradients).cpu())
    longest = rows.abs().max()
    return rows / longest if longest > 0 else rows


def _needed(libmtl: ModuleType) -> bool:
    return "while iter_count" in source_of(libmtl.weighting.MGDA._find_min_norm_element)


def _apply(libmtl: ModuleType) -> None:
    mgda = libmtl.weighting.MGDA
    find, normalise = mgda._find_min_norm_element, mgda._gradient_normalizers

    @functools.wraps(find)
    def find_min_norm_element(self: Any, grads: Tensor) -> Tensor:
        if len(grads) == 1:
            return torch.ones_like(grads[:, 0])
        if len(grads) == 2:
            weights = find(self, in_units_of_the_longest(grads))
        else:
            weights = torch.from_numpy(least_norm_weights(gramian(grads).cpu().numpy()))
        return weights.to(grads)  # type: ignore[no-any-return]  # LibMTL is untyped

    @functools.wraps(normalise)
    def gradient_normalizers(self: Any, grads: Tensor, loss_data: Tensor, ntype: str) -> Tensor:
        lengths = torch.linalg.vector_norm(grads, dim=1, dtype=torch.float64)
        if ntype == "l2":
            found = lengths
        elif ntype == "loss":
            found = loss_data.double()
        elif ntype == "loss+":
            found = loss_data.double() * lengths
        else:  # none; others are refused
            return normalise(self, grads, loss_data, ntype)  # type: ignore[no-any-return]
        factors = torch.where(found == 0, 1.0, found)
        return (grads / factors[:, None]).to(grads.dtype)

    mgda._find_min_norm_element = find_min_norm_element
    mgda._gradient_normalizers = gradient_normalizers


PATCH = Patch(
    name="mgda-solver",
    reason="LibMTL's MGDA, for three tasks or more, may stop far from the least norm, or never; "
    "with a gradient of zero, or whose square leaves float32, it makes NaN",
    needed=_needed,
    apply=_apply,
)
