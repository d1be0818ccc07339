"""The storage of a running search: a folder, or a database for many machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from libmtl_recon_search.config import Config
from libmtl_recon_search.database.address import Address
from libmtl_recon_search.database.beats import EVERY, GRACE, Beats
from libmtl_recon_search.database.claims import Claims
from libmtl_recon_search.database.header import agree
from libmtl_recon_search.database.opening import open_storage
from libmtl_recon_search.database.shared_runner import AnyRunner, SharedRunner
from libmtl_recon_search.database.shared_study import SharedStudy
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.process import Runner
from libmtl_recon_search.storage import StudyFile
from libmtl_recon_search.study_store import StudyStore

Say = Callable[[str], None]


@dataclass(frozen=True)
class Backend:
    """The runner of a search's jobs, and the store of its trials.

    Attributes:
        runner: The runner of the jobs, which runs each once.
        open_study: A function that opens the study, for objectives of given directions.
        url: The URL of the study's storage for Optuna.
    """

    runner: AnyRunner
    open_study: Callable[[Sequence[str]], StudyStore]
    url: str


@contextmanager
def in_folder(config: Config, folder: SearchFolder, runner: Runner, say: Say) -> Iterator[Backend]:
    """Keep a search in its folder, which one process locks."""

    def open_study(directions: Sequence[str]) -> StudyStore:
        return StudyFile(folder.study, folder.identity, say, directions, config.name)

    try:
        yield Backend(runner, open_study, f"sqlite:///{folder.study}")
    finally:
        runner.stop()


@dataclass(frozen=True)
class Shared:
    """A database for many workers.

    Attributes:
        address: The address of the database.
        beat: Seconds between the heartbeats of a worker.
        grace: Seconds without a heartbeat after which others take over a worker's runs.
    """

    address: Address
    beat: float = EVERY
    grace: float = GRACE

    @contextmanager
    def opened(
        self,
        config: Config,
        folder: SearchFolder,
        runner: Runner,
        say: Say,
        asked_to_stop: Callable[[], bool],
    ) -> Iterator[Backend]:
        """Keep a search in the database, which other workers may use as well.

        Raises:
            ReconError: The database cannot be used, or has another search of this name.
        """
        storage = open_storage(self.address, say, asked_to_stop)
        beats = Beats(storage, say, self.beat, self.grace)
        try:
            claims = Claims(storage, f"{config.name}/runs", beats)
            agree(claims, folder.fingerprint)
            shared = SharedRunner(runner, claims, say, asked_to_stop)

            def open_study(directions: Sequence[str]) -> StudyStore:
                return SharedStudy(storage, config.name, directions, beats, say)

            yield Backend(shared, open_study, self.address.url)
        finally:
            runner.stop()
            beats.close()
            storage.close()
