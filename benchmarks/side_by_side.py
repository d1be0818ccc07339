"""Measure ways of training in turns, and print one line of a table per setting.

Each way trains in a separate process; they take turns, step by step. The first step is not timed:
on a CPU the bytes of its tensors are counted instead. The measurements can be kept in a file, so
that the same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from gradients_worker import ENGINES, Memory, Refused, Setting, Took, work
from networks import NETWORKS

_SWITCH = "LIBMTL_RECON_PATCHES"
_NAMES = {"libmtl": "LibMTL"}
_DEFAULTS = ("autojac", "autogram")  # TorchJD's engines with their default arguments


@dataclass
class Line:
    """The measurements of a setting.

    Attributes:
        took: The timed steps, by column.
        memory: The memory, by column.
        refused: The reason why an engine does not train the network, by column.
    """

    setting: Setting
    took: dict[str, list[Took]] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def seconds(self, way: str) -> list[float]:
        """Return the seconds of a column for the weighting, by round; see :func:`measure`."""
        return [
            own.weighting + own.ahead - bare.ahead
            for own, bare in zip(self.took[way], self.took["bare"], strict=True)
        ]

    def ratios(self, over: str, under: str) -> list[float]:
        """Return the ratios of two columns' seconds, by round; empty if a column is missing."""
        if over not in self.took or under not in self.took:
            return []
        pairs = zip(self.seconds(over), self.seconds(under), strict=True)
        return [one / other for one, other in pairs]

    def above(self, way: str) -> str:
        """Return a column's memory above that of the bare passes, in units of [T, d]."""
        if way not in self.memory:
            return ""
        bare = self.memory["bare"]
        return f"{(self.memory[way].peak - bare.peak) / bare.matrix:.2f}"


class Worker:
    """A process that trains in one way."""

    def __init__(self, way: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, way, setting), daemon=True)
        self._way = way
        before = dict(os.environ)
        os.environ |= {
            "LIBMTL_RECON_DEVICE": setting.device,
            "OMP_NUM_THREADS": "1",
            # What the counting of bytes has to say of itself.
            "KINETO_LOG_LEVEL": "99",
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            **_patches(way),
        }
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ |= before
        theirs.close()

    def step(self) -> Took | Refused:
        """Take a step."""
        try:
            self._connection.send("step")
        except BrokenPipeError:
            return self._stopped()
        return self._received(Took)

    def end(self) -> Memory | Refused:
        """Wait for the end."""
        memory = self._received(Memory)
        self._process.join()
        return memory

    def _received(self, kind: type[Any]) -> Any:
        try:
            found = self._connection.recv()
        except (EOFError, ConnectionResetError):
            return self._stopped()
        if not isinstance(found, kind | Refused):
            raise SystemExit(f"A training process sent {found!r}.")
        return found

    def _stopped(self) -> Refused:
        if self._connection.poll():  # it sent the reason before it ended
            return self._received(Refused)  # type: ignore[no-any-return]
        self._process.join()
        if self._way not in ENGINES:
            raise SystemExit("A training process stopped; its error stands above.")
        return Refused(f"its process ended with {self._process.exitcode}")


def _patches(way: str) -> dict[str, str]:
    """Return the environment; for LibMTL's own step, all patches except that of the gradients."""
    from libmtl_recon.integrations.libmtl.patches import PATCHES

    if way != "libmtl":
        return {}
    return {_SWITCH: ",".join(patch.name for patch in PATCHES if patch.name != "fast-gradients")}


def measure(
    setting: Setting, columns: Sequence[str], make: Callable[[str, Setting], Worker] = Worker
) -> Line:
    """Train with all columns, in turns.

    A column's time is that of ``model.backward``, plus the difference of the time before it in the
    step (the forward pass, the losses) to that of the column ``bare`` in the same round. This
    includes the cost of hooks in the forward pass, as in TorchJD's engine and our recording.

    Args:
        setting: The training setting.
        columns: The columns, with ``bare``.
        make: A function that creates a process.
    """
    line = Line(setting)
    workers = {way: make(way, setting) for way in columns}
    line.took = {way: [] for way in columns}

    def refuse(way: str, answer: Refused) -> None:
        line.refused[way] = answer.error
        del workers[way], line.took[way]

    for index in range(setting.steps):
        for way, worker in list(workers.items()):
            took = worker.step()
            if isinstance(took, Refused):
                refuse(way, took)
            elif index:  # the first step is a warm-up
                line.took[way].append(took)
    for way, worker in list(workers.items()):
        memory = worker.end()
        if isinstance(memory, Refused):
            refuse(way, memory)
        else:
            line.memory[way] = memory
    return line


class Store:
    """The finished lines, in a file if there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lines: list[dict[str, Any]] = []
        if file is not None and file.is_file():
            self._lines = json.loads(file.read_text("utf-8"))

    def find(self, setting: Setting, columns: Sequence[str]) -> Line | None:
        """Return a line that was measured with these columns, setting and torch."""
        key = self._key(setting, columns)
        for kept in self._lines:
            if {name: kept[name] for name in key} == key:
                return Line(
                    setting,
                    {way: [Took(*one) for one in took] for way, took in kept["took"].items()},
                    {way: Memory(*one) for way, one in kept["memory"].items()},
                    kept["refused"],
                )
        return None

    def add(self, line: Line, columns: Sequence[str]) -> None:
        """Store a line."""
        if self._file is None:
            return
        from libmtl_recon.files import write_atomically

        self._lines.append(
            {
                **self._key(line.setting, columns),
                "took": {
                    way: [list(asdict(t).values()) for t in took] for way, took in line.took.items()
                },
                "memory": {way: list(asdict(one).values()) for way, one in line.memory.items()},
                "refused": line.refused,
            }
        )
        write_atomically(self._file, json.dumps(self._lines, indent=1))

    @staticmethod
    def _key(setting: Setting, columns: Sequence[str]) -> dict[str, Any]:
        return {
            "torch": str(torch.__version__),
            "setting": asdict(setting),
            "columns": list(columns),
        }


def labels(columns: Sequence[str]) -> list[str]:
    """Return the head of the table."""
    ways = [way for way in columns if way != "bare"]
    names = {way: _NAMES.get(way, way) for way in ways}
    found = ["network", "batch", "size", "weighting", "T", "rounds", "bare ms"]
    found += [f"{names[way]} / bare" for way in ways]
    if "ours" in ways:
        found += ["ours / stored"] if "stored" in ways else []
        found += ["TorchJD / ours"] if set(_DEFAULTS) & set(ways) else []
        found += ["autojac-1 / ours"] if "autojac-1" in ways else []
        found += ["LibMTL / ours"] if "libmtl" in ways else []
    return [*found, *(f"memory {names[way]}" for way in ways)]


def cells(line: Line, columns: Sequence[str]) -> list[str]:
    """Return a line of the table whose head is :func:`labels`."""
    setting = line.setting
    ways = [way for way in columns if way != "bare"]
    size = f"{setting.size} {of}" if (of := NETWORKS[setting.network].of) else ""
    weighting = f"{setting.weighting}{', multi_input' if setting.multi_input else ''}"
    bare = 1e3 * statistics.median(line.seconds("bare"))
    found = [setting.network, str(setting.batch), size, weighting, str(setting.tasks)]
    found += [str(setting.steps - 1), f"{bare:.0f}" if bare >= 100 else f"{bare:.1f}"]
    found += [_ratio(line.ratios(way, "bare")) for way in ways]
    if "ours" in ways:
        if "stored" in ways:
            found.append(_ratio(line.ratios("ours", "stored")))
        if set(_DEFAULTS) & set(ways):
            engines = [line.ratios(way, "ours") for way in _DEFAULTS if way in line.took]
            found.append(_ratio(min(engines, key=statistics.median, default=[])))
        if "autojac-1" in ways:
            found.append(_ratio(line.ratios("autojac-1", "ours")))
        if "libmtl" in ways:
            pairs = zip(line.took.get("libmtl", []), line.took["ours"], strict=False)
            found.append(_ratio([theirs.step / ours.step for theirs, ours in pairs]))
    return [*found, *(line.above(way) for way in ways)]


def _ratio(values: Sequence[float]) -> str:
    if not values:
        return ""
    span = f" ({min(values):.2f}–{max(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.2f}{span}"


def print_table(
    settings: Iterable[tuple[Setting, Sequence[str]]], columns: Sequence[str], out: Path | None
) -> None:
    """Print one line per setting as soon as it is measured, then the reasons of empty cells.

    Args:
        settings: The settings, each with the columns that apply to it.
        columns: The columns of the table.
        out: A file in which lines are stored, and which may already have some.
    """
    store, refused = Store(out), []
    print(f"torch {torch.__version__}, one thread\n")
    print("| " + " | ".join(labels(columns)) + " |")
    print("|---|" + "---:|" * (len(labels(columns)) - 1), flush=True)
    for setting, applying in settings:
        line = store.find(setting, applying)
        if line is None:
            line = measure(setting, applying)
            store.add(line, applying)
        print(f"| {' | '.join(cells(line, columns))} |", flush=True)
        refused += [
            f"{way}, {setting.network} T = {setting.tasks}, {setting.weighting}: {error}"
            for way, error in line.refused.items()
        ]
    print("".join(f"\n{one}" for one in refused))


def add_setting(parser: argparse.ArgumentParser, columns: Sequence[str], chosen: int) -> None:
    """Add the flags for the training settings, the device and the measured columns.

    Args:
        parser: The parser to which they are added.
        columns: All columns, of which the first is ``bare``.
        chosen: The number of columns that are measured by default.
    """
    parser.add_argument("--batch", type=int, default=32, help="samples in a batch (default: 32)")
    parser.add_argument(
        "--size",
        type=int,
        default=32,
        help="pixels of the images' sides, or words of a sentence (default: 32)",
    )
    parser.add_argument(
        "--network", choices=NETWORKS, default="resnet18", help="(default: resnet18)"
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu or cuda (default: cuda if there is one)",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        choices=columns,
        default=columns[:chosen],
        metavar="COLUMN",
        help=f"of {', '.join(columns)} (default: the first {chosen}); bare is always included",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="store each line in this file; lines that it already has are not measured again",
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="measure the lines of the published table; other flags for the setting are ignored",
    )


def chosen_columns(options: argparse.Namespace, columns: Sequence[str]) -> list[str]:
    """Return the columns to measure, in order."""
    return [way for way in columns if way == "bare" or way in options.columns]


def settings_of(
    options: argparse.Namespace, applies: Callable[[str, Setting], bool], columns: Sequence[str]
) -> list[tuple[Setting, list[str]]]:
    """Return one setting per number of tasks and weighting, with its columns."""
    found = [
        Setting(
            weighting=weighting,
            tasks=tasks,
            multi_input=options.multi_input,
            network=options.network,
            batch=options.batch,
            size=options.size,
            device=options.device,
            steps=options.rounds + 1,
            scored=options.scored,
        )
        for tasks in options.tasks
        for weighting in options.weightings
    ]
    return [(one, [way for way in columns if applies(way, one)]) for one in found]
