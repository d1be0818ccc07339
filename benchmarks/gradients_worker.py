"""One way of training, in a process of its own, that takes a step when it is told to.

LibMTL's own Trainer trains in its own loop: the step is what lies between its asking for one
batch and for the next. So a step is the forward pass, the losses, the metrics, the weighting and
the optimiser.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

ARGUMENTS: dict[str, dict[str, Any]] = {
    "PCGrad": {},
    "GradVac": {"beta": 0.5, "GradVac_beta": 0.5, "GradVac_group_type": 0},
    "CAGrad": {"calpha": 0.5, "rescale": 1},
    "MGDA": {"mgda_gn": "none"},
    "IMTL": {},
    "GradOPS": {"gradops_alpha": -1.0},
    "EW": {},
}
WAYS = ("ours", "libmtl", "bare")


@dataclass(frozen=True)
class Setting:
    """What is trained.

    Attributes:
        network: ``resnet18`` or ``tiny``.
        multi_input: Each task has a batch of its own.
        steps: How many steps there will be.
    """

    weighting: str
    tasks: int
    multi_input: bool
    network: str
    batch: int
    size: int
    device: str
    steps: int


@dataclass(frozen=True)
class Took:
    """One step's seconds, and those of the weighting in it (``model.backward``)."""

    step: float
    weighting: float


@dataclass(frozen=True)
class Memory:
    """The highest use of memory so far, and the size of one gradient per task, in bytes."""

    peak: int
    matrix: int


class Encoder(nn.Sequential):
    """For trying the script: as small as a network can be."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.width = 4


class ResNet18(nn.Module):
    """torchvision's, without its last layer: 11.2 million parameters."""

    width = 512

    def __init__(self) -> None:
        super().__init__()
        self.network = torchvision.models.resnet18()
        self.network.fc = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 512]``."""
        features: Tensor = self.network(x)
        return features


ENCODERS = {"resnet18": ResNet18, "tiny": Encoder}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what LibMTL prints."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


class Clock:
    """CPU time, which other programs lengthen less, or on a GPU seconds."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def __call__(self) -> float:
        """Now."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Enough(Exception):  # noqa: N818  # nothing is wrong
    """Ends LibMTL's loop."""


class OnDemand:
    """A data loader that gives the same batch again whenever it is told to.

    Between two it says how long the Trainer was busy.
    """

    def __init__(self, batch: Any, setting: Setting, connection: Connection) -> None:
        self.batch, self.steps, self.connection = batch, setting.steps, connection
        self.clock = Clock(setting.device)
        self.weighting = 0.0

    def __len__(self) -> int:
        return self.steps + 1

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.steps):
            self.connection.recv()
            start = self.clock()
            yield self.batch
            self.connection.send(Took(self.clock() - start, self.weighting))
        raise Enough


def work(connection: Connection, way: str, setting: Setting) -> None:
    """Train as told over a connection; at the end say how much memory was in use at most.

    Args:
        connection: Whatever it gives starts a step, after which a :class:`Took` is sent; at the
            end a :class:`Memory` is.
        way: ``ours``; ``libmtl``, for which the environment must switch our patch off; ``scored``,
            ours while its conflicts are counted; or ``bare``: T backward passes and a look at the
            gradients instead of a weighting.
        setting: What is trained.
    """
    torch.set_num_threads(1)
    trainer = _trainer("EW" if way == "bare" else setting.weighting, setting, way == "scored")
    loader = OnDemand(_batch(setting), setting, connection)
    backward = _bare(trainer.model) if way == "bare" else trainer.model.backward

    def timed(losses: Tensor, **kwargs: Any) -> Any:
        start = loader.clock()
        weights = backward(losses, **kwargs)
        loader.weighting = loader.clock() - start
        return weights

    trainer.model.backward = timed
    one = [loader.batch]
    loaders: tuple[Any, Any] = (loader, one)
    if setting.multi_input:
        # The first task is the first to be asked for its batch.
        first, *others = trainer.task_name
        x, labels = loader.batch
        loader.batch = (x, labels[first])
        each = {task: Repeated((x, labels[task]), setting.steps) for task in others}
        loaders = {first: loader, **each}, {task: [(x, labels[task])] for task in labels}
    with quietly(), contextlib.suppress(Enough):
        trainer.train(*loaders, epochs=1)
    parameters = sum(p.numel() for p in trainer.model.get_share_params())
    connection.send(Memory(_peak(setting.device), 4 * parameters * setting.tasks))


class Repeated:
    """A data loader that gives the same batch again and again."""

    def __init__(self, batch: Any, steps: int) -> None:
        self.batch, self.steps = batch, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch] * self.steps)


def _bare(model: Any) -> Any:
    """T backward passes, and one look at the gradients of each."""
    from libmtl_recon.integrations.libmtl.step.step import step_of, task_scalars

    def backward(losses: Tensor, **_: Any) -> None:
        shared = list(model.get_share_params())
        scalars = task_scalars(model, losses)
        for index, scalar in enumerate(scalars):
            for parameter in shared:
                parameter.grad = None
            scalar.backward(retain_graph=index + 1 < len(scalars))
            for parameter in shared:
                parameter.grad.sum()
        step_of(model).close()

    return backward


def _trainer(weighting: str, setting: Setting, scored: bool) -> Any:
    # First, so that LibMTL loads on today's torch.
    import libmtl_recon  # noqa: F401, I001
    import LibMTL
    from LibMTL.loss import CELoss
    from LibMTL.metrics import AccMetric

    from libmtl_recon import ScoringHook
    from libmtl_recon.integrations.libmtl.features import detect
    from libmtl_recon.integrations.libmtl.hooks import trainer_hooks

    torch.manual_seed(0)
    features = detect(LibMTL)
    encoder = ENCODERS[setting.network]
    names = [f"task{task}" for task in range(setting.tasks)]
    task = {"metrics": ["Acc"], "weight": [1]}
    with quietly(), trainer_hooks(*([ScoringHook()] if scored else [])):
        return LibMTL.Trainer(
            task_dict={n: {**task, "metrics_fn": AccMetric(), "loss_fn": CELoss()} for n in names},
            weighting=weighting if features.by_name else vars(LibMTL.weighting)[weighting],
            architecture="HPS" if features.by_name else LibMTL.architecture.HPS,
            encoder_class=encoder,
            decoders=nn.ModuleDict({name: nn.Linear(encoder().width, 10) for name in names}),
            rep_grad=False,
            multi_input=setting.multi_input,
            optim_param={"optim": "sgd", "lr": 1e-3},
            scheduler_param=None,
            weight_args=ARGUMENTS[weighting],
            arch_args={},
            **({"save_path": None, "load_path": None} if features.saves_models else {}),
        )


def _batch(setting: Setting) -> tuple[Tensor, dict[str, Tensor]]:
    x = torch.randn(setting.batch, 3, setting.size, setting.size)
    labels = torch.randint(10, (setting.tasks, setting.batch))
    return x, {f"task{task}": own for task, own in enumerate(labels)}


def _peak(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Kibibytes, but on macOS bytes.
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
