"""A lock, so that one process scores an architecture and others wait for its profile."""

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
    """A lock between processes, held by the one that scores an architecture.

    It is held until :meth:`release`, or until the process ends in any way. If profiles are kept at
    a URL, nothing is locked, since the failure of another machine could not be detected. In a
    folder without support for locks, nothing is locked either, and a message says so.

    Args:
        cache: The cache of profiles.
        say: Called with a message if this process waits.
    """

    def __init__(self, cache: ProfileCache, say: Callable[[str], None]) -> None:
        self._cache = cache
        self._say = say
        self._lock: Any = None

    def acquire(self, layers: Sequence[Layer]) -> Entry | None:
        """Wait for the lock.

        Args:
            layers: The layers of the network to score.

        Returns:
            The newest profile of exactly this architecture that another process saved while
            this one waited; None if it did not wait, or if the other ended without a profile.
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
