"""Provenance of a profile: what is recorded about a scoring run when it begins."""

from __future__ import annotations

import datetime
import sys
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from libmtl_recon._version import __version__
from libmtl_recon.conflicts.layers import COMPILED
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.prepared_arguments import prepared_params


def weighting_name(model: nn.Module) -> str:
    """Return the weighting's class name; LibMTL mixes it in as the model class's last base."""
    return type(model).__bases__[-1].__name__


def _class_name(module: nn.Module) -> str:
    return type(getattr(module, COMPILED, module)).__name__


def _text(value: object) -> str:
    """Return a text that can be written to a file, whatever bytes a command line had."""
    return str(value).encode("utf-8", "replace").decode()


def provenance_of(trainer: Any, weighting: str, dataset: str | None) -> dict[str, Any]:
    """Return what is known about a run whose scoring begins, as JSON values.

    Args:
        trainer: LibMTL's Trainer.
        weighting: The class name of its weighting.
        dataset: The data set's name, if the user gave one.

    Returns:
        A dict that includes ``run``, unique to this run: it identifies the run wherever its
        profile is used, also in a sum of profiles.
    """
    import LibMTL

    params = prepared_params()
    script = Path(sys.argv[0])
    model = trainer.model
    architecture = type(model).__bases__[0].__name__
    encoder = getattr(model, "encoder", None)
    seed = params.get("seed")
    return {
        "run": uuid.uuid4().hex[:16],
        "dataset": _text(dataset or params.get("dataset") or script.stem),
        "script": _text(script.name),
        "arguments": [_text(word) for word in sys.argv[1:]],
        "weighting": weighting,
        "architecture": architecture,
        "encoder": architecture if encoder is None else _class_name(encoder),
        "seed": seed if isinstance(seed, int | None) else _text(seed),
        "device": str(trainer.device),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "libmtl-recon": __version__,
            "LibMTL": f"{version('LibMTL')} ({detect(LibMTL).label})",
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
        },
    }
