"""``libmtl-recon run``: any LibMTL script, with our names known to it."""

from __future__ import annotations

import argparse
from typing import Any

from libmtl_recon.cli.command import add_command, add_script, launch

_DESCRIPTION = """\
Run a LibMTL script, unmodified, as `python SCRIPT ARGS...` would, with --weighting GradOPS,
--arch Recon and their flags known to LibMTL, and with LibMTL's PyPI release made to train on
today's PyTorch.
"""
_EPILOG = """\
examples:
  libmtl-recon run main.py --weighting GradOPS --gradops_alpha -1
  libmtl-recon run main.py --weighting EW --arch Recon --recon_k 12
  libmtl-recon run --single-task digit main.py --weighting EW     one task alone
  libmtl-recon run -m package.main --weighting GradOPS            as `python -m package.main`
  libmtl-recon run main.py --help                                 the script's own flags
  libmtl-recon run toy2d            draw how GradOPS and other methods move in the plane

The first form is the same as writing `import libmtl_recon` into main.py before it imports LibMTL.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands, "run", "run a LibMTL script with the plugin registered", _DESCRIPTION, _EPILOG
    )
    parser.add_argument(
        "--single-task",
        metavar="NAME",
        help="train this task alone, without the script's other tasks",
    )
    add_script(parser)
    parser.set_defaults(handle=_handle, on_ranks=True)


def _handle(options: argparse.Namespace) -> int:
    from libmtl_recon.integrations.libmtl.single_task import SingleTask

    hooks = [] if options.single_task is None else [SingleTask(options.single_task)]
    return launch(options, hooks)
