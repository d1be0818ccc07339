"""Conflict profiles kept on disk, per architecture, for the next run that needs them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from libmtl_recon import files
from libmtl_recon.conflicts.fingerprint import fingerprint, loose_fingerprint
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.files import refusal, write_atomically
from libmtl_recon.output import warn
from libmtl_recon.profiles.stores import Store, explained, open_store
from libmtl_recon.texts import did_you_mean, printable

VARIABLE = "LIBMTL_RECON_CACHE"
_ENDING = ".json"


@dataclass(frozen=True)
class Entry:
    """A profile in the cache."""

    id: str
    profile: ConflictProfile


@dataclass(frozen=True)
class Match:
    """A profile that was found for a network.

    Attributes:
        entry: The newest that fits.
        exact: Whether the layers' shapes are the same too, not only their names and types.
        others: How many more profiles would have fitted as well.
    """

    entry: Entry
    exact: bool
    others: int


class ProfileCache:
    """A folder of profiles, one readable JSON file each.

    Files are written whole or not at all. One that cannot be read as a profile is named on
    stderr and renamed to ``*.damaged``; it never stops a run.

    Args:
        folder: A path, or a URL that ``fsspec`` knows, such as ``s3://bucket/profiles``. By
            default ``LIBMTL_RECON_CACHE``, else ``profiles`` in the user's cache folder for this
            program.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.store: Store = open_store(default_folder() if folder is None else folder)

    @property
    def folder(self) -> Path | str:
        """Where it is."""
        return self.store.place

    def prepare(self) -> None:
        """Make the folder, and see that it can be written to: best before a long run.

        Raises:
            ReconError: It cannot.
        """
        with explained("write to", self.store, VARIABLE):
            self.store.prepare()

    def save(self, profile: ConflictProfile) -> str:
        """Keep a profile; returns its id."""
        name = profile.id
        with explained("write to", self.store, VARIABLE):
            self.store.write(f"{name}{_ENDING}", profile.to_json())
        return name

    def list(self) -> list[Entry]:
        """All profiles, newest first."""
        names = self.names(_ENDING)
        return [entry for name in names if (entry := self._read(name)) is not None]

    def names(self, ending: str) -> Sequence[str]:
        """The names of all texts that end so, newest first, whether they are profiles or not."""
        with explained("read", self.store, VARIABLE):
            return [name for name in self.store.names() if name.endswith(ending)]

    def load(self, id: str, parameter: str = "ID") -> Entry:
        """The profile with this id, which may be shortened as long as it is unique.

        Args:
            id: Of the profile.
            parameter: The name under which the caller gave it, for the message.

        Raises:
            UsageError: There is none, or more than one.
        """
        entries = self.list()
        found = [entry for entry in entries if entry.id.startswith(id)]
        if len(found) != 1 or not id:
            hint = "" if found else did_you_mean(id, (entry.id for entry in entries))
            raise UsageError(
                parameter,
                "must be the id of one profile, or its first characters",
                id,
                f"{hint}{len(found)} profiles have such an id; `libmtl-recon layers list` shows "
                "them.",
            )
        return found[0]

    def find(self, layers: Sequence[Layer]) -> Match | None:
        """The newest profile for a network with these layers.

        One whose layers agree in names, types and shapes comes before one that agrees in names
        and types only.
        """
        entries = self.list()
        for exact, key in ((True, fingerprint), (False, loose_fingerprint)):
            wanted = key(layers)
            fitting = [e for e in entries if key(e.profile.architecture) == wanted]
            if fitting:
                return Match(fitting[0], exact, len(fitting) - 1)
        return None

    def remove(self, id: str) -> Entry:
        """Delete the profile with this (possibly shortened) id; returns what was deleted."""
        entry = self.load(id)
        with explained("delete from", self.store, VARIABLE):
            self.store.remove(f"{entry.id}{_ENDING}")
        return entry

    def export(self, id: str, file: str | Path) -> Entry:
        """Write the profile with this (possibly shortened) id to a file of its own."""
        entry = self.load(id)
        export_profile(entry.profile, file)
        return entry

    def import_(self, file: str | Path) -> str:
        """Keep the profile in a file; returns its id.

        Raises:
            ReconError: The file cannot be read as a profile.
        """
        return self.save(read_profile(file))

    def _read(self, name: str) -> Entry | None:
        file = str(self.store.where(name))
        try:
            profile = ConflictProfile.from_json(self.store.read(name), file)
        except FileNotFoundError:
            return None  # removed by another process since the folder was listed
        except UnicodeDecodeError:
            _warn(f"{file} is no text. {self._set_aside(name)}")
            return None
        except ReconError as error:
            _warn(f"{error} {self._set_aside(name)}")
            return None
        except OSError as error:
            _warn(f"{file} was passed over: {refusal(error)}.")
            return None
        return Entry(name.removesuffix(_ENDING), profile)

    def _set_aside(self, name: str) -> str:
        """Rename a text that is no profile; says what became of it."""
        stem = name.removesuffix(_ENDING)
        aside, number = f"{stem}.damaged", 1
        try:
            there = frozenset(self.store.names())
            while aside in there:  # what was set aside before is kept, too
                number += 1
                aside = f"{stem}.{number}.damaged"
            self.store.rename(name, aside)
        except FileNotFoundError:
            return "Another process has set it aside."
        except OSError as error:
            return f"It could not be set aside ({refusal(error)}) and was passed over."
        return f"It was set aside as {self.store.where(aside)}."


def _warn(text: str) -> None:
    warn(f"libmtl-recon: {printable(text)}")


def default_folder() -> Path | str:
    """Where profiles are kept: ``LIBMTL_RECON_CACHE``, else the user's cache folder."""
    given = os.environ.get(VARIABLE)
    if given:
        return given
    import platformdirs

    return Path(platformdirs.user_cache_dir("libmtl-recon", appauthor=False)) / "profiles"


def read_profile(file: str | Path) -> ConflictProfile:
    """The profile in a file.

    Raises:
        ReconError: The file cannot be read, or is no profile.
    """
    way_out = "Name a file that `libmtl-recon layers export` wrote."
    text = read_text(file, way_out)
    try:
        return ConflictProfile.from_json(text, str(file))
    except ReconError as error:
        raise ReconError(
            f"{error} {way_out} Scores or lists of layers are no profiles, but Recon takes "
            "its layers from them as they are."
        ) from error


def export_profile(profile: ConflictProfile, file: str | Path) -> None:
    """Write a profile to a file, as a whole.

    Raises:
        ReconError: The file cannot be written.
    """
    try:
        write_atomically(Path(file), profile.to_json())
    except (OSError, ValueError) as error:
        raise ReconError(
            f"Cannot write the profile to {file}: {refusal(error)}. Name a file in a "
            "folder that exists and that you may write to."
        ) from error


def read_text(file: str | Path, way_out: str) -> str:
    """A text file's content.

    Args:
        file: Which.
        way_out: What to name instead, as a full sentence.

    Raises:
        ReconError: The file cannot be read, or is no text.
    """
    try:
        return files.read_text(file)
    except (OSError, ValueError) as error:
        reason = "it is no text" if isinstance(error, UnicodeDecodeError) else refusal(error)
        raise ReconError(f"Cannot read {file}: {reason}. {way_out}") from error
