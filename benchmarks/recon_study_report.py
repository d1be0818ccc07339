"""The tables of the Recon study."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libmtl_recon import ConflictProfile
from libmtl_recon.conflict.comparing import (
    chance_distance,
    norms_first,
    overlap,
    ranking_distance,
)

S, K = -0.1, 25
SHOWN = {
    "none": "all shared",
    "conflict": "Recon",
    "norms_first": "norms first",
    "random": "RSL",
    "random_params": "RSP",
    "first": "FSK",
    "last": "LSK",
}
Record = dict[str, Any]


def write_report(folder: Path, settings: dict[str, Any]) -> str:
    """Write report.md from all results that are there; returns it."""
    files = sorted((folder / "runs").glob("*.json"))
    records = [json.loads(file.read_text("utf-8")) for file in files]
    scored = [r for r in records if r["steps"] is not None]
    trained = [r for r in records if r["steps"] is None]
    parts = [
        f"Width {settings['width']}, batches of {settings['bs']}, SGD {settings['lr']}, "
        f"{settings['epochs']} epochs of {settings['train_size']:,} images.",
        _rankings(scored),
    ]
    if any(r["task"] for r in trained):
        parts += [_improvement(trained), _conflicts(trained), _dose(trained)]
    theorem = folder / "theorem.json"
    if theorem.is_file():
        parts.append(_theorem(json.loads(theorem.read_text("utf-8"))))
    text = "\n\n".join(part for part in parts if part) + "\n"
    (folder / "report.md").write_text(text, "utf-8")
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _profile(record: Record) -> ConflictProfile:
    return ConflictProfile.from_json(json.dumps(record["profile"]))


def _half(profile: ConflictProfile, second: bool) -> ConflictProfile:
    """The first or the second half of a profile's steps."""
    before = np.cumsum(profile.block_steps) <= profile.steps / 2
    chosen = ~before if second else before
    return ConflictProfile(
        profile.architecture,
        profile.tasks,
        profile.counts[chosen],
        profile.undefined[chosen],
        profile.block_steps[chosen],
    )


def _rankings(records: Sequence[Record]) -> str:
    by_key = {(r["pair"], r["weighting"], r["seed"]): _profile(r) for r in records}
    base = by_key[("digit+article", "EW", 0)]
    others = {
        "its first half of steps": _half(base, second=False).ranking(S),
        "its second half": _half(base, second=True).ranking(S),
    }
    for (pair, weighting, seed), profile in by_key.items():
        if profile.steps and (pair, weighting, seed) != ("digit+article", "EW", 0):
            others[f"{weighting}, {pair}, seed {seed}"] = profile.ranking(S)
    reference = base.ranking(S)
    halves = ranking_distance(*(others[name] for name in list(others)[:2]))
    others["norms first, then network order"] = norms_first(base.architecture)
    others["network order"] = list(base.layer_names)
    count = len(reference)
    rows = [
        [name, f"{ranking_distance(reference, other):.2f}", f"{overlap(reference, other, K):.0%}"]
        for name, other in others.items()
    ]
    rows.append(["by chance", f"{chance_distance(count):.2f}", f"{K / count:.0%}"])
    head = ["ranking", "distance to EW, seed 0", f"of its {K} worst"]
    return (
        f"## Rankings at S = {S:g}, {base.steps} steps\n\n{_table(head, rows)}\n\n"
        f"Between the two halves: {halves:.2f}."
    )


def _test_accuracy(record: Record) -> dict[str, float]:
    """At the epoch with the best mean validation accuracy."""
    by_mode: dict[str, list[dict[str, float]]] = {"train": [], "val": [], "test": []}
    for one in record["passes"]:
        by_mode[one["mode"]].append(one["accuracy"])
    best = int(np.argmax([np.mean(list(acc.values())) for acc in by_mode["val"]]))
    return by_mode["test"][best]


class Gains:
    """Δm of trainings over single-task training of the same seed, in percent."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._alone: dict[tuple[int, str], float] = {
            (r["seed"], r["task"]): _test_accuracy(r)[r["task"]] for r in records if r["task"]
        }

    def of(self, record: Record) -> float:
        """One training's."""
        accuracy = _test_accuracy(record)
        alone = {task: self._alone[record["seed"], task] for task in accuracy}
        return 100 * float(np.mean([accuracy[t] / alone[t] - 1 for t in accuracy]))

    def shown(self, records: Sequence[Record]) -> str:
        """The mean over seeds, and the standard deviation."""
        values = [self.of(record) for record in records]
        if not values:
            return ""
        spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        return f"{np.mean(values):+.2f}{spread}"


def _methods(records: Sequence[Record]) -> list[Record]:
    return [r for r in records if not r["task"] and r["k"] == K and r["s"] == S]


def _weightings(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(r["weighting"] for r in records))


def _pick(records: Sequence[Record], weighting: str, select: str) -> list[Record]:
    return [r for r in records if (r["weighting"], r["select"]) == (weighting, select)]


def _improvement(records: Sequence[Record]) -> str:
    gains, own = Gains(records), _methods(records)
    weightings = _weightings(own)
    rows = []
    for select, title in SHOWN.items():
        sizes = [r["parameters"] for r in own if r["select"] == select]
        if not sizes:
            continue
        cells = [gains.shown(_pick(own, w, select)) for w in weightings]
        every = [gains.of(r) for r in own if r["select"] == select]
        rows.append([title, f"{np.mean(sizes):,.0f}", *cells, f"{np.mean(every):+.2f}"])
    seeds = len({r["seed"] for r in own})
    head = ["layers", "parameters", *weightings, "mean"]
    return (
        f"## Δm over single-task training (%), test data, {seeds} seeds, K = {K}, S = {S:g}\n\n"
        + _table(head, rows)
    )


def _share(record: Record, below: float, layers: Sequence[str] | None) -> float:
    """The percentage of steps (and layers) whose cosine is below a number."""
    profile = _profile(record)
    edge = round((below + 1) * 200)
    if layers is None:
        whole = profile.whole.sum(axis=0) if profile.whole is not None else np.zeros(401)
        return 100 * float(whole[:edge].sum() / max(whole[:-1].sum(), 1))
    rows = [profile.layer_names.index(name) for name in layers if name in profile.layer_names]
    counts = profile.histogram[rows]
    return 100 * float(counts[:, :edge].sum() / max(counts.sum(), 1))


def _conflicts(records: Sequence[Record]) -> str:
    own = _methods(records)
    if not any(r["select"] != "none" for r in own):
        return ""
    recon = _pick(own, "EW", "conflict")
    kept = list(_profile(recon[0]).layer_names) if recon else []
    columns: dict[str, Callable[[Record], float]] = {
        "whole, < -0.02": lambda r: _share(r, -0.02, None),
        "whole, < -0.1": lambda r: _share(r, -0.1, None),
        "layers Recon keeps, < -0.02": lambda r: _share(r, -0.02, kept),
        "layers Recon keeps, < -0.1": lambda r: _share(r, -0.1, kept),
    }
    rows = []
    for weighting in _weightings(own):
        for select, title in SHOWN.items():
            found = _pick(own, weighting, select)
            if not found:
                continue
            cells = [f"{np.mean([column(r) for r in found]):.2f}" for column in columns.values()]
            rows.append([f"{weighting}, {title}", *cells])
    return (
        "## Severe conflicts in what stays shared (% of steps; means over the seeds)\n\n"
        + _table(["training", *columns], rows)
    )


def _dose(records: Sequence[Record]) -> str:
    gains = Gains(records)
    own = [r for r in records if not r["task"] and r["weighting"] == "EW"]
    groups: dict[tuple[int, float], list[Record]] = {}
    for record in own:
        if record["select"] == "conflict":
            groups.setdefault((record["k"], record["s"]), []).append(record)
    if len(groups) < 2:
        return ""
    rows = [["0", "", gains.shown(_pick(own, "EW", "none")), ""]]
    for (k, s), found in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0])):
        size = f"{np.mean([r['parameters'] for r in found]):,.0f}"
        rows.append([str(k), f"{s:g}", gains.shown(found), size])
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
