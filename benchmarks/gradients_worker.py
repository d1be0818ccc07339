"""One way of training, in a separate process, which runs a step on request.

LibMTL's own Trainer trains in its own loop: a step is between its requests for one batch and for
the next. It consists of the forward pass, the losses, the metrics, the weighting and the optimiser.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from networks import NETWORKS
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
#: Errors of TorchJD's engines leave their columns empty.
ENGINES = ("autojac", "autogram", "autojac-1")
#: ``--recon_gradients`` of the columns that train with our step.
_GRADIENTS = {"stored": "stored", "ghost": "ghost"}


@dataclass(frozen=True)
class Setting:
    """A training setting.

    Attributes:
        network: One of :data:`networks.NETWORKS`.
        multi_input: Whether each task has its own batch.
        size: The pixels of an image's side, or the words of a sentence.
        steps: The number of steps.
        scored: Whether conflicts are counted; not in the columns ``bare`` and ``unscored``.
    """

    weighting: str
    tasks: int
    multi_input: bool
    network: str
    batch: int
    size: int
    device: str
    steps: int
    scored: bool = False


@dataclass(frozen=True)
class Took:
    """The seconds of a step, before the weighting and in it (``model.backward``)."""

    step: float
    ahead: float
    weighting: float


@dataclass(frozen=True)
class Memory:
    """Bytes: the peak above that before the first step, and one gradient per task."""

    peak: int
    matrix: int


@dataclass(frozen=True)
class Refused:
    """The reason why an engine does not train the network."""

    error: str


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppress LibMTL's output inside the ``with`` block."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


class Clock:
    """A clock of CPU time, which other programs affect less, or on a GPU of seconds."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def __call__(self) -> float:
        """Return the time."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Allocations:
    """Counter of the bytes of tensors; on a CPU only inside the ``with`` block, which is slower."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._before = self._peak = 0

    def __enter__(self) -> None:
        if self.device.type == "cpu":
            self._profile = torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
            )
            self._profile.__enter__()
            return
        torch.cuda.reset_peak_memory_stats(self.device)
        self._before = torch.cuda.memory_allocated(self.device)

    def __exit__(self, *error: Any) -> None:
        if self.device.type == "cpu":
            self._profile.__exit__(*error)
            events = self._profile.profiler.kineto_results.events()
            found = [e for e in events if e.name() == "[memory]"]
            found.sort(key=lambda event: event.start_ns())
            self._peak = max(accumulate(event.nbytes() for event in found), default=0)
            del self._profile

    def peak(self) -> int:
        """Return the peak so far above the number at the start."""
        if self.device.type == "cpu":
            return self._peak
        return int(torch.cuda.max_memory_allocated(self.device)) - self._before


class Enough(Exception):  # noqa: N818  # nothing is wrong
    """Raised to end LibMTL's loop."""


class OnDemand:
    """A data loader that returns the same batch again on each request.

    In between it sends the duration of the step. The memory of the first step is counted.
    """

    def __init__(self, batch: Any, setting: Setting, connection: Connection) -> None:
        self.batch, self.steps, self.connection = batch, setting.steps, connection
        self.clock = Clock(setting.device)
        self.allocations = Allocations(setting.device)
        self.start = self.ahead = self.weighting = 0.0

    def __len__(self) -> int:
        return self.steps + 1

    def __iter__(self) -> Iterator[Any]:
        for index in range(self.steps):
            self.connection.recv()
            with contextlib.nullcontext() if index else self.allocations:
                self.start = self.clock()
                yield self.batch
                step = self.clock() - self.start
            self.connection.send(Took(step, self.ahead, self.weighting))
        raise Enough


def work(connection: Connection, way: str, setting: Setting) -> None:
    """Run steps on requests over a connection; at the end send the peak memory.

    Args:
        connection: Each object received starts a step, after which a :class:`Took` is sent; at the
            end a :class:`Memory` is sent. A :class:`Refused` instead of either ends it.
        way: The column. ``ours``, ``stored`` and ``ghost`` are our step with this value of
            ``--recon_gradients``; ``unscored`` is ``ours`` without counting conflicts; ``libmtl``
            is LibMTL's own step, for which the environment must switch our patch off; the others
            are in :mod:`gradients_ways`.
        setting: The training setting.
    """
    torch.set_num_threads(1)
    try:
        _train(connection, way, setting)
    except Exception as error:
        if way not in ENGINES:
            raise
        connection.send(Refused(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))


def _train(connection: Connection, way: str, setting: Setting) -> None:
    trainer = _trainer(way, setting)
    loader = OnDemand(_batch(setting), setting, connection)
    backward = _backward(trainer.model, way, setting.weighting)

    def timed(losses: Tensor, **kwargs: Any) -> Any:
        start = loader.clock()
        weights = backward(losses, **kwargs)
        loader.ahead, loader.weighting = start - loader.start, loader.clock() - start
        return weights

    trainer.model.backward = timed
    one = [loader.batch]
    loaders: tuple[Any, Any] = (loader, one)
    if setting.multi_input:
        # The batch of the first task is requested first.
        first, *others = trainer.task_name
        x, labels = loader.batch
        loader.batch = (x, labels[first])
        each = {task: Repeated((x, labels[task]), setting.steps) for task in others}
        loaders = {first: loader, **each}, {task: [(x, labels[task])] for task in labels}
    with quietly(), contextlib.suppress(Enough):
        trainer.train(*loaders, epochs=1)
    parameters = sum(p.numel() for p in trainer.model.get_share_params())
    connection.send(Memory(loader.allocations.peak(), 4 * parameters * setting.tasks))


class Repeated:
    """A data loader that returns the same batch repeatedly."""

    def __init__(self, batch: Any, steps: int) -> None:
        self.batch, self.steps = batch, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch] * self.steps)


def _backward(model: Any, way: str, weighting: str) -> Any:
    import gradients_ways as ways

    others = {
        "bare": lambda: ways.bare(model),
        "limit": lambda: ways.limit(model),
        "autojac": lambda: ways.autojac(model, weighting),
        "autojac-1": lambda: ways.autojac(model, weighting, sequential=True),
        "autogram": lambda: ways.autogram(model, weighting),
        "recording": lambda: ways.recorded(model, weighting),
    }
    return others[way]() if way in others else model.backward


def _trainer(way: str, setting: Setting) -> Any:
    own = way in ("ours", "stored", "ghost", "unscored", "libmtl")
    scored = setting.scored and way not in ("bare", "unscored")
    return make_trainer(
        setting.weighting if own else "EW",
        setting,
        gradients=_GRADIENTS.get(way, "auto"),
        scored=scored,
    )


def make_trainer(
    weighting: str, setting: Setting, *, gradients: str = "auto", scored: bool = False
) -> Any:
    """Create LibMTL's Trainer of a network.

    Args:
        weighting: The name of the weighting, which gets its :data:`ARGUMENTS`, if any.
        setting: The network and the tasks.
        gradients: The value of ``--recon_gradients``.
        scored: Whether to count conflicts.
    """
    # First, so that LibMTL can be imported with current torch versions.
    import libmtl_recon  # noqa: F401, I001
    import LibMTL
    from LibMTL.loss import CELoss
    from LibMTL.metrics import AbsMetric

    from libmtl_recon import ScoringHook
    from libmtl_recon.integrations.libmtl import prepared_arguments
    from libmtl_recon.integrations.libmtl.features import detect
    from libmtl_recon.integrations.libmtl.hooks import trainer_hooks

    class Silent(AbsMetric):  # type: ignore[misc]  # LibMTL is untyped
        """A metric that measures nothing."""

        def update_fun(self, pred: Tensor, gt: Tensor) -> None:
            """Ignore the predictions."""

        def score_fun(self) -> list[float]:
            """Return a constant by which LibMTL can divide."""
            return [1.0]

    torch.manual_seed(0)
    prepared_arguments.keep_training({"recon_gradients": gradients})
    features = detect(LibMTL)
    network = NETWORKS[setting.network]
    names = [f"task{task}" for task in range(setting.tasks)]
    task = {"metrics": ["none"], "weight": [1]}
    with quietly(), trainer_hooks(*([ScoringHook()] if scored else [])):
        return LibMTL.Trainer(
            task_dict={n: {**task, "metrics_fn": Silent(), "loss_fn": CELoss()} for n in names},
            weighting=weighting if features.by_name else vars(LibMTL.weighting)[weighting],
            architecture="HPS" if features.by_name else LibMTL.architecture.HPS,
            encoder_class=partial(network.encoder, setting.size),
            decoders=nn.ModuleDict({name: network.head() for name in names}),
            rep_grad=False,
            multi_input=setting.multi_input,
            optim_param={"optim": "sgd", "lr": 1e-3},
            scheduler_param=None,
            weight_args=ARGUMENTS.get(weighting, {}),
            arch_args={},
            **({"save_path": None, "load_path": None} if features.saves_models else {}),
        )


def _batch(setting: Setting) -> tuple[Tensor, dict[str, Tensor]]:
    network = NETWORKS[setting.network]
    x = network.inputs(setting.batch, setting.size)
    labels = network.labels(setting.tasks, setting.batch, setting.size)
    return x, {f"task{task}": own for task, own in enumerate(labels)}
