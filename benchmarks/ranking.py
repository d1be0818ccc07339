"""The stability over several seeds of the ranking of a ResNet18's layers on Multi-Fashion+MNIST.

    python benchmarks/ranking.py --output runs/ranking

Scores the problem `multi_fashion_mnist` once per seed with the command that it prints, and prints
the tables of docs/results/multi_fashion_mnist-ranking.md: each layer's fraction of conflicts and
rank over the seeds, and the distance (Eq. 22) of each ranking to the one that the authors of the
Recon paper published, next to rankings without measurements. It continues where it was stopped.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

from scipy import stats

from libmtl_recon import ConflictProfile
from libmtl_recon.conflicts.baselines import norms_first
from libmtl_recon.conflicts.compare import chance_distance, overlap, ranking_distance
from libmtl_recon.problems.argument_types import whole

S, K = -0.1, 25  # of Appendix B.1
SEVERITIES = (-0.2, -0.1, -0.05, 0.0)
# The list of the authors' program for full width, worst first, after 40 epochs of joint training.
_PUBLISHED = (
    "bn1 layer1.0.bn1 layer1.1.bn1 layer1.0.bn2 layer1.1.bn2 layer2.0.bn1 layer2.1.bn1 conv1 "
    "layer2.0.downsample.1 layer2.0.bn2 layer2.1.bn2 layer1.0.conv1 layer3.0.bn1 layer3.1.bn1 "
    "layer4.1.bn1 layer4.0.bn1 layer3.0.downsample.1 layer3.0.bn2 layer4.1.bn2 layer3.1.bn2 "
    "layer4.0.bn2 layer4.0.downsample.1 layer1.0.conv2 layer1.1.conv1 layer1.1.conv2 "
    "layer2.0.downsample.0 fc layer2.0.conv2 layer2.0.conv1 layer3.0.downsample.0 layer3.0.conv1 "
    "layer3.0.conv2 layer4.0.conv1 layer2.1.conv1 layer2.1.conv2 layer4.1.conv1 layer3.1.conv1 "
    "layer4.0.downsample.0 layer3.1.conv2 layer4.0.conv2 layer4.1.conv2"
)
AUTHORS = _PUBLISHED.split()


def score(output: Path, seed: int, steps: int) -> ConflictProfile:
    """Return the profile of one seed; score it if it does not exist."""
    file = output / f"seed{seed}.json"
    flags = "--weighting EW --epochs 1 --width 16 --bs 256 --optim sgd --lr 0.1 --weight_decay 0"
    arguments = ["score", "--steps", str(steps), "--out", str(file), "multi_fashion_mnist"]
    arguments += [*flags.split(), "--seed", str(seed)]
    if not file.is_file():
        print("libmtl-recon", *arguments, file=sys.stderr)
        subprocess.run(
            [sys.executable, "-m", "libmtl_recon", *arguments], check=True, stdout=sys.stderr
        )
    return ConflictProfile.from_json(file.read_text("utf-8"))


def layer_table(profiles: Sequence[ConflictProfile]) -> str:
    """Return the table of each layer's fraction of conflicting steps and rank, over the seeds."""
    shares = {
        layer.name: [100 * p.scores(S)[layer.name] / p.steps for p in profiles]
        for layer in profiles[0].architecture
    }
    ranks = {
        name: [p.ranking(S).index(name) + 1 for p in profiles] for name in profiles[0].layer_names
    }
    worst_first = sorted(shares, key=lambda name: -statistics.mean(shares[name]))
    lines = ["| layer | type | parameters | share | ranks | authors' rank |"]
    lines += ["|---|---|---:|---:|---:|---:|"]
    about = {layer.name: layer for layer in profiles[0].architecture}
    for name in worst_first:
        layer = about[name]
        lines.append(
            f"| `{name}` | {layer.type} | {layer.parameters:,} | {_spread(shares[name])} % | "
            f"{min(ranks[name])}–{max(ranks[name])} | {AUTHORS.index(name) + 1} |"
        )
    return "\n".join(lines)


def distance_table(profiles: Sequence[ConflictProfile]) -> str:
    """Return the table of distances to the authors' ranking, and of the overlap of worst layers."""
    layers = profiles[0].architecture
    guessed = {
        "batch norms first, then network order": norms_first(layers),
        "fewest parameters first": [x.name for x in sorted(layers, key=lambda x: x.parameters)],
        "network order": [layer.name for layer in layers],
    }
    lines = [f"| ranking | distance to the authors' | of their {K} worst, in the first {K} |"]
    lines += ["|---|---:|---:|"]
    rankings = [p.ranking(S) for p in profiles]
    for number, ranking in enumerate(rankings):
        lines.append(f"| measured, seed {number} | {_to_authors(ranking)} |")
    distances = [ranking_distance(ranking, AUTHORS) for ranking in rankings]
    found = [K * overlap(ranking, AUTHORS, K) for ranking in rankings]
    lines.append(f"| **measured, mean ± sd** | {_spread(distances, 2)} | {_spread(found)} |")
    for title, ranking in guessed.items():
        lines.append(f"| {title} | {_to_authors(ranking)} |")
    chance = f"{chance_distance(len(layers)):.2f} | {K * K / len(layers):.1f}"
    lines.append(f"| random (expected) | {chance} |")
    trivial = ranking_distance(guessed["batch norms first, then network order"], AUTHORS)
    low, high = _interval([trivial - distance for distance in distances])
    between = [ranking_distance(one, other) for one, other in combinations(rankings, 2)]
    norms = [r == "BatchNorm2d" for r in _first_types(profiles, 11)]
    lines += [
        "",
        f"Closer than batch norms first, 95 % interval (Student's t): {low:+.2f} to {high:+.2f}.",
        f"Between two seeds: {_spread(between, 2)}, {min(between):.2f} to {max(between):.2f}.",
        f"Batch norms among the eleven worst of each seed: {sum(norms)} of {len(norms)}.",
    ]
    return "\n".join(lines)


def severity_table(profiles: Sequence[ConflictProfile]) -> str:
    """Return the table of distances to the authors' ranking for other severities."""
    lines = ["| S | distance to the authors' |", "|---:|---:|"]
    for severity in SEVERITIES:
        distances = [ranking_distance(p.ranking(severity), AUTHORS) for p in profiles]
        lines.append(f"| {severity:g} | {_spread(distances, 2)} |")
    return "\n".join(lines)


def _first_types(profiles: Sequence[ConflictProfile], count: int) -> list[str]:
    types = {layer.name: layer.type for layer in profiles[0].architecture}
    return [types[name] for profile in profiles for name in profile.ranking(S)[:count]]


def _to_authors(ranking: Sequence[str]) -> str:
    return f"{ranking_distance(ranking, AUTHORS):.2f} | {K * overlap(ranking, AUTHORS, K):.0f}"


def _spread(values: Sequence[float], digits: int = 1) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _interval(values: Sequence[float]) -> tuple[float, float]:
    error = statistics.stdev(values) / len(values) ** 0.5
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return statistics.mean(values) - reach, statistics.mean(values) + reach


TABLES: tuple[Callable[[Sequence[ConflictProfile]], str], ...] = (
    layer_table,
    distance_table,
    severity_table,
)


def main() -> None:
    """Score the missing seeds, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/ranking"))
    parser.add_argument("--seeds", type=whole(3), default=5)
    parser.add_argument("--steps", type=whole(1), default=300)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    profiles = [score(options.output, seed, options.steps) for seed in range(options.seeds)]
    print("\n\n".join(table(profiles) for table in TABLES))


if __name__ == "__main__":
    main()
