"""A search's folder: where everything that it makes is kept, so that it can go on later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from libmtl_recon import ReconError, UsageError, find_script
from search.child import Job
from search.config import Config

# What may differ between a search and its continuation: it changes no run.
_FREE = {"trials", "workers", "confirm"}


class SearchFolder:
    """The files of one search.

    Args:
        path: The folder; made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def profile(self) -> Path:
        """The conflict profile from which trials take their layers."""
        return self.path / "profile.json"

    @property
    def study(self) -> Path:
        """Optuna's SQLite file."""
        return self.path / "study.db"

    @contextmanager
    def opened(self, config: Config) -> Iterator[None]:
        """Hold the folder for one search.

        Raises:
            ReconError: It cannot be written, or another search is at work in it.
            UsageError: It holds a search with another configuration.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ReconError(
                f"Another search is at work in {self.path}. Wait for it, or name another folder "
                "with --out."
            ) from error
        except OSError as error:
            raise ReconError(
                f"Cannot write to {self.path}: {error.strerror or error}. Name another folder with "
                "--out."
            ) from error
        with lock:
            self._same_search(config)
            yield

    def job(self, config: Config, kind: str, arguments: tuple[str, ...], **more: Any) -> Job:
        """A run of the search's script; equal arguments give the same file, in any session."""
        task = more.get("task")
        name = hashlib.sha256(json.dumps([arguments, task]).encode()).hexdigest()[:12]
        events = self.path / "runs" / f"{kind}-{name}.jsonl"
        return Job(config.script, arguments, events, **more)

    def _same_search(self, config: Config) -> None:
        script = find_script(config.script).read_bytes()
        now = {
            **config.model_dump(mode="json", exclude=_FREE),
            "script_sha256": hashlib.sha256(script).hexdigest(),
        }
        file = self.path / "search.json"
        if file.exists():
            try:
                before = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ReconError(
                    f"{file} is damaged. Delete the folder, or name another one with --out."
                ) from error
            changed = sorted(key for key in now | before if now.get(key) != before.get(key))
            if changed:
                raise UsageError(
                    "--out",
                    f"must name a folder whose search had the same {', '.join(changed)}",
                    str(self.path),
                    "The earlier runs there are not comparable: name another folder, or delete "
                    "this one.",
                )
        else:
            file.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
