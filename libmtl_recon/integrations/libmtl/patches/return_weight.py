"""LibMTL's ``Trainer.train`` forgets what it was asked to return.

``train(..., return_weight=True)`` promises the weights of all steps, and returns None.
"""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any

from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch


def _needed(libmtl: ModuleType) -> bool:
    source = source_of(libmtl.Trainer.train)
    return "train_func(" in source and "return train_func(" not in source


def _apply(libmtl: ModuleType) -> None:
    train = libmtl.Trainer.train
    signature = inspect.signature(train)

    @functools.wraps(train)
    def wrapped_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = train(self, *args, **kwargs)
        asked = signature.bind(self, *args, **kwargs).arguments.get("return_weight", False)
        return self.batch_weight if asked else result

    libmtl.Trainer.train = wrapped_train


PATCH = Patch(
    name="return-weight",
    reason="LibMTL's Trainer.train(..., return_weight=True) returns None",
    needed=_needed,
    apply=_apply,
)
