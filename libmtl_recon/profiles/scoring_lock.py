"""A lock by which one process at a time scores an architecture; others wait and use its profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from libmtl_recon.conflicts.fingerprint import fingerprint
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.profiles.cache import VARIABLE, Entry, ProfileCache


def lock_name(architecture: str) -> str:
    """Return the name of the lock file of the architecture with this fingerprint."""
    return f".{architecture}.lock"


class ScoringLock:
    """A lock between processes, under which one of them scores an architecture.

    Held until :meth:`release`, or until the process ends, however it does. Where profiles are kept
    behind a URL there is none: nothing would tell that another machine has died; nor is there one
    in a folder without support for locks, and a message says so.

    Args:
        cache: Where profiles are kept.
        say: Told that, and for what, this process waits.
    """

    def __init__(self, cache: ProfileCache, say: Callable[[str], None]) -> None:
        self._cache = cache
        self._say = say
        self._lock: Any = None

    def acquire(self, layers: Sequence[Layer]) -> Entry | None:
        """Wait for the lock.

        Args:
            layers: Of the network that is to be scored.

        Returns:
            The newest profile of this very architecture that another process kept while this one
            waited; None if it need not wait, or if the other ended without one.
        """
        from filelock import Timeout

        before = {entry.id for entry in self._cache.list()}
        try:
            lock = self._cache.store.lock(lock_name(fingerprint(layers)))
            if lock is None:
                return None
            lock.acquire(timeout=0)
        except Timeout:
            self._say(
                "Another process is scoring this architecture; waiting for its profile (Ctrl-C "
                f"stops waiting; to score in both processes, set {VARIABLE} to another folder)."
            )
            lock.acquire()
            self._lock = lock
            return self._new(layers, before)
        except (OSError, NotImplementedError) as error:
            # Not every network's file system knows locks, and not every user may open the file.
            self._say(
                "Cannot determine whether another process is scoring this architecture, so this "
                f"one does not wait: {getattr(error, 'strerror', None) or error}."
            )
            return None
        self._lock = lock
        return None

    @property
    def held(self) -> bool:
        """Return whether this process holds the lock, until :meth:`release`."""
        return self._lock is not None

    def release(self) -> None:
        """Release the lock for the next process."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _new(self, layers: Sequence[Layer], before: set[str]) -> Entry | None:
        wanted = fingerprint(layers)
        for entry in self._cache.list():
            if entry.id not in before and fingerprint(entry.profile.architecture) == wanted:
                return entry
        return None
