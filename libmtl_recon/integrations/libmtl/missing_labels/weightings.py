"""State of LibMTL's weightings per task, and which of them can skip a task for one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl.bilevel import bilevel_method_of
from libmtl_recon.integrations.libmtl.patches import patch_status


@dataclass(frozen=True)
class Kept:
    """State that a weighting keeps for each task, in attributes of the model.

    Attributes:
        parameters: Trained parameters, ``[T]``.
        tensors: Running values, with the number of their leading dimensions that index tasks.
        arrays: NumPy arrays, ``[T]``.
        sized: Created for a number of tasks, and created anew if missing.
    """

    parameters: tuple[str, ...] = ()
    tensors: Mapping[str, int] = field(default_factory=dict)
    arrays: tuple[str, ...] = ()
    sized: tuple[str, ...] = ()


_SCALES = Kept(parameters=("loss_scale",))

# The training losses of past epochs, which DWA and GradNorm read, belong to the Trainer.
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
_BILEVEL = "it weighs the losses in its own outer loop, which needs all of them"
_THREE_BATCHES = "it compares three batches per step, which must all have the same tasks"
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
    """Return the weighting's class; LibMTL mixes it in as the model class's last base."""
    found: type = type(model).__bases__[-1]
    return found


def kept_by(model: Any) -> Kept:
    """Return the state of the model's weighting; nothing for one that handles it itself."""
    weighting = weighting_of(model)
    return _KEPT.get(weighting.__name__, Kept()) if _is_libmtls(weighting) else Kept()


def refuse_absent_task(trainer: Any, task: str) -> None:
    """Refuse to train a step without a task where the weighting would train wrongly.

    Raises:
        ReconError: The model has such a weighting.
    """
    weighting = weighting_of(trainer.model)
    name = bilevel_method_of(trainer) or weighting.__name__
    why = _REFUSED.get(name, _why_not_nash(trainer) if name == "Nash_MTL" else "")
    if not why and name in _KEPT and _is_libmtls(weighting):
        return
    if getattr(weighting, _OPT_IN, False):
        return
    if why:
        reason = f"this weighting cannot leave out a task in a step, since {why}"
        way_out = f"Choose one that can ({', '.join(sorted(_KEPT))}, GradOPS), or draw"
    else:
        reason = "it is not known whether this weighting can leave out a task in a step"
        way_out = (
            f"If its `backward` also works with the losses of some tasks only, set {_OPT_IN} = "
            "True in its class (libmtl_recon.present_tasks returns these tasks); or draw"
        )
    raise ReconError(
        f"--weighting {name} stops here: no sample of this batch has a label for task {task!r}, "
        f"and {reason}. {way_out} batches in which each task has a label."
    )


def _why_not_nash(trainer: Any) -> str:
    """Return why Nash_MTL cannot skip a task here; empty if it can.

    The bargaining solution is that of the tasks present. Where there is no solution, the stored
    weights are used; with ``--update_weights_every`` also in each step between two solutions, in
    which weights from several bargains, of different scales, would be mixed.
    """
    import LibMTL

    if patch_status(LibMTL).get("nash-mtl-solver") != "applied":
        return (
            "without the patch nash-mtl-solver it sets up its bargaining problem for all tasks once"
        )
    if trainer.kwargs["weight_args"].get("update_weights_every", 1) != 1:
        return "with --update_weights_every above 1 it uses the weights of steps with other tasks"
    return ""


def _is_libmtls(weighting: type) -> bool:
    return weighting.__module__.startswith("LibMTL.")
