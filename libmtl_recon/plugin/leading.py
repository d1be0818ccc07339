"""What leads must learn more slowly than what follows: a weighting's learning rate is compared.

RotoGrad's theory is that of a Stackelberg game: the rotations lead, the network follows, and the
game converges if the leader's learning rate vanishes beside the follower's. In a run of known
length that is: it is the lower one in every epoch.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from libmtl_recon.errors import UsageError


def guard_training(libmtl: ModuleType) -> None:
    """Have LibMTL's Trainer compare the learning rates before it trains."""
    train = libmtl.Trainer.train
    signature = inspect.signature(train)

    @functools.wraps(train)
    def guarded_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(self.model, "leader_lr"):  # a weighting of ours
            given = signature.bind(self, *args, **kwargs).arguments
            refuse_fast_leader(self, given["train_dataloaders"], given["epochs"])
        return train(self, *args, **kwargs)

    libmtl.Trainer.train = guarded_train


def refuse_fast_leader(trainer: Any, loaders: Any, epochs: int) -> None:
    """Refuse a schedule under which the weighting learns as fast as the network.

    Args:
        trainer: LibMTL's, whose model has ``leader_lr``.
        loaders: Its training data.
        epochs: How many there will be.

    Raises:
        UsageError: It would.
    """
    arguments = trainer.kwargs["weight_args"]
    lengths = [len(one) for one in (loaders.values() if trainer.multi_input else [loaders])]
    steps = max(lengths)
    highest, limits = None, []
    for epoch, lr in enumerate(network_lrs(trainer.optimizer, trainer.scheduler, epochs)):
        leader = trainer.model.leader_lr(arguments, epoch * steps)
        if leader > lr and highest is None:
            highest = (epoch, leader, lr)
        if epoch:
            limits.append((lr / trainer.model.leader_lr(arguments)) ** (1 / (epoch * steps)))
    if highest is None:
        return
    epoch, leader, lr = highest
    if epoch == 0:
        raise UsageError(
            "--rotograd_lr",
            f"must be at most the learning rate of the network, {lr:g}, which the rotations lead",
            leader,
            "Half of that is a good start.",
        )
    raise UsageError(
        "--rotograd_decay",
        f"must keep the learning rate of the rotations below that of the network, which falls to "
        f"{lr:g} by epoch {epoch}, when that of the rotations is still {leader:g}",
        arguments["rotograd_decay"],
        f"At {steps} steps an epoch, try {_rounded_down(min(limits))}, or a lower --rotograd_lr.",
    )


def network_lrs(optimizer: Any, scheduler: Any, epochs: int) -> Iterator[float]:
    """The network's learning rate in each epoch to come; the lowest, where it has several.

    The schedule is run on a copy. One that waits for a plateau is shown nothing else, since it
    may come at any time.
    """
    twin = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    twin.param_groups = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    # The copy gets the twin wherever the schedule has its optimiser.
    copied = None if scheduler is None else copy.deepcopy(scheduler, {id(optimizer): twin})
    for _ in range(epochs):
        yield min(float(group["lr"]) for group in twin.param_groups)
        if isinstance(copied, ReduceLROnPlateau):
            copied.step(0.0)
        elif copied is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the twin makes no steps
                copied.step()


def _rounded_down(decay: float) -> float:
    """A decay as high, but for rounding down: its distance to 1 gets two digits."""
    margin = 1.0 - decay
    unit = 10.0 ** (math.floor(math.log10(margin)) - 1)
    return float(f"{1.0 - math.ceil(margin / unit) * unit:.12g}")
