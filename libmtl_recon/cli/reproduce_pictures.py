"""``libmtl-recon reproduce projections``, ``directions`` and ``landscape``: nothing is trained."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from libmtl_recon.cli.command import add_command
from libmtl_recon.cli.parsing import numbers

if TYPE_CHECKING:
    from libmtl_recon.reproduction.updates import Update

# The paper draws its example, and does not print its gradients. For these, all that it says of its
# example is true.
_IN_SPACE = "-2,-2,2; -1,1.5,0; 1,-0.5,0"
_IN_PLANE = "-1,0.5; 2,1"
_PROJECTIONS = """\
Draw three task gradients in space, and the updates that GD, PCGrad in two orders of the tasks, and
GradOPS make of them: Figure 1 of the GradOPS paper. The table shows with which of the gradients
each update conflicts, i.e. has a negative dot product, so that a step raises that task's loss.

The paper draws its example and does not print its gradients. With the default here, each sentence
of its caption holds: GD conflicts with g3, PCGrad with g2 in the order 1, 2, 3 and with g3 in the
order 3, 2, 1, GradOPS with none, and g'1 is orthogonal to g2 and g3.
"""
_DIRECTIONS = """\
Draw two task gradients in the plane, and the updates that GD, MGDA, IMTL-G, PCGrad and GradOPS with
several exponents alpha make of them, at half their length: Figure 3 of the GradOPS paper.
"""
_LANDSCAPE = """\
Draw the two losses of the built-in problem toy2d and their mean as surfaces, and their contours:
Figures 4 and 5 of the GradOPS paper. Its Figure 2, the paths of the methods on these losses, is
drawn by `libmtl-recon run toy2d`. Parameters are ten times those of the paper, as in CAGrad's.
"""


def add_actions(actions: Any) -> None:
    """Add the actions to those of ``libmtl-recon reproduce``."""
    projections = add_command(
        actions,
        "projections",
        "three gradients and four updates in space: Figure 1 of GradOPS",
        _PROJECTIONS,
        "example:\n  libmtl-recon reproduce projections --gradients='-1,0,1; 0,-1,1; 1,1,0'\n",
    )
    _add_gradients(projections, "3 numbers", _IN_SPACE)
    _add_out(projections, "projections.png")
    projections.set_defaults(handle=_projections)

    directions = add_command(
        actions,
        "directions",
        "two gradients and the updates of five methods: Figure 3 of GradOPS",
        _DIRECTIONS,
        "example:\n  libmtl-recon reproduce directions --gradients='-1,0.1; 1,1' --alphas=-3,0\n",
    )
    _add_gradients(directions, "2 numbers", _IN_PLANE)
    directions.add_argument(
        "--alphas",
        type=numbers,
        default=[-5.0, -2.0, 0.0, 2.0],
        metavar="A,A,...",
        help="exponents of GradOPS (write --alphas=...; default: -5,-2,0,2)",
    )
    _add_out(directions, "directions.png")
    directions.set_defaults(handle=_directions)

    landscape = add_command(
        actions,
        "landscape",
        "the loss surfaces of toy2d: Figures 4 and 5 of GradOPS",
        _LANDSCAPE,
        "example:\n  libmtl-recon reproduce landscape --out surfaces.pdf\n",
    )
    _add_out(landscape, "landscape.png")
    landscape.set_defaults(handle=_landscape)


def _vectors(text: str) -> list[list[float]]:
    return [numbers(part) for part in text.split(";")]


def _add_gradients(parser: argparse.ArgumentParser, each: str, default: str) -> None:
    parser.add_argument(
        "--gradients",
        type=_vectors,
        default=default,
        metavar="G",
        help=f"the tasks' gradients, {each} each, separated by semicolons (write "
        f"--gradients='...'; default: {default})",
    )


def _add_out(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--out",
        metavar="FILE",
        default=default,
        help="the picture, as .png, .svg or .pdf (default: %(default)s)",
    )


def _projections(options: argparse.Namespace) -> int:
    from libmtl_recon.errors import naming
    from libmtl_recon.pictures import check_picture
    from libmtl_recon.reproduction.updates import check_gradients, three_tasks
    from libmtl_recon.reproduction.updates_picture import draw_in_space

    check_picture("--out", options.out)
    with naming(gradients="--gradients"):
        gradients = check_gradients(options.gradients, 3)
    updates = three_tasks(gradients)
    draw_in_space(gradients, updates, options.out)
    _show(updates, gradients, options.out)
    return 0


def _directions(options: argparse.Namespace) -> int:
    from libmtl_recon.errors import naming
    from libmtl_recon.pictures import check_picture
    from libmtl_recon.reproduction.updates import check_gradients, two_tasks
    from libmtl_recon.reproduction.updates_picture import draw_in_plane
    from libmtl_recon.weighting.gradops import check_alpha

    check_picture("--out", options.out)
    for alpha in options.alphas:
        check_alpha("--alphas", alpha)
    with naming(gradients="--gradients"):
        gradients = check_gradients(options.gradients, 2)
    updates = two_tasks(gradients, list(dict.fromkeys(options.alphas)))
    draw_in_plane(gradients, updates, options.out)
    _show(updates, gradients, options.out)
    return 0


def _landscape(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import say
    from libmtl_recon.pictures import check_picture
    from libmtl_recon.problems.toy2d_surfaces import draw_surfaces, landscape

    check_picture("--out", options.out)
    draw_surfaces(options.out)
    for task, (x, y) in enumerate(landscape()[2], start=1):
        say(f"The loss of task {task} is lowest at ({x:.2f}, {y:.2f}).")
    say(f"Drawn in {options.out}.")
    return 0


def _show(updates: Sequence[Update], gradients: Any, file: str) -> None:
    from libmtl_recon.cli.tables import make_table, say, show_table
    from libmtl_recon.consoles import make_console

    console = make_console()
    products = [f"with g{task + 1}" for task in range(len(gradients))]
    say("Updates, and their dot products with the tasks' gradients:")
    table = make_table(
        console, "method", "update", *products, "conflicts with", right=tuple(products)
    )
    for one in updates:
        against = ", ".join(f"g{task + 1}" for task in one.conflicts) or "none"
        values = [_number(float(gradient @ one.update)) for gradient in gradients]
        shown = ", ".join(_number(float(value)) for value in one.update)
        table.add_row(one.method, f"({shown})", *values, against)
    show_table(console, table)
    say(f"Drawn in {file}.")


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"
