"""``libmtl-recon reproduce``: the figures and tables of the two papers, on any script."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from libmtl_recon.cli import reproduce_pictures, reproduce_runs
from libmtl_recon.cli.command import add_command, add_script
from libmtl_recon.cli.parsing import Parser, add_edges, numbers
from libmtl_recon.problems.argument_types import whole

_DESCRIPTION = """\
Draw the figures and print the tables of the GradOPS and Recon papers: on the papers' illustrations,
or on any LibMTL script.
"""
_EPILOG = """\
which command draws which figure or table:
  GradOPS   Figure 1             projections
            Figure 2             libmtl-recon run toy2d
            Figure 3             directions
            Figures 4, 5         landscape
            Figure 6             libmtl-recon gradops plot
  Recon     Figures 1, 5-7       cosines
            Figures 4, 8-10      cosines --k K
            Tables 6, 8-10       the same
            Figure 3             dose
            Table 12             stages
            Table 13             stages --k K --train

Trainings are child processes. What has been trained is kept in --out, for all these commands: the
same command resumes where it stopped, and another one reuses what it needs.
"""
_RUNS = """
Flags of libmtl-recon come before SCRIPT, those of the script after it. The command itself gives
the script --weighting, --seed and, for splits, --arch Recon; after SCRIPT, --arch names another
architecture of LibMTL whose shared layers are split.
"""
_COSINES = """\
Train a script once per weighting, and count the cosines of each pair of task gradients in each
step: Figures 1 and 5 to 7 of the Recon paper. With --k, each weighting is also trained with the K
layers that conflict most split (Recon), and the first one with other choices (--select): Figures 4
and 8 to 10. The table has the shares of cosines in intervals: Tables 6 and 8 to 10.
"""
_STAGES = """\
Divide the steps of a training into stages, and compare the rankings of layers found in each by the
distance of Eq. 22: Table 12 of the Recon paper. A conflict profile that exists (--profile) needs no
training. With --k and --train, also train the network split by each stage's layers: Table 13.
"""
_DOSE = """\
Train a script with Recon for several numbers K of layers at one severity S, and for several S with
one K, with each of several seeds, and compare the performance: Figure 3 of the Recon paper.
"""

_seed = whole(0, 2**32 - 1)  # what NumPy takes


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands, "reproduce", "the papers' figures and tables", _DESCRIPTION, _EPILOG
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    reproduce_pictures.add_actions(actions)
    _add_cosines(actions)
    _add_stages(actions)
    _add_dose(actions)


def _add_cosines(actions: Any) -> None:
    parser = add_command(
        actions,
        "cosines",
        "distributions of cosines: Figures 1, 4-10 and Tables 6, 8-10 of Recon",
        _COSINES + _RUNS,
        "examples:\n"
        "  libmtl-recon reproduce cosines --weightings EW,CAGrad,PCGrad multidigits\n"
        "  libmtl-recon reproduce cosines --weightings 'EW,MGDA,GradDrop --rep_grad' --k 25 \\\n"
        "      --select conflict,random,random_params main.py --epochs 40\n",
    )
    parser.add_argument(
        "--weightings",
        type=reproduce_runs.weightings,
        default="EW,CAGrad,PCGrad",
        metavar="W,W,...",
        help="weightings, each followed by flags for it alone, if any; reductions are relative to "
        "the first, whose training also gives the layers to split (default: %(default)s)",
    )
    parser.add_argument("--k", type=int, metavar="K", help="also train with K layers split")
    parser.add_argument(
        "--select",
        type=_words,
        metavar="WAY,WAY,...",
        help="how they are chosen, as in --recon_select: conflict for Recon, random for RSL, "
        "random_params for RSP (default: conflict)",
    )
    add_edges(parser)
    _add_severity(parser)
    _add_profile(parser, "take the layers to split from it")
    _add_common(parser, reproduce_runs.cosines)


def _add_stages(actions: Any) -> None:
    parser = add_command(
        actions,
        "stages",
        "layers found in stages of a training: Tables 12 and 13 of Recon",
        _STAGES + _RUNS,
        "examples:\n"
        "  libmtl-recon reproduce stages multidigits --epochs 5\n"
        "  libmtl-recon reproduce stages --profile 3f2a          no script, no training\n"
        "  libmtl-recon reproduce stages --k 5 --train multidigits --epochs 5\n",
    )
    parser.add_argument(
        "--stages",
        type=int,
        default=4,
        metavar="N",
        help="number of stages of nearly equal length (default: %(default)s)",
    )
    parser.add_argument("--k", type=int, metavar="K", help="the number of layers to split")
    parser.add_argument(
        "--train", action="store_true", help="train the network split by each stage's layers"
    )
    _add_severity(parser)
    _add_profile(parser, "divide its steps, and train nothing unless --train is given")
    _add_weighting(parser)
    _add_baseline(parser)
    _add_common(parser, reproduce_runs.stages, optional=True)


def _add_dose(actions: Any) -> None:
    parser = add_command(
        actions,
        "dose",
        "performance against K and against S: Figure 3 of Recon",
        _DOSE + _RUNS,
        "examples:\n"
        "  libmtl-recon reproduce dose --ks 2,5,9 --ss=-0.2,-0.1,0 multidigits --epochs 5\n"
        "  libmtl-recon reproduce dose --weighting CAGrad --ks 5,10,15,20,25,30 --seeds 0,1,2 \\\n"
        "      multi_fashion_mnist\n",
    )
    parser.add_argument(
        "--ks",
        type=_counts,
        required=True,
        metavar="K,K,...",
        help="numbers of layers to split, at the severity --s; all layers shared is added",
    )
    parser.add_argument(
        "--ss",
        type=numbers,
        default=[],
        metavar="S,S,...",
        help="severities, at --k layers (write --ss=...; default: none)",
    )
    parser.add_argument(
        "--k",
        type=int,
        metavar="K",
        help="the number of layers for --ss (default: the middle one of --ks)",
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=[0, 1, 2],
        metavar="N,N,...",
        help="seeds (default: 0,1,2)",
    )
    _add_severity(parser)
    _add_profile(parser, "take the layers from it; without it, all tasks are trained and scored")
    _add_weighting(parser)
    _add_baseline(parser)
    _add_common(parser, reproduce_runs.dose, seed=False)


def _add_severity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--s", type=float, default=-0.1, metavar="S", help="severity (default: %(default)s)"
    )


def _add_profile(parser: argparse.ArgumentParser, use: str) -> None:
    parser.add_argument(
        "--profile", metavar="PROFILE", help=f"the ID of a conflict profile, or its file: {use}"
    )


def _add_weighting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weighting",
        type=reproduce_runs.weighting,
        default="EW",
        metavar="W",
        help="weighting of the compared trainings, followed by flags for it alone, if any; the "
        "scored training has EW (default: %(default)s)",
    )


def _add_baseline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--baseline",
        choices=("single", "shared"),
        default="single",
        help="what Delta_m is relative to: networks trained for a single task each, or, with "
        "fewer trainings, the network with all layers shared (default: %(default)s)",
    )


def _add_common(
    parser: Parser,
    handle: Callable[[argparse.Namespace], int],
    *,
    seed: bool = True,
    optional: bool = False,
) -> None:
    if seed:
        parser.add_argument(
            "--seed",
            type=_seed,
            default=0,
            metavar="N",
            help="seed of all trainings (default: %(default)s)",
        )
    parser.add_argument(
        "--score-every",
        type=whole(1),
        default=1,
        metavar="N",
        help="count the conflicts of each N-th training step (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="the folder of trainings, tables and pictures (default: runs/reproduce/NAME, with "
        "the script's name)",
    )
    parser.add_argument(
        "--workers",
        type=whole(1, 1024),
        default=1,
        metavar="N",
        help="number of trainings at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=whole(1, 1024),
        default=1,
        metavar="N",
        help="number of PyTorch's threads in each (default: %(default)s)",
    )
    add_script(parser, optional=optional, module=False)
    parser.set_defaults(handle=handle)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _counts(text: str) -> list[int]:
    return list(dict.fromkeys(whole(0)(part) for part in text.split(",")))


def _seeds(text: str) -> list[int]:
    return list(dict.fromkeys(_seed(part) for part in text.split(",")))
