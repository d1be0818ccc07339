"""What ``--arch Recon`` needs of LibMTL's Trainer: the class over its base, and where it starts."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from libmtl_recon.errors import UsageError

_logger = logging.getLogger(__name__)

_START = "_recon_start"


def wrap_trainer(libmtl: ModuleType) -> None:
    """Have LibMTL's Trainer build Recon over its base, and start from a trained network."""
    prepare, optimize = libmtl.Trainer._prepare_model, libmtl.Trainer._prepare_optimizer

    @functools.wraps(prepare)
    def _prepare_model(
        self: Any, weighting: Any, architecture: Any, encoder_class: Any, decoders: Any
    ) -> None:
        given = self.kwargs["arch_args"] if _is_recon(architecture) else {}
        if "recon_from" in given:
            vars(self)[_START] = _read_start(self, given["recon_from"])
        with _over(libmtl, architecture, given.get("recon_base")) as chosen:
            prepare(self, weighting, chosen, encoder_class, decoders)
        if "recon_from" in given:
            _load_start(self.model, vars(self)[_START])

    @functools.wraps(optimize)
    def _prepare_optimizer(self: Any, *args: Any, **kwargs: Any) -> None:
        optimize(self, *args, **kwargs)
        checkpoint = vars(self).pop(_START, None)
        if checkpoint is not None and checkpoint.optimizer is not None:
            from libmtl_recon.splitting.checkpoint import load_optimizer

            load_optimizer(self.model, self.optimizer, checkpoint)
            _logger.info("Recon: the optimiser's state was split along")

    libmtl.Trainer._prepare_model = _prepare_model
    libmtl.Trainer._prepare_optimizer = _prepare_optimizer


def base_class(libmtl: ModuleType, architecture: Any, arguments: dict[str, Any]) -> Any:
    """The class that an architecture builds its network by: its own, or Recon's base.

    Args:
        libmtl: LibMTL.
        architecture: A class or, on the main branch, a name.
        arguments: Its ``arch_args``.
    """
    base = arguments.get("recon_base") if _is_recon(architecture) else None
    named = architecture if base is None else base
    return vars(libmtl.architecture).get(named) if isinstance(named, str) else named


@contextmanager
def _over(libmtl: ModuleType, architecture: Any, base: str | None) -> Iterator[Any]:
    """What to tell LibMTL's Trainer the architecture is."""
    from libmtl_recon.integrations.libmtl.architectures.recon import recon_over

    if base is None:
        yield architecture
    elif not isinstance(architecture, str):  # LibMTL's release takes classes
        yield recon_over(base)
    else:
        # The main branch looks names up in this module, in which no architecture has this one.
        name = f"Recon over {base}"
        vars(libmtl.architecture)[name] = recon_over(base)
        try:
            yield name
        finally:
            del vars(libmtl.architecture)[name]


def _is_recon(architecture: Any) -> bool:
    from libmtl_recon.integrations.libmtl.architectures.recon import Recon

    return architecture is Recon or architecture == Recon.__name__


def _read_start(trainer: Any, file: Any) -> Any:
    from libmtl_recon.splitting.checkpoint import read_checkpoint

    if getattr(trainer, "load_path", None) is not None:
        raise UsageError(
            "--recon_from",
            "cannot be combined with --load_path, which loads a network into this one as well",
            file,
            "Leave --load_path out to split a trained network, or --recon_from to go on with one "
            "that is split.",
        )
    return read_checkpoint("--recon_from", file)


def _load_start(model: Any, checkpoint: Any) -> None:
    from libmtl_recon.integrations.libmtl.architectures.starting import load_unsplit

    left_out = load_unsplit(model, checkpoint)
    _logger.info("Recon: split from the trained network in %s", checkpoint.source.partition(" ")[2])
    if left_out:
        _logger.info("Recon: parameters of a weighting, not taken over: %s", ", ".join(left_out))
