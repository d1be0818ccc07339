"""The arguments of optimisers and schedulers that LibMTL offers, and makes none for."""

from __future__ import annotations

import argparse
from typing import Any

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


def complete_help(parser: argparse.ArgumentParser) -> None:
    """Add to the help of LibMTL's flags what they mean for these."""
    for action in parser._actions:
        if action.dest in _HELP:
            action.help = f"{action.help}, {_HELP[action.dest]}"
