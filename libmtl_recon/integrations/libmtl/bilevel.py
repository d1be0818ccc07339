"""Refuse, before training, what LibMTL's bilevel methods (main branch) cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from libmtl_recon.errors import UsageError

# They are not weightings: LibMTL's Trainer knows the names, and trains with separate functions.
METHODS = ("MOML", "FORUM", "AutoLambda")
_ONE_STEP = ("MOML", "AutoLambda")


def bilevel_method_of(trainer: Any) -> str:
    """Return the bilevel method of a Trainer, whose model's weighting is EW; empty if none."""
    chosen = getattr(trainer, "weighting", None)
    return str(chosen) if chosen in getattr(trainer, "bilevel_methods", ()) else ""


def refuse_impossible(
    weighting: Any, architecture: Any, weight_args: Mapping[str, Any], *, rep_grad: bool
) -> None:
    """Refuse arguments with which a bilevel method would fail in its first step.

    Args:
        weighting: The name passed to LibMTL's Trainer; nothing is checked if it is not a
            bilevel method's.
        architecture: The architecture's name.
        weight_args: The weighting's arguments.
        rep_grad: Whether the gradients of the representations are requested.

    Raises:
        UsageError: The method cannot be trained with these arguments.
    """
    if weighting not in METHODS:
        return
    if rep_grad:
        raise UsageError(
            "--rep_grad",
            f"cannot be combined with --weighting {weighting}, which differentiates with respect "
            "to all parameters, and so cannot have the graph cut at the representation",
            True,
            "Leave --rep_grad out.",
        )
    steps = weight_args.get("inner_step")
    if weighting in _ONE_STEP and steps != 1:
        raise UsageError(
            "--inner_step",
            f"must be 1 with --weighting {weighting}, for which LibMTL has the one-step form only",
            steps,
            "Set --inner_step 1, or use FORUM.",
        )
    if architecture == "LTB":
        raise UsageError(
            "--arch",
            f"cannot be combined with --weighting {weighting}, which needs a gradient for every "
            "parameter, while LTB's branching has none in its first epochs",
            architecture,
            "Change one of the two.",
        )
