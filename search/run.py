"""A search from its configuration to its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from uuid import uuid4

from libmtl_recon_search.backends import Backend, Shared, in_folder
from libmtl_recon_search.callbacks import Callback, make_callbacks
from libmtl_recon_search.choosing import Chooser
from libmtl_recon_search.config import Config
from libmtl_recon_search.database.address import Address
from libmtl_recon_search.folder import SearchFolder
from libmtl_recon_search.front import near_best, violation
from libmtl_recon_search.paging import ABOUT, END, about, end_of, placed, write_page
from libmtl_recon_search.plots import Dot, draw_improvement
from libmtl_recon_search.process import Interrupted, Runner
from libmtl_recon_search.progress import Display
from libmtl_recon_search.quiet import optuna_quiet
from libmtl_recon_search.ranking import best_trials, dots
from libmtl_recon_search.report import (
    Finalist,
    Report,
    Spread,
    command_line,
    front_rows,
    plan_row,
    single_task_row,
)
from libmtl_recon_search.samplers import said_of_pruner
from libmtl_recon_search.session import Session
from libmtl_recon_search.study import Study
from libmtl_recon_search.study_store import name_objectives
from libmtl_recon_search.trials import trial_lines
from libmtl_recon_search.trouble import explained

from libmtl_recon import ConflictProfile, draw_profile


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        report: The comparison of the best trial with EW.
        study: The study with the trials.
        session: The session with the runs.
        profile: The network's conflict profile; None if none was needed.
        url: The URL of the study's storage for Optuna.
    """

    report: Report
    study: Study
    session: Session
    profile: ConflictProfile | None
    url: str


def run(
    config: Config,
    out: str | Path | None,
    asked_to_stop: Callable[[], bool] = lambda: False,
    storage: Shared | str | None = None,
) -> Found:
    """Run a search, or continue one.

    First, single-task baselines, EW and the conflict scores are computed. Then an Optuna study
    trains plans and compares them on validation data. The best few are trained again with further
    seeds, and one of them is chosen. Finally it is compared with EW on the test data, with new
    seeds.

    Args:
        config: The configuration.
        out: The folder of all files. If it contains an earlier session of the same search, that is
            continued. With a database it is the folder of this worker alone, and may be None; the
            files are then temporary.
        asked_to_stop: A function that returns whether to end the search; called repeatedly while
            runs are in progress. A signal handler should set it, since an exception that it raises
            may occur anywhere.
        storage: A database through which workers on any machines share one search, or its URL.

    Returns:
        The result; the reports are also written to the folder.

    Raises:
        ReconError: A baseline or the first trials failed, or the folder or the database cannot be
            used.
        UsageError: The configuration does not fit the script, or the earlier session.
        KeyboardInterrupt: It was asked to stop.
    """
    with ExitStack() as stack:
        stack.enter_context(optuna_quiet())
        if out is None:
            out = stack.enter_context(TemporaryDirectory(prefix="libmtl-recon-"))
        # A script may change the working folder.
        folder = SearchFolder(Path(out))
        if Path(config.script).is_file():
            config = config.model_copy(update={"script": str(Path(config.script).absolute())})
        config = config.model_copy(update={"name": config.name or folder.path.name})
        display = stack.enter_context(Display())
        stack.enter_context(explained(folder.path))
        stack.enter_context(folder.opened(config, display.line))
        runner = Runner(
            config.threads,
            config.timeout.run,
            display.line,
            asked_to_stop,
            config.launch.nproc_per_node,
        )
        if storage is None:
            opened = in_folder(config, folder, runner, display.line)
        else:
            shared = Shared(Address.parse(storage)) if isinstance(storage, str) else storage
            opened = shared.opened(config, folder, runner, display.line, asked_to_stop)
        backend = stack.enter_context(opened)
        session = Session(config, folder, backend.runner, display)
        try:
            return _searched(session, backend, asked_to_stop)
        except Interrupted:
            raise KeyboardInterrupt from None


def _searched(session: Session, backend: Backend, asked_to_stop: Callable[[], bool]) -> Found:
    callbacks = make_callbacks(session.config, session.display.line)
    profile = session.prepare()
    study = _study(session, backend, asked_to_stop, callbacks)
    _optimize(session, study)
    finalists = _finalists(session, study)
    pictures = _draw(session, study, finalists[0], profile)
    report = _compare(session, study, finalists, pictures)
    report.save(session.folder.path)
    store = study.store.study
    store.set_user_attr(END, end_of(report, placed(session, report.best)))
    write_page(store, session.folder.path, session.config.name, profile)
    study.close()
    return Found(report, study, session, profile, backend.url)


def _study(
    session: Session,
    backend: Backend,
    asked_to_stop: Callable[[], bool],
    callbacks: Sequence[Callback],
) -> Study:
    config, say = session.config, session.display.line

    def check() -> None:
        if asked_to_stop():
            raise Interrupted

    store = backend.open_study(session.judge.directions)
    # Several processes that choose at the same time should not choose the same plan.
    worker = f" {uuid4().hex}" if store.shared else ""
    study = Study(
        store,
        config,
        Chooser(config, session.space, session.judge, session.epochs, worker),
        session.train,
        say,
        check,
        callbacks,
    )
    study.know(session.reference, session.trained(session.reference))
    store.study.set_user_attr(ABOUT, about(session))
    store.study.set_user_attr(END, None)
    name_objectives(store.study, session.judge.names)
    return study


def _optimize(session: Session, study: Study) -> None:
    config = session.config
    session.display.line(f"Ended early: {said_of_pruner(config, session.epochs)}.")
    with session.display.phase("trials", config.trials) as phase:
        study.optimize(phase, session.runner.stop, config.timeout.study)
    failed = len(study.board.failures)
    if failed:
        session.display.line(
            f"{failed} of {study.finished} trials failed. They are not repeated; with a higher "
            "--trials, further trials are trained."
        )


def _finalists(session: Session, study: Study) -> list[Finalist]:
    """Train the best trials with several seeds, and return them, best first."""
    config, judge = session.config, session.judge
    objective = config.pick.best or judge.names[0]
    trials = best_trials(study, config, judge)
    if violation(trials[0]) > 0:
        session.note(
            "no trial satisfies the constraints; the best is the one that violates them least."
        )
    plans = [study.plan(trial) for trial in trials]
    values = {plan: [session.searched(plan).values[objective]] for plan in plans}
    if len(plans) > 1 and config.finalists.seeds:
        further = session.outcomes(
            plans, config.finalists.seeds, "the best trials with further seeds"
        )
        for plan, outcomes in zip(plans, further, strict=True):
            values[plan] += [outcome.values[objective] for outcome in outcomes]
    costs = {plan: judge.cost(objective, fmean(own)) for plan, own in values.items()}
    order = sorted(plans, key=costs.__getitem__)
    near = near_best(order, costs.__getitem__, config.pick.within)
    # Of those within `pick.within` of the best, the one with the fewest parameters.
    chosen = min(near, key=lambda plan: session.searched(plan).parameters)
    order.remove(chosen)
    return [Finalist(plan, Spread.of(values[plan])) for plan in (chosen, *order)]


def _compare(
    session: Session, study: Study, finalists: list[Finalist], pictures: tuple[Path, ...]
) -> Report:
    """Train the best trial and EW with new seeds, and report."""
    config, best, reference = session.config, finalists[0].plan, session.reference
    plans = list(dict.fromkeys((reference, best)))
    outcomes = session.outcomes(plans, config.confirm, "the best trial and EW with new seeds")
    fresh = dict(zip(plans, outcomes, strict=True))
    gain = [ours.test - ew.test for ours, ew in zip(fresh[best], fresh[reference], strict=True)]
    return Report(
        rows=(
            single_task_row([session.baseline(seed) for seed in config.confirm]),
            plan_row("EW, plain sharing", fresh[reference]),
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
        failed=len(study.board.failures),
        lines=tuple(trial_lines(study.trials, study.plan)),
        chosen_by=config.pick.best or session.judge.names[0],
        front=front_rows(study, session.judge),
        notes=tuple(session.notes),
    )


def _draw(
    session: Session, study: Study, best: Finalist, profile: ConflictProfile | None
) -> tuple[Path, ...]:
    folder, plan = session.folder.path, best.plan
    conflicts, improvement = folder / "conflicts.png", folder / "improvement.png"
    drawn = []
    if profile is not None:
        # The layers that the best plan splits are dark.
        severity = -0.1 if plan.S is None else plan.S
        draw_profile(profile, conflicts, severity, len(plan.layers) or None)
        drawn.append(conflicts)
    reference = session.reached_by_reference
    picked = session.searched(plan, held_out=False)
    draw_improvement(
        dots(study),
        Dot("EW", reference.parameters, reference.val),
        Dot(plan.weighting, picked.parameters, picked.val),
        session.baseline(session.config.seed).parameters,
        session.config.objective.on,
        improvement,
    )
    return (*drawn, improvement)
