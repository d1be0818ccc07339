"""Save scored steps regularly during a run, so that a killed process loses at most a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from libmtl_recon.conflicts.fingerprint import fingerprint
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.conflicts.runs import runs_of
from libmtl_recon.errors import ReconError
from libmtl_recon.profiles.cache import VARIABLE, ProfileCache
from libmtl_recon.profiles.scoring_lock import lock_name
from libmtl_recon.profiles.stores import explained
from libmtl_recon.texts import printable

if TYPE_CHECKING:
    from libmtl_recon.conflicts.layers import Layer

_logger = logging.getLogger(__name__)

_ENDING = ".unfinished"
_SECONDS = 60.0


@dataclass(frozen=True)
class Recovered:
    """A profile recovered from a killed run.

    Attributes:
        id: The ID of the profile.
        steps: The number of recovered steps.
    """

    id: str
    steps: int

    def __str__(self) -> str:
        return (
            f"A run that was killed had scored {self.steps} steps, which are now kept as profile "
            f"{self.id}."
        )


class RecoveryFile:
    """Write a run's profile every minute, until the run ends.

    Args:
        cache: The cache of profiles; this process must hold the network's scoring lock.
        layers: The layers of the network.
        say: Called with a message if the file cannot be written.
    """

    def __init__(
        self, cache: ProfileCache, layers: Sequence[Layer], say: Callable[[str], None]
    ) -> None:
        self._store = cache.store
        self._name = _name(layers)
        self._say = say
        self._next = time.monotonic() + _SECONDS

    def note(self, profile: Callable[[], ConflictProfile | None]) -> None:
        """Write the profile if it was last written a minute ago; a failure does not stop the run.

        Args:
            profile: A function that returns the profile, called only if it is written.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SECONDS
        try:
            found = profile()
            if found is not None:
                self._store.write(self._name, found.to_json())
        except OSError as error:
            self._next = float("inf")
            self._say(
                "Scored steps cannot be saved during the run, only at its end: "
                f"{error.strerror or error}."
            )
        except ReconError:
            return  # a gradient was not finite, which the run itself says

    def end(self) -> None:
        """Delete the file, after the run has ended and its profile was saved or is not needed."""
        try:
            self._store.remove(self._name)
        except OSError as error:
            self._say(f"{self._store.where(self._name)} could not be deleted: {error}.")


def recover(cache: ProfileCache, layers: Sequence[Layer]) -> Recovered | None:
    """Save the steps that a killed run had scored for a network as a profile.

    Args:
        cache: The cache of profiles; this process must hold the network's scoring lock, so that no
            other process does the same.
        layers: The layers of the network.

    Returns:
        The recovered profile; None if there is none. A file that cannot be read is reported by
        a warning and renamed to ``*.damaged``.

    Raises:
        ReconError: The profile cannot be saved.
    """
    return _recover(cache, _name(layers))


def recover_all(cache: ProfileCache) -> list[Recovered]:
    """Recover the steps of killed runs for every network that no process is scoring now.

    Raises:
        ReconError: A profile cannot be saved.
    """
    from filelock import Timeout

    found = []
    for name in cache.names(_ENDING):
        architecture = name.removeprefix(".").removesuffix(_ENDING)
        try:
            lock = cache.store.lock(lock_name(architecture))
            if lock is None:
                continue
            lock.acquire(timeout=0)
        except (Timeout, OSError, NotImplementedError):
            continue  # it is being scored, or nothing tells whether it is
        try:
            found.append(_recover(cache, name))
        finally:
            lock.release()
    return [one for one in found if one is not None]


def _recover(cache: ProfileCache, name: str) -> Recovered | None:
    store = cache.store
    try:
        profile = ConflictProfile.from_json(store.read(name), "The file")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ReconError) as error:
        why = (
            "The file is not a text file." if isinstance(error, UnicodeDecodeError) else str(error)
        )
        if isinstance(error, OSError):
            why = f"The system reports: {error.strerror or error}."
        _logger.warning(
            "%s, left by a killed run, cannot be recovered. %s %s",
            printable(str(store.where(name))),
            why,
            _set_aside(cache, name),
        )
        return None
    run = profile.provenance.get("run")
    kept = run is not None and any(run in runs_of(e.profile.provenance) for e in cache.list())
    found = None
    if not kept:  # killed after it had kept all, a run leaves this as well
        profile = replace(profile, provenance={**profile.provenance, "ended": "killed"})
        found = Recovered(cache.save(profile), profile.steps)
    with explained("delete from", store, VARIABLE):
        store.remove(name)
    return found


def _set_aside(cache: ProfileCache, name: str) -> str:
    """Rename an unreadable file, so that it is reported once; return a sentence about it."""
    aside = f"{name}.damaged"
    with explained("write to", cache.store, VARIABLE):
        cache.store.rename(name, aside)
    return f"It was renamed to {cache.store.where(aside)}."


def _name(layers: Sequence[Layer]) -> str:
    return f".{fingerprint(layers)}{_ENDING}"
