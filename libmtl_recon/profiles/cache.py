"""The cache of conflict profiles on disk, one or more per architecture."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from libmtl_recon import files
from libmtl_recon.conflicts.layer_ranking import LayerRanking
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.profile import ConflictProfile, no_profile
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.files import refusal, write_atomically
from libmtl_recon.profiles.entries import (
    Entry,
    Match,
    RankingEntry,
    built_in_entries,
    find_among,
)
from libmtl_recon.profiles.stores import Store, explained, open_store
from libmtl_recon.texts import did_you_mean, printable

__all__ = ["Entry", "Match", "ProfileCache", "RankingEntry", "built_in_entries", "find_among"]

_logger = logging.getLogger(__name__)

VARIABLE = "LIBMTL_RECON_CACHE"
_ENDING = ".json"
_RANKING = ".ranking"
Kept = TypeVar("Kept")


class ProfileCache:
    """A folder of profiles, one readable JSON file each.

    Files are written whole or not at all. One that cannot be read as a profile is named by
    a warning of `logging` and renamed to ``*.damaged``; it never stops a run.

    Args:
        folder: A path, or a URL that ``fsspec`` knows, such as ``s3://bucket/profiles``. By
            default ``LIBMTL_RECON_CACHE``, else ``profiles`` in the user's cache folder for this
            program.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.store: Store = open_store(default_folder() if folder is None else folder)

    @property
    def folder(self) -> Path | str:
        """The location of the cache."""
        return self.store.place

    def prepare(self) -> None:
        """Create the folder, and check that it is writable. Call it before a long run.

        Raises:
            ReconError: The folder cannot be created, or is not writable.
        """
        with explained("write to", self.store, VARIABLE):
            self.store.prepare()

    def save(self, profile: ConflictProfile | LayerRanking) -> str:
        """Save a profile or a ranking of layers, and return its ID."""
        if not isinstance(profile, ConflictProfile | LayerRanking):
            raise no_profile("profile", profile)
        name, ending = profile.id, _ENDING if isinstance(profile, ConflictProfile) else _RANKING
        with explained("write to", self.store, VARIABLE):
            self.store.write(f"{name}{ending}", profile.to_json())
        return name

    def list(self) -> list[Entry]:
        """Return all profiles, newest first."""
        found = self._texts(_ENDING, ConflictProfile.from_json)
        return [Entry(id, profile) for id, profile in found]

    def rankings(self) -> Sequence[RankingEntry]:
        """Return all imported rankings, newest first."""
        found = self._texts(_RANKING, LayerRanking.from_json)
        return [RankingEntry(id, ranking) for id, ranking in found]

    def names(self, ending: str) -> Sequence[str]:
        """Return the names of all files with this ending, newest first, readable or not."""
        with explained("read", self.store, VARIABLE):
            return [name for name in self.store.names() if name.endswith(ending)]

    def load(self, id: str, parameter: str = "ID") -> Entry:
        """Return the profile with this ID, which may be shortened as long as it is unique.

        Args:
            id: The ID of a profile, or the name of a built-in one.
            parameter: The argument's name, for error messages.

        Raises:
            UsageError: No profile or more than one has this ID, or it is the ID of a ranking.
        """
        found = self.load_any(id, parameter)
        if isinstance(found, Entry):
            return found
        raise UsageError(
            parameter,
            "must be the ID of a profile, not of a ranking",
            id,
            f"{found.id} is an imported ranking of layers, which has no cosines.",
        )

    def load_any(self, id: str, parameter: str = "ID") -> Entry | RankingEntry:
        """Return the profile or the imported ranking with this ID; see :meth:`load`.

        Raises:
            UsageError: No profile and no ranking, or more than one, has this ID.
        """
        entries: list[Entry | RankingEntry] = [*self.list(), *self.rankings()]
        entries += built_in_entries()
        same = [entry for entry in entries if entry.id == id]
        found = same or [entry for entry in entries if entry.id.startswith(id)]
        if len(found) != 1 or not id:
            hint = "" if found else did_you_mean(id, (entry.id for entry in entries))
            if files.exists(id) and not files.is_folder(id):
                hint = f"It is a file: `libmtl-recon layers import {id}` copies it to the cache. "
            raise UsageError(
                parameter,
                "must be the ID of exactly one profile, or its first characters",
                id,
                f"{hint}{len(found)} profiles have such an ID; `libmtl-recon layers list` shows "
                "all profiles.",
            )
        return found[0]

    def load_or_read(self, source: str, parameter: str = "source") -> ConflictProfile:
        """Return the profile in a file or, if there is no such file, the one with this ID.

        Args:
            source: A file name or an ID.
            parameter: The argument's name, for error messages.

        Raises:
            ReconError: The file cannot be read as a profile.
            UsageError: The file does not exist, and it is not the ID of exactly one profile.
        """
        if files.exists(source) and not files.is_folder(source):
            return read_profile(source)
        return self.load(source, f"{parameter} is not a file, and therefore").profile

    def find(self, layers: Sequence[Layer]) -> Match | None:
        """Return the newest profile in the cache for a network with these layers.

        A profile whose layers have the same names, types and shapes is preferred to one whose
        layers have the same names and types only.
        """
        return find_among(self.list(), layers)

    def remove(self, id: str) -> Entry | RankingEntry:
        """Delete the profile or ranking with this (possibly shortened) ID and return it.

        Raises:
            UsageError: No profile and no ranking, or more than one, has this ID.
            ReconError: The profile is built in.
        """
        entry = self.load_any(id)
        if isinstance(entry, Entry) and entry.built_in:
            raise ReconError(
                f"{entry.id} is built in, a part of the installed package, and cannot be removed. "
                "A profile in the cache that fits the network is used instead of it; "
                "`libmtl-recon score SCRIPT` makes one."
            )
        ending = _ENDING if isinstance(entry, Entry) else _RANKING
        with explained("delete from", self.store, VARIABLE):
            self.store.remove(f"{entry.id}{ending}")
        return entry

    def export(self, id: str, file: str | Path) -> Entry | RankingEntry:
        """Write the profile or ranking with this (possibly shortened) ID to a file."""
        entry = self.load_any(id)
        export_profile(entry.profile if isinstance(entry, Entry) else entry.ranking, file)
        return entry

    def import_(self, file: str | Path) -> str:
        """Import the profile in a file and return its ID.

        Raises:
            ReconError: The file cannot be read as a profile.
        """
        return self.save(read_profile(file))

    def _texts(self, ending: str, parse: Callable[[str, str], Kept]) -> Sequence[tuple[str, Kept]]:
        """Return the ID and the contents of all files with this ending, newest first."""
        return [
            (name.removesuffix(ending), kept)
            for name in self.names(ending)
            if (kept := self._read(name, parse)) is not None
        ]

    def _read(self, name: str, parse: Callable[[str, str], Kept]) -> Kept | None:
        file = str(self.store.where(name))
        try:
            return parse(self.store.read(name), file)
        except FileNotFoundError:
            return None  # removed by another process since the folder was listed
        except UnicodeDecodeError:
            _logger.warning("%s is not a text file. %s", printable(file), self._set_aside(name))
            return None
        except ReconError as error:
            _logger.warning("%s %s", error, self._set_aside(name))
            return None
        except OSError as error:
            _logger.warning("%s was ignored: %s.", printable(file), refusal(error))
            return None

    def _set_aside(self, name: str) -> str:
        """Rename a file that is not a profile, and return a sentence that says so."""
        stem = name.rpartition(".")[0]
        aside, number = f"{stem}.damaged", 1
        try:
            there = frozenset(self.store.names())
            while aside in there:  # earlier renamed files are kept, too
                number += 1
                aside = f"{stem}.{number}.damaged"
            self.store.rename(name, aside)
        except FileNotFoundError:
            return "Another process has renamed it."
        except OSError as error:
            return f"It could not be renamed ({refusal(error)}) and was ignored."
        return f"It was renamed to {self.store.where(aside)}."


def default_folder() -> Path | str:
    """Return ``LIBMTL_RECON_CACHE`` or, if it is not set, the user's cache folder."""
    given = os.environ.get(VARIABLE)
    if given:
        return given
    import platformdirs

    return Path(platformdirs.user_cache_dir("libmtl-recon", appauthor=False)) / "profiles"


def read_profile(file: str | Path) -> ConflictProfile:
    """Read the profile in a file.

    Raises:
        ReconError: The file cannot be read, or is not a profile.
    """
    way_out = "Give a file written by `libmtl-recon layers export`."
    text = read_text(file, way_out)
    try:
        return ConflictProfile.from_json(text, str(file))
    except ReconError as error:
        raise ReconError(
            f"{error} {way_out} Files with scores or lists of layers are not profiles, but Recon "
            "can take its layers from them."
        ) from error


def export_profile(profile: ConflictProfile | LayerRanking, file: str | Path) -> None:
    """Write a profile to a file, atomically.

    Raises:
        ReconError: The file cannot be written.
    """
    try:
        write_atomically(Path(file), profile.to_json())
    except (OSError, ValueError) as error:
        raise ReconError(
            f"Cannot write the profile to {file}: {refusal(error)}. Give a file in an existing "
            "folder that you may write to."
        ) from error


def read_text(file: str | Path, way_out: str) -> str:
    """Return the contents of a text file.

    Args:
        file: The file's path.
        way_out: A sentence that tells the user which file to give instead.

    Raises:
        ReconError: The file cannot be read, or is not text.
    """
    try:
        return files.read_text(file)
    except (OSError, ValueError) as error:
        reason = (
            "it is not a text file" if isinstance(error, UnicodeDecodeError) else refusal(error)
        )
        raise ReconError(f"Cannot read {file}: {reason}. {way_out}") from error
