"""Write the page of a study from its trials and its folder, at any time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from libmtl_recon_search.board import AGAIN, FAILED, SAME_AS, SURPLUS, outcome_of, repeats
from libmtl_recon_search.choosing import ARGUMENTS, PLAN, PROFILE
from libmtl_recon_search.curves import curve_of
from libmtl_recon_search.front import front_names, pareto_front, violation
from libmtl_recon_search.judge import COSTS, Outcome, said
from libmtl_recon_search.page.html import write_html
from libmtl_recon_search.page.importances import importances
from libmtl_recon_search.page.model import Page, PageLimit, PageObjective, PageTrial
from libmtl_recon_search.plan import Plan
from libmtl_recon_search.report import Report, command_line
from optuna.trial import FrozenTrial, TrialState

from libmtl_recon import ConflictProfile, ReconError
from libmtl_recon.files import write_atomically
from libmtl_recon.texts import markdown

if TYPE_CHECKING:
    from libmtl_recon_search.session import Session

ABOUT, END = "about", "end"
"""Attributes of a study that its trials lack, and how the search ended, if it has."""
_REFERENCE = -1  # in place of a trial's number
_UNITS = {"delta_m": "%", "worst_task": "%", "memory": "MiB", "step_time": "ms"}
_SCALES = {"memory": 2.0**-20, "step_time": 1000.0}
_STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "ended early"}


def about(session: Session) -> dict[str, Any]:
    """Return the data of a report that is not in the trials, as JSON."""
    config, judge = session.config, session.judge
    limits = config.constraints
    return {
        "script": config.script,
        "trials": config.trials,
        "objectives": [[name, judge.direction(name)] for name in judge.names],
        "lead": judge.lead,
        "on": config.objective.on,
        "reference": {
            "plan": session.reference.title,
            "arguments": placed(session, session.reference),
            **_kept(session.reached_by_reference),
            "violations": dict(session.trained(session.reference).violations),
        },
        "each_task": None if limits.each_task is None else limits.each_task.not_below,
        "at_most": {
            name: limit.at_most for name in COSTS if (limit := getattr(limits, name)) is not None
        },
        "weights": dict(config.metrics.weights),
        "settings": session.settings(),
        "notes": session.notes,
        "threads": config.threads,
        "ranks": config.launch.nproc_per_node,
    }


def end_of(report: Report, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the data for the end of a search on a page, as JSON.

    Args:
        report: The report of the search.
        arguments: The script's command line for the best plan.
    """
    return {
        "best": report.best.title,
        "arguments": list(arguments),
        "headings": report.headings,
        "cells": report.cells,
        "verdict": report.verdict,
        "notes": list(report.notes),
    }


def write_page(
    study: optuna.Study,
    folder: Path,
    name: str,
    profile: ConflictProfile | None,
) -> list[Path]:
    """Write ``report.html``, and ``report.md`` if there is no finished report to keep.

    Args:
        study: The study, in any state.
        folder: The folder of the files.
        name: The name of the search.
        profile: The network's conflict profile, if there is one yet.

    Returns:
        The paths of the files.

    Raises:
        ReconError: The study does not belong to a search, or has no trial yet.
    """
    page = make_page(study, folder, name, profile)
    files = [folder / "report.html"]
    write_html(page, files[0])
    if not page.verdict:
        files.append(folder / "report.md")
        write_atomically(files[1], "\n".join(_unfinished(page)))
    return files


def make_page(
    study: optuna.Study,
    folder: Path,
    name: str,
    profile: ConflictProfile | None,
) -> Page:
    """Return the contents of the page; see :func:`write_page`."""
    known = study.user_attrs.get(ABOUT)
    if known is None:
        raise ReconError(
            f"The search {name!r} has no trials yet: it is training its baselines, or was never "
            "started. Try again later."
        )
    objectives = tuple(
        PageObjective(one, direction, _UNITS.get(one, "")) for one, direction in known["objectives"]
    )
    every = [t for t in study.get_trials(deepcopy=False) if PLAN in t.user_attrs]
    trials = [t for t in every if SURPLUS not in t.user_attrs and not repeats(t)]
    superseded = {trial.user_attrs.get(AGAIN) for trial in trials}
    trials = [trial for trial in trials if trial.number not in superseded]
    again: dict[Any, list[int]] = {}
    for trial in every:
        if repeats(trial):
            again.setdefault(trial.user_attrs[SAME_AS], []).append(trial.number)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    points = {t.number: list(t.values) for t in complete}
    directions = [objective.direction for objective in objectives]
    kept = known["reference"]
    points[_REFERENCE] = [kept["values"][name] for name, _ in known["objectives"]]
    known_of = {trial.number: outcome_of(trial) for trial in complete}
    names = [objective.name for objective in objectives]
    for name in front_names(names):
        if name not in names:
            directions.append("maximize" if name == "delta_m" else "minimize")
            for number, point in points.items():
                point.append({**known_of, _REFERENCE: kept}[number].get(name, math.nan))
    keeping = {trial.number: points[trial.number] for trial in complete if not violation(trial)}
    if not any(by > 0 for by in kept["violations"].values()):
        keeping[_REFERENCE] = points[_REFERENCE]
    front = set(pareto_front(keeping, directions))
    end: Mapping[str, Any] = study.user_attrs.get(END) or {}
    picked = end.get("best")
    made = _Maker(known, folder, front, picked)
    running = any(trial.state == TrialState.RUNNING for trial in trials)
    finished = len(complete) + sum(trial.state == TrialState.PRUNED for trial in trials)
    status = "finished" if end else "running" if running else "not finished"
    reference = made.reference(known["reference"], tuple(again.get("a baseline", ())))
    best = next((one for one in trials if one.user_attrs[PLAN] == picked), None)
    return Page(
        name=name,
        script=known["script"],
        status=f"{status}, {finished} of {known['trials']} trials",
        wanted=known["trials"],
        objectives=objectives,
        curve_of=said_of(known["lead"]),
        on=known["on"],
        trials=tuple(made.trial(t, tuple(again.get(t.number, ()))) for t in trials),
        reference=reference,
        profile=profile,
        severity=-0.1 if best is None else best.params.get("s", -0.1),
        settings=tuple((key, value) for key, value in known["settings"]),
        table=tuple(map(tuple, end.get("cells", ()))),
        headings=tuple(end.get("headings", ())),
        verdict=end.get("verdict", ""),
        command=made.command(end.get("arguments", ())) if end else "",
        notes=tuple(end.get("notes", known["notes"])),
        limits=tuple(_limits(known)),
        importances=importances(complete, objectives),
        task_weights={k: v for k, v in known["weights"].items() if k in reference.per_task},
    )


def said_of(name: str) -> str:
    """Return an objective in words, with its unit."""
    title = {"delta_m": "Δm", "worst_task": "worst task"}.get(name, name)
    unit = _UNITS.get(name)
    return f"{title}, {unit}" if unit else title


class _Maker:
    """Factory of the page's trials."""

    def __init__(
        self, known: Mapping[str, Any], folder: Path, front: set[int], picked: str | None
    ) -> None:
        self._known, self._folder, self._front, self._picked = known, folder, front, picked
        self._names = [name for name, _ in known["objectives"]]

    def trial(self, trial: FrozenTrial, again: tuple[int, ...]) -> PageTrial:
        kept, attributes = outcome_of(trial), trial.user_attrs
        failed = attributes.get(FAILED, "")
        state = "failed" if failed else _STATES.get(trial.state, "cut off")
        if trial.state == TrialState.RUNNING:
            state = "running"
        values: dict[str, float] = {}
        if trial.state == TrialState.COMPLETE:
            values = {
                name: value * _SCALES.get(name, 1.0)
                for name, value in zip(self._names, trial.values, strict=True)
            }
        broken = _broken(trial.constraints)
        parameters = kept.get("parameters")
        return PageTrial(
            number=trial.number,
            plan=attributes[PLAN],
            weighting=str(trial.params.get("weighting", "")),
            params=dict(trial.params),
            state=state,
            reason=failed,
            values=values,
            parameters=None if parameters is None else int(parameters),
            curve=tuple(value for _, value in curve_of(trial).items()),
            per_task=dict(kept.get("per_task", {})),
            feasible=violation(trial) == 0,
            violated=", ".join(broken),
            on_front=trial.number in self._front,
            picked=self._picked == attributes[PLAN],
            command=self.command(attributes.get(ARGUMENTS, [])),
            again=again,
            seconds=None if trial.duration is None else trial.duration.total_seconds(),
        )

    def reference(self, kept: Mapping[str, Any], again: tuple[int, ...]) -> PageTrial:
        return PageTrial(
            number=None,
            plan=kept["plan"],
            weighting="EW",
            params={"weighting": "EW"},
            state="baseline",
            reason="",
            values={n: v * _SCALES.get(n, 1.0) for n, v in kept["values"].items()},
            parameters=int(kept["parameters"]),
            curve=(),
            per_task=dict(kept["per_task"]),
            feasible=not _broken(kept["violations"]),
            violated=", ".join(_broken(kept["violations"])),
            on_front=_REFERENCE in self._front,
            picked=self._picked == kept["plan"],
            command=self.command(kept["arguments"]),
            again=again,
            seconds=None,
        )

    def command(self, arguments: Sequence[str]) -> str:
        profile = str(self._folder.absolute() / "profile.json")
        line = [profile if part == PROFILE else part for part in arguments]
        known = self._known
        return command_line(known["script"], line, known["threads"], known["ranks"])


def placed(session: Session, plan: Plan) -> list[str]:
    """Return the script's command line for a plan, without this worker's path of the profile."""
    line = session.arguments(plan, session.config.seed)
    return [PROFILE if part == session.space.network.file else part for part in line]


def _broken(constraints: Mapping[str, float]) -> list[str]:
    """Return the violated constraints in words."""
    return [f"{key} by {by:.3g}" for key, by in constraints.items() if by > 0]


def _kept(outcome: Outcome) -> dict[str, Any]:
    return {
        "values": dict(outcome.values),
        "delta_m": outcome.val,
        "per_task": dict(outcome.per_task),
        **outcome.costs,
    }


def _limits(known: Mapping[str, Any]) -> list[PageLimit]:
    found = []
    for name, most in known["at_most"].items():
        base = known["reference"].get(name)
        if base is not None:
            scale = _SCALES.get(name, 1.0)
            found.append(PageLimit(name, most * base * scale, f"{name} ≤ {most:g} × shared"))
    return found


def _unfinished(page: Page) -> list[str]:
    """Return the lines of a Markdown report of a search that has not ended."""
    names = [objective.name for objective in page.objectives]

    def cells(trial: PageTrial) -> list[str]:
        number = "–" if trial.number is None else str(trial.number)
        values = ", ".join(_said(name, trial.values[name]) for name in names if trial.values)
        return [number, trial.plan, values or "–", trial.state]

    rows = [*([page.reference] if page.reference else []), *page.trials]
    headings = ["trial", "plan", "result", "ended"]
    return [
        *(f"# Search {page.name}", "", f"The search has not finished: {page.status}.", ""),
        *markdown(headings, [cells(trial) for trial in rows], left=(1, 2, 3)),
        *(
            "",
            "On the Pareto front so far: "
            + ", ".join(str(trial.number) for trial in page.trials if trial.on_front),
            "",
        ),
    ]


def _said(name: str, value: float) -> str:
    return said(name, value / _SCALES.get(name, 1.0))
