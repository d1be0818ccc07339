"""Patches of weightings that only LibMTL's main branch has."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl.known_sources import MAIN
from libmtl_recon.integrations.libmtl.patches.patch import Defect, patch, stand_in
from libmtl_recon.integrations.libmtl.step import gradvac, weights
from libmtl_recon.integrations.libmtl.step.step import task_rows
from libmtl_recon.weighting.excess_mtl import excess_risks, grown_weights
from libmtl_recon.weighting.nash_mtl import bargained
from libmtl_recon.weighting.simplex import project_on_simplex

# Above it float32 cannot hold a weight times a loss.
_LARGEST = 1e30


@patch("aligned-mtl-eigen", needs=Defect("weighting.Aligned_MTL.backward", of=MAIN))
def aligned_mtl_eigen(libmtl: ModuleType) -> None:
    """LibMTL's Aligned_MTL calls torch.symeig, which PyTorch has removed."""
    stand_in(libmtl.weighting.Aligned_MTL, "backward", weights.aligned_mtl)


@patch("excess-mtl-encoder", needs=Defect("weighting.ExcessMTL.backward", of=MAIN))
def excess_mtl_encoder(libmtl: ModuleType) -> None:
    """LibMTL's ExcessMTL fails if there is no `encoder` (MMoE, CGC, DSelect_k).

    And where a task's gradient is zero in the first step, it divides by zero: all parameters become
    NaN.
    """
    stand_in(libmtl.weighting.ExcessMTL, "backward", excess_mtl)


def excess_mtl(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[np.floating[Any]]:
    """Run ExcessMTL's backward pass; return the weights ``[T]``."""
    # Not with LibMTL's own function: with `rep_grad`, which is refused, its result differs.
    gradients = task_rows(self, losses, accumulate=False)
    if self.grad_sum is None:
        self.grad_sum = torch.zeros_like(gradients)
    # LibMTL's name; here it is the root of the sum.
    self.grad_sum = torch.hypot(self.grad_sum, gradients)
    risks = excess_risks(gradients, self.grad_sum)
    if self.first_epoch:
        self.initial_w, self.first_epoch = risks, False
    else:
        self.loss_weight = grown_weights(
            self.loss_weight, risks, self.initial_w, kwargs["robust_step_size"]
        )
    torch.mul(losses, self.loss_weight).sum().backward()
    found: NDArray[np.floating[Any]] = self.loss_weight.cpu().numpy()
    return found


@patch("gradvac-layers", needs=Defect("weighting.GradVac._init_rho", of=MAIN))
def gradvac_layers(libmtl: ModuleType) -> None:
    """LibMTL's layer-wise GradVac fails or is wrong if not all of the `encoder` is shared.

    It takes its groups of parameters from an ``encoder``, which MMoE, CGC and DSelect_k lack. Where
    the shared parameters are not the encoder's (MTAN, PLE), or a module has parameters in addition
    to its children, its groups are not the layers'.
    """
    stand_in(libmtl.weighting.GradVac, "_init_rho", gradvac.init_rho)


@patch(
    "nash-mtl-solver",
    needs=Defect(
        "weighting.Nash_MTL.solve_optimization", "weighting.Nash_MTL._init_optim_problem", of=MAIN
    ),
)
def nash_mtl_solver(libmtl: ModuleType) -> None:
    """LibMTL's Nash_MTL silently equals EW if its solver fails or ecos is not installed.

    Without the package ``ecos``, which LibMTL does not declare, every solve fails inside a bare
    ``except`` and all weights stay 1. The same happens in any step in which the solver fails.
    """
    stand_in(libmtl.weighting.Nash_MTL, "solve_optimization", solve_optimization)
    # The replacement does not use a problem for a fixed number of tasks.
    stand_in(libmtl.weighting.Nash_MTL, "_init_optim_problem", lambda _: None)


def solve_optimization(self: Any, gtg: NDArray[Any]) -> NDArray[np.float64]:
    """Return the weights ``[T]`` for a Gramian ``[T, T]``; without a solution, the last step's.

    Raises:
        UserWarning: As a warning, if there is no solution.
    """
    found = bargained(gtg)
    if found is None or found.max() > _LARGEST:
        warnings.warn(
            f"Nash_MTL: no bargaining solution was found for the gradients of step {self.step}. "
            "Some weights make their sum zero, or one of them is zero, not finite, or much "
            "shorter or longer than the others. The weights of the last step are kept.",
            stacklevel=3,
        )
    else:
        self.prvs_alpha = found
    kept: NDArray[np.float64] = self.prvs_alpha
    return kept


def _calls_what_numpy_lost() -> bool:
    return not hasattr(np, "alltrue")


@patch(
    "sdmgrad-simplex",
    needs=Defect("weighting.SDMGrad.euclidean_proj_simplex", of=MAIN, where=_calls_what_numpy_lost),
)
def sdmgrad_simplex(libmtl: ModuleType) -> None:
    """LibMTL's SDMGrad calls np.alltrue, which NumPy 2 has removed."""

    def euclidean_proj_simplex(_: Any, v: NDArray[Any], s: float = 1.0) -> NDArray[np.float64]:
        if not np.isfinite(v).all():
            raise ReconError(
                "The inner products of SDMGrad's task gradients are not finite: a gradient is not "
                "finite, or its square overflows float32. Look at the losses and labels, or lower "
                "--lr."
            )
        return project_on_simplex(v, s)

    stand_in(libmtl.weighting.SDMGrad, "euclidean_proj_simplex", euclidean_proj_simplex)
