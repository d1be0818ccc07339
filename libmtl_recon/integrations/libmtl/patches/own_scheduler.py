"""LibMTL's main branch asks a scheduler's name of arguments that a script may have given none of.

A Trainer whose ``_prepare_optimizer`` a script overrides, to have a scheduler that LibMTL does not
know, and that is given ``scheduler_param=None``, stops after its first epoch.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from libmtl_recon.integrations.libmtl.features import method_source
from libmtl_recon.integrations.libmtl.patches.patch import Patch


def _needed(libmtl: ModuleType) -> bool:
    return "scheduler_param['scheduler']" in method_source(libmtl, "Trainer", "train_singlelevel")


def _apply(libmtl: ModuleType) -> None:
    original = libmtl.Trainer.train

    @functools.wraps(original)
    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.scheduler is not None and self.scheduler_param is None:
            # LibMTL's name of the one that it tells how the validation went.
            plateau = isinstance(self.scheduler, ReduceLROnPlateau)
            self.scheduler_param = {"scheduler": "reduce" if plateau else "the script's"}
        return original(self, *args, **kwargs)

    libmtl.Trainer.train = train


PATCH = Patch(
    name="own-scheduler",
    reason="LibMTL's Trainer stops after an epoch with a scheduler that a script made by itself",
    needed=_needed,
    apply=_apply,
)
