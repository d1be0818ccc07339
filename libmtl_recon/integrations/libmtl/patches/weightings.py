"""Patches of weightings that both LibMTLs have."""

from __future__ import annotations

import random
import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.gradients import gramian
from libmtl_recon.integrations.libmtl.known_sources import BOTH, PYPI
from libmtl_recon.integrations.libmtl.patches.patch import Defect, patch, stand_in
from libmtl_recon.integrations.libmtl.step import cagrad, gradvac, weights
from libmtl_recon.weighting.gls import geometric_weights
from libmtl_recon.weighting.mgda import normalisers, shortest


@patch("cagrad-tasks", needs=Defect("weighting.CAGrad.backward", of=PYPI))
def cagrad_tasks(libmtl: ModuleType) -> None:
    """LibMTL's CAGrad works for three tasks only."""
    stand_in(libmtl.weighting.CAGrad, "backward", cagrad.backward)


@patch("gls-logarithms", needs=Defect("weighting.GLS.backward", of=BOTH))
def gls_logarithms(libmtl: ModuleType) -> None:
    """LibMTL's GLS multiplies all losses, which overflows or underflows and then gives NaN.

    The product leaves the range of float32 long before the geometric mean does (five losses of
    1e-9, or of 1e8); the same holds for a loss of zero. The weights that it reports are also wrong.
    """
    stand_in(libmtl.weighting.GLS, "backward", gls)


def gls(_: Any, losses: Tensor, **__: Any) -> NDArray[np.floating[Any]]:
    """Run GLS's backward pass; return the weights ``[T]``.

    Raises:
        UsageError: A loss is negative.
    """
    values = losses.detach()
    if bool((values < 0).any()):
        raise UsageError(
            "--weighting GLS",
            "needs losses of at least 0, since it takes their geometric mean",
            values.tolist(),
            "Use another weighting, or losses that cannot be negative.",
        )
    found = geometric_weights(values)
    (found * losses).sum().backward()
    returned: NDArray[np.floating[Any]] = found.cpu().numpy()
    return returned


@patch("gradnorm-zero-loss", needs=Defect("weighting.GradNorm.backward", of=BOTH))
def gradnorm_zero_loss(libmtl: ModuleType) -> None:
    """LibMTL's GradNorm computes NaN if a loss is zero in the first epoch.

    It divides each loss by that of the first epoch, and these rates by their mean: by zero, if a
    loss was zero there (such as a satisfied hinge loss), or if all are zero now.
    """
    own = libmtl.weighting.GradNorm.backward

    def backward(self: Any, losses: Tensor, **kwargs: Any) -> Any:
        return (weights.gradnorm if self.epoch >= 1 else own)(self, losses, **kwargs)

    stand_in(libmtl.weighting.GradNorm, "backward", backward)


@patch("gradnorm-first-epoch", needs=Defect("weighting.GradNorm.backward", of=BOTH))
def gradnorm_first_epoch(libmtl: ModuleType) -> None:
    """With --rep_grad, LibMTL's GradNorm trains only the decoders in the first epoch.

    Until it has an epoch's losses to compare with, it calls ``backward`` on the sum of the losses,
    whose graph ends at the representations.
    """
    own = libmtl.weighting.GradNorm.backward

    def backward(self: Any, losses: Tensor, **kwargs: Any) -> Any:
        if self.epoch >= 1 or not self.rep_grad:
            return own(self, losses, **kwargs)
        per_grads = self._compute_grad(losses, mode="backward", rep_grad=True)
        self._backward_new_grads(torch.ones_like(losses), per_grads=per_grads)
        return np.ones(self.task_num)

    stand_in(libmtl.weighting.GradNorm, "backward", backward)


@patch("gradvac-targets", needs=Defect("weighting.GradVac.backward", of=PYPI))
def gradvac_targets(libmtl: ModuleType) -> None:
    """LibMTL's GradVac never aims at a cosine above 0, since it moves its targets too rarely.

    The release moves a pair's target only where it has just changed a gradient, so that GradVac
    never asks for agreement above zero, although that is its purpose. The paper's Algorithm 1 (here
    with the whole model as one component) moves the targets at every step.
    """
    stand_in(libmtl.weighting.GradVac, "backward", gradvac.make_release_backward(always=True))


@patch("imtl-inverse", needs=Defect("weighting.IMTL.backward", of=BOTH))
def imtl_inverse(libmtl: ModuleType) -> None:
    """LibMTL's IMTL computes NaN if a task gradient is zero, and fails if two are parallel.

    It inverts a matrix that may be singular; in float32, so that squares may leave the range. A
    task without a gradient is excluded from the system that is solved here.
    """
    stand_in(libmtl.weighting.IMTL, "backward", weights.imtl)


@patch(
    "mgda-solver",
    needs=Defect(
        "weighting.MGDA._find_min_norm_element",
        "weighting.MGDA._gradient_normalizers",
        "weighting.MGDA.backward",
        of=BOTH,
    ),
)
def mgda_solver(libmtl: ModuleType) -> None:
    """LibMTL's MGDA may stop far from the least norm or never, and computes NaN from zeros.

    For three tasks or more it searches until a step changes the weights by less than 1e-5, which
    need not be near the solution, and need not happen: the release's loop, which is meant to end
    after 250 steps, does not count them, and the main branch's ends without a result.

    For two tasks it uses a closed form, on squares in the gradients' own dtype. A normaliser of
    zero (the norm of a zero gradient, the loss of a satisfied hinge) is not divided by, where
    LibMTL makes all parameters NaN.
    """
    mgda = libmtl.weighting.MGDA
    own, normalise = mgda.backward, mgda._gradient_normalizers

    def find_min_norm_element(_: Any, grads: Tensor) -> Tensor:
        return shortest(gramian(grads).cpu()).to(grads)

    def gradient_normalizers(self: Any, grads: Tensor, loss_data: Tensor, ntype: str) -> Tensor:
        if ntype not in ("l2", "loss", "loss+"):  # none; others are refused
            return normalise(self, grads, loss_data, ntype)  # type: ignore[no-any-return]
        lengths = torch.linalg.vector_norm(grads, dim=1, dtype=torch.float64)
        return (grads / normalisers(ntype, lengths, loss_data)[:, None]).to(grads.dtype)

    def backward(self: Any, losses: Tensor, **kwargs: Any) -> Any:
        # A class of the script may override a part, which works on the gradients themselves.
        parts = (type(self)._find_min_norm_element, type(self)._gradient_normalizers)
        whole = parts == (mgda._find_min_norm_element, mgda._gradient_normalizers)
        return (weights.mgda if whole else own)(self, losses, **kwargs)

    stand_in(mgda, "_find_min_norm_element", find_min_norm_element)
    stand_in(mgda, "_gradient_normalizers", gradient_normalizers)
    stand_in(mgda, "backward", backward)


@patch("rlw-constrained-bernoulli", needs=Defect("weighting.RLW.backward", of=PYPI))
def rlw_constrained_bernoulli(libmtl: ModuleType) -> None:
    """LibMTL's RLW fails with --dist constrained_Bernoulli, since an import is missing.

    It draws with ``random``; a bare ``except`` turns the NameError into a "No support method".
    """
    vars(sys.modules[libmtl.weighting.RLW.__module__])["random"] = random
