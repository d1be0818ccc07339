"""What LibMTL would train wrongly, or break on later, is refused before it trains."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl import recon
from libmtl_recon.integrations.libmtl.bilevel import refuse_impossible
from libmtl_recon.integrations.libmtl.encoders import checked_encoder_class
from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.hand_written import completed
from libmtl_recon.integrations.libmtl.packages import refuse_missing_solver

# The ways in which a weighting gets at the gradients that `rep_grad` holds back.
_REACHES_ENCODER = ("_compute_grad", "_get_grads", "self.rep")
# LibMTL's distributions of RLW, which it asks for in the first step only.
_DISTRIBUTIONS = ("Uniform", "Normal", "Dirichlet", "Bernoulli", "constrained_Bernoulli")


def guard_trainer(libmtl: ModuleType) -> None:
    """Have LibMTL's Trainer look at its arguments before it builds anything or trains."""
    build, prepare = libmtl.Trainer.__init__, libmtl.Trainer._prepare_dataloaders
    signature = inspect.signature(build)

    @functools.wraps(build)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807  # is set as __init__
        bound = signature.bind(self, *args, **kwargs)
        given = bound.arguments
        weighting = _class_of(given["weighting"], libmtl.weighting)
        lr = dict(given["optim_param"] or {}).get("lr")
        architecture = given["architecture"]
        more = completed(libmtl, weighting, architecture, given.get("kwargs", {}), lr)
        given["kwargs"] = more
        tasks, weight_args, rep_grad = (
            list(given["task_dict"]),
            more["weight_args"],
            given["rep_grad"],
        )
        refuse_impossible(given["weighting"], architecture, weight_args, rep_grad=rep_grad)
        refuse_missing_solver(weighting)
        refuse_weighting(weighting, weight_args, rep_grad=rep_grad)
        base = recon.base_class(libmtl, architecture, more["arch_args"])
        refuse_architecture(base, tasks, more["arch_args"], multi_input=given["multi_input"])
        if hasattr(weighting, "check_arguments"):  # a weighting of ours
            weighting.check_arguments(tasks, weight_args)
        encoder_class = given["encoder_class"]
        given["encoder_class"] = checked_encoder_class(base, encoder_class)
        build(*bound.args, **bound.kwargs)
        if given["encoder_class"] is not encoder_class:
            self.model.encoder_class = encoder_class

    @functools.wraps(prepare)
    def _prepare_dataloaders(self: Any, dataloaders: Any) -> Any:
        if self.multi_input:
            refuse_loaders(dataloaders, self.task_name)
        return prepare(self, dataloaders)

    libmtl.Trainer.__init__ = __init__
    libmtl.Trainer._prepare_dataloaders = _prepare_dataloaders


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


def _class_of(given: Any, module: ModuleType) -> Any:
    """LibMTL's main branch is given names."""
    return vars(module).get(given) if isinstance(given, str) else given
