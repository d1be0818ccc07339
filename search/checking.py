"""Report the mistakes in a search before training."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from libmtl_recon_search.callbacks import make_callbacks
from libmtl_recon_search.config import Config
from libmtl_recon_search.database.address import Address
from libmtl_recon_search.database.opening import open_storage
from libmtl_recon_search.faults import raise_all
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.process import Interrupted, Runner
from libmtl_recon_search.progress import Display
from libmtl_recon_search.quiet import optuna_quiet
from libmtl_recon_search.session import Session

from libmtl_recon import ReconError


def check_search(
    config: Config,
    storage: str | None = None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Check that a search can start: run its script up to the network, and open its database.

    Nothing is trained, and no folder of a search is read or created. Optuna's tables are created in
    a database that has none.

    Args:
        config: The configuration of the search.
        storage: The URL of the study's database; None if it has none.
        asked_to_stop: A function that returns whether to end; called repeatedly.

    Returns:
        A summary of a few lines.

    Raises:
        UsageError: The configuration does not fit the script, or the URL is invalid; if there are
            several mistakes, all are named.
        ReconError: The script does not start, or the database cannot be used.
        KeyboardInterrupt: It was asked to stop.
    """
    faults: list[ReconError] = []
    lines = [f"{len(config.model_fields_set)} keys with valid values."]
    try:
        with optuna_quiet(), Display() as display:
            try:
                lines += _of_script(config, display, asked_to_stop)
            except ReconError as error:
                faults += getattr(error, "faults", [error])
            try:
                make_callbacks(config, display.line)
            except ReconError as error:
                faults.append(error)
            if storage is not None:
                try:
                    address = Address.parse(storage)
                    open_storage(address, display.line, asked_to_stop).close()
                    lines.append(f"The database {address.shown} can be used.")
                except ReconError as error:
                    faults.append(error)
    except Interrupted:
        raise KeyboardInterrupt from None
    raise_all("The configuration", faults)
    return [*lines, "No mistakes found."]


def _of_script(config: Config, display: Display, asked_to_stop: Callable[[], bool]) -> list[str]:
    """Start the script, and return lines about it."""
    if Path(config.script).is_file():
        # The script may change the working folder.
        config = config.model_copy(update={"script": str(Path(config.script).absolute())})
    folder = Path(tempfile.mkdtemp(prefix="libmtl-recon-check-"))
    runner = Runner(
        config.threads,
        config.timeout.run,
        display.line,
        asked_to_stop,
        config.launch.nproc_per_node,
    )
    session = Session(config, SearchFolder(folder), runner, display)
    said = ""
    try:
        session.look()
    except ReconError as error:
        said = "".join(map(str, getattr(error, "faults", [error])))
        raise
    finally:
        runner.stop()
        # A log that an error names is kept.
        if str(folder) not in said:
            shutil.rmtree(folder, ignore_errors=True)
    layers = len(session.space.network.layers)
    return [
        f"{Path(config.script).name} starts: {len(session.tasks)} tasks "
        f"({', '.join(session.tasks)}), {layers} shared layers.",
        f"Searched: {', '.join(_searched(config, session))}; {config.trials} trials with "
        f"{config.sampler.name}.",
    ]


def _searched(config: Config, session: Session) -> list[str]:
    """Return the parameters of a trial."""
    space = config.space
    found = ["weighting"] if len(space.weighting) > 1 else []
    found += ["alpha"] if "GradOPS" in space.weighting else []
    found += ["k"] if space.k is not None else []
    found += ["select"] if space.splits and len(space.select) > 1 else []
    found += ["s"] if space.needs_scores else []
    found += [f"flags.{flag}" for flag in session.space.flags.searched]
    for name, own in session.space.own.items():
        found += [f"{name}.{flag}" for flag in own.searched]
    return found or ["nothing"]
