"""One cell of the matrix: a weighting with an architecture, trained and checked."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import libmtl_recon

# isort: split
import LibMTL
import LibMTL.architecture as architectures
import LibMTL.weighting as weightings
import numpy as np
import torch
from LibMTL import Trainer
from LibMTL.config import LibMTL_args, prepare_args
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from torch import Tensor, nn

from benchmarks.compatibility.forms_main import make_form
from benchmarks.compatibility.networks import (
    IMAGE,
    NarrowNumpy,
    SmallResNet,
    WrappedResNet,
    make_decoder,
)
from benchmarks.compatibility.watching import Watch
from libmtl_recon.integrations.libmtl.features import detect

EPOCHS = 3  # of one step each; DWA needs two earlier epochs, GradNorm one
BATCH = 6
TASKS = (2, 3, 5)
# They have no class; LibMTL's Trainer recognises their names.
BILEVEL = ("MOML", "FORUM", "AutoLambda")
# The same architecture, on an encoder that contains a ResNet and another layer.
WRAPPED = "MTAN (wrapped)"
# The layers that Recon splits, by the architecture that it is based on.
_EXPERTS = ("experts_shared.0.layer4.1.conv", "experts_shared.1.layer2.0.bn")
SPLIT = {
    "HPS": ("layer4.1.conv", "layer2.0.bn"),
    "MTAN": ("shared_layer.3.1.conv", "shared_layer.1.0.0.bn"),
    "MMoE": _EXPERTS,
    "CGC": _EXPERTS,
    "DSelect_k": _EXPERTS,
    "PLE": ("shared_layer.4.0.1.conv", "shared_layer.2.0.0.bn"),
}


@dataclass(frozen=True)
class Cell:
    """A combination of a weighting, an architecture, a number of tasks and flags."""

    weighting: str
    arch: str
    tasks: int
    rep_grad: bool = False
    multi_input: bool = False

    def __str__(self) -> str:
        flags = "".join(f" --{n}" for n in ("rep_grad", "multi_input") if getattr(self, n))
        return f"{self.weighting} x {self.arch}, T={self.tasks}{flags}"


@dataclass(frozen=True)
class Verdict:
    """The result of a cell.

    Attributes:
        kind: ``trains`` means that every loss was finite, that every parameter which a task's loss
            depends on changed, and, if ``checked``, that the gradients were those of the closed
            form.
        reason: The reason, if the cell does not train.
        checked: Whether there is a closed form with which the update was compared.
    """

    kind: Literal["trains", "refused", "fails"]
    reason: str = ""
    checked: bool = False


def weighting_names() -> list[str]:
    """Return the names of all weightings of the installed LibMTL and of this package."""
    names = [name for name in weightings.__all__ if not name.startswith("Abs")]
    return [*names, *(BILEVEL if detect(LibMTL).by_name else ())]


def architecture_names() -> list[str]:
    """Return the names of all architectures of the installed LibMTL and of this package."""
    names = [name for name in architectures.__all__ if not name.startswith("Abs")]
    names.insert(names.index("MTAN") + 1, WRAPPED)
    return [*names, *(f"Recon over {base}" for base in SPLIT if base != "HPS")]


def all_cells(tasks: tuple[int, ...] = TASKS) -> Iterator[Cell]:
    """Iterate over all cells of the matrix."""
    for arch, weighting in itertools.product(architecture_names(), weighting_names()):
        for count, rep_grad, multi_input in itertools.product(tasks, (False, True), (False, True)):
            yield Cell(weighting, arch, count, rep_grad, multi_input)


def run_cell(cell: Cell) -> Verdict:
    """Build, train and judge one cell."""
    before = torch.get_default_dtype()
    said = io.StringIO()
    torch.set_default_dtype(make_form(cell.weighting).dtype)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return _judge(cell)
    except libmtl_recon.ReconError as error:
        return Verdict("refused", str(error))
    except SystemExit:
        return Verdict("refused", said.getvalue().strip().rpartition("error: ")[2])
    except Exception as error:  # noqa: BLE001  # any error is the result of this cell
        return Verdict("fails", f"{type(error).__name__}: {error}")
    finally:
        torch.set_default_dtype(before)


class Labels(CELoss):  # type: ignore[misc]  # LibMTL is untyped
    """The cross entropy, times a different factor for each task."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size
        self.seen: list[Tensor] = []

    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        """Return the loss, and store the labels in training for the comparison."""
        if torch.is_grad_enabled():
            self.seen.append(gt)
        return self.size * self.loss_fn(pred, gt)


def make_batch(tasks: int, task: int | None, seed: int) -> tuple[Tensor, Any]:
    """Return random images and the labels in them, of all tasks, or of one with its own images."""
    generator = torch.Generator().manual_seed(seed if task is None else 100 * (task + 1) + seed)
    images = torch.randn(BATCH, *IMAGE, generator=generator)
    labels = {f"t{t}": (images[:, t % 3, t].mean(dim=1) > 0).long() for t in range(tasks)}
    return images, labels if task is None else labels[f"t{task}"]


class Batches:
    """A loader of one batch, new in each pass, since some weightings draw three per step."""

    def __init__(self, tasks: int, task: int | None = None) -> None:
        self.tasks, self.task = tasks, task
        self.passes = 0

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        self.passes += 1
        yield make_batch(self.tasks, self.task, self.passes)


def make_data_loader(tasks: int, task: int | None = None) -> Any:
    """Return PyTorch's data loader, which bilevel methods recreate with half its batch size."""
    images, labels = make_batch(tasks, task, 5)
    each = [
        {name: of_all[index] for name, of_all in labels.items()} if task is None else labels[index]
        for index in range(BATCH)
    ]
    samples: Any = list(zip(images, each, strict=True))
    return torch.utils.data.DataLoader(samples, batch_size=BATCH)


def make_loaders(cell: Cell) -> Any:
    """Return a loader of one batch, or a dict of one such loader per task."""
    make = make_data_loader if cell.weighting in BILEVEL else Batches
    if not cell.multi_input:
        return make(cell.tasks)
    return {f"t{t}": make(cell.tasks, t) for t in range(cell.tasks)}


def make_trainer(cell: Cell, folder: Path) -> Any:
    """Create a Trainer of LibMTL, from LibMTL's flags."""
    arch, base = cell.arch.split()[0], cell.arch.split()[-1]
    sys.modules["LibMTL.architecture.MTAN"].np = NarrowNumpy()  # type: ignore[attr-defined]
    flags = ["--weighting", cell.weighting, "--arch", arch, "--optim", "sgd", "--lr", "0.01"]
    flags += ["--weight_decay", "0", "--img_size", *map(str, IMAGE)]
    flags += ["--num_experts", *(["3"] if base == "DSelect_k" else ["2"] + ["1"] * cell.tasks)]
    flags += ["--rep_grad"] * cell.rep_grad + ["--multi_input"] * cell.multi_input
    flags += ["--rotograd_burn_in", "3"]
    if detect(LibMTL).by_name:
        flags += ["--STCH_warmup_epoch", "0", "--inner_step", "1"]
    if arch == "Recon":
        layers = folder / "layers.json"
        base = "HPS" if base == arch else base
        worst, second = SPLIT[base]
        layers.write_text(json.dumps({worst: 9, second: 7}))
        flags += ["--recon_k", "2", "--recon_layers", str(layers), "--recon_base", base]
    params = LibMTL_args.parse_args(flags)
    kwargs, optim_param, scheduler_param = prepare_args(params)
    names = [f"t{t}" for t in range(cell.tasks)]
    by_name = detect(LibMTL).by_name
    return Trainer(
        task_dict={
            name: {
                "metrics": ["Acc"],
                "metrics_fn": AccMetric(),
                "loss_fn": Labels(1.0 + t),
                "weight": [1],
            }
            for t, name in enumerate(names)
        },
        weighting=cell.weighting if by_name else vars(weightings)[cell.weighting],
        architecture=arch if by_name else vars(architectures)[arch],
        encoder_class=WrappedResNet if cell.arch == WRAPPED else SmallResNet,
        decoders=nn.ModuleDict(
            {name: make_decoder(normed=arch == "Cross_stitch") for name in names}
        ),
        rep_grad=cell.rep_grad,
        multi_input=cell.multi_input,
        optim_param=optim_param,
        scheduler_param=scheduler_param,
        **kwargs,
    )


def _judge(cell: Cell) -> Verdict:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(cell, Path(folder))
    loaders = make_loaders(cell)
    form = make_form(cell.weighting)
    watch = Watch(trainer, form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LibMTL's own; the matrix is about results
        trainer.train(loaders, loaders, EPOCHS)
    faults = watch.judge()
    return (
        Verdict("fails", "; ".join(faults)) if faults else Verdict("trains", checked=form.checked)
    )
