"""Two losses in the plane: the picture of the GradOPS paper's Figure 2.

    libmtl-recon run toy2d

GD, MGDA, CAGrad, IMTL-G, PCGrad and GradOPS with several exponents α start at three points of
CAGrad's illustrative landscape and follow Adam. Two deep valleys, one per task, lie between two of
the starts and the Pareto front; a method that only adds the gradients stays in them. A path bounces
between the walls of a valley, so the point where it leaves is random: each start is repeated with
small displacements, to separate the effect of a method from chance.

There is no network and no LibMTL Trainer here, only the updates: with two tasks each of them has a
closed form, so that all paths are followed together, in float64. Along GradOPS's paths the closed
form is compared with `gradops_weights`, which is what trains networks.

Prints where each path ends and what became of the paper's claims, and draws the paths; about half
a minute on a CPU.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from libmtl_recon import ReconError, gradops_weights
from libmtl_recon.pictures import check_picture
from libmtl_recon.problems import toy2d_methods
from libmtl_recon.problems.argument_types import exponent, positive, whole
from libmtl_recon.problems.toy2d_landscape import Array, front, gradients
from libmtl_recon.problems.toy2d_picture import draw

OTHERS = {
    "GD": toy2d_methods.gd,
    "MGDA": toy2d_methods.mgda,
    "CAGrad": toy2d_methods.cagrad,
    "IMTL-G": toy2d_methods.imtl_g,
    "PCGrad": toy2d_methods.pcgrad,
}
ALPHAS = (-5.0, -2.0, -1.0, 0.0, 2.0)
# The paper's (Appendix B), in the coordinates of CAGrad's landscape, which are ten times its own.
STARTS = ((-8.5, 7.5), (-8.5, -3.0), (9.0, 9.0))
NAMES = ("top left", "bottom left", "top right")
# Number of points of a path that are kept; every CHECKED-th of them is checked again.
KEPT, CHECKED = 700, 4
# Largest displacement of a repeated start.
DISPLACED = 0.1
# Largest distance from the front that counts as arrived; the front is 14 long.
NEAR = 0.1


@dataclass(frozen=True)
class Paths:
    """The paths of each method.

    Attributes:
        methods: Their names, M of them.
        points: ``[M, starts, repeats, kept, 2]``; the first repeat is not displaced.
        ends: ``[M, starts, repeats, 2]``, the last points.
        arrived: ``[M, starts, repeats]``, whether they are at the front.
    """

    methods: tuple[str, ...]
    points: Array
    ends: Array
    arrived: NDArray[np.bool_]

    def at_front(self, method: str) -> list[int]:
        """Return how many repeats of each start reached the front."""
        counts: list[int] = self.arrived[self.methods.index(method)].sum(axis=1).tolist()
        return counts

    def place(self, method: str, start: int) -> float:
        """Return the mean position on the front where a method ends, x in -7 to 7, or NaN."""
        row = self.methods.index(method)
        found = self.ends[row, start, self.arrived[row, start], 0]
        return float(found.mean()) if len(found) else math.nan

    def spread(self, method: str, start: int) -> float:
        """Return the standard deviation of that place over the repeats; NaN for fewer than two."""
        row = self.methods.index(method)
        found = self.ends[row, start, self.arrived[row, start], 0]
        return float(found.std(ddof=1)) if len(found) > 1 else math.nan


def title(alpha: float) -> str:
    """Return the name of GradOPS in the picture."""
    return f"GradOPS α={alpha:g}"


def follow(
    alphas: Sequence[float],
    steps: int,
    lr: float,
    repeats: int,
    *,
    console: Console | None = None,
) -> Paths:
    """Follow all paths at once.

    Args:
        alphas: GradOPS's exponents.
        steps: Number of steps of Adam.
        lr: Adam's learning rate.
        repeats: Paths from each start, all but the first displaced.
        console: Where to show the progress; nowhere by default.

    Raises:
        ReconError: GradOPS's closed form for two tasks differs from `gradops_weights`.
    """
    names = (*OTHERS, *map(title, alphas))
    moves = np.random.default_rng(0).uniform(-DISPLACED, DISPLACED, (len(STARTS), repeats, 2))
    moves[:, 0] = 0.0
    starts = (np.array(STARTS)[:, None] + moves).reshape(-1, 2)
    shape = len(names), len(STARTS), repeats
    place = np.tile(starts, (len(names), 1))
    exponents = np.repeat(np.array(alphas), len(starts))
    mean, square = np.zeros_like(place), np.zeros_like(place)
    every, kept = max(1, steps // KEPT), [place]
    rounds = range(1, steps + 1)
    text = f"{len(place)} paths"
    for step in rounds if console is None else track(rounds, text, console=console):
        task = gradients(place)
        gradient = (_weights(task, exponents)[:, None] @ task)[:, 0]
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        size = np.sqrt(square / (1 - 0.999**step)) + 1e-8
        place = place - lr * mean / (1 - 0.9**step) / size  # Adam
        if step % every == 0 or step == steps:
            kept.append(place)
    points = np.stack(kept, axis=1).reshape(*shape, -1, 2)
    for alpha, path in zip(alphas, points[len(OTHERS) :, :, 0], strict=True):
        compare(alpha, path[:, ::CHECKED].reshape(-1, 2))
    ends = points[..., -1, :]
    distances = np.linalg.norm(ends[..., None, :] - front(2801), axis=-1).min(axis=-1)
    return Paths(names, points, ends, distances < NEAR)


def _weights(task: Array, exponents: Array) -> Array:
    """Return the weights of the gradients ``[N, 2, 2]`` at all methods' points, by method."""
    gramian = task @ task.transpose(0, 2, 1)
    each = (len(task) - len(exponents)) // len(OTHERS)
    parts = np.split(gramian, [each * (place + 1) for place in range(len(OTHERS))])
    others = [weigh(part) for weigh, part in zip(OTHERS.values(), parts, strict=False)]
    return np.concatenate([*others, toy2d_methods.gradops(parts[-1], exponents)])


def compare(alpha: float, points: Array) -> None:
    """Compare GradOPS's closed form with `gradops_weights` at these points ``[N, 2]``.

    Raises:
        ReconError: They differ.
    """
    task = gradients(points)
    gramian = task @ task.transpose(0, 2, 1)
    # On the front itself gradops_weights calls the gradients opposite; up to rounding they are.
    apart = np.linalg.det(gramian) > 1e-11 * gramian[:, 0, 0] * gramian[:, 1, 1]
    weights = toy2d_methods.gradops(gramian[apart], alpha)
    for point, rows, found in zip(points[apart], task[apart], weights, strict=True):
        update = found @ rows
        expected = gradops_weights(torch.from_numpy(rows @ rows.T), alpha).numpy() @ rows
        if not np.allclose(update, expected, rtol=1e-7, atol=1e-9 * np.linalg.norm(rows)):
            raise ReconError(
                f"At {point.tolist()}, with α = {alpha:g}, the update of the picture is "
                f"{update.tolist()}, but that of gradops_weights is {expected.tolist()}. This is a "
                "defect of libmtl-recon: please report it."
            )


def claims(paths: Paths, alphas: Sequence[float]) -> list[str]:
    """Return the paper's claims about its Figure 2, each with a verdict."""
    stuck = [name for name, count in zip(NAMES, paths.at_front("GD"), strict=True) if count == 0]
    lines = [f"GD gets stuck from two starts: {said(len(stuck) == 2)} ({listed(stuck)})."]
    repeats = paths.arrived.shape[-1]
    missed = [
        f"{repeats - count} of {repeats} with α={alpha:g} from {name}"
        for alpha in alphas
        for name, count in zip(NAMES, paths.at_front(title(alpha)), strict=True)
        if count < repeats
    ]
    lines.append(
        f"GradOPS reaches the front from all three starts, for every α: {said(not missed)}"
        f"{f' (not {listed(missed)})' if missed else ''}."
    )
    right = len(STARTS) - 1
    for alpha, expected in ((-2.0, "IMTL-G"), (-5.0, "MGDA")):
        if alpha not in alphas:
            continue
        own = paths.place(title(alpha), right)
        apart = {other: abs(own - paths.place(other, right)) for other in OTHERS}
        known = {other: gap for other, gap in apart.items() if not math.isnan(gap)}
        nearest = min(known, key=lambda other: known[other], default="none")
        lines.append(
            f"From {NAMES[right]}, no other method ends nearer to α={alpha:g} than {expected}: "
            f"{said(nearest == expected)} ({expected} is {apart[expected]:.2f} away"
            f"{'' if nearest in ('none', expected) else f', {nearest} {apart[nearest]:.2f}'}; "
            "the front is 14 long)."
        )
    return lines


def said(verdict: bool) -> str:
    """Return a verdict in words."""
    return "true" if verdict else "not true"


def listed(words: Sequence[str]) -> str:
    """Return the words joined with commas, or "none"."""
    return ", ".join(words) or "none"


def table(paths: Paths) -> str:
    """Return a Markdown table of the ends of each method's paths."""
    lines = ["| method | " + " | ".join(NAMES) + " |", "|---|" + "---:|" * len(NAMES)]
    repeats = paths.arrived.shape[-1]
    for row, method in enumerate(paths.methods):
        cells = []
        for start, count in enumerate(paths.at_front(method)):
            cell = f"{paths.place(method, start):.2f}"
            if count > 1:
                cell += f" ± {paths.spread(method, start):.2f}"
            if count == 0:
                x, y = paths.ends[row, start].mean(axis=0).tolist()
                cell = f"stuck near ({x:.1f}, {y:.1f})"
            elif count < repeats:
                cell += f" ({count} of {repeats})"
            cells.append(cell)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse_args() -> argparse.Namespace:
    """Read the command line; LibMTL's flags have no meaning here."""
    parser = argparse.ArgumentParser(
        prog="toy2d", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--alphas",
        type=exponent,
        nargs="+",
        default=ALPHAS,
        metavar="A",
        help="exponents of GradOPS (default: -5 -2 -1 0 2)",
    )
    parser.add_argument(
        "--steps", type=whole(1), default=70_000, help="steps of Adam (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats",
        type=whole(1),
        default=8,
        help="paths from each start, all but the first slightly displaced (default: %(default)s)",
    )
    parser.add_argument(
        "--lr", type=positive, default=1e-3, help="Adam's learning rate (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        default="toy2d.png",
        metavar="FILE",
        help="the picture, as .png, .svg or .pdf (default: %(default)s)",
    )
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    """Follow the paths, print what they show, and draw them."""
    check_picture("--output", options.output)
    alphas = tuple(dict.fromkeys(options.alphas))
    console = Console(stderr=True)
    paths = follow(alphas, options.steps, options.lr, options.repeats, console=console)
    print(f"Where on the front, x from -7 to 7, the {options.repeats} paths from each start end:\n")
    print(table(paths))
    print()
    for claim in claims(paths, alphas):
        print(f"- {claim}")
    draw(paths.methods, paths.points, NEAR, options.output)
    print(f"\nDrawn in {options.output}.")


if __name__ == "__main__":
    main(parse_args())
