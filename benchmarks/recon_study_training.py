"""One training of the Recon study."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL can be imported with current torch

# isort: split
import argparse
import contextlib
import functools
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from LibMTL.utils import set_random_seed
from recon_study_jobs import Job

from libmtl_recon import Measurement, ScoringHook, SingleTask, StopRun, TrainerHook
from libmtl_recon.conflicts.schedule import Schedule
from libmtl_recon.files import write_atomically
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.problems import multi_fashion_mnist as problem

EVERY = 5  # every fifth step of a complete training is scored


class Recorder(TrainerHook):
    """Hook that records the accuracies of each pass, and the size of the encoder."""

    def __init__(self) -> None:
        self.passes: list[dict[str, Any]] = []
        self.parameters = 0

    def built(self, trainer: Any) -> None:
        """Count the encoder's parameters."""
        self.parameters = sum(p.numel() for p in trainer.model.encoder.parameters())

    def measured(self, trainer: Any, measurement: Measurement) -> None:
        """Record each task's accuracy."""
        accuracy = {task: metrics["Acc"] for task, metrics in measurement.metrics.items()}
        self.passes.append({"mode": measurement.mode, "accuracy": accuracy})


def base_params(options: argparse.Namespace) -> argparse.Namespace:
    """Return the problem's arguments with the study's settings."""
    flags = f"--optim sgd --lr {options.lr} --weight_decay 0"
    flags += f" --width {options.width} --bs {options.bs}"
    flags += f" --epochs {options.epochs} --train_size {options.train_size}"
    # The paper decays at epochs 60 and 90 of 120; LibMTL's schedule has equal steps, so once here.
    flags += f" --scheduler step --step_size {max(1, round(0.7 * options.epochs))} --gamma 0.1"
    flags += " --val_size 2000 --test_size 6000"
    command, sys.argv = sys.argv, ["multi_fashion_mnist", *flags.split()]
    try:
        return problem.parse_args()
    finally:
        sys.argv = command


@functools.lru_cache(maxsize=4)
def load(pair: str, long: bool, settings: str) -> Any:
    """Return the problem's loaders; with all training images for a long run."""
    params = argparse.Namespace(**json.loads(settings))
    params.pair = pair
    if long:
        params.train_size = 120_000
    return problem.make_loaders(params)


def train(job: Job, settings: str, output: Path) -> None:
    """Run a training, with its result and log in files."""
    torch.set_num_threads(1)
    params = argparse.Namespace(**json.loads(settings))
    loaders = load(job.pair, job.steps is not None, settings)
    params.weighting, params.seed, params.pair = job.weighting, job.seed, job.pair
    if job.steps is not None:
        params.epochs, params.scheduler = job.steps, None  # it ends by the number of steps
    params.rep_grad = job.weighting == "GradDrop"  # which LibMTL defines on representations only
    if job.select != "none":
        params.arch, params.recon_k, params.recon_s = "Recon", job.k, job.s
        params.recon_layers = str(output / "profile.json")
        if job.select == "norms_first":
            params.recon_layers = str(output / "norms_first.json")
        else:
            params.recon_select, params.recon_select_seed = job.select, job.seed
    recorder = Recorder()
    # A complete training is only observed, for which a part of its steps suffices.
    schedule = Schedule(every=EVERY) if job.steps is None else Schedule(job.steps)
    scoring = ScoringHook(schedule) if job.task is None else None
    hooks = [recorder, *([scoring] if scoring else [SingleTask(str(job.task))])]
    set_random_seed(job.seed)
    begun = time.process_time()
    with (
        (output / "runs" / f"{job.name}.log").open("w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        trainer_hooks(*hooks),
        contextlib.suppress(StopRun),
    ):
        problem.train(params, loaders)
    profile = scoring.profile() if scoring else None
    record = {
        **asdict(job),
        "seconds": round(time.process_time() - begun, 1),
        "parameters": recorder.parameters,
        "passes": recorder.passes,
        "profile": None if profile is None else json.loads(profile.to_json()),
    }
    write_atomically(output / "runs" / f"{job.name}.json", json.dumps(record))
