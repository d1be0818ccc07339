"""The contents of a study's page, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from libmtl_recon import ConflictProfile


@dataclass(frozen=True)
class PageObjective:
    """An objective of the search.

    Attributes:
        name: As in the configuration: ``delta_m``, ``parameters``, ``TASK.METRIC`` …
        direction: ``maximize`` or ``minimize``.
        unit: Of its values, such as ``%``; empty for a plain number.
    """

    name: str
    direction: str
    unit: str


@dataclass(frozen=True)
class PageLimit:
    """A constraint that can be drawn as a line.

    Attributes:
        name: What is limited: an objective's name, or ``parameters``.
        value: The bound, in the unit in which that quantity is given on the page.
        text: The constraint in words, such as ``parameters ≤ 1.5 × shared``.
    """

    name: str
    value: float
    text: str


@dataclass(frozen=True)
class PageTrial:
    """A trial: its plan, and its outcome.

    Attributes:
        number: Optuna's; None for a baseline.
        plan: What was trained, in words.
        weighting: By which it is coloured.
        params: Of the search space: weighting, alpha, select, s, k, flags. One that the others
            rule out, such as α without GradOPS, is absent.
        state: ``finished``, ``ended early``, ``failed``, ``running``, ``cut off`` or ``baseline``.
        reason: Why it failed or was ended, in words.
        values: By objective; empty unless it finished.
        parameters: Of its network, once built.
        curve: Of :attr:`Page.curve_of`, after each epoch.
        per_task: Δ of each task in %, at the best epoch.
        feasible: Whether it keeps the constraints.
        violated: Which it does not keep, in words.
        on_front: Whether no other is at least as good in all objectives and better in one.
        picked: Whether it is the one that the search recommends.
        command: Reproduces it.
        again: The trials that chose the same plan, which was not trained again.
        seconds: How long it ran.
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
        name: The study's.
        script: That was trained.
        status: ``running``, ``interrupted`` or ``finished``, in words.
        wanted: How many trials are to be made.
        objectives: At least one; the first is the one by which trials are sorted.
        curve_of: What the learning curves show, in words.
        on: The data on which configurations are compared: ``val`` or ``test``.
        trials: In the order of their numbers.
        reference: EW with plain sharing.
        profile: Measured conflicts; None if nothing was scored.
        severity: S, a multiple of 0.005 in (-1, 0], that the picture of the conflicts marks.
        settings: Names and values: the sampler, the pruner and why it was chosen, seeds, timeouts.
        table: Rows of the comparison of the best with the baselines.
        headings: Their columns.
        verdict: What the comparison comes to, in a sentence.
        command: Reproduces the picked trial.
        notes: Sentences on what the reader should know: left-out metrics, foreign trials …
        limits: Constraints that are lines in figures.
        importances: For each objective the share of each parameter, as
            :func:`libmtl_recon_search.page.importances.importances` computes them.
        task_weights: Of the mean over tasks that Δm is, where they are not all 1.
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
