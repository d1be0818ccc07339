"""``--recon_gradients``: how the Gramian of a step's task gradients is computed."""

from __future__ import annotations

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.prepared_arguments import prepared_training
from libmtl_recon.integrations.libmtl.provenance import weighting_name
from libmtl_recon.integrations.libmtl.step.step import step_of
from libmtl_recon.integrations.libmtl.wrapper import Call

# They know their tasks' gradients by the Gramian alone, unless it is that of representations.
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
# They need the gradients themselves: single entries of them, or those of earlier steps.
OF_GRADIENTS = {
    "DB_MTL": "which averages the gradients over the steps",
    "ExcessMTL": "which compares the gradients entry by entry",
    "GradDrop": "which drops single entries of the gradients",
    "MoCo": "which averages the gradients over the steps",
    "MoDo": "which compares the gradients of three batches",
    "SDMGrad": "which compares the gradients of three batches",
}


def choose_way(call: Call) -> None:
    """Have a Trainer's model compute Gramians as the script's arguments ask for.

    Raises:
        UsageError: Rows are forbidden, and the weighting needs them.
    """
    model = call.owner.model
    weighting = weighting_name(model)
    step = step_of(model)
    step.way = prepared_training().get("recon_gradients", "auto")
    step.calls.wanted = weighting in OF_GRAMIANS and not model.rep_grad
    if step.way == "ghost" and weighting in OF_GRADIENTS:
        raise UsageError(
            "--recon_gradients",
            f"cannot be ghost with --weighting {weighting}, {OF_GRADIENTS[weighting]}",
            "ghost",
            "Leave it out, or choose a weighting of the Gramian: "
            f"{', '.join(sorted(OF_GRAMIANS))}.",
        )
