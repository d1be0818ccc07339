"""Patches of LibMTL's Trainer: most are hooks, whose places are in ``hook_table``."""

from __future__ import annotations

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


@patch("device", needs=Defect("Trainer.__init__", of=BOTH))
def device(libmtl: ModuleType) -> None:
    """LibMTL's Trainer fixes the device to cuda:0."""
    libmtl.Trainer.device = trainer_device


@patch("iterator-next", needs=Defect("Trainer._process_data", of=BOTH))
def iterator_next(_: ModuleType) -> None:
    """LibMTL calls iterator.next(), and takes any error of the data loading for its end.

    PyTorch's iterators have no ``next`` any more (main does not ask for it). A bare ``except``
    takes whatever the data loading raised, Ctrl-C included, for the end of an epoch: the error is
    lost and the batch is drawn again.
    """


def wrap_loaders(call: Call) -> None:
    """Give LibMTL's Trainer loaders that it may iterate in its way."""
    given = call.arguments["dataloaders"]
    if isinstance(given, dict):
        call.arguments["dataloaders"] = {task: Loader(own) for task, own in given.items()}
    else:
        call.arguments["dataloaders"] = Loader(given)


@patch("own-scheduler", needs=Defect("Trainer.train_singlelevel", of=MAIN))
def own_scheduler(_: ModuleType) -> None:
    """LibMTL's Trainer stops after an epoch with a scheduler that a script made by itself.

    It asks for the scheduler's name in arguments of which a script whose ``_prepare_optimizer`` is
    its own may have given none.
    """


def name_scheduler(call: Call) -> None:
    """Give a Trainer's scheduler a name, if it has none."""
    trainer = call.owner
    if trainer.scheduler is not None and trainer.scheduler_param is None:
        # LibMTL's name of the one that it tells how the validation went.
        plateau = isinstance(trainer.scheduler, ReduceLROnPlateau)
        trainer.scheduler_param = {"scheduler": "reduce" if plateau else "the script's"}


_LOADS = Defect("Trainer._prepare_model", of=MAIN)


@patch("strict-checkpoint", needs=lambda libmtl: detect(libmtl).saves_models and _LOADS(libmtl))
def strict_checkpoint(_: ModuleType) -> None:
    """LibMTL loads what fits of a checkpoint, and leaves the rest random without a word.

    So it leaves the whole network if none of the names fit, as after Recon split its layers. A
    checkpoint of a GPU also fails to load on a machine without one. With this patch the network's
    names and shapes must fit. A weighting's own parameters may differ, since one may train with one
    weighting and test with another; that is said.
    """


def load_whole(proceed: Callable[..., None], trainer: Any, *args: Any, **kwargs: Any) -> None:
    """Prepare the model, and then load the whole checkpoint or refuse it."""
    given, trainer.load_path = trainer.load_path, None
    proceed(trainer, *args, **kwargs)
    if given is not None:
        trainer.load_path = load_strictly(trainer.model, given)
        print(f"Load Model from - {trainer.load_path}")


@patch("return-weight", needs=Defect("Trainer.train", of=MAIN))
def return_weight(_: ModuleType) -> None:
    """LibMTL's Trainer.train(..., return_weight=True) returns None.

    It promises the weights of all steps.
    """


def give_weights(call: Call) -> None:
    """Return the weights from ``Trainer.train``, if they were asked for."""
    if call.arguments.get("return_weight", False):
        call.result = call.owner.batch_weight
