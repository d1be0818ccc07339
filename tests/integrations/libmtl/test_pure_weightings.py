"""The weighting functions give the updates of LibMTL's own weightings on regular gradients.

For both LibMTLs: the installed one, and the checkout of its main branch that LIBMTL_MAIN names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from main_checkout import on_main, said_with_main
from rows_problem import step

# isort: split
import LibMTL.weighting as weightings
import pytest
import torch
from torch import Tensor

from libmtl_recon.weighting import (
    GradVac,
    aligned_mtl_weights,
    cagrad_weights,
    fairgrad_weights,
    gradops_weights,
    imtl_g_weights,
    mgda_weights,
    nash_mtl_weights,
    pcgrad_weights,
    upgrad_weights,
)

FILE = str(Path(__file__))
# Ours; LibMTL's arguments; the numbers of tasks; how closely LibMTL's solver comes. PCGrad and
# GradVac draw orders from another generator than ours: for two tasks there is one.
PAIRS: dict[str, tuple[Callable[[Any], Tensor], dict[str, Any], tuple[int, ...], float]] = {
    "GradOPS": (partial(gradops_weights, alpha=-1.0), {"gradops_alpha": -1.0}, (2, 3), 1e-9),
    "MGDA": (mgda_weights, {"mgda_gn": "none"}, (2, 3), 1e-4),
    "IMTL": (imtl_g_weights, {}, (2, 3), 1e-9),
    "CAGrad": (
        partial(cagrad_weights, c=0.5, rescale=1),
        *({"calpha": 0.5, "rescale": 1}, (3,), 1e-3),
    ),
    "PCGrad": (pcgrad_weights, {}, (2,), 1e-7),
    "GradVac": (lambda gramian: GradVac().weights(gramian), {"beta": 0.5}, (2,), 1e-7),
    "Nash_MTL": (
        partial(nash_mtl_weights, max_norm=1.0),
        *({"update_weights_every": 1, "optim_niter": 20, "max_norm": 1.0}, (2, 3), 1e-5),
    ),
    "Aligned_MTL": (aligned_mtl_weights, {}, (2, 3), 1e-9),
    "UPGrad": (
        upgrad_weights,
        *({"UPGrad_norm_eps": 1e-9, "UPGrad_reg_eps": 1e-9}, (2, 3), 1e-6),
    ),
    "FairGrad": (
        partial(fairgrad_weights, alpha=2.0),
        *({"FairGrad_alpha": 2.0}, (2, 3), 1e-4),
    ),
}
NAMES = [name for name in PAIRS if hasattr(weightings, name)]
# Whose own code fails without a package that LibMTL does not declare, or on today's PyTorch.
FAIL = ("Nash_MTL", "Aligned_MTL")


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_it_is_libmtls_own_update(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, arguments, numbers, close = PAIRS[name]
    if name not in FAIL:
        owner = vars(weightings)[name]
        monkeypatch.setattr(owner, "backward", inspect.unwrap(owner.backward))
    if name == "GradVac" and "FairGrad" in NAMES:  # the main branch's flags
        arguments = {"GradVac_beta": 0.5, "GradVac_group_type": 0}
    for tasks in numbers:
        rows = torch.randn(tasks, 4, generator=torch.Generator().manual_seed(seed))
        update = step(name, rows, **arguments).update
        assert update is not None
        found = ours(rows @ rows.T) @ rows
        torch.testing.assert_close(found, update, rtol=0, atol=close * float(rows.norm()))


@on_main
def test_all_of_this_holds_for_the_main_branch() -> None:
    said = said_with_main(FILE)
    assert f"{4 * len(PAIRS)} passed" in said  # none was left out
