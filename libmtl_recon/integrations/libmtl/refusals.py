"""What LibMTL would train wrongly, or break on later, is refused before it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl import recon
from libmtl_recon.integrations.libmtl.bilevel import refuse_impossible
from libmtl_recon.integrations.libmtl.features import named_class, source_of
from libmtl_recon.integrations.libmtl.packages import refuse_missing_solver
from libmtl_recon.integrations.libmtl.wrapper import Call

# The ways in which a weighting gets at the gradients that `rep_grad` holds back.
_REACHES_ENCODER = ("_compute_grad", "_get_grads", "self.rep")
# LibMTL's distributions of RLW, which it asks for in the first step only.
_DISTRIBUTIONS = ("Uniform", "Normal", "Dirichlet", "Bernoulli", "constrained_Bernoulli")


def check_weighting(call: Call) -> None:
    """Refuse a Trainer a weighting that it would train wrongly, or not at all."""
    given = call.arguments
    weight_args, rep_grad = given["kwargs"]["weight_args"], given["rep_grad"]
    refuse_impossible(given["weighting"], given["architecture"], weight_args, rep_grad=rep_grad)
    weighting = _weighting_class(given)
    refuse_missing_solver(weighting)
    refuse_weighting(weighting, weight_args, rep_grad=rep_grad)


def check_architecture(call: Call) -> None:
    """Refuse a Trainer an architecture that it could not build."""
    given = call.arguments
    tasks, arch_args = list(given["task_dict"]), given["kwargs"]["arch_args"]
    base = recon.base_class(given["architecture"], arch_args)
    refuse_architecture(base, tasks, arch_args, multi_input=given["multi_input"])


def check_own_weighting(call: Call) -> None:
    """Have a weighting of ours look at its arguments."""
    given = call.arguments
    weighting = _weighting_class(given)
    if hasattr(weighting, "check_arguments"):
        weighting.check_arguments(list(given["task_dict"]), given["kwargs"]["weight_args"])


def check_loaders(call: Call) -> None:
    """Refuse a Trainer data loaders that are not one for each task, where it needs those."""
    if call.owner.multi_input:
        refuse_loaders(call.arguments["dataloaders"], call.owner.task_name)


def refuse_loaders(loaders: Any, tasks: Sequence[str]) -> None:
    """Refuse data loaders that are not one a task, as ``--multi_input`` needs them.

    Args:
        loaders: What the script hands to ``train`` or ``test``.
        tasks: The tasks' names.

    Raises:
        UsageError: They are not.
    """
    missing = [task for task in tasks if task not in loaders] if hasattr(loaders, "keys") else tasks
    if missing:
        raise UsageError(
            "--multi_input",
            "needs a dict of data loaders from the script, one for each task, and there is none "
            f"for {', '.join(missing)}",
            True,
            "Leave it out where all tasks are labels of one data set.",
        )


def refuse_weighting(weighting: Any, arguments: dict[str, Any], *, rep_grad: bool) -> None:
    """Refuse a weighting that LibMTL would refuse in the first step, or train wrongly.

    Args:
        weighting: Its class; None for LibMTL's names without one (MOML, FORUM, AutoLambda).
        arguments: Its ``weight_args``.
        rep_grad: As the Trainer is given it.

    Raises:
        UsageError: It would.
    """
    if weighting is None:
        return
    name, source = weighting.__name__, source_of(getattr(weighting, "backward", None))
    if rep_grad:
        refuse_untrained_encoder(weighting)
        # LibMTL's own words, raised in the first step.
        if "representation gradients (rep_grad=True)" in source:
            raise UsageError(
                "--rep_grad",
                f"cannot be combined with --weighting {name}, which weighs the gradients of the "
                "shared parameters themselves",
                True,
                "Leave --rep_grad out.",
            )
    elif "parameter gradients (rep_grad=False)" in source:
        raise UsageError(
            "--rep_grad",
            f"must be given with --weighting {name}, which is defined on the gradients of the "
            "representation",
            False,
            "Add --rep_grad.",
        )
    if name == "RLW" and arguments.get("dist", "Normal") not in _DISTRIBUTIONS:
        raise UsageError(
            "--dist",
            f"must be one of {', '.join(_DISTRIBUTIONS)}",
            arguments["dist"],
            "Leave it out for the normal distribution.",
        )


def refuse_untrained_encoder(weighting: Any) -> None:
    """Refuse ``--rep_grad`` for a weighting of losses.

    With it LibMTL cuts the graph at the representation, and a weighting that only calls
    ``backward`` on a sum of losses never trains the encoder.

    Args:
        weighting: The weighting's class.

    Raises:
        UsageError: It is such a weighting.
    """
    if hasattr(weighting, "check_arguments"):  # a weighting of ours, which knows itself
        return
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


def refuse_architecture(
    architecture: Any, tasks: list[str], arguments: dict[str, Any], *, multi_input: bool
) -> None:
    """Refuse an architecture that cannot be built for this problem.

    Args:
        architecture: Its class.
        tasks: The tasks' names.
        arguments: Its ``arch_args``.
        multi_input: As the Trainer is given it.

    Raises:
        UsageError: It cannot.
    """
    parents = getattr(architecture, "__mro__", ())
    source = "".join(source_of(vars(parent).get("__init__")) for parent in parents)
    # LibMTL's own words.
    if multi_input and "for multiple inputs MTL problem" in source:
        raise UsageError(
            "--multi_input",
            f"cannot be combined with --arch {architecture.__name__}, which mixes what the tasks "
            "make of one input",
            True,
            "Leave --multi_input out, or choose another architecture such as MTAN.",
        )
    experts = arguments.get("num_experts")
    if experts is not None and "['num_experts'][tn+1]" in source and len(experts) <= len(tasks):
        raise UsageError(
            "--num_experts",
            f"must have {len(tasks) + 1} numbers with --arch {architecture.__name__} and "
            f"{len(tasks)} tasks: the shared experts first, then each task's",
            experts,
            f"Try --num_experts {' '.join(['1'] * (len(tasks) + 1))}.",
        )


def _weighting_class(given: Mapping[str, Any]) -> Any:
    """None for LibMTL's names without a class (MOML, FORUM, AutoLambda)."""
    from LibMTL import weighting

    return named_class(weighting, given["weighting"])
