"""Hooks of ``--arch Recon`` into LibMTL's Trainer: the class over its base, and its start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.features import named_class
from libmtl_recon.integrations.libmtl.wrapper import Call

_logger = logging.getLogger(__name__)

_START = "_recon_start"


def build_over_base(
    proceed: Callable[..., None],
    trainer: Any,
    weighting: Any,
    architecture: Any,
    encoder_class: Any,
    decoders: Any,
) -> None:
    """Build Recon over its base, and load the network given by ``--recon_from``."""
    from libmtl_recon.integrations.libmtl import split_source

    load_path = getattr(trainer, "load_path", None)
    given = trainer.kwargs["arch_args"] if _is_recon(architecture) else {}
    if "recon_split" in given:
        split_source.refuse_unloaded(given["recon_split"], load_path)
    elif not _is_recon(architecture):
        split = split_source.split_source(load_path, None)
        if split is not None:
            named = getattr(architecture, "__name__", architecture)
            split_source.refuse_plain(split, named)
    if "recon_from" in given:
        vars(trainer)[_START] = _read_start(trainer, given["recon_from"])
    with _over(architecture, given.get("recon_base")) as chosen:
        proceed(trainer, weighting, chosen, encoder_class, decoders)
    split_source.model_built()
    if "recon_from" in given:
        _load_start(trainer.model, vars(trainer)[_START])


def split_optimizer_state(call: Call) -> None:
    """Load the optimiser's state stored next to the network of ``--recon_from``."""
    trainer = call.owner
    checkpoint = vars(trainer).pop(_START, None)
    if checkpoint is not None and checkpoint.optimizer is not None:
        from libmtl_recon.splitting.checkpoint import load_optimizer

        load_optimizer(trainer.model, trainer.optimizer, checkpoint)
        became = "taken over" if checkpoint.splits or checkpoint.unsaid else "split along"
        _logger.info("Recon: the optimiser's state was %s", became)


def base_class(architecture: Any, arguments: Mapping[str, Any]) -> Any:
    """Return the class that an architecture builds its network with: its own, or Recon's base.

    Args:
        architecture: A class or, on the main branch, a name.
        arguments: Its ``arch_args``.
    """
    from LibMTL import architecture as offered

    base = arguments.get("recon_base") if _is_recon(architecture) else None
    return named_class(offered, architecture if base is None else base)


@contextmanager
def _over(architecture: Any, base: str | None) -> Iterator[Any]:
    """Yield the architecture to pass to LibMTL's Trainer."""
    from LibMTL import architecture as offered

    from libmtl_recon.integrations.libmtl.architectures.recon import recon_over

    if base is None:
        yield architecture
    elif not isinstance(architecture, str):  # LibMTL's release takes classes
        yield recon_over(base)
    else:
        # The main branch looks names up in this module, which has no architecture of this name.
        name = f"Recon over {base}"
        vars(offered)[name] = recon_over(base)
        try:
            yield name
        finally:
            del vars(offered)[name]


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
            "Leave --load_path out to split a trained network, or --recon_from to continue with "
            "one that is split.",
        )
    return read_checkpoint("--recon_from", file)


def _load_start(model: Any, checkpoint: Any) -> None:
    from libmtl_recon.integrations.libmtl.architectures.starting import load_start

    left_out = load_start(model, checkpoint)
    goes_on = checkpoint.splits or checkpoint.unsaid
    done = "going on with the split" if goes_on else "split from the trained"
    _logger.info("Recon: %s network in %s", done, checkpoint.source.partition(" ")[2])
    if left_out:
        _logger.info("Recon: parameters of a weighting, not copied: %s", ", ".join(left_out))
