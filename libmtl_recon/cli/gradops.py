"""``libmtl-recon gradops``: show the steps of GradOPS from its log."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from libmtl_recon.cli.command import add_command

if TYPE_CHECKING:
    from libmtl_recon.weighting.gradops_log import GradOPSLog

_DESCRIPTION = """\
Analyse runs of --weighting GradOPS that were logged with --gradops_log FILE.
"""
_EPILOG = """\
a session:
  libmtl-recon run main.py --weighting GradOPS --gradops_log plain.csv
  libmtl-recon run main.py --weighting GradOPS --gradops_alpha=-3 --gradops_log minus3.csv
  libmtl-recon gradops plot plain.csv minus3.csv
"""
_PLOT_DESCRIPTION = """\
Plot logs written by --gradops_log against the training steps, and print their means:

  weight w             factor of the task's deconflicted gradient (Eq. 5 of the GradOPS paper);
                       1 on average over the tasks, always 1 for alpha = 0
  relative speed r     how far the plain sum of the deconflicted gradients moves along the task's
                       own gradient (Eq. 4): above 1 for dominating tasks, below 1 for dominated
                       tasks; alpha < 0 favours the latter
  pairs in conflict    share of pairs of tasks whose gradients have a negative dot product

One log gives one line per task. Several logs of the same tasks, e.g. with different alphas, give
one column per task and one line per run (Figure 6 of the paper). Logs of runs that are still
training can be plotted.
"""
_PLOT_EPILOG = """\
examples:
  libmtl-recon gradops plot run.csv
  libmtl-recon gradops plot minus3.csv plain.csv plus3.csv --out alphas.svg --smooth 200
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands, "gradops", "plot the logs of GradOPS runs", _DESCRIPTION, _EPILOG
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    plot = add_command(
        actions,
        "plot",
        "plot weights, speeds and conflicts of one or several runs",
        _PLOT_DESCRIPTION,
        _PLOT_EPILOG,
    )
    plot.add_argument("logs", metavar="LOG", nargs="+", help="a .csv file written by --gradops_log")
    plot.add_argument(
        "--out",
        metavar="FILE",
        default="gradops.png",
        help="the picture, as .png, .svg or .pdf (default: %(default)s)",
    )
    plot.add_argument(
        "--smooth",
        type=int,
        metavar="N",
        help="plot running means over N steps; 1 plots each step (default: a fiftieth of the run)",
    )
    plot.set_defaults(handle=_plot)


def _plot(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import say
    from libmtl_recon.errors import UsageError
    from libmtl_recon.pictures import check_picture
    from libmtl_recon.weighting.gradops_log import read_log
    from libmtl_recon.weighting.gradops_plot import draw_logs

    check_picture("--out", options.out)
    if options.smooth is not None and options.smooth < 1:
        raise UsageError(
            "--smooth",
            "must be a whole number from 1 up",
            options.smooth,
            "Use 1 to plot each step.",
        )
    logs = [read_log(file) for file in options.logs]
    draw_logs(logs, options.out, names=options.logs, smooth=options.smooth)
    _print_means(options.logs, logs)
    say(f"Drawn in {options.out}.")
    return 0


def _print_means(files: Sequence[str], logs: Sequence[GradOPSLog]) -> None:
    from libmtl_recon.cli.tables import make_table, show_table
    from libmtl_recon.consoles import make_console

    console = make_console()
    columns = [f"{letter} {task}" for letter in "wr" for task in logs[0].tasks]
    headings = ["log", "alpha", "steps", *columns, "conflicts"]
    table = make_table(console, *headings, right=tuple(headings[1:]))
    for file, log in zip(files, logs, strict=True):
        alpha = "static" if math.isnan(log.alpha) else f"{log.alpha:g}"
        means = log.means()
        numbers = [_shown(mean) for mean in (*means.factors, *means.speeds)]
        rate = _shown(100.0 * means.conflict_rate, digits=0)
        table.add_row(file, alpha, str(len(log.steps)), *numbers, f"{rate} %" if rate else "")
    show_table(console, table)


def _shown(value: float, digits: int = 2) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"
