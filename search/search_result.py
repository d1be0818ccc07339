"""The result of a search for use in Python: values, data frames and an Optuna study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from libmtl_recon_search.config import Config
from libmtl_recon_search.load import as_config
from libmtl_recon_search.page.model import Page, PageTrial
from libmtl_recon_search.paging import make_page, write_page
from libmtl_recon_search.report import Report
from libmtl_recon_search.run import run
from libmtl_recon_search.stored import stored
from libmtl_recon_search.trouble import explained

from libmtl_recon import ConflictProfile, MissingPackageError

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        study: The Optuna study. You can add trials to it: queued trials are trained by the next
            session, and other trials are not changed.
        best: The trial that was picked, or the baseline if no trial was better.
        pareto: The trials of the Pareto front; for one objective, that of it and the parameters.
        trials: All trials of the search.
        profile: The network's conflict profile; None if nothing was scored.
        report: The comparison of the best trial with EW on the test data.
        folder: The folder of the reports and records; None if they were not kept.
    """

    study: optuna.Study
    best: PageTrial
    pareto: tuple[PageTrial, ...]
    trials: tuple[PageTrial, ...]
    profile: ConflictProfile | None
    report: Report
    folder: Path | None

    def trials_dataframe(self) -> pandas.DataFrame:
        """Return one row per trial: plan, state, parameters, objectives, improvement of each task.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        return _frame(
            {
                "number": trial.number,
                "plan": trial.plan,
                "state": trial.state,
                **trial.params,
                **{f"value.{name}": value for name, value in trial.values.items()},
                **{f"task.{name}": value for name, value in trial.per_task.items()},
                "network_parameters": trial.parameters,
                "feasible": trial.feasible,
                "on_front": trial.on_front,
                "seconds": trial.seconds,
            }
            for trial in self.trials
        )

    def curves_dataframe(self) -> pandas.DataFrame:
        """Return one row per epoch of each trial: number, plan, epoch from 0, best value so far.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        return _frame(
            {"number": trial.number, "plan": trial.plan, "epoch": epoch, "value": value}
            for trial in self.trials
            for epoch, value in enumerate(trial.curve)
        )


def optimize(
    config: Config | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    storage: str | None = None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> SearchResult:
    """Run a search, or continue one, as ``libmtl-recon search`` does.

    Args:
        config: The configuration: a YAML file, the name of a configuration that comes with the
            package, a mapping of its keys (a script is then relative to the working folder), or
            a :class:`Config`.
        out: The folder of all files; by default ``runs/NAME``. With ``storage`` it is the folder of
            this worker alone, and by default no files are kept.
        storage: The URL of a database through which workers on any machines share one search.
        asked_to_stop: A function that returns whether to end the search; called repeatedly.

    Returns:
        The result of the search.

    Raises:
        UsageError: The configuration, or something that it names, is invalid.
        ReconError: A baseline or the first trials failed, or the folder or the database cannot be
            used.
        KeyboardInterrupt: It was asked to stop, or Ctrl-C was pressed. Finished runs are not lost:
            the same call continues the search.

    Example:
        >>> from libmtl_recon.search import optimize
        >>> found = optimize("multidigits", "runs/digits")  # doctest: +SKIP
        >>> found.best.plan, found.best.values  # doctest: +SKIP
        ('GradOPS α=-1, Recon S=-0.1 K=6', {'delta_m': 3.1})
    """
    config = as_config(config)
    if out is None and storage is None:
        out = Path("runs") / config.name
    found = run(config, out, asked_to_stop, storage)
    folder = None if out is None else Path(out).absolute()
    study = optuna.load_study(study_name=config.name, storage=found.url)
    page = make_page(study, folder or Path(), config.name, found.profile)
    return SearchResult(
        study=study,
        best=_best(page),
        pareto=tuple(trial for trial in page.trials if trial.on_front),
        trials=page.trials,
        profile=found.profile,
        report=found.report,
        folder=folder,
    )


def run_search(
    config: Config,
    out: str | Path | None,
    asked_to_stop: Callable[[], bool] = lambda: False,
    *,
    storage: str | None = None,
) -> Report:
    """Run a search, or continue one, and return its report; see :func:`optimize` for all results.

    Returns:
        The report, which is also written to the folder.
    """
    return run(config, out, asked_to_stop, storage).report


def write_report(
    config: Config | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    storage: str | None = None,
) -> list[Path]:
    """Write the report of a search from its results so far, without training.

    Args:
        config: The configuration of the search, as for :func:`optimize`.
        out: The search's folder; with ``storage``, any folder, to which the report is written. By
            default ``runs/NAME``.
        storage: The URL of the search's database.

    Returns:
        The files: ``report.html``, and ``report.md`` if the search has not ended.

    Raises:
        ReconError: There is no such search, it has no trial yet, or the folder cannot be written.
    """
    config = as_config(config)
    folder = Path("runs") / config.name if out is None else Path(out)
    with stored(config.name, folder, storage) as found, explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return write_page(found.study, folder, config.name, found.profile)


def _best(page: Page) -> PageTrial:
    picked = [trial for trial in page.trials if trial.picked]
    if picked:
        return picked[0]
    assert page.reference is not None  # of a search at its end
    return page.reference


def _frame(rows: Any) -> pandas.DataFrame:
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise MissingPackageError("A data frame", "pandas", "pandas") from error
    return pandas.DataFrame(list(rows))
