"""LibMTL's GradVac takes its groups of parameters from an ``encoder``, whatever is shared.

``--GradVac_group_type 1`` fails where the architecture has no ``encoder`` (MMoE, CGC, DSelect_k).
Where the shared parameters are not the encoder's (MTAN, PLE), or a module has parameters beside
its children, its groups are not the layers'.

Source: "Gradient Vaccine" (ICLR 2021), Section 3.2, which compares the granularities.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

from libmtl_recon.errors import UsageError
from libmtl_recon.gradients import columns
from libmtl_recon.integrations.libmtl.features import method_source
from libmtl_recon.integrations.libmtl.patches.patch import Patch


def layer_widths(model: Any) -> list[int]:
    """How many neighbouring columns of the gradients belong to each module.

    Args:
        model: LibMTL's.
    """
    owners: dict[int, Any] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), module)
    widths: list[int] = []
    last = None
    for parameter in model.get_share_params():
        owner = owners[id(parameter)]
        if owner is last:
            widths[-1] += columns.width(parameter)
        else:
            widths.append(columns.width(parameter))
        last = owner
    return widths


def init_rho(self: Any, group_type: int) -> None:
    """Set the groups, and the cosines that are aimed at, to zeros ``[T, T, groups]``.

    Raises:
        UsageError: There is no such type.
    """
    if group_type == 0:
        self.k_idx = [-1]  # LibMTL's word for all columns
    elif group_type == 1:
        self.k_idx = layer_widths(self)
    elif group_type == 2:
        self.k_idx = columns.widths(list(self.get_share_params()))
    else:
        raise UsageError(
            "--GradVac_group_type",
            "must be 0 (the whole model), 1 (layers) or 2 (matrices)",
            group_type,
            "Leave it out for the whole model.",
        )
    self.rho_T = torch.zeros(self.task_num, self.task_num, len(self.k_idx), device=self.device)


def _needed(libmtl: ModuleType) -> bool:
    return "self.encoder." in method_source(libmtl.weighting, "GradVac", "_init_rho")


def _apply(libmtl: ModuleType) -> None:
    libmtl.weighting.GradVac._init_rho = init_rho


PATCH = Patch(
    name="gradvac-layers",
    reason="LibMTL's GradVac by layer fails, or takes wrong layers, where not all of an `encoder` "
    "is shared",
    needed=_needed,
    apply=_apply,
)
