"""What per-task gradients cost: our step against LibMTL's own, and against the least they can.

    python benchmarks/gradients.py
    python benchmarks/gradients.py --tasks 10 --weightings MGDA --multi_input

LibMTL's own Trainer trains a network of T tasks three times, in processes of their own that take
turns, step by step: with our patch `fast-gradients`, with that patch switched off (all others stay,
without which LibMTL does not run), and with T bare backward passes in place of a weighting, each
of its own task's loss, after which the task's gradients are read once. Nothing that takes one
gradient per task can cost less than these do.

The times are the CPU time of one thread (on a GPU: seconds). Ratios are of steps of the same round,
and their median counts. `ours / bare` compares the weightings alone, without the forward pass and
the optimiser. The memory is the highest use of the whole process above that of the bare backward
passes, in units of the matrix [T, d] of all gradients.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from gradients_worker import ARGUMENTS, ENCODERS, WAYS, Memory, Setting, Took, work

_SWITCH = "LIBMTL_RECON_PATCHES"
_LABELS = ("weighting", "T", "LibMTL ms", "ours ms", "LibMTL / ours", "bare ms", "ours / bare")
_MEMORY = ("memory LibMTL", "memory ours")


class Worker:
    """A process that trains in one way."""

    def __init__(self, way: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, way, setting), daemon=True)
        before = dict(os.environ)
        os.environ |= {"LIBMTL_RECON_DEVICE": setting.device, **_patches(way)}
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ |= before
        theirs.close()

    def step(self) -> Took:
        """Take a step."""
        self._connection.send("step")
        return _received(self._connection, Took)

    def end(self) -> Memory:
        """Wait for the end."""
        memory = _received(self._connection, Memory)
        self._process.join()
        return memory


def _received(connection: Connection, kind: type[Any]) -> Any:
    try:
        found = connection.recv()
    except EOFError:
        raise SystemExit("A training process stopped; its error stands above.") from None
    if not isinstance(found, kind):
        raise SystemExit(f"A training process sent {found!r}.")
    return found


def _patches(way: str) -> dict[str, str]:
    """The environment: for LibMTL's own step all patches but ours of the gradients."""
    from libmtl_recon.integrations.libmtl.patches import PATCHES

    if way != "libmtl":
        return {}
    return {_SWITCH: ",".join(patch.name for patch in PATCHES if patch.name != "fast-gradients")}


def measure(setting: Setting) -> list[str]:
    """One line of the table."""
    # LibMTL has no GradOPS to compare with.
    ways = [way for way in WAYS if way != "libmtl" or setting.weighting != "GradOPS"]
    workers = {way: Worker(way, setting) for way in ways}
    rounds = []
    for index in range(setting.steps):
        took = {way: worker.step() for way, worker in workers.items()}
        if index:  # the first is for warming up
            rounds.append(took)
    memory = {way: worker.end() for way, worker in workers.items()}

    def ms(way: str) -> str:
        if way not in ways:
            return ""
        part = [took[way].weighting if way == "bare" else took[way].step for took in rounds]
        return f"{1e3 * statistics.median(part):.0f}"

    def above(way: str) -> str:
        if way not in ways:
            return ""
        return f"{(memory[way].peak - memory['bare'].peak) / memory['bare'].matrix:.2f}"

    faster = [took["libmtl"].step / took["ours"].step for took in rounds if "libmtl" in took]
    limit = [took["ours"].weighting / took["bare"].weighting for took in rounds]
    return [
        f"{setting.weighting}{', multi_input' if setting.multi_input else ''}",
        str(setting.tasks),
        ms("libmtl"),
        ms("ours"),
        f"**{statistics.median(faster):.2f}**" if faster else "",
        ms("bare"),
        f"{statistics.median(limit):.2f}" + (_span(limit) if len(limit) > 1 else ""),
        above("libmtl"),
        above("ours"),
    ]


def _span(values: Sequence[float]) -> str:
    return f" ({min(values):.2f}–{max(values):.2f})"


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is trained, and where."""
    parser.add_argument("--batch", type=int, default=32, help="images in a batch")
    parser.add_argument("--size", type=int, default=32, help="pixels of the images' sides")
    parser.add_argument(
        "--network",
        choices=ENCODERS,
        default="resnet18",
        help="resnet18 has d = 11.2 million shared parameters; tiny is for trying the script",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu or cuda (default: cuda if there is one)",
    )


def print_table(
    options: argparse.Namespace, labels: Sequence[str], line: Callable[[Setting], list[str]]
) -> None:
    """Print a line for each number of tasks and weighting, as soon as it is measured."""
    print(
        f"torch {torch.__version__}, {options.device}, one thread, {options.network}, a step of "
        f"{options.batch} images of {options.size} pixels, median of {options.rounds} rounds\n"
    )
    print("| " + " | ".join(labels) + " |")
    print("|---|" + "---:|" * (len(labels) - 1))
    for tasks in options.tasks:
        for weighting in options.weightings:
            setting = Setting(
                weighting=weighting,
                tasks=tasks,
                multi_input=options.multi_input,
                network=options.network,
                batch=options.batch,
                size=options.size,
                device=options.device,
                steps=options.rounds + 1,
            )
            print(f"| {' | '.join(line(setting))} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weightings",
        nargs="+",
        choices=ARGUMENTS,
        default=list(ARGUMENTS),
        metavar="NAME",
        help=f"of {', '.join(ARGUMENTS)} (default: all)",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        type=int,
        default=[2, 10, 40],
        metavar="T",
        help="numbers of tasks (default: 2 10 40; with 40, LibMTL's own PCGrad and GradVac take "
        "minutes a step, and its IMTL 12 GB)",
    )
    parser.add_argument(
        "--multi_input", action="store_true", help="give each task a batch of its own"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="steps that are timed, after one that is not"
    )
    add_setting(parser)
    options = parser.parse_args(arguments)
    print_table(options, [*_LABELS, *_MEMORY], measure)


if __name__ == "__main__":
    main()
