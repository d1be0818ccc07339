"""Determine at its first step how a script's Trainer would compute the Gramian of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from libmtl_recon.errors import ReconError
from libmtl_recon.gradients.plan import Plan
from libmtl_recon.integrations.libmtl.bilevel import bilevel_method_of
from libmtl_recon.integrations.libmtl.hooks import StopRun, TrainerHook
from libmtl_recon.integrations.libmtl.provenance import weighting_name
from libmtl_recon.integrations.libmtl.replacing import replace
from libmtl_recon.integrations.libmtl.step import hands_over, step_of
from libmtl_recon.integrations.libmtl.step.task_gradients import OF_GROUPS, refuse_ghost
from libmtl_recon.integrations.libmtl.step.way import OF_GRADIENTS, OF_GRAMIANS


@dataclass(frozen=True)
class Planned:
    """The way in which a step of a weighting obtains the tasks' gradients.

    Attributes:
        weighting: The weighting's name.
        tasks: T.
        plan: How a Gramian is computed; None if there is none.
        what: One sentence on when this applies.
    """

    weighting: str
    tasks: int
    plan: Plan | None
    what: str


class PlanningHook(TrainerHook):
    """Ends the run by ``StopRun`` at the first step of the first Trainer, before it is taken.

    Attributes:
        found: The result; None before that step.
    """

    def __init__(self) -> None:
        self.found: Planned | None = None
        self._attached = False

    def built(self, trainer: Any) -> None:
        """Wait for the first step."""
        if self._attached:
            return
        self._attached = True
        model = trainer.model
        bilevel = bilevel_method_of(trainer)
        if bilevel:
            what = "makes its own backward passes, without a Gramian."
            self.found = Planned(bilevel, model.task_num, None, what)
            raise StopRun
        own = model.backward
        step_of(model).calls.watched = not model.rep_grad

        def backward(losses: Tensor, **kwargs: Any) -> Any:
            if step_of(model).present == []:  # no sample has a label
                return own(losses, **kwargs)
            self.found = _planned(model, losses, kwargs)
            raise StopRun

        replace(model, backward=backward)


def _planned(model: Any, losses: Tensor, arguments: Mapping[str, Any]) -> Planned:
    step, name = step_of(model), weighting_name(model)
    tasks = len(losses) if step.present is None else len(step.present)
    plan = None
    if model.rep_grad:
        what = (
            "weighs the gradients of the representation (--rep_grad), not those of the shared "
            "layers."
        )
    elif name in OF_GRADIENTS:
        what = f"keeps the rows of all layers, {OF_GRADIENTS[name]}."
    elif hasattr(model, "_init_rho") and arguments["GradVac_group_type"]:
        refuse_ghost(model, OF_GROUPS)
        what = f"keeps the rows of all layers: {OF_GROUPS}."
    elif step.way == "stored" and name not in OF_GRAMIANS:
        what = "takes one backward pass; while it is scored, the rows of all layers are kept."
    elif step.way == "stored":
        what = "keeps the rows of all layers, with --recon_gradients stored."
    elif not hands_over(model):
        what = "is defined by the script: it gets the losses, and how it uses them is not known."
    elif not step.open(losses if step.present is None else step.part_of(losses)):
        what = "gets losses that the Trainer did not compute one per task."
    else:
        step.hand_over()
        plan, what = _plan_of_handed_over(model, name)
    return Planned(name, tasks, plan, what)


def _plan_of_handed_over(model: Any, name: str) -> tuple[Plan | None, str]:
    recorded = step_of(model).recorded(model)
    if recorded is None:
        return None, "keeps the rows of all layers: the script defines the model's forward pass."
    try:
        plan = recorded.record.plan(recorded.losses)
    except ReconError as error:
        return None, f"keeps the rows of all layers. {error}"
    if name in OF_GRAMIANS:
        return plan, "uses the Gramian, which is computed as follows:"
    return plan, "takes one backward pass; while it is scored, the Gramian is computed as follows:"
