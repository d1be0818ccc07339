"""A search's folder, which contains all its files, so that the search can be continued."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from libmtl_recon_search.child import Job
from libmtl_recon_search.config import Config
from libmtl_recon_search.trouble import machine_error, set_aside

from libmtl_recon import ReconError, UsageError, find_script
from libmtl_recon.files import write_atomically

# Keys that may differ between a search and its continuation, since they do not change a run. The
# script is identified by its content.
_FREE = {
    *("name", "script", "trials", "finalists", "confirm", "pick"),
    *("workers", "launch", "timeout", "callbacks"),
}
_PACKAGES = ("libmtl-recon", "LibMTL", "torch")


class SearchFolder:
    """The files of one search.

    Args:
        path: The folder; it is created if it is missing.

    Attributes:
        runs_of: A digest of what all runs of the search have in common: the script and the
            packages' versions. It is in each run's record.
        identity: A digest of the whole search, which is stored in its study.
        fingerprint: The content of that digest: the configuration, the script, the versions.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.runs_of = self.identity = ""
        self.fingerprint: dict[str, Any] = {}

    @property
    def profile(self) -> Path:
        """The conflict profile from which trials take their layers."""
        return self.path / "profile.json"

    @property
    def study(self) -> Path:
        """Optuna's SQLite file."""
        return self.path / "study.db"

    @contextmanager
    def opened(self, config: Config, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Lock the folder for one search.

        Args:
            config: The configuration.
            say: A function that is called with messages about damaged files.

        Raises:
            ReconError: It cannot be written, or another search is using it.
            UsageError: It contains a search with another configuration.
        """
        with self.locked("search"):
            self._same_search(config, say)
            yield

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Create the folder, and lock it.

        Args:
            what: What uses it, for the message.

        Raises:
            ReconError: It cannot be written, or another process is using it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ReconError(
                f"Another {what} is running in {self.path}. Wait for it, or give another folder "
                "with --out."
            ) from error
        except OSError as error:
            raise machine_error(error, self.path) or error from error
        with lock:
            yield

    def know_script(self, script: str, threads: int) -> None:
        """Identify the runs of a script with its present text and the packages' versions.

        Args:
            script: A path or the name of a built-in problem.
            threads: The number of PyTorch's threads in each run.
        """
        self.runs_of = _digest([*_program(script).values(), threads])

    def job(
        self,
        kind: str,
        identity: Sequence[object],
        script: str,
        arguments: tuple[str, ...],
        **more: Any,
    ) -> Job:
        """Create the job of a run of the search's script.

        Args:
            kind: The first word of the names of its files.
            identity: The values that distinguish it from other runs of the same kind and script.
                Runs of one identity have one file, in this session and later ones.
            script: A path or the name of a built-in problem.
            arguments: The script's command line.
            more: Further values of the job.
        """
        events = self.path / "runs" / f"{kind}-{_digest(identity)[:12]}.jsonl"
        return Job(script, arguments, events, self.runs_of, **more)

    def _same_search(self, config: Config, say: Callable[[str], None]) -> None:
        program = _program(config.script)
        now = {**config.model_dump(mode="json", exclude=_FREE), **program}
        self.fingerprint, self.identity = now, _digest(now)
        self.know_script(config.script, config.threads)
        file = self.path / "search.json"
        before = self._before(file, say)
        if before is None:
            write_atomically(file, json.dumps(now, indent=2) + "\n")
            return
        changed = differences(before, now)
        if changed:
            raise UsageError(
                "--out",
                "must be a folder whose search had the same configuration",
                str(self.path),
                f"Since then, {'; '.join(changed)} changed, so the earlier runs there are not "
                "comparable: give another folder with --out, or delete this one.",
            )

    def _before(self, file: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
        """Return the identity of the folder's search; None if unknown."""
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):  # not text, or not JSON
            before = None
        if isinstance(before, dict):
            return before
        aside = set_aside(file)
        say(
            f"{file}, which identifies the search of this folder, is damaged. It was renamed to "
            f"{aside.name}. The study and the runs also identify their search: those of this "
            "search are used."
        )
        return None


def _program(script: str) -> dict[str, Any]:
    """Return digests of a script's text and of the packages that run it."""
    return {
        "script": hashlib.sha256(find_script(script).read_bytes()).hexdigest(),
        "versions": {package: version(package) for package in _PACKAGES},
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Return the changes, as ``key (old -> new)``."""
    if isinstance(before, dict) and isinstance(now, dict):
        joint = f"{key}." if key else ""
        return [
            difference
            for name in sorted(before.keys() | now.keys())
            for difference in differences(before.get(name), now.get(name), f"{joint}{name}")
        ]
    if before == now:
        return []
    if key == "script":
        return ["the script's text"]
    return [f"{key} ({json.dumps(before)} -> {json.dumps(now)})"]
