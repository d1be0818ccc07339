"""Refuse, before training, what LibMTL would train wrongly or fail on later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl import recon
from libmtl_recon.integrations.libmtl.bilevel import refuse_impossible
from libmtl_recon.integrations.libmtl.features import named_class
from libmtl_recon.integrations.libmtl.known_sources import BOTH, MAIN, is_one_of, versions_of
from libmtl_recon.integrations.libmtl.packages import refuse_missing_solver
from libmtl_recon.integrations.libmtl.step.step import step_of
from libmtl_recon.integrations.libmtl.wrapper import Call

# LibMTL's weightings, by the gradients that they can train with. The others can use either.
_BY_SHARED_GRADIENTS = frozenset(
    (
        "CAGrad",
        "DB_MTL",
        "FairGrad",
        "GradVac",
        "MoCo",
        "MoDo",
        "Nash_MTL",
        "PCGrad",
        "SDMGrad",
        "UPGrad",
    )
)
_BY_REPRESENTATIONS = frozenset(("GradDrop",))
_BY_LOSSES = frozenset(("DWA", "EW", "ExcessMTL", "FAMO", "GLS", "RLW", "STCH", "UW"))
# LibMTL's architectures that mix the tasks' representations of one input, by version.
_OF_ONE_INPUT = {"Cross_stitch": BOTH, "LTB": MAIN, "PLE": MAIN}
# Those that need a number of experts per task.
_WITH_EXPERTS = {"CGC": BOTH, "PLE": BOTH}
# LibMTL's distributions for RLW, which it checks in the first step only.
_DISTRIBUTIONS = ("Uniform", "Normal", "Dirichlet", "Bernoulli", "constrained_Bernoulli")

# Models whose encoder was seen to train.
_reached: WeakSet[Any] = WeakSet()


def check_weighting(call: Call) -> None:
    """Refuse a weighting that the Trainer would train wrongly, or not at all."""
    given = call.arguments
    weight_args, rep_grad = given["kwargs"]["weight_args"], given["rep_grad"]
    refuse_impossible(given["weighting"], given["architecture"], weight_args, rep_grad=rep_grad)
    weighting = _weighting_class(given)
    refuse_missing_solver(weighting)
    refuse_weighting(weighting, weight_args, rep_grad=rep_grad)


def check_architecture(call: Call) -> None:
    """Refuse an architecture that the Trainer could not build."""
    given = call.arguments
    tasks, arch_args = list(given["task_dict"]), given["kwargs"]["arch_args"]
    base = recon.base_class(given["architecture"], arch_args)
    refuse_architecture(base, tasks, arch_args, multi_input=given["multi_input"])


def check_own_weighting(call: Call) -> None:
    """Make a weighting of this package check its arguments."""
    given = call.arguments
    weighting = _weighting_class(given)
    if hasattr(weighting, "check_arguments"):
        weighting.check_arguments(list(given["task_dict"]), given["kwargs"]["weight_args"])


def check_loaders(call: Call) -> None:
    """Refuse data loaders that are not one per task where the Trainer needs those."""
    if call.owner.multi_input:
        refuse_loaders(call.arguments["dataloaders"], call.owner.task_name)


def refuse_loaders(loaders: Any, tasks: Sequence[str]) -> None:
    """Refuse data loaders that are not one per task, as ``--multi_input`` needs them.

    Args:
        loaders: The argument that the script passes to ``train`` or ``test``.
        tasks: The tasks' names.

    Raises:
        UsageError: They are not one per task.
    """
    missing = [task for task in tasks if task not in loaders] if hasattr(loaders, "keys") else tasks
    if missing:
        raise UsageError(
            "--multi_input",
            "needs a dict of data loaders from the script, one for each task, but there is none "
            f"for {', '.join(missing)}",
            True,
            "Leave it out if all tasks are labels of one data set.",
        )


def refuse_weighting(weighting: Any, arguments: dict[str, Any], *, rep_grad: bool) -> None:
    """Refuse a weighting that LibMTL would refuse in the first step, or train wrongly.

    Args:
        weighting: Its class; None for LibMTL's names without one (MOML, FORUM, AutoLambda).
        arguments: Its ``weight_args``.
        rep_grad: As passed to the Trainer.

    Raises:
        UsageError: It would be refused or train wrongly.
    """
    if weighting is None:
        return
    name, own = weighting.__name__, known_backward(weighting)
    if rep_grad and own in _BY_LOSSES:
        raise _unreached(name)
    if rep_grad and own in _BY_SHARED_GRADIENTS:
        raise UsageError(
            "--rep_grad",
            f"cannot be combined with --weighting {name}, which weighs the gradients of the "
            "shared parameters themselves",
            True,
            "Leave --rep_grad out.",
        )
    if not rep_grad and own in _BY_REPRESENTATIONS:
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


def known_backward(weighting: Any) -> str:
    """Return the known LibMTL weighting whose ``backward`` a class has; empty if none."""
    owner = next((one for one in weighting.__mro__ if "backward" in vars(one)), None)
    name = getattr(owner, "__name__", "")
    known = owner is not None and versions_of(vars(owner)["backward"], f"weighting.{name}.backward")
    return name if known else ""


def see_encoder_reached(
    proceed: Callable[..., Any], model: Any, /, losses: Any, **kwargs: Any
) -> Any:
    """Refuse ``rep_grad`` for a script's own weighting that does not train the encoder with it.

    With it LibMTL cuts the graph at the representation, and a weighting that only calls
    ``backward`` on a sum of losses trains the decoders alone. This is detected after its first
    step, before the optimiser's.

    Raises:
        UsageError: No shared parameter has a gradient.
    """
    if not model.rep_grad or model in _reached:
        return proceed(model, losses, **kwargs)
    shared = [parameter for parameter in model.get_share_params() if parameter.requires_grad]
    # Existing gradients would hide it, and in a step without labels there is none.
    tells = step_of(model).present != [] and all(one.grad is None for one in shared)
    result = proceed(model, losses, **kwargs)
    if not tells:
        return result
    weighting = type(model).__bases__[-1]
    own = hasattr(weighting, "check_arguments") or known_backward(weighting)
    if shared and not own and all(one.grad is None for one in shared):
        raise _unreached(weighting.__name__)
    _reached.add(model)
    return result


def _unreached(weighting: str) -> UsageError:
    return UsageError(
        "--rep_grad",
        f"cannot be combined with --weighting {weighting}, whose loss would not reach the encoder, "
        "so that LibMTL would train the decoders only",
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
        multi_input: As passed to the Trainer.

    Raises:
        UsageError: It cannot be built.
    """
    if multi_input and is_one_of(architecture, _OF_ONE_INPUT):
        raise UsageError(
            "--multi_input",
            f"cannot be combined with --arch {architecture.__name__}, which mixes the tasks' "
            "features of one input",
            True,
            "Leave --multi_input out, or choose another architecture such as MTAN.",
        )
    experts = arguments.get("num_experts")
    few = experts is not None and len(experts) <= len(tasks)
    if few and is_one_of(architecture, _WITH_EXPERTS):
        raise UsageError(
            "--num_experts",
            f"must have {len(tasks) + 1} numbers with --arch {architecture.__name__} and "
            f"{len(tasks)} tasks: the shared experts first, then each task's",
            experts,
            f"Try --num_experts {' '.join(['1'] * (len(tasks) + 1))}.",
        )


def _weighting_class(given: Mapping[str, Any]) -> Any:
    """Return the class; None for LibMTL's names without one (MOML, FORUM, AutoLambda)."""
    from LibMTL import weighting

    return named_class(weighting, given["weighting"])
