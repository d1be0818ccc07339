"""Kills ``libmtl-recon score`` at random moments, and looks each time at what is kept.

Run by ``test_score_kills.py`` as a program of its own: it imports all that is slow to import once,
and forks a process from itself for each run.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import struct
import sys
import time
import traceback
from pathlib import Path

from libmtl_recon import ProfileCache
from libmtl_recon.cli import main
from libmtl_recon.integrations.libmtl import preload  # noqa: F401  # imports PyTorch and LibMTL
from libmtl_recon.profiles import recovery

_MINUTE = 0.1  # of a run, in seconds: how much a SIGKILL may cost
_SLACK = 0.5  # seconds that a busy machine may take for what is due

SCRIPT = """
import os, struct
import torch
import LibMTL.architecture
import LibMTL.weighting
from LibMTL import Trainer
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from torch import nn

counter = os.open(os.environ["COUNTER"], os.O_RDWR)
step = 0


class Encoder(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


class Data:
    def __len__(self):
        return 10

    def __iter__(self):
        global step
        for _ in range(10):
            if torch.is_grad_enabled():
                step += 1
                os.pwrite(counter, struct.pack("q", step), 0)
            x = torch.randn(4, 4)
            yield x, {"a": (x[:, 0] > 0).long(), "b": (x[:, 1] > 0).long()}


task = lambda: {"metrics": ["Acc"], "metrics_fn": AccMetric(), "loss_fn": CELoss(), "weight": [1]}
trainer = Trainer(
    task_dict={"a": task(), "b": task()}, weighting=LibMTL.weighting.EW,
    architecture=LibMTL.architecture.HPS, encoder_class=Encoder,
    decoders=nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)}), rep_grad=False,
    multi_input=False, optim_param={"optim": "sgd", "lr": 0.01}, scheduler_param=None,
    weight_args={}, arch_args={})
for _ in range(1000):
    trainer.train(Data(), Data(), 10)
"""


class Kills:
    """Runs one after the other in one cache.

    Args:
        folder: For the cache and the files of the runs.
        seed: Of the moments.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.script = folder / "script.py"
        self.script.write_text(SCRIPT)
        self.counter = folder / "counter"
        self.kept: dict[str, int] = {}  # the steps of each run
        self.counts: dict[str, int] = {}

    def once(self) -> None:
        """Start a run, kill it, and see what is kept."""
        draw = self.random
        kind = draw.choice(["SIGINT", "SIGINT", "SIGTERM", "SIGHUP", "SIGKILL", "SIGKILL"])
        pipes = draw.choice(["open", "stdout dead", "both dead", "dead at the end"])
        # Some end by themselves about when they are killed.
        flags = ["--steps", str(draw.randrange(50, 400))] if draw.random() < 0.4 else []
        self.counter.write_bytes(struct.pack("q", 0))
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._score(writing, pipes, flags)
        os.close(writing)
        started = time.monotonic()
        while not self._steps() and time.monotonic() < started + 60 and not _ended(child):
            time.sleep(0.005)
        if pipes in ("stdout dead", "both dead"):
            os.close(reading)  # the script's next line ends it, about when it is killed
        time.sleep(draw.random() ** 2 * (0.3 if pipes in ("stdout dead", "both dead") else 1.5))
        before = self._steps()  # none of these may be lost
        if kind == "SIGKILL" and draw.random() < 0.7:
            time.sleep(_MINUTE + _SLACK)
        elif kind == "SIGKILL":
            before = 0
        if pipes == "dead at the end":
            os.close(reading)
        self._kill(child, kind, twice=draw.random() < 0.3)
        if pipes == "open":
            os.close(reading)
        self._look(before, f"{kind}, {pipes}, {flags}")
        if before > 1:
            self.counts["due"] = self.counts.get("due", 0) + 1
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.counts[pipes] = self.counts.get(pipes, 0) + 1

    def _score(self, writing: int, pipes: str, flags: list[str]) -> None:
        """The forked process."""
        code = 70
        try:
            os.environ["COUNTER"] = str(self.counter)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            recovery._SECONDS = _MINUTE
            if pipes == "stdout dead":
                os.dup2(writing, 1)
            elif pipes != "open":
                os.dup2(writing, 1)
                os.dup2(writing, 2)
            else:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
            sys.argv = ["libmtl-recon", "score"]
            sys.argv += flags or ["--score-until-stable", "off"]
            sys.argv.append(str(self.script))
            code = main()
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            (self.folder / "fault.txt").write_text(traceback.format_exc())
            raise
        finally:
            os._exit(code)

    def _steps(self) -> int:
        (steps,) = struct.unpack("q", self.counter.read_bytes())
        return int(steps)

    def _kill(self, child: int, kind: str, twice: bool) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, getattr(signal, kind))
            if twice:
                time.sleep(self.random.random() * 0.02)
                os.kill(child, getattr(signal, kind))
        until = time.monotonic() + 60
        while not _ended(child):
            assert time.monotonic() < until, f"{kind} did not end it"
            time.sleep(0.01)

    def _look(self, before: int, how: str) -> None:
        fault = self.folder / "fault.txt"
        assert not fault.exists(), f"{how}: {fault.read_text()}"
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            assert main(["layers", "list"]) == 0, f"{how}: {out.getvalue()}"
        cache = ProfileCache()
        names = cache.store.names()
        assert not [name for name in names if name.endswith((".unfinished", ".damaged"))], how
        entries = cache.list()
        runs = {entry.profile.provenance["run"]: entry.profile.steps for entry in entries}
        assert len(runs) == len(entries), f"{how}: a run is kept twice"
        new = {run: steps for run, steps in runs.items() if run not in self.kept}
        assert runs.items() >= self.kept.items(), f"{how}: an earlier run was lost"
        assert len(new) <= 1, how
        # The last step that was begun need not have come to its end.
        scored = sum(new.values())
        assert scored >= before - 1, f"{how}: {scored} of {before} steps are kept"
        assert scored <= self._steps(), f"{how}: {scored} of {self._steps()} steps"
        self.kept = runs


_ended_ones: set[int] = set()


def _ended(child: int) -> bool:
    if child not in _ended_ones and os.waitpid(child, os.WNOHANG)[0] == child:
        _ended_ones.add(child)
    return child in _ended_ones


if __name__ == "__main__":
    place, number, seed = sys.argv[1:]
    os.environ["LIBMTL_RECON_CACHE"] = str(Path(place) / "cache")
    kills = Kills(Path(place), int(seed))
    for _ in range(int(number)):
        kills.once()
    print(json.dumps({"kept": len(kills.kept), **kills.counts}))
