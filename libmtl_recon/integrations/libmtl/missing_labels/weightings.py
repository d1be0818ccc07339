"""What LibMTL's weightings keep from step to step, and so which can go without a task for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl.bilevel import bilevel_method_of
from libmtl_recon.integrations.libmtl.patches import patch_status


@dataclass(frozen=True)
class Kept:
    """What a weighting keeps for each task, in attributes of the model.

    Attributes:
        parameters: Trained, ``[T]``.
        tensors: Running values, and how many of their first dimensions count the tasks.
        arrays: Values in NumPy, ``[T]``.
        sized: Made for a number of tasks, and made anew if not there.
    """

    parameters: tuple[str, ...] = ()
    tensors: Mapping[str, int] = field(default_factory=dict)
    arrays: tuple[str, ...] = ()
    sized: tuple[str, ...] = ()


_SCALES = Kept(parameters=("loss_scale",))

# The training losses of past epochs, which DWA and GradNorm read, are the Trainer's.
_KEPT: dict[str, Kept] = {
    "Aligned_MTL": Kept(),
    "CAGrad": Kept(),
    "DB_MTL": Kept(tensors={"grad_buffer": 1}),
    "DWA": Kept(),
    "EW": Kept(),
    "FairGrad": Kept(),
    "GLS": Kept(),
    "GradDrop": Kept(),
    "GradNorm": _SCALES,
    "GradVac": Kept(tensors={"rho_T": 2}),
    "IMTL": _SCALES,
    "MGDA": Kept(),
    "Nash_MTL": Kept(arrays=("prvs_alpha",)),
    "PCGrad": Kept(),
    "RLW": Kept(sized=("distribution",)),
    "UPGrad": Kept(),
    "UW": _SCALES,
}
_TIED = "the weights that it keeps from step to step sum to a constant over all tasks"
_BILEVEL = "it weighs the losses in an outer loop of its own, which counts on all of them"
_THREE_BATCHES = "it compares three batches a step, which must all have the same tasks"
_REFUSED = {
    "AutoLambda": _BILEVEL,
    "ExcessMTL": _TIED,
    "FAMO": f"{_TIED}, and it looks at the loss of every task before and after the step",
    "FORUM": _BILEVEL,
    "MOML": _BILEVEL,
    "MoCo": _TIED,
    "MoDo": f"{_THREE_BATCHES}; moreover {_TIED}",
    "SDMGrad": f"{_THREE_BATCHES}; moreover {_TIED}",
    "STCH": "it averages the losses of all tasks over the same number of steps",
}
_OPT_IN = "takes_missing_labels"


def weighting_of(model: Any) -> type:
    """The weighting's class, which LibMTL mixes in as the model class's last base."""
    found: type = type(model).__bases__[-1]
    return found


def kept_by(model: Any) -> Kept:
    """What the model's weighting keeps; nothing, for one that looks after itself."""
    weighting = weighting_of(model)
    return _KEPT.get(weighting.__name__, Kept()) if _is_libmtls(weighting) else Kept()


def refuse_absent_task(trainer: Any, task: str) -> None:
    """Refuse to train a step without a task, where the weighting would train wrongly.

    Raises:
        ReconError: It is such a weighting.
    """
    weighting = weighting_of(trainer.model)
    name = bilevel_method_of(trainer) or weighting.__name__
    why = _REFUSED.get(name, _why_not_nash(trainer) if name == "Nash_MTL" else "")
    if not why and name in _KEPT and _is_libmtls(weighting):
        return
    if getattr(weighting, _OPT_IN, False):
        return
    if why:
        reason = f"this weighting cannot be without a task for a step, since {why}"
        way_out = f"Choose one that can ({', '.join(sorted(_KEPT))}, GradOPS), or draw"
    else:
        reason = "it is not known whether this weighting can be without a task for a step"
        way_out = (
            f"If its `backward` may be given the losses of some tasks only, set {_OPT_IN} = True "
            "in its class (libmtl_recon.present_tasks says which tasks they are); or draw"
        )
    raise ReconError(
        f"--weighting {name} stops here: no sample of this batch has a label for task {task!r}, "
        f"and {reason}. {way_out} batches in which each task has a label."
    )


def _why_not_nash(trainer: Any) -> str:
    """Why Nash_MTL cannot do without a task here; empty if it can.

    The bargaining solution is that of the tasks at hand. What it keeps stands in where there is
    none; with ``--update_weights_every`` also in each step between two solutions, in which weights
    out of several bargains, of several scales, would meet.
    """
    import LibMTL

    if patch_status(LibMTL).get("nash-mtl-solver") != "applied":
        return "without the patch nash-mtl-solver it sets up its bargaining problem once, for all"
    if trainer.kwargs["weight_args"].get("update_weights_every", 1) != 1:
        return "with --update_weights_every above 1 it uses the weights of steps with other tasks"
    return ""


def _is_libmtls(weighting: type) -> bool:
    return weighting.__module__.startswith("LibMTL.")
