"""Pages of invented studies, of any size."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
from libmtl_recon_search.page.model import Page, PageLimit, PageObjective, PageTrial

from libmtl_recon import ConflictProfile
from libmtl_recon.conflicts.layers import Layer

HOSTILE = "</script><script>window.hit=1</script><img src=x onerror=hit()> $a$ & %{x} ‮"
DELTA = PageObjective("delta_m", "maximize", "%")
OBJECTIVES = (
    DELTA,
    PageObjective("parameters", "minimize", ""),
    PageObjective("step_time", "minimize", "s"),
    PageObjective("depth.abs_err", "minimize", ""),
)
WEIGHTINGS = ("EW", "GradOPS", "RotoGrad")
SHARED = 1_200_000


def a_trial(
    number: int | None, objectives: int, tasks: int, chance: random.Random, **changes: Any
) -> PageTrial:
    """A trial as a search could have made it: alpha, s and select depend on other choices."""
    weighting = chance.choice(WEIGHTINGS)
    k = chance.choice((0, 0, 3, 8, 14, 20))
    params: dict[str, str | float | int] = {"weighting": weighting, "k": k}
    params["lr"] = 10 ** chance.uniform(-4, -1)
    if weighting == "GradOPS":
        params["alpha"] = chance.choice((-2.0, -1.0, 0.0, 1.0))
    if weighting == "RotoGrad":
        params["rotograd_lr"] = 10 ** chance.uniform(-4, -2)
    if k:
        params["s"] = round(-0.005 * chance.randint(0, 40), 3)
        params["select"] = chance.choice(("conflict", "first", "norms"))
    parameters = SHARED + 41_000 * k
    delta = 2.0 * (weighting != "EW") + 1.2 * k**0.4 - 3 * abs(float(params["lr"]) - 0.02) * 10
    per_task = {f"task {i}": delta + chance.gauss(0, 2) for i in range(tasks)}
    delta = sum(per_task.values()) / tasks
    state = (
        "finished"
        if number is None
        else chance.choices(("finished", "ended early", "failed"), (70, 24, 6))[0]
    )
    epochs = {"finished": 40, "ended early": chance.randint(9, 20)}.get(state, 4)
    curve = tuple(
        delta - 60 * 0.7**epoch - 4 * 0.93**epoch + chance.gauss(0, 0.3) for epoch in range(epochs)
    )
    known = (delta, parameters, 0.01 + 0.002 * k + chance.random() / 200, 0.2 - delta / 100)
    values = {one.name: float(known[i]) for i, one in enumerate(OBJECTIVES[:objectives])}
    feasible = parameters <= 1.5 * SHARED
    title = "GradOPS α=" + str(params["alpha"]) if weighting == "GradOPS" else weighting
    split = f"Recon S={params['s']} K={k} by {params['select']}" if k else "HPS"
    trial = PageTrial(
        number=number,
        plan=f"{title}, {split}, lr={params['lr']:.3g}",
        weighting=weighting,
        params=params,
        state=state,
        reason={
            "ended early": "below the median of 9 runs after the epoch",
            "failed": "The loss of task 1 is NaN in step 312. Lower --lr.",
        }.get(state, ""),
        values=values if state == "finished" else {},
        parameters=parameters,
        curve=curve,
        per_task=per_task if state == "finished" else {},
        feasible=feasible,
        violated="" if feasible else f"parameters {parameters / SHARED:.2f} × > 1.5 ×",
        on_front=False,
        picked=False,
        command=f"OMP_NUM_THREADS=1 libmtl-recon run main.py --weighting {weighting} "
        f"--lr {params['lr']:.6g} --arch Recon --recon_k {k} --epochs 40 --seed 0",
        again=(),
        seconds=chance.uniform(50, 200),
    )
    return replace(trial, **changes)


def a_profile(layers: int, tasks: int) -> ConflictProfile:
    """Conflicts that grow towards the head, with names as torchvision's networks have them."""
    chance = np.random.default_rng(0)
    pairs, steps = tasks * (tasks - 1) // 2, 200
    found = []
    for place in range(layers):
        kind = ("Conv2d", "BatchNorm2d")[place % 2]
        kind_of = "conv" if place % 2 == 0 else "bn"
        name = f"encoder.layer{1 + place // 12}.{place // 4 % 3}.{kind_of}{place % 4}"
        found.append(Layer(f"{name}.{place}", kind, ((64, 64, 3, 3),)))
    counts = np.zeros((1, layers, 400), np.int64)
    for place in range(layers):
        cosines = chance.normal(0.25 - 0.3 * place / layers, 0.12, steps * pairs).clip(
            -0.999, 0.999
        )
        counts[0, place] = np.histogram(cosines, bins=400, range=(-1, 1))[0]
    undefined = steps * pairs - counts.sum(axis=2)
    names = tuple(f"task {i}" for i in range(tasks))
    return ConflictProfile(tuple(found), names, counts, undefined, np.array([steps]))


def a_front(trials: list[PageTrial], objectives: tuple[PageObjective, ...]) -> list[PageTrial]:
    """The same with the front and the picked trial marked."""
    signs = [1 if one.direction == "minimize" else -1 for one in objectives]
    fit = [t for t in trials if t.values and t.feasible]
    costs = {
        t.number: [sign * t.values[one.name] for sign, one in zip(signs, objectives, strict=True)]
        for t in fit
    }
    front = {
        mine
        for mine, cost in costs.items()
        if not any(
            all(o <= c for o, c in zip(other, cost, strict=True)) and other != cost
            for other in costs.values()
        )
    }
    best = min(costs, key=lambda n: costs[n][0], default=None)
    return [
        replace(t, on_front=t.number in front, picked=t.number == best and t in fit) for t in trials
    ]


def a_page(
    trials: int = 30, objectives: int = 1, tasks: int = 3, layers: int = 30, **changes: Any
) -> Page:
    """A study with so many trials; keywords replace what the page shows."""
    chance = random.Random(1)
    chosen = OBJECTIVES[:objectives]
    made = [a_trial(number, objectives, tasks, chance) for number in range(trials)]
    made = a_front(made, chosen)
    plain = {"weighting": "EW", "plan": "EW, HPS", "state": "baseline", "parameters": SHARED}
    reference = a_trial(None, objectives, tasks, random.Random(3), **plain)
    if "parameters" in reference.values:
        reference = replace(reference, values={**reference.values, "parameters": float(SHARED)})
    names = dict.fromkeys(name for trial in made for name in trial.params)
    shares = {name: 0.5 / (place + 1) for place, name in enumerate(names)}
    picked = next((trial for trial in made if trial.picked), None)
    page = Page(
        name="digits",
        script="main.py",
        status="finished" if trials else "running",
        wanted=max(trials, 30),
        objectives=chosen,
        curve_of="Δm on val data, %",
        on="val",
        trials=tuple(made),
        reference=reference if trials else None,
        profile=a_profile(layers, tasks) if layers else None,
        severity=-0.1,
        settings=(
            ("sampler", "TPESampler(n_startup_trials=12, multivariate=True)"),
            (
                "pruner",
                "MedianPruner: the regret study found it no worse at two thirds of the cost",
            ),
            ("seed", "0"),
            ("epochs", "40"),
            ("constraints", "parameters ≤ 1.5 × the shared network"),
            ("timeout", "3600 s per run"),
        ),
        headings=("", "digit Acc", "parity Acc", "Δm val %", "Δm test %", "parameters"),
        table=(
            ("single-task", "0.9432", "0.9711", "–", "–", "2,400,000"),
            ("EW, plain sharing", "0.9471", "0.9702", "+0.31 ± 0.12", "+0.22 ± 0.20", "1,200,000"),
            ("best", "0.9583", "0.9745", "+1.92 ± 0.20", "+1.71 ± 0.31", "1,528,000"),
        )
        if picked
        else (),
        verdict="On held-out test data the best is above EW with plain sharing: Δm differs by "
        "+1.49 ± 0.28 points, and is higher in 3 of 3 seeds."
        if picked
        else "",
        command=picked.command if picked else "",
        notes=("Metric pixAcc of task 2 was left out: it was NaN in 3 runs.",) if trials else (),
        limits=(PageLimit("parameters", 1.5 * SHARED, "parameters ≤ 1.5 × shared"),),
        importances={one.name: shares for one in chosen} if trials >= 10 else {},
    )
    return replace(page, **changes)
