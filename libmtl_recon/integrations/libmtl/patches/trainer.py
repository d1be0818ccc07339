"""Patches of LibMTL's Trainer; most are hooks, listed in ``hook_table``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from libmtl_recon.integrations.libmtl.device import trainer_device
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.known_sources import BOTH, MAIN
from libmtl_recon.integrations.libmtl.loaders import Loader
from libmtl_recon.integrations.libmtl.loading import load_strictly
from libmtl_recon.integrations.libmtl.patches.patch import Defect, patch
from libmtl_recon.integrations.libmtl.wrapper import Call

_logger = logging.getLogger(__name__)


@patch("device", needs=Defect("Trainer.__init__", of=BOTH))
def device(libmtl: ModuleType) -> None:
    """LibMTL's Trainer fixes the device to cuda:0."""
    libmtl.Trainer.device = trainer_device


@patch("iterator-next", needs=Defect("Trainer._process_data", of=BOTH))
def iterator_next(_: ModuleType) -> None:
    """LibMTL calls iterator.next(), and treats any data loading error as the end of the data.

    PyTorch's iterators have no ``next`` any more (main does not call it). A bare ``except`` treats
    any error of the data loading, including Ctrl-C, as the end of an epoch: the error is lost and
    the batch is drawn again.
    """


def wrap_loaders(call: Call) -> None:
    """Give LibMTL's Trainer loaders that it can iterate."""
    given = call.arguments["dataloaders"]
    if isinstance(given, dict):
        call.arguments["dataloaders"] = {task: Loader(own) for task, own in given.items()}
    else:
        call.arguments["dataloaders"] = Loader(given)


@patch("own-scheduler", needs=Defect("Trainer.train_singlelevel", of=MAIN))
def own_scheduler(_: ModuleType) -> None:
    """LibMTL's Trainer stops after one epoch with a scheduler that the script created.

    It reads the scheduler's name from arguments that a script with its own ``_prepare_optimizer``
    may not have given.
    """


def name_scheduler(call: Call) -> None:
    """Give a Trainer's scheduler a name, if it has none."""
    trainer = call.owner
    if trainer.scheduler is not None and trainer.scheduler_param is None:
        # LibMTL's name of the scheduler that it passes validation results to.
        plateau = isinstance(trainer.scheduler, ReduceLROnPlateau)
        trainer.scheduler_param = {"scheduler": "reduce" if plateau else "the script's"}


_LOADS = Defect("Trainer._prepare_model", of=MAIN)


@patch("strict-checkpoint", needs=lambda libmtl: detect(libmtl).saves_models and _LOADS(libmtl))
def strict_checkpoint(_: ModuleType) -> None:
    """LibMTL loads the matching part of a checkpoint and silently leaves the rest random.

    If no name fits, as after Recon split its layers, the whole network is left random. A
    checkpoint of a GPU also fails to load on a machine without one. With this patch the network's
    names and shapes must fit. A weighting's own parameters may differ, since one may train with one
    weighting and test with another; that is reported.
    """


def load_whole(proceed: Callable[..., None], trainer: Any, *args: Any, **kwargs: Any) -> None:
    """Prepare the model, and then load the complete checkpoint or refuse it."""
    given, trainer.load_path = trainer.load_path, None
    proceed(trainer, *args, **kwargs)
    if given is not None:
        trainer.load_path = load_strictly(trainer.model, given)
        _logger.info("Load Model from - %s", trainer.load_path)


@patch("return-weight", needs=Defect("Trainer.train", of=MAIN))
def return_weight(_: ModuleType) -> None:
    """LibMTL's Trainer.train(..., return_weight=True) returns None.

    It is documented to return the weights of all steps.
    """


def give_weights(call: Call) -> None:
    """Return the weights from ``Trainer.train``, if they were requested."""
    if call.arguments.get("return_weight", False):
        call.result = call.owner.batch_weight
