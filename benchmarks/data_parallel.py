"""Traffic, memory and CPU time of a step on W ranks, compared with averaging of gradients.

    python benchmarks/data_parallel.py --out data_parallel.json
    python benchmarks/data_parallel.py --ranks 2 --tasks 3 --methods EW GradOPS --network mlp

LibMTL's own Trainer trains a network of T tasks on W ranks of this machine, which communicate by
gloo over the loopback interface, and in one process with the whole batch. In each round the methods
take turns. The first step of each turn is not timed; the bytes of its tensors are counted instead.
The columns:

    sent          MB that a rank sends in a step, the mean over the ranks, without the traffic of
                  batch norms and predictions, which all methods have and which has its own columns
    ÷ all-reduce  the same, divided by the traffic of a ring that sums the gradients of all d
                  trained parameters: 2 d (W - 1) / W numbers. No data-parallel training sends less.
    kernel ÷ counted
                  bytes that the TCP connections of the ranks have sent according to Linux, divided
                  by the bytes counted, which do not include the headers of messages
    memory        the peak of tensors in a step, above that of EW on the same number of ranks, in
                  units of the matrix [T, d] of all tasks' gradients of the shared parameters, for
                  the rank and the round with the most. In brackets, the same for the process's
                  resident memory, which includes gloo's buffers and memory that the allocator has
                  not returned; the median of the rounds.
    CPU ÷ EW      CPU time of a step, of all ranks together, divided by that of EW in the same round
    CPU ÷ 1       the same, divided by that of one process, which trains with this method on the
                  whole batch

and the traffic by purpose, in MB. Ratios of times are of the same round; the table has their
median, and their range in brackets.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from data_parallel_worker import METHODS, Job, Turn, work
from networks import NETWORKS

APART = ("batch norms", "predictions")
#: Purposes with their own columns, in this order.
_PURPOSES = ("gradients", "rows", "products", "gramians", "representations")
_ENVIRONMENT = {
    "LIBMTL_RECON_DEVICE": "cpu",
    "OMP_NUM_THREADS": "1",
    # What the counting of bytes has to say of itself.
    "KINETO_LOG_LEVEL": "99",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


@dataclass
class Measured:
    """The measurements of a job: for each rank, all turns in order."""

    job: Job
    turns: list[list[Turn]]

    def of(self, method: str) -> list[list[Turn]]:
        """Return the turns of a method for each rank, one per round."""
        return [[turn for turn in own if turn.method == method] for own in self.turns]

    def sent(self, method: str) -> dict[str, float]:
        """Return the bytes counted per step, by purpose; the mean over ranks and rounds."""
        turns = [turn for own in self.of(method) for turn in own]
        purposes = dict.fromkeys(purpose for turn in turns for purpose in turn.sent)
        return {p: statistics.mean(turn.sent.get(p, 0.0) for turn in turns) for p in purposes}

    def on_wire(self, method: str) -> float:
        """Return the bytes per step that a rank's connections have sent."""
        return statistics.mean(turn.on_wire for own in self.of(method) for turn in own)

    def seconds(self, method: str) -> list[float]:
        """Return the CPU time of a step, of all ranks together, by round."""
        rounds = zip(*self.of(method), strict=True)
        return [sum(statistics.median(turn.seconds) for turn in turns) for turns in rounds]

    def memory(self, method: str) -> tuple[float, float]:
        """Return the largest memory of a rank above EW, in [T, d]: of tensors, and resident.

        For tensors it is the peak of all rounds; for resident memory, which depends on what the
        allocator has kept from the last turn, the median.
        """
        matrix = 4 * self.job.tasks * self.turns[0][0].shared
        tensors, resident = [], []
        for own, ew in zip(self.of(method), self.of("EW"), strict=True):
            tensors.append(max(t.memory for t in own) - max(t.memory for t in ew))
            medians = [statistics.median(t.resident for t in turns) for turns in (own, ew)]
            resident.append(medians[0] - medians[1])
        return max(tensors) / matrix, max(resident) / matrix


def measure(job: Job) -> Measured:
    """Train on the ranks of a job, or in one process."""
    context = multiprocessing.get_context("spawn")
    port, before = _free_port(), dict(os.environ)
    connections, processes = [], []
    try:
        for rank in range(job.ranks):
            os.environ |= _ENVIRONMENT
            if job.ranks > 1:
                os.environ |= {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(job.ranks),
                    "LOCAL_WORLD_SIZE": str(job.ranks),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, job), daemon=True)
            process.start()
            theirs.close()
            connections.append(ours)
            processes.append(process)
    finally:
        os.environ.clear()
        os.environ |= before
    turns: list[list[Turn]] = [[] for _ in connections]
    for _ in range(job.rounds * len(job.methods)):
        for own, connection in zip(turns, connections, strict=True):
            try:
                own.append(connection.recv())
            except EOFError:
                raise SystemExit("A training process stopped; its error stands above.") from None
    for process in processes:
        process.join()
    return Measured(job, turns)


def all_reduce(numbers: int, ranks: int) -> float:
    """Return the bytes that a rank sends in a ring for a sum of float32 numbers over the ranks."""
    return 2 * 4 * numbers * (ranks - 1) / ranks


def labels() -> list[str]:
    """Return the head of the table."""
    return [
        *("W", "method", "sent MB", "÷ all-reduce", "kernel ÷ counted", "memory", "CPU ÷ EW"),
        *("CPU ÷ 1", *_PURPOSES, "other", *APART),
    ]


def cells(found: Measured, alone: Measured, method: str) -> list[str]:
    """Return a line of the table whose head is :func:`labels`.

    Args:
        found: The measurements on several ranks.
        alone: The measurements in one process, with the same number of samples.
        method: One of the job's methods.
    """
    sent = found.sent(method)
    total = sum(sent.values())
    counts = total - sum(sent.get(purpose, 0.0) for purpose in APART)
    listed = sum(sent.get(purpose, 0.0) for purpose in _PURPOSES)
    tensors, resident = found.memory(method)
    own = found.seconds(method)
    return [
        str(found.job.ranks),
        method,
        f"{counts / 1e6:.2f}",
        f"{counts / all_reduce(found.turns[0][0].trained, found.job.ranks):.3f}",
        f"{found.on_wire(method) / total:.4f}",
        f"{tensors:.3f} ({resident:.2f})",
        _ratio(own, found.seconds("EW")),
        _ratio(own, alone.seconds(method)),
        *(_megabytes(sent.get(purpose, 0.0)) for purpose in _PURPOSES),
        _megabytes(counts - listed),
        *(_megabytes(sent.get(purpose, 0.0)) for purpose in APART),
    ]


def _ratio(over: Sequence[float], under: Sequence[float]) -> str:
    values = [one / other for one, other in zip(over, under, strict=True)]
    span = f" ({min(values):.2f}–{max(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.2f}{span}"


def _megabytes(sent: float) -> str:
    return f"{sent / 1e6:.3f}" if sent else ""


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


class Store:
    """The finished jobs, in a file if there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._jobs: list[dict[str, Any]] = []
        if file is not None and file.is_file():
            self._jobs = json.loads(file.read_text("utf-8"))

    def measured(self, job: Job) -> Measured:
        """Return the measurements of a job with this torch, from now or before."""
        key = json.loads(json.dumps({"torch": str(torch.__version__), "job": asdict(job)}))
        for kept in self._jobs:
            if {name: kept[name] for name in key} == key:
                return Measured(job, [[Turn(**turn) for turn in own] for own in kept["turns"]])
        found = measure(job)
        if self._file is not None:
            from libmtl_recon.files import write_atomically

            turns = [[asdict(turn) for turn in own] for own in found.turns]
            self._jobs.append({**key, "turns": turns})
            write_atomically(self._file, json.dumps(self._jobs, indent=1))
        return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ranks", nargs="+", type=int, default=[2, 4], metavar="W", help="(default: 2 4)"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=list(METHODS),
        metavar="NAME",
        help=f"of {', '.join(METHODS)} (default: all); EW is always included",
    )
    parser.add_argument(
        "--network", choices=NETWORKS, default="resnet18", help="(default: resnet18)"
    )
    parser.add_argument("--tasks", type=int, default=10, metavar="T", help="(default: 10)")
    parser.add_argument("--batch", type=int, default=32, help="samples per rank (default: 32)")
    parser.add_argument(
        "--size",
        type=int,
        default=32,
        help="pixels of the images' sides, or words of a sentence (default: 32)",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of turns of each method (default: 3)"
    )
    parser.add_argument("--steps", type=int, default=2, help="timed steps per turn (default: 2)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="store the results for each W in this file, and do not measure again what it has",
    )
    options = parser.parse_args(arguments)
    if min(options.ranks) < 2:
        parser.error("--ranks must be at least 2")
    methods = tuple(name for name in METHODS if name == "EW" or name in options.methods)
    store = Store(options.out)
    print(f"torch {torch.__version__}, one thread per rank\n")
    print("| " + " | ".join(labels()) + " |")
    print("|---:|---|" + "---:|" * (len(labels()) - 2), flush=True)
    for ranks in options.ranks:
        one = Job(
            network=options.network,
            batch=options.batch,
            size=options.size,
            tasks=options.tasks,
            ranks=ranks,
            methods=methods,
            rounds=options.rounds,
            steps=options.steps,
        )
        found = store.measured(one)
        alone = store.measured(
            Job(**{**asdict(one), "batch": ranks * options.batch, "ranks": 1, "methods": methods})
        )
        for method in methods:
            print(f"| {' | '.join(cells(found, alone, method))} |", flush=True)


if __name__ == "__main__":
    main()
