"""A search from its configuration to its report."""

from __future__ import annotations

from pathlib import Path

from libmtl_recon import ConflictProfile, draw_profile
from search.config import Config
from search.folder import SearchFolder
from search.plots import draw_improvement
from search.process import Runner
from search.progress import Display
from search.report import Report, Spread, command_line, plan_row, single_task_row
from search.session import Session
from search.space import REFERENCE, check_space
from search.study import Study


def run_search(config: Config, out: str | Path) -> Report:
    """Run a search, or go on with one.

    Single-task baselines, EW and the conflict scores are made first; then an Optuna study trains
    plans and compares them on validation data; at the end the best is trained again with fresh
    seeds and compared with EW on the test data.

    Args:
        config: What to search.
        out: The folder in which everything is kept. If it holds an earlier session of the same
            search, that is continued.

    Returns:
        The report, which is also written to the folder.

    Raises:
        ReconError: A baseline or several trials failed, or the folder cannot be used.
    """
    folder = SearchFolder(Path(out))
    with folder.opened(config), Display() as display:
        runner = Runner(config.threads)
        session = Session(config, folder, runner, display)
        try:
            profile = session.prepare()
            check_space(config, profile)
            study = _search(session, profile)
            report = _compare(session, study, profile)
        finally:
            runner.stop()
    report.save(folder.path)
    return report


def _search(session: Session, profile: ConflictProfile) -> Study:
    study = Study(session.folder.study, session.config, profile, session.train)
    study.know(REFERENCE, session.finished(REFERENCE).val)
    with session.display.phase("trials", session.config.trials) as phase:
        phase.skip(study.finished)
        study.optimize(phase, session.runner.stop)
    return study


def _compare(session: Session, study: Study, profile: ConflictProfile) -> Report:
    config, folder = session.config, session.folder
    best = study.best()
    searched = {plan: session.finished(plan) for plan in (REFERENCE, best)}
    seeds = config.confirm or [config.seed]
    session.train_baselines(seeds)
    plans = list(dict.fromkeys((REFERENCE, best)))
    fresh = dict(zip(plans, session.outcomes(plans, seeds), strict=True))
    rows = (
        single_task_row([session.baseline(seed) for seed in seeds]),
        plan_row("EW, plain sharing", searched[REFERENCE], fresh[REFERENCE]),
        plan_row(f"best: {best.title}", searched[best], fresh[best]),
    )
    gain = [ours.test - ew.test for ours, ew in zip(fresh[best], fresh[REFERENCE], strict=True)]
    conflicts, improvement = folder.path / "conflicts.png", folder.path / "improvement.png"
    draw_profile(profile, conflicts, best.S if best.S is not None else -0.1)
    dots = {plan: session.dot(plan) for plan in (*study.plans(), REFERENCE, best)}
    draw_improvement(
        list(dots.values()),
        dots[REFERENCE],
        dots[best],
        session.baseline(seeds[0]).parameters,
        config.on,
        improvement,
    )
    return Report(
        rows,
        best,
        Spread.of(gain),
        tuple(seeds),
        config.on,
        command_line(config.script, session.arguments(best, config.seed)),
        (conflicts, improvement),
    )
