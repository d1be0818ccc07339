"""``libmtl-recon sample``: write a small synthetic data set in the format of a real one."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from libmtl_recon.cli.command import add_command
from libmtl_recon.errors import naming
from libmtl_recon.problems.argument_types import whole
from libmtl_recon.problems.samples import SAMPLES

_DESCRIPTION = """\
Write a small synthetic data set, in the files and folders of the real one, to DIR/PROBLEM. With it
a problem runs at once, offline: to see that an installation works, to try flags, a split or a
search, before the real data are there. Its images are shapes that a network can learn, and have
pixels without a label, as the real ones have. Results on it say nothing about the real data.
"""
_EPILOG = """\
examples:
  libmtl-recon sample nyuv2 samples
  LIBMTL_RECON_DATA=samples libmtl-recon run nyuv2 --weighting EW --epochs 1

  libmtl-recon sample cityscapes samples --images 32 --seed 1

DIR/PROBLEM is replaced if it is an unchanged sample, and refused if it has anything else.
problems:
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    longest = max(map(len, SAMPLES))
    problems = "\n".join(f"  {name:{longest}}  {what}" for name, what in SAMPLES.items())
    parser = add_command(
        commands,
        "sample",
        "write a small synthetic data set in the format of a real one",
        _DESCRIPTION,
        _EPILOG + problems,
    )
    parser.add_argument(
        "problem",
        metavar="PROBLEM",
        choices=SAMPLES,
        help=f"whose data set is written: {', '.join(SAMPLES)}",
    )
    parser.add_argument(
        "folder",
        metavar="DIR",
        type=Path,
        help="where to put the folder PROBLEM; name DIR in LIBMTL_RECON_DATA to train on it",
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=whole(2),
        default=8,
        help="images in each part of the data (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=whole(0),
        default=0,
        help="seed of the images (default: %(default)s)",
    )
    parser.set_defaults(handle=_handle)


def _handle(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import say
    from libmtl_recon.problems.samples import write_sample

    with naming(folder="DIR", images="--images", problem="PROBLEM"):
        written = write_sample(options.problem, options.folder, options.images, options.seed)
    say(
        f"Wrote a sample of {options.problem}, with {options.images} images in each part, to "
        f"{written}. Train on it with:"
    )
    say(
        f"  LIBMTL_RECON_DATA={shlex.quote(str(options.folder))} libmtl-recon run "
        f"{options.problem} --weighting EW --epochs 1"
    )
    return 0
