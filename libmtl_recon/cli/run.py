"""``libmtl-recon run``: run any LibMTL script with the methods of this package."""

from __future__ import annotations

import argparse
from typing import Any

from libmtl_recon.cli.command import add_command, add_script, launch

_DESCRIPTION = """\
Run a LibMTL script, unmodified, as `python SCRIPT ARGS...` would. LibMTL then accepts --weighting
GradOPS, --weighting RotoGrad, --arch Recon and their flags, and its PyPI release trains on current
versions of PyTorch. The script must be written for the installed LibMTL.
"""
_EPILOG = """\
examples:
  libmtl-recon run main.py --weighting GradOPS --gradops_alpha -1
  libmtl-recon run main.py --weighting EW --arch Recon --recon_k 12
  libmtl-recon run --single-task digit main.py --weighting EW     train one task alone
  libmtl-recon run -m package.main --weighting GradOPS            like `python -m package.main`
  libmtl-recon run main.py --help                                 the script's own flags
  libmtl-recon run toy2d            draw the paths of GradOPS and other methods in the plane

The first form is equivalent to adding `import libmtl_recon` to main.py before it imports LibMTL.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "run",
        "run a LibMTL script with the methods of this package",
        _DESCRIPTION,
        _EPILOG,
    )
    parser.add_argument(
        "--single-task",
        metavar="NAME",
        help="train only this task of the script",
    )
    add_script(parser)
    parser.set_defaults(handle=_handle, on_ranks=True)


def _handle(options: argparse.Namespace) -> int:
    from libmtl_recon.integrations.libmtl.single_task import SingleTask

    hooks = [] if options.single_task is None else [SingleTask(options.single_task)]
    return launch(options, hooks)
