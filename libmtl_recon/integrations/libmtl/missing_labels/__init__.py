"""Missing labels in LibMTL's training: losses, scores and steps of the tasks that have some."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from libmtl_recon.integrations.libmtl.missing_labels import losses, scores, steps


def wrap_trainer(libmtl: ModuleType) -> None:
    """Make LibMTL's Trainer and meter leave out what has no label; nothing changes for the rest."""
    trainer_class = libmtl.Trainer
    trainer_class._compute_loss = losses.of_labelled(trainer_class._compute_loss)
    scores.wrap_meter(libmtl._record)
    prepare = trainer_class._prepare_model

    @functools.wraps(prepare)
    def _prepare_model(self: Any, *args: Any, **kwargs: Any) -> None:
        prepare(self, *args, **kwargs)
        # LibMTL makes a class for each model, on which nothing else depends.
        model_class = type(self.model)
        model_class.backward = steps.of_present_tasks(model_class.backward)

    trainer_class._prepare_model = _prepare_model
