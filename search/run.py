"""A search from its configuration to its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from libmtl_recon_search.config import Config
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.plots import draw_improvement
from libmtl_recon_search.process import Interrupted, Runner
from libmtl_recon_search.progress import Display
from libmtl_recon_search.report import (
    Finalist,
    Report,
    Spread,
    command_line,
    plan_row,
    single_task_row,
)
from libmtl_recon_search.session import Session
from libmtl_recon_search.space import REFERENCE
from libmtl_recon_search.study import Study
from libmtl_recon_search.trouble import explained

from libmtl_recon import ConflictProfile, draw_profile


def run_search(
    config: Config, out: str | Path, asked_to_stop: Callable[[], bool] = lambda: False
) -> Report:
    """Run a search, or go on with one.

    Single-task baselines, EW and the conflict scores are made first; then an Optuna study trains
    plans and compares them on validation data; the best few are trained again with further seeds,
    and one of them is chosen; at the end that one is compared with EW on the test data, with
    fresh seeds.

    Args:
        config: What to search.
        out: The folder in which everything is kept. If it holds an earlier session of the same
            search, that is continued.
        asked_to_stop: Whether the search is to end; asked again and again while runs go on. This
            is what a handler of signals can set, for an exception that it raises may come
            anywhere.

    Returns:
        The report, which is also written to the folder.

    Raises:
        ReconError: A baseline or the first trials failed, or the folder cannot be used.
        UsageError: The configuration does not fit the script, or the folder's earlier session.
        KeyboardInterrupt: It was asked to stop.
    """
    # A script may change the working folder.
    folder = SearchFolder(Path(out))
    if Path(config.script).is_file():
        config = config.model_copy(update={"script": str(Path(config.script).absolute())})
    with Display() as display, explained(folder.path), folder.opened(config, display.line):
        runner = Runner(
            config.threads,
            config.timeout.run,
            display.line,
            asked_to_stop,
            config.launch.nproc_per_node,
        )
        session = Session(config, folder, runner, display)
        try:
            profile = session.prepare()
            study = _search(session, profile)
            finalists = _finalists(session, study)
            pictures = _draw(session, study, finalists[0], profile)
            report = _compare(session, study, finalists, pictures)
            study.close()
            report.save(folder.path)
        except Interrupted:
            raise KeyboardInterrupt from None
        finally:
            runner.stop()
    return report


def _search(session: Session, profile: ConflictProfile) -> Study:
    study = Study(
        session.folder.study,
        session.config,
        profile,
        session.train,
        session.epochs,
        session.folder.identity,
        session.display.line,
    )
    study.know(REFERENCE, session.searched(REFERENCE).val)
    with session.display.phase("trials", session.config.trials) as phase:
        study.optimize(phase, session.runner.stop)
    failed = len(study.failures)
    if failed:
        session.display.line(
            f"{failed} of {study.finished} trials failed. They are not made again; with a higher "
            "--trials others are."
        )
    return study


def _finalists(session: Session, study: Study) -> list[Finalist]:
    """The best trials over several seeds, the best of them first."""
    wanted = session.config.finalists
    plans = study.top(wanted.count)
    values = {plan: [session.searched(plan).val] for plan in plans}
    if len(plans) > 1 and wanted.seeds:
        further = session.outcomes(plans, wanted.seeds, "the best trials with further seeds")
        for plan, outcomes in zip(plans, further, strict=True):
            values[plan] += [outcome.val for outcome in outcomes]
    found = [Finalist(plan, Spread.of(values[plan])) for plan in plans]
    return sorted(found, key=lambda finalist: -finalist.val.mean)


def _compare(
    session: Session, study: Study, finalists: list[Finalist], pictures: tuple[Path, ...]
) -> Report:
    """Train the best and EW with fresh seeds, and report."""
    config, best = session.config, finalists[0].plan
    plans = list(dict.fromkeys((REFERENCE, best)))
    outcomes = session.outcomes(plans, config.confirm, "the best and EW with fresh seeds")
    fresh = dict(zip(plans, outcomes, strict=True))
    gain = [ours.test - ew.test for ours, ew in zip(fresh[best], fresh[REFERENCE], strict=True)]
    return Report(
        rows=(
            single_task_row([session.baseline(seed) for seed in config.confirm]),
            plan_row("EW, plain sharing", fresh[REFERENCE]),
            plan_row(f"best: {best.title}", fresh[best]),
        ),
        best=best,
        finalists=tuple(finalists),
        gain=Spread.of(gain),
        seeds=tuple(config.confirm),
        on=config.objective.on,
        reached=session.searched(best),
        command=command_line(
            config.script,
            session.arguments(best, config.seed),
            config.threads,
            config.launch.nproc_per_node,
        ),
        pictures=pictures,
        trials=study.finished,
        failed=len(study.failures),
        lines=tuple(study.lines()),
    )


def _draw(
    session: Session, study: Study, best: Finalist, profile: ConflictProfile
) -> tuple[Path, ...]:
    folder, plan = session.folder.path, best.plan
    conflicts, improvement = folder / "conflicts.png", folder / "improvement.png"
    # Dark are the layers that the best splits.
    severity = -0.1 if plan.S is None else plan.S
    draw_profile(profile, conflicts, severity, len(plan.layers) or None)
    plans = study.plans()
    whole = {done.key for done in study.top(len(plans))}
    draw_improvement(
        [session.dot(trained, trained.key in whole) for trained in plans],
        session.dot(REFERENCE, True),
        session.dot(plan, True),
        session.baseline(session.config.seed).parameters,
        session.config.objective.on,
        improvement,
    )
    return conflicts, improvement
