"""What LibMTL would train wrongly without a word is refused before it trains."""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any

from libmtl_recon.errors import UsageError
from libmtl_recon.plugin.features import source_of

# The ways in which a weighting gets at the gradients that `rep_grad` holds back.
_REACHES_ENCODER = ("_compute_grad", "_get_grads", "self.rep")


def guard_trainer(libmtl: ModuleType) -> None:
    """Have LibMTL's Trainer look at its arguments before it builds anything."""
    build = libmtl.Trainer.__init__
    signature = inspect.signature(build)

    @functools.wraps(build)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807  # is set as __init__
        given = signature.bind(self, *args, **kwargs).arguments
        weighting = given["weighting"]
        if isinstance(weighting, str):
            weighting = vars(libmtl.weighting).get(weighting)
        if given["rep_grad"]:
            refuse_untrained_encoder(weighting)
        if hasattr(weighting, "check_arguments"):  # a weighting of ours
            weight_args = given.get("kwargs", {}).get("weight_args", {})
            weighting.check_arguments(list(given["task_dict"]), weight_args)
        build(self, *args, **kwargs)

    libmtl.Trainer.__init__ = __init__


def refuse_untrained_encoder(weighting: Any) -> None:
    """Refuse ``--rep_grad`` for a weighting of losses.

    With it LibMTL cuts the graph at the representation, and a weighting that only calls
    ``backward`` on a sum of losses never trains the encoder.

    Args:
        weighting: The weighting's class.

    Raises:
        UsageError: It is such a weighting.
    """
    # A class may call its parent's `backward`, so all of them are looked at.
    parents = getattr(weighting, "__mro__", ())
    source = "".join(source_of(vars(parent).get("backward")) for parent in parents)
    if source and not any(name in source for name in _REACHES_ENCODER):
        raise UsageError(
            "--rep_grad",
            f"cannot be combined with --weighting {weighting.__name__}, whose loss would not reach "
            "the encoder, so that LibMTL would train the decoders only",
            True,
            "Leave --rep_grad out, or choose a weighting of gradients such as MGDA.",
        )
