"""LibMTL offers optimisers and schedulers whose arguments it never makes.

``--optim adagrad|rmsprop`` and ``--scheduler cos|exp`` end in an UnboundLocalError.
"""

from __future__ import annotations

import argparse
from types import ModuleType
from typing import Any

from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch

# By LibMTL's names; each of its own code is told the value instead.
OPTIMIZERS = {"adagrad": "adam", "rmsprop": "adam"}
SCHEDULERS = {"cos": "step", "exp": "step"}
# The flags of which a scheduler is made.
SCHEDULE = frozenset({"step_size", "gamma"})
# What LibMTL's own flags mean for them, added to these flags' help.
_HELP = {
    "gamma": "and for ExponentialLR (--scheduler exp), every epoch",
    "step_size": "and half a period of CosineAnnealingLR (--scheduler cos), in epochs",
}


def optimizer_values(params: Any) -> dict[str, Any]:
    """The arguments of Adagrad and RMSprop, as LibMTL's Trainer takes them."""
    return {"optim": params.optim, "lr": params.lr, "weight_decay": params.weight_decay}


def scheduler_values(params: Any) -> dict[str, Any]:
    """The arguments of a cosine annealing or an exponential decay, stepped every epoch."""
    if params.scheduler == "cos":
        return {"scheduler": "cos", "T_max": params.step_size}
    return {"scheduler": "exp", "gamma": params.gamma}


def _needed(libmtl: ModuleType) -> bool:
    source = source_of(libmtl.config.prepare_args)
    return "'adagrad'" in source and "'optim': 'adagrad'" not in source


def _apply(libmtl: ModuleType) -> None:
    # `prepare_args` itself is swapped at registration, and asks whether this was applied.
    parser: argparse.ArgumentParser = libmtl.config.LibMTL_args
    for action in parser._actions:
        if action.dest in _HELP:
            action.help = f"{action.help}, {_HELP[action.dest]}"


PATCH = Patch(
    name="optimizers-schedulers",
    reason="LibMTL offers adagrad, rmsprop, cos and exp, but makes no arguments for them",
    needed=_needed,
    apply=_apply,
)
