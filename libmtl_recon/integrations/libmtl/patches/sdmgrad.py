"""LibMTL's SDMGrad calls ``np.alltrue``, which NumPy 2 has removed.

Source of the projection: Duchi et al., "Efficient Projections onto the l1-Ball for Learning in
High Dimensions" (ICML 2008), Figure 1.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl.features import method_source
from libmtl_recon.integrations.libmtl.patches.patch import Patch


def project_on_simplex(values: NDArray[Any], total: float = 1.0) -> NDArray[np.float64]:
    """The nearest point without negative entries whose entries add up to ``total``.

    Args:
        values: ``[T]``.
        total: Above 0.

    Returns:
        ``[T]``, float64.

    Raises:
        ReconError: A value is not finite.
    """
    if not np.isfinite(values).all():
        raise ReconError(
            "The inner products of SDMGrad's task gradients are not finite: a gradient is, or its "
            "square leaves float32. Look at the losses and labels, or lower --lr."
        )
    wide = np.asarray(values, dtype=np.float64)
    falling = np.sort(wide)[::-1]
    # How much each entry would lose if the 1, 2, … largest were the ones that stay above zero.
    losses = (np.cumsum(falling) - total) / np.arange(1, len(wide) + 1)
    projected: NDArray[np.float64] = wide - losses[np.flatnonzero(falling > losses)[-1]]
    return projected.clip(min=0.0)


def _needed(libmtl: ModuleType) -> bool:
    source = method_source(libmtl.weighting, "SDMGrad", "euclidean_proj_simplex")
    return "np.alltrue" in source and not hasattr(np, "alltrue")


def _apply(libmtl: ModuleType) -> None:
    def euclidean_proj_simplex(_: Any, v: NDArray[Any], s: float = 1.0) -> NDArray[np.float64]:
        return project_on_simplex(v, s)

    libmtl.weighting.SDMGrad.euclidean_proj_simplex = euclidean_proj_simplex


PATCH = Patch(
    name="sdmgrad-simplex",
    reason="LibMTL's SDMGrad calls np.alltrue, which NumPy 2 has removed",
    needed=_needed,
    apply=_apply,
)
