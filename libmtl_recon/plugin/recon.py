"""What ``--arch Recon`` needs of LibMTL's Trainer: the class over its base, and where it starts."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any


def wrap_trainer(libmtl: ModuleType) -> None:
    """Have LibMTL's Trainer build Recon over the base that its arguments name."""
    prepare = libmtl.Trainer._prepare_model

    @functools.wraps(prepare)
    def _prepare_model(
        self: Any, weighting: Any, architecture: Any, encoder_class: Any, decoders: Any
    ) -> None:
        from libmtl_recon.architecture.libmtl import Recon, recon_over

        base = self.kwargs["arch_args"].get("recon_base")
        if base is None or architecture not in (Recon, Recon.__name__):
            prepare(self, weighting, architecture, encoder_class, decoders)
            return
        if architecture is Recon:  # LibMTL's release takes classes
            prepare(self, weighting, recon_over(base), encoder_class, decoders)
            return
        # The main branch looks names up in this module, in which no architecture has this one.
        name = f"Recon over {base}"
        vars(libmtl.architecture)[name] = recon_over(base)
        try:
            prepare(self, weighting, name, encoder_class, decoders)
        finally:
            del vars(libmtl.architecture)[name]

    libmtl.Trainer._prepare_model = _prepare_model
