"""Refuse, before training, what several ranks would train differently from one process."""

from __future__ import annotations

from typing import Any

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.integrations.libmtl.bilevel import METHODS
from libmtl_recon.integrations.libmtl.features import named_class
from libmtl_recon.integrations.libmtl.known_sources import unpatched, versions_of
from libmtl_recon.integrations.libmtl.patches import patch_status
from libmtl_recon.integrations.libmtl.wrapper import Call

_OURS = "libmtl_recon."


def check_trainer(call: Call) -> None:
    """Refuse a Trainer that its ranks could not train together.

    Raises:
        UsageError: Its weighting needs the whole batch in one process.
        ReconError: The patches that compute gradients across ranks are switched off.
    """
    import LibMTL
    from LibMTL import weighting as offered

    given = call.arguments
    if patch_status(LibMTL).get("fast-gradients") != "applied":
        raise ReconError(
            "Training on several ranks needs the patch fast-gradients, which was not applied to "
            "this LibMTL. Leave LIBMTL_RECON_PATCHES out, or train in one process."
        )
    if given["weighting"] in METHODS:
        raise _refused(given["weighting"], "makes its own backward passes, through its updates")
    weighting = named_class(offered, given["weighting"])
    if weighting is not None:
        refuse_weighting(weighting, rep_grad=given["rep_grad"])


def refuse_weighting(weighting: Any, *, rep_grad: bool) -> None:
    """Refuse a weighting that several ranks would train differently from one process.

    Args:
        weighting: Its class.
        rep_grad: As passed to the Trainer.

    Raises:
        UsageError: Several ranks would train it differently.
    """
    name, backward = weighting.__name__, weighting.backward
    if name == "GradDrop":
        raise _refused(name, "compares the signs of a representation's gradients over the batch")
    ours = getattr(backward, "__module__", "").startswith(_OURS)
    known = ours or versions_of(backward, f"weighting.{name}.backward")
    if rep_grad and not known:
        raise _refused(
            name,
            "is not one of LibMTL's, so that it is not known what it does to the representation's "
            "gradients of a part of the batch",
        )
    if name == "Nash_MTL" and unpatched(backward) is backward:
        raise _refused(name, "clips the gradients before they are those of the whole batch")


def _refused(name: str, why: str) -> UsageError:
    return UsageError(
        "--weighting",
        "must be one that can train on several ranks",
        name,
        f"{name} {why}. Train in one process, without torchrun, or choose another weighting.",
    )
