"""Searches that are killed at random moments, with all kinds of signals, again and again."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from libmtl_recon_search import load_config
from libmtl_recon_search.config import Config
from libmtl_recon_search.record import read_record
from optuna.trial import TrialState

from libmtl_recon.cli.search import _told_to_stop

from .forked import alive, can_fork, family_of, in_a_fork, run_search_forking, until

pytestmark = can_fork
WriteConfig = Callable[..., Path]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP)


def _without_costs(measured: dict[str, Any]) -> None:
    """Leave out what is another number each time that the same is trained."""
    for name in ("memory", "step_time"):
        measured.pop(name, None)


@dataclass
class Victim:
    """A search in a folder of its own, started as often as it is killed."""

    config: Config
    home: Path
    kills: Counter[str] = field(default_factory=Counter)

    @property
    def out(self) -> Path:
        return self.home / "out"

    def start(self) -> int:
        def work() -> None:
            os.environ["LIBMTL_RECON_CACHE"] = str(self.home / "cache")
            with _told_to_stop(own_process=True) as signals:
                run_search_forking(self.config, self.out, lambda: bool(signals))

        self.home.mkdir(exist_ok=True)
        return in_a_fork(work, self.home / "log")

    def finished(self) -> dict[str, tuple[int, int]]:
        """The runs that ended well, each with what changes when it is written again."""
        files = (self.out / "runs").glob("*.jsonl")
        return {f.name: (f.stat().st_ino, f.stat().st_mtime_ns) for f in files if read_record(f)}

    def killed_once(self, draw: random.Random, longest: float) -> bool:
        """Start it and kill something of it; whether it came to its end nevertheless."""
        before, number = self.finished(), self.start()
        wait_for(number, draw.uniform(0.0, longest))
        family = family_of(number)
        if draw.random() < 0.3 and family and not ended(number):
            # One of its children only: the run is made again, and the search goes on.
            self._kill(draw.choice(family), draw.choice((signal.SIGKILL, signal.SIGTERM)), "child")
            wait_for(number, draw.uniform(0.0, longest))
            family += family_of(number)
        status = ended(number)
        if status is None:
            self._kill(number, draw.choice(SIGNALS), "search")
            if draw.random() < 0.2:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGINT)  # Ctrl-C a second time
            status = os.waitpid(number, 0)[1]
        until(lambda: not any(map(alive, family)))
        after = self.finished()
        assert {name: after.get(name) for name in before} == before
        if status and os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 130, (self.home / "log").read_text()
        return status == 0

    def _kill(self, number: int, how: signal.Signals, what: str) -> None:
        with suppress(ProcessLookupError):
            os.kill(number, how)
            self.kills[f"{what} by {how.name}"] += 1

    def results(self) -> dict[str, Any]:
        """All that a search comes to."""
        report = json.loads((self.out / "report.json").read_text(encoding="utf-8"))
        report["command"] = report["command"].replace(str(self.home), "")
        _without_costs(report["reached"]["costs"])
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.out / 'study.db'}")
        trials = optuna.load_study(study_name="tiny", storage=storage).get_trials()
        storage.remove_session()
        storage.engine.dispose()
        for trial in trials:
            _without_costs(trial.user_attrs["outcome"])
        assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
        records = {file.name: read_record(file) for file in (self.out / "runs").glob("*.jsonl")}
        others = [f.name for f in self.out.iterdir() if f.suffix not in (".db-wal", ".db-shm")]
        return {
            "report": report,
            "trials": [
                (t.number, t.state, t.value, t.params, t.user_attrs, t.intermediate_values)
                for t in trials
            ],
            "runs": {name: found and found.epochs for name, found in records.items()},
            "files": sorted(others),
        }


def ended(number: int) -> int | None:
    """Return the status of a child that has ended; None if it runs."""
    pid, status = os.waitpid(number, os.WNOHANG)
    return status if pid else None


def wait_for(number: int, seconds: float) -> None:
    """Let a process go on for this long, or until it ends."""
    end = time.monotonic() + seconds
    while alive(number) and time.monotonic() < end:
        time.sleep(0.005)


def killed(kills: int, seed: int, config: Config, home: Path) -> Counter[str]:
    """Kill searches this often; each is resumed by the same command, with the same result."""
    draw = random.Random(seed)
    alone = Victim(config, home / "alone")
    start = time.monotonic()
    assert os.waitpid(alone.start(), 0)[1] == 0, (alone.home / "log").read_text()
    longest = (time.monotonic() - start) / 3
    wanted, total = alone.results(), Counter[str]()
    for number in range(kills):
        victim = Victim(config, home / str(number))
        while not victim.killed_once(draw, longest):
            pass
        total += victim.kills
        assert victim.results() == wanted
        print(f"{number + 1} searches: {dict(total)}", flush=True)
        if total.total() >= kills:
            return total
    raise AssertionError(f"the searches ended before they could be killed: {total}")


CHEAP: dict[str, Any] = {
    "flags": {"epochs": 2},
    "trials": 5,
    "workers": 1,
    "confirm": [1],
    "finalists": {"count": 2, "seeds": [9]},
}


def test_a_search_that_is_killed_now_and_then_comes_to_the_same(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    found = killed(6, 1, load_config(write_config(**CHEAP)), tmp_path)
    assert found.total() >= 6


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing_and_double_nothing(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    found = killed(100, 0, load_config(write_config(**CHEAP)), tmp_path)
    assert found.total() >= 100
