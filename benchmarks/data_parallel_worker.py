"""One rank of a training, which measures its traffic, memory and CPU time.

A step begins and ends with the end of ``optimizer.step``: the metrics, the next batch, the forward
pass, the losses, the weighting and the optimiser.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from gradients_worker import Allocations, Enough, Setting, make_trainer, quietly
from networks import NETWORKS
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

#: For the name of each row: the weighting, and ``--recon_gradients``.
METHODS = {
    "EW": ("EW", "auto"),
    "GradOPS": ("GradOPS", "auto"),
    "GradOPS, ghost": ("GradOPS", "ghost"),
    "GradOPS, stored": ("GradOPS", "stored"),
    "PCGrad": ("PCGrad", "auto"),
    "RotoGrad": ("RotoGrad", "auto"),
}
# The offset of `tcpi_bytes_sent` in Linux's `struct tcp_info`.
_BYTES_SENT = 200


@dataclass(frozen=True)
class Job:
    """The training of one rank.

    Attributes:
        batch: The number of samples per rank.
        ranks: The number of ranks.
        network: One of :data:`networks.NETWORKS`.
        methods: Some of :data:`METHODS`.
        rounds: The number of rounds, in each of which every method has one turn.
        steps: The number of steps of a turn after the first, in which memory is counted.
    """

    network: str
    batch: int
    size: int
    tasks: int
    ranks: int
    methods: tuple[str, ...]
    rounds: int
    steps: int


@dataclass
class Turn:
    """The measurements of one rank in one turn of a method.

    Attributes:
        seconds: The CPU time of a step, of all threads of this process.
        sent: The bytes counted per step, by purpose.
        on_wire: The bytes per step that its TCP connections have sent, according to the kernel.
        memory: The peak of tensors in the first step above that before it, in bytes.
        resident: The same for the process's resident memory, which includes the buffers of gloo.
        trained: The number of elements of all trained parameters.
        shared: The number of elements of the shared ones.
    """

    method: str
    seconds: list[float]
    sent: dict[str, float]
    on_wire: float
    memory: int
    resident: int
    trained: int
    shared: int


class Samples(Dataset[Any]):
    """A data set of any length, of a few random samples that are repeated."""

    def __init__(self, job: Job, length: int) -> None:
        network, kept = NETWORKS[job.network], job.batch
        generator_state = torch.get_rng_state()
        torch.manual_seed(1)
        self.inputs = network.inputs(kept, job.size)
        self.labels = network.labels(job.tasks, kept, job.size)
        torch.set_rng_state(generator_state)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        at = index % len(self.inputs)
        return self.inputs[at], {f"task{t}": own[at] for t, own in enumerate(self.labels)}


class Watch:
    """The measurements between the steps of one Trainer."""

    def __init__(self, steps: int) -> None:
        self.steps, self.seconds = steps, list[float]()
        self.allocations = Allocations("cpu")
        self.memory = self.resident = 0
        self._done = 0
        self._first: tuple[dict[str, int], int] | None = None
        self.sent: dict[str, float] = {}
        self.on_wire = 0.0

    def begin(self) -> None:
        """Begin the first step."""
        _forget_peak()
        self._resident = _resident("VmRSS")
        self.allocations.__enter__()

    def stepped(self) -> None:
        """Record the end of a step."""
        self._done += 1
        if self._done == 1:
            self.resident = _resident("VmHWM") - self._resident
            self.allocations.__exit__(None, None, None)
            self.memory = self.allocations.peak()
            self._first = counted(), bytes_sent()
        else:
            self.seconds.append(time.process_time() - self._start)
        if self._done > self.steps:
            assert self._first is not None
            (before, wire), now = self._first, counted()
            self.on_wire = (bytes_sent() - wire) / self.steps
            self.sent = {
                purpose: (n - before.get(purpose, 0)) / self.steps for purpose, n in now.items()
            }
            raise Enough
        self._start = time.process_time()


def work(connection: Connection, job: Job) -> None:
    """Train with each method in each round, and send a :class:`Turn` after each."""
    torch.set_num_threads(1)
    for _ in range(job.rounds):
        for method in job.methods:
            connection.send(_train(job, method))


def _train(job: Job, method: str) -> Turn:
    weighting, gradients = METHODS[method]
    setting = Setting(
        weighting, job.tasks, False, job.network, job.batch, job.size, "cpu", job.steps
    )
    trainer = make_trainer(weighting, setting, gradients=gradients)
    watch = Watch(job.steps)
    optimise = trainer.optimizer.step

    def step(*args: Any, **kwargs: Any) -> Any:
        found = optimise(*args, **kwargs)
        watch.stepped()
        return found

    trainer.optimizer.step = step
    whole = job.batch * job.ranks
    loader = DataLoader(Samples(job, whole * (job.steps + 1)), whole)
    from libmtl_recon.integrations.libmtl.hooks import trainer_hooks

    with quietly(), contextlib.suppress(Enough), trainer_hooks(_hook(watch)):
        trainer.train(loader, loader, epochs=1)
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    shared = sum(p.numel() for p in trainer.model.get_share_params())
    return Turn(
        method,
        watch.seconds,
        watch.sent,
        watch.on_wire,
        watch.memory,
        watch.resident,
        trained,
        shared,
    )


def _hook(watch: Watch) -> Any:
    from libmtl_recon.integrations.libmtl.hooks import TrainerHook

    class Begins(TrainerHook):
        """Hook at the start of a training, after the ranks have agreed on the training."""

        on_every_rank = True

        def training(self, trainer: Any) -> None:
            """Begin the first step."""
            watch.begin()

    return Begins()


def counted() -> dict[str, int]:
    """Return the bytes that this rank has counted, by purpose; empty for one process."""
    from libmtl_recon.integrations.libmtl.data_parallel.group import ranks

    group = ranks()
    return {} if group is None else dict(group.traffic)


def bytes_sent() -> int:
    """Return the bytes that this process's TCP connections have sent, according to Linux."""
    return sum(map(_sent_by, _tcp_connections()))


def _tcp_connections() -> Iterator[socket.socket]:
    for link in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # the descriptor that listed the folder is closed
            if not str(link.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(link.name))) as one:
                if one.type == socket.SOCK_STREAM and one.family in (
                    socket.AF_INET,
                    socket.AF_INET6,
                ):
                    yield one


def _sent_by(connection: socket.socket) -> int:
    about = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
    if len(about) < _BYTES_SENT + 8:
        raise SystemExit("This Linux does not tell how many bytes a connection has sent (4.19+).")
    return int(struct.unpack_from("<Q", about, _BYTES_SENT)[0])


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {name}.")
