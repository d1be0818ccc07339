"""Compare a weighting's learning rate with the network's, where theory requires a lower one.

RotoGrad's theory is that of a Stackelberg game: the rotations are the leader, the network is the
follower, and the game converges if the ratio of the leader's learning rate to the follower's
vanishes. In a run of known length this means: the leader's rate is the lower one in every epoch
from which on the follower's only falls. While the network's rate is warmed up, from 0 or any other
value, the rate that it rises to is compared; where it is 0, there is nothing to compare.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.wrapper import Call


def compare_learning_rates(call: Call) -> None:
    """Compare the learning rates of a Trainer that is about to train."""
    if hasattr(call.owner.model, "leader_lr"):  # a weighting of ours
        given = call.arguments
        refuse_fast_leader(call.owner, given["train_dataloaders"], given["epochs"])


def refuse_fast_leader(trainer: Any, loaders: Any, epochs: int) -> None:
    """Refuse a schedule under which the weighting learns as fast as the network.

    Args:
        trainer: LibMTL's Trainer, whose model has ``leader_lr``.
        loaders: Its training data.
        epochs: The number of epochs.

    Raises:
        UsageError: The weighting would learn as fast as the network, or faster.
    """
    arguments = trainer.kwargs["weight_args"]
    lengths = [len(one) for one in (loaders.values() if trainer.multi_input else [loaders])]
    steps = max(lengths)
    compared = sorted(_compared(trainer.optimizer, trainer.scheduler, epochs))
    limits = [
        (lr / trainer.model.leader_lr(arguments)) ** (1 / (epoch * steps))
        for epoch, lr in compared
        if epoch
    ]
    for epoch, lr in compared:
        leader = trainer.model.leader_lr(arguments, epoch * steps)
        if leader <= lr:
            continue
        if epoch == 0 or lr == max(rate for _, rate in compared):
            raise UsageError(
                "--rotograd_lr",
                f"must be at most the learning rate of the network, {lr:g}, which the rotations "
                "lead",
                leader,
                "Half of that is a good start.",
            )
        decay = _rounded_down(min(limits))
        advice = f"With {steps} steps per epoch, try {decay}, or a lower --rotograd_lr."
        raise UsageError(
            "--rotograd_decay",
            "must keep the learning rate of the rotations below that of the network, which falls "
            f"to {lr:g} by epoch {epoch}, while that of the rotations is still {leader:g}",
            arguments["rotograd_decay"],
            advice if decay > 0 else "Try a lower --rotograd_lr.",
        )


def _compared(optimizer: Any, scheduler: Any, epochs: int) -> Iterator[tuple[int, float]]:
    """Yield the epochs to compare, with the network's learning rates in them.

    Per group of parameters these are the epochs from its highest rate on, without rates of 0.
    """
    rates = list(group_lrs(optimizer, scheduler, epochs))
    for place, group in enumerate(optimizer.param_groups):
        own = [of_epoch[place] for of_epoch in rates]
        peak = own.index(max(own)) if own else 0
        if own and (scheduler is None or (peak == len(own) - 1 and own[peak] > own[0])):
            # The rate is still rising, or a schedule that the script steps by itself changes it:
            # take the one that the schedule has noted in the group.
            noted = (group.get("initial_lr", 0.0), group.get("max_lr", 0.0))
            own[peak] = max(own[peak], *(float(rate) for rate in noted))
            yield from [(peak, own[peak])] if own[peak] > 0 else []
            continue
        yield from ((epoch, own[epoch]) for epoch in range(peak, len(own)) if own[epoch] > 0)


def group_lrs(optimizer: Any, scheduler: Any, epochs: int) -> Iterator[list[float]]:
    """Yield the network's learning rates in each coming epoch, one per group of parameters.

    The schedule is run on a copy. One that waits for a plateau is shown nothing but a plateau,
    since one may come at any time.
    """
    twin = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    twin.param_groups = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    # The copy gets the twin wherever the schedule has its optimiser.
    copied = None if scheduler is None else copy.deepcopy(scheduler, {id(optimizer): twin})
    for _ in range(epochs):
        yield [float(group["lr"]) for group in twin.param_groups]
        if isinstance(copied, ReduceLROnPlateau):
            copied.step(0.0)
        elif copied is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the twin makes no steps
                copied.step()


def _rounded_down(decay: float) -> float:
    """Return the decay rounded down so that its distance to 1 has two digits."""
    margin = 1.0 - decay
    unit = 10.0 ** (math.floor(math.log10(margin)) - 1)
    return float(f"{1.0 - math.ceil(margin / unit) * unit:.12g}")
