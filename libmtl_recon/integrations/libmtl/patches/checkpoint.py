"""LibMTL loads a checkpoint with ``strict=False``: what does not fit stays random, silently.

So does the whole network if none of the names fit, as after Recon split its layers. A checkpoint
of a GPU also fails to load on a machine without one. With this mend the network's names and
shapes must fit. A weighting's own parameters may differ, since one may train with one weighting
and test with another; that is said.
"""

from __future__ import annotations

import functools
import logging
from types import ModuleType
from typing import Any

from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.loading import load_strictly
from libmtl_recon.integrations.libmtl.patches.patch import Patch

_logger = logging.getLogger(__name__)


def _needed(libmtl: ModuleType) -> bool:
    return "strict=False" in source_of(libmtl.Trainer._prepare_model)


def _apply(libmtl: ModuleType) -> None:
    prepare = libmtl.Trainer._prepare_model

    @functools.wraps(prepare)
    def _prepare_model(self: Any, *args: Any, **kwargs: Any) -> None:
        given, self.load_path = self.load_path, None
        prepare(self, *args, **kwargs)
        if given is not None:
            self.load_path = load_strictly(self.model, given)
            _logger.info("Load Model from - %s", self.load_path)

    libmtl.Trainer._prepare_model = _prepare_model


PATCH = Patch(
    name="strict-checkpoint",
    reason="LibMTL loads what fits of a checkpoint, and leaves the rest random without a word",
    needed=_needed,
    apply=_apply,
)
