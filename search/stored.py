"""Read the stored state of a search at any time, without locking it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from libmtl_recon_search.database.address import Address
from libmtl_recon_search.database.beats import Beats
from libmtl_recon_search.database.claims import Claims
from libmtl_recon_search.database.opening import open_storage
from libmtl_recon_search.database.shared_runner import profile_of
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.quiet import optuna_quiet
from libmtl_recon_search.trouble import explained

from libmtl_recon import ConflictProfile, ReconError


@dataclass(frozen=True)
class Stored:
    """The stored state of a search.

    Attributes:
        study: The study with the trials.
        profile: The network's conflict profile; None if there is none, or none yet.
    """

    study: optuna.Study
    profile: ConflictProfile | None


@contextmanager
def stored(name: str, folder: Path, storage: str | None) -> Iterator[Stored]:
    """Open a search for reading.

    Args:
        name: The name of the search.
        folder: The folder of the search, if it is in a folder.
        storage: The URL of the database of the search, if it is in a database.

    Raises:
        ReconError: There is no such search, or it cannot be read.
    """
    opened = _of_folder(name, folder) if storage is None else _of_database(name, storage)
    with optuna_quiet(), opened as found:
        yield found


@contextmanager
def _of_folder(name: str, path: Path) -> Iterator[Stored]:
    folder = SearchFolder(path)
    if not folder.study.exists():
        raise ReconError(
            f"{path} contains no search that has trials. Give the folder of the search with --out."
        )
    with explained(path):
        kept = optuna.storages.RDBStorage(f"sqlite:///{folder.study}")
        try:
            yield Stored(_study(name, kept, str(path)), _profile_in(folder.profile))
        finally:
            kept.remove_session()
            kept.engine.dispose()


@contextmanager
def _of_database(name: str, url: str) -> Iterator[Stored]:
    address = Address.parse(url)
    kept = open_storage(address)
    beats = Beats(kept)
    try:
        study = _study(name, kept, address.shown)
        claims = Claims(kept, f"{name}/runs", beats)
        text = profile_of(claims)
        profile = None if text is None else ConflictProfile.from_json(text, address.shown)
        yield Stored(study, profile)
    finally:
        beats.close()
        kept.close()


def _study(name: str, kept: optuna.storages.RDBStorage, where: str) -> optuna.Study:
    try:
        return optuna.load_study(study_name=name, storage=kept)
    except KeyError as error:
        there = [one for one in optuna.get_all_study_names(kept) if not one.endswith("/runs")]
        others = f"It contains {', '.join(map(repr, there))}" if there else "It contains none"
        raise ReconError(
            f"{where} contains no search {name!r} that has trials. {others}; the `name` in the "
            "configuration selects the search."
        ) from error


def _profile_in(file: Path) -> ConflictProfile | None:
    try:
        return ConflictProfile.from_json(file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError:
        return None
