"""Arguments of optimisers and schedulers that LibMTL offers without passing any arguments."""

from __future__ import annotations

import argparse
from typing import Any

# By LibMTL's names; its own code is passed the value instead of the key.
OPTIMIZERS = {"adagrad": "adam", "rmsprop": "adam"}
SCHEDULERS = {"cos": "step", "exp": "step"}
# The flags from which a scheduler's arguments are made.
SCHEDULE = frozenset({"step_size", "gamma"})
# The meaning of LibMTL's own flags for them, added to these flags' help.
_HELP = {
    "gamma": "and for ExponentialLR (--scheduler exp), every epoch",
    "step_size": "and half a period of CosineAnnealingLR (--scheduler cos), in epochs",
}


def optimizer_values(params: Any) -> dict[str, Any]:
    """Return the arguments of Adagrad and RMSprop, in the form of LibMTL's Trainer."""
    return {"optim": params.optim, "lr": params.lr, "weight_decay": params.weight_decay}


def scheduler_values(params: Any) -> dict[str, Any]:
    """Return the arguments of cosine annealing or exponential decay, stepped every epoch."""
    if params.scheduler == "cos":
        return {"scheduler": "cos", "T_max": params.step_size}
    return {"scheduler": "exp", "gamma": params.gamma}


def complete_help(parser: argparse.ArgumentParser) -> None:
    """Add to the help of LibMTL's flags their meaning for these."""
    for action in parser._actions:
        if action.dest in _HELP:
            action.help = f"{action.help}, {_HELP[action.dest]}"
