"""The tables of the Recon study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from recon_study_results import SHOWN, K, Results, S, Training
from scipy import stats

from libmtl_recon import ConflictProfile
from libmtl_recon.conflicts.baselines import norms_first
from libmtl_recon.conflicts.compare import chance_distance, overlap, ranking_distance
from libmtl_recon.conflicts.stages import stages_of
from libmtl_recon.texts import markdown


def write_report(folder: Path, settings: dict[str, Any], trainings: Sequence[Training]) -> str:
    """Write report.md on these trainings, and on the theorem if it was tested, and return it."""
    results = Results(trainings)
    parts = [
        f"Width {settings['width']}, batches of {settings['bs']}, SGD {settings['lr']}, "
        f"{settings['epochs']} epochs of {settings['train_size']:,} images, learning rate "
        f"{settings['gamma']:g} times as large after {settings['step_size']}.",
        _rankings([t for t in trainings if t.steps]),
    ]
    if results.methods:
        parts += [_improvement(results), _against(results), _conflicts(results)]
    if len({(t.k, t.s) for t in results.doses}) > 1:
        parts.append(_dose(results))
    theorem = folder / "theorem.json"
    if theorem.is_file():
        parts.append(_theorem(json.loads(theorem.read_text("utf-8"))))
    text = "\n\n".join(part for part in parts if part) + "\n"
    (folder / "report.md").write_text(text, "utf-8")
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown(head, rows))


def _mean(values: Sequence[float]) -> str:
    """Return the mean and the standard deviation over seeds."""
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):+.2f}{spread}"


def _rankings(scored: Sequence[Training]) -> str:
    least = min(t.steps for t in scored if t.steps)
    profiles = {(t.pair, t.weighting, t.seed): t.profile for t in scored if t.steps == least}
    base = profiles.pop(("digit+article", "EW", 0))
    if base is None:
        return ""
    others = {
        f"{weighting}, {pair}, seed {seed}": profile.ranking(S)
        for (pair, weighting, seed), profile in profiles.items()
        if profile is not None
    }
    others["norms first, then network order"] = norms_first(base.architecture)
    others["network order"] = list(base.layer_names)
    reference = base.ranking(S)
    count = len(reference)
    rows = [
        [name, f"{ranking_distance(reference, other):.2f}", f"{overlap(reference, other, K):.0%}"]
        for name, other in others.items()
    ]
    rows.append(["by chance", f"{chance_distance(count):.2f}", f"{K / count:.0%}"])
    head = ["ranking", "distance to EW, seed 0", f"of its {K} worst"]
    halves = [_halves(t.profile) for t in scored if t.profile and t.steps != least]
    return f"## Rankings at S = {S:g}, {base.steps} steps\n\n{_table(head, rows)}\n\n" + "\n".join(
        halves
    )


def _halves(profile: ConflictProfile) -> str:
    """Return the distances of a training's halves from each other and the trivial ranking."""
    halves = [half.ranking(S) for half in stages_of(profile, 2)]
    trivial = norms_first(profile.architecture)
    first, second = (ranking_distance(half, trivial) for half in halves)
    return (
        f"The two halves of {profile.steps:,} steps (EW, seed 0): distance "
        f"{ranking_distance(*halves):.2f}, {overlap(*halves, K):.0%} of the {K} worst the same. "
        f"From norms first: {first:.2f} and {second:.2f}."
    )


def _improvement(results: Results) -> str:
    rows = []
    for select in results.selections:
        own = [t for t in results.methods if t.select == select]
        cells = [
            _mean([results.gain(t) for t in results.pick(weighting, select)])
            for weighting in results.weightings
        ]
        size = f"{np.mean([t.parameters for t in own]):,.0f}"
        rows.append(
            [SHOWN[select], size, *cells, f"{np.mean([results.gain(t) for t in own]):+.2f}"]
        )
    head = ["layers", "parameters", *results.weightings, "mean"]
    return (
        f"## Δm over single-task training (%), test data, {len(results.seeds)} seeds, K = {K}, "
        f"S = {S:g}\n\n{_table(head, rows)}"
    )


def _against(results: Results) -> str:
    """Compare Recon with every other choice, by weighting and seed."""
    rows = []
    for other in results.selections:
        found = results.paired("conflict", other)
        if other == "conflict" or not found.size:
            continue
        by_seed = found.mean(axis=0)
        cells = [
            _interval(by_seed),
            _interval(found.mean(axis=1)),
            f"{(found > 0).sum()} of {found.size}",
        ]
        rows.append([SHOWN[other], *cells, *(f"{row.mean():+.2f}" for row in found)])
    head = ["Recon above", "over seeds", "over weightings", "higher in", *results.weightings]
    return (
        ""
        if not rows
        else "## Recon's Δm above that of others (points; 95 % intervals by Student's t)"
        f"\n\n{_table(head, rows)}"
    )


def _interval(values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    """Return the mean and its 95 % interval (Student's t)."""
    mean = f"{values.mean():+.2f}"
    if len(values) < 2:
        return mean
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return f"{mean} ({low:+.2f} to {high:+.2f})"


def _conflicts(results: Results) -> str:
    """Compare conflicts before and after, in the layers that each choice keeps shared."""
    edges = (-0.02, -0.1)
    head = [f"{what}, < {below}" for what in ("layers kept", "whole") for below in edges]
    rows = []
    for select in results.selections:
        every = []
        for weighting in results.weightings:
            own = results.pick(weighting, select)
            if own:
                by_layer = [results.before_and_after(weighting, select, b).mean(0) for b in edges]
                whole = [np.mean([t.severe(b) for t in own]) for b in edges]
                every.append([*by_layer, *whole])
                rows.append([f"{SHOWN[select]}, {weighting}", *_changes(every[-1])])
        if every:
            means = [np.mean([line[i] for line in every], axis=0) for i in range(len(head))]
            rows.append([f"**{SHOWN[select]}, mean**", *_changes(means)])
    return (
        "## Severe conflicts in what stays shared (% of steps; means over the seeds)\n\n"
        "Layers kept: layer by layer, in those that this choice keeps shared, with all layers "
        "shared → with this choice. Whole: the gradient of all that is shared, with this choice."
        "\n\n" + _table(["choice, weighting", *head], rows)
    )


def _changes(line: Sequence[Any]) -> list[str]:
    """Return a pair as before → after, and a single number unchanged."""
    return [" → ".join(f"{value:.1f}" for value in np.atleast_1d(cell)) for cell in line]


def _dose(results: Results) -> str:
    groups: dict[tuple[float, int], list[Training]] = {}
    for training in results.doses:
        groups.setdefault((training.s, training.k), []).append(training)
    rows = [["0", "", _mean([results.gain(t) for t in results.pick("EW", "none")]), ""]]
    for (s, k), found in sorted(groups.items()):
        size = f"{np.mean([t.parameters for t in found]):,.0f}"
        rows.append([str(k), f"{s:g}", _mean([results.gain(t) for t in found]), size])
    return "## K and S, with EW\n\n" + _table(["K", "S", "Δm (%)", "parameters"], rows)


def _theorem(found: Sequence[dict[str, float]]) -> str:
    rows = []
    for rate in sorted({one["rate"] for one in found}, reverse=True):
        own = [one for one in found if one["rate"] == rate]
        lower = sum(one["difference"] < 0 for one in own)
        ratios = [one["difference"] / one["predicted"] for one in own]
        rows.append(
            [
                f"{rate:g}",
                f"{lower} of {len(own)}",
                f"{np.mean([one['difference'] for one in own]):.3g}",
                f"{np.mean(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f})",
            ]
        )
    condition = 100 * float(np.mean([one["condition"] for one in found]))
    head = ["learning rate", "split is lower", "mean difference", "difference / first order"]
    return (
        "## Theorem 4.1: the summed loss after one step, split minus plain\n\n"
        + _table(head, rows)
        + f"\n\nEq. 6 held in {condition:.0f} % of the split layers."
    )
