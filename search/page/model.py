"""The contents of a study's page, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from libmtl_recon import ConflictProfile


@dataclass(frozen=True)
class PageObjective:
    """An objective of the search.

    Attributes:
        name: The name in the configuration: ``delta_m``, ``parameters``, ``TASK.METRIC`` …
        direction: ``maximize`` or ``minimize``.
        unit: The unit of its values, such as ``%``; empty for a plain number.
    """

    name: str
    direction: str
    unit: str


@dataclass(frozen=True)
class PageLimit:
    """A constraint that can be drawn as a line.

    Attributes:
        name: The limited quantity: an objective's name, or ``parameters``.
        value: The bound, in the unit of that quantity on the page.
        text: The constraint in words, such as ``parameters ≤ 1.5 × shared``.
    """

    name: str
    value: float
    text: str


@dataclass(frozen=True)
class PageTrial:
    """A trial: its plan, and its outcome.

    Attributes:
        number: The trial's number in Optuna; None for a baseline.
        plan: The plan in words.
        weighting: The weighting, which determines the colour.
        params: The parameters of the search space: weighting, alpha, select, s, k, flags. A
            parameter that the others rule out, such as α without GradOPS, is absent.
        state: ``finished``, ``ended early``, ``failed``, ``running``, ``cut off`` or ``baseline``.
        reason: The reason why it failed or was ended, in words.
        values: The values by objective; empty unless it finished.
        parameters: The number of parameters of its network, once built.
        curve: The values of :attr:`Page.curve_of` after each epoch.
        per_task: Δ of each task in %, at the best epoch.
        feasible: Whether it satisfies the constraints.
        violated: The violated constraints, in words.
        on_front: Whether no other is at least as good in all objectives and better in one.
        picked: Whether it is the one that the search recommends.
        command: The command that reproduces it.
        again: The trials that chose the same plan, which was not trained again.
        seconds: The duration of the training.
    """

    number: int | None
    plan: str
    weighting: str
    params: Mapping[str, str | float | int]
    state: str
    reason: str
    values: Mapping[str, float]
    parameters: int | None
    curve: tuple[float, ...]
    per_task: Mapping[str, float]
    feasible: bool
    violated: str
    on_front: bool
    picked: bool
    command: str
    again: tuple[int, ...]
    seconds: float | None


@dataclass(frozen=True)
class Page:
    """A study, at its end or while it runs.

    Attributes:
        name: The name of the study.
        script: The script that was trained.
        status: ``running``, ``interrupted`` or ``finished``, in words.
        wanted: The requested number of trials.
        objectives: At least one objective; trials are sorted by the first.
        curve_of: The quantity of the learning curves, in words.
        on: The data on which configurations are compared: ``val`` or ``test``.
        trials: The trials in order of their numbers.
        reference: EW with plain sharing.
        profile: The conflict profile; None if nothing was scored.
        severity: S, a multiple of 0.005 in (-1, 0], which the figure of the conflicts marks.
        settings: Names and values: the sampler, the pruner and why it was chosen, seeds, timeouts.
        table: The rows of the comparison of the best plan with the baselines.
        headings: The columns of the comparison.
        verdict: The result of the comparison, in a sentence.
        command: The command that reproduces the picked trial.
        notes: Notes for the reader: left-out metrics, foreign trials …
        limits: Constraints that are drawn as lines in figures.
        importances: For each objective the share of each parameter, as
            :func:`libmtl_recon_search.page.importances.importances` computes them.
        task_weights: The weights of the tasks in Δm, if they are not all 1.
    """

    name: str
    script: str
    status: str
    wanted: int
    objectives: tuple[PageObjective, ...]
    curve_of: str
    on: str
    trials: tuple[PageTrial, ...]
    reference: PageTrial | None
    profile: ConflictProfile | None
    severity: float
    settings: tuple[tuple[str, str], ...]
    table: tuple[tuple[str, ...], ...] = ()
    headings: tuple[str, ...] = ()
    verdict: str = ""
    command: str = ""
    notes: tuple[str, ...] = ()
    limits: tuple[PageLimit, ...] = ()
    importances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    task_weights: Mapping[str, float] = field(default_factory=dict)
