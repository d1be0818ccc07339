"""``--recon_gradients``: how the Gramian of a step's task gradients is computed."""

from __future__ import annotations

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.bilevel import bilevel_method_of
from libmtl_recon.integrations.libmtl.prepared_arguments import prepared_training
from libmtl_recon.integrations.libmtl.provenance import weighting_name
from libmtl_recon.integrations.libmtl.step.step import step_of
from libmtl_recon.integrations.libmtl.wrapper import Call

# They use their tasks' gradients only through the Gramian, unless it is that of representations.
OF_GRAMIANS = frozenset(
    (
        "Aligned_MTL",
        "CAGrad",
        "FairGrad",
        "GradNorm",
        "GradOPS",
        "GradVac",
        "IMTL",
        "MGDA",
        "Nash_MTL",
        "PCGrad",
        "UPGrad",
    )
)
# They need the gradients themselves, of the shared parameters or of something else.
OF_GRADIENTS = {
    "DB_MTL": "which averages the gradients over the steps",
    "ExcessMTL": "which compares the gradients entry by entry",
    "GradDrop": "which drops single entries of the gradients",
    "MoCo": "which averages the gradients over the steps",
    "MoDo": "which compares the gradients of three batches",
    "RotoGrad": "which works on the gradients of the representation",
    "SDMGrad": "which compares the gradients of three batches",
}


def choose_way(call: Call) -> None:
    """Make a Trainer's model compute Gramians as the script's arguments say.

    Raises:
        UsageError: Rows are not allowed, and the weighting needs them.
    """
    trainer, model = call.owner, call.owner.model
    weighting = weighting_name(model)
    step = step_of(model)
    step.way = prepared_training().get("recon_gradients", "auto")
    step.calls.wanted = weighting in OF_GRAMIANS and not model.rep_grad
    if step.way != "ghost":
        return
    bilevel = bilevel_method_of(trainer)
    if bilevel:
        why = f"--weighting {bilevel}, which makes its own backward passes"
    elif weighting in OF_GRADIENTS:
        why = f"--weighting {weighting}, {OF_GRADIENTS[weighting]}"
    elif model.rep_grad:
        why = "--rep_grad, which weighs the gradients of the representation"
    else:
        return
    import LibMTL

    offered = sorted(name for name in OF_GRAMIANS if hasattr(LibMTL.weighting, name))
    raise UsageError(
        "--recon_gradients",
        f"cannot be ghost with {why}",
        "ghost",
        f"Leave it out, or choose a weighting of the Gramian: {', '.join(offered)}.",
    )
