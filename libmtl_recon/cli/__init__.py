"""The ``libmtl-recon`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from libmtl_recon import logs
from libmtl_recon._version import __version__
from libmtl_recon.cli import doctor, extract, gradops, layers, reproduce, run, sample, score, search
from libmtl_recon.cli.parsing import Parser
from libmtl_recon.errors import ReconError
from libmtl_recon.output import INTERRUPTED, end_by_pipe, guarded, warn

_EPILOG = """\
a typical session (main.py is a LibMTL script):
  libmtl-recon run main.py --weighting EW              run the script, unchanged
  libmtl-recon score main.py --weighting EW            measure in which layers its tasks conflict
  libmtl-recon layers show                             show the ranking of its layers
  libmtl-recon run main.py --weighting GradOPS --gradops_alpha -1 --arch Recon --recon_k 12
  libmtl-recon search study.yaml                       search for S, K, alpha and the weighting

S is the severity below which a cosine counts as a conflict, K the number of layers to split, alpha
the exponent of GradOPS. `libmtl-recon search` without a file runs a search of two minutes on
included data.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = Parser(
        prog="libmtl-recon",
        description="Find the layers in which the tasks of a LibMTL network conflict, give each "
        "task its own copy of the layers that conflict most, and search for the best settings.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (run, score, search, layers, extract, gradops, reproduce, sample, doctor):
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        argv: The arguments without the program's name; those of the process by default.
    """
    options = argparse.Namespace(own_process=argv is None, on_ranks=False)
    logs.show()
    if "RANK" in os.environ:  # otherwise there is one process, and nothing to import for ranks
        from libmtl_recon.integrations.libmtl.data_parallel.quiet import be_quiet

        be_quiet()
    status = guarded(lambda: _run(argv, options), own_process=options.own_process)
    if not options.own_process:
        return status
    if not hasattr(options, "script"):  # whose `atexit` handlers and open files would be lost
        end_by_pipe(status)
    if status == INTERRUPTED:
        # Python then ends by the signal itself, which tells a shell's loop to end, too.
        sys.excepthook = lambda *_: None
        raise KeyboardInterrupt
    return status


def _run(argv: Sequence[str] | None, options: argparse.Namespace) -> int:
    build_parser().parse_args(argv, options)
    try:
        if not options.on_ranks:
            _refuse_ranks()
        status: int = options.handle(options)
    except ReconError as error:
        if _says_why(error):
            warn(f"libmtl-recon: error: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        warn("libmtl-recon: interrupted")
        return INTERRUPTED
    return status


def _refuse_ranks() -> None:
    """Refuse, under torchrun, commands that each process would only repeat."""
    if "RANK" not in os.environ:
        return
    from libmtl_recon.integrations.libmtl.data_parallel.environment import world

    if world() is not None:
        raise ReconError(
            "torchrun can start `libmtl-recon run` and `libmtl-recon score`; any other command "
            "would be run once per rank. Run it without torchrun. A search starts its trials "
            "with torchrun if its file contains `launch: {nproc_per_node: 2}`."
        )


def _says_why(error: ReconError) -> bool:
    """Return whether this process reports an error: under torchrun, one rank does."""
    if "RANK" not in os.environ:
        return True
    from libmtl_recon.integrations.libmtl.data_parallel.endings import says_why

    return says_why(error)
