"""Functions that all commands use."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from libmtl_recon.cli.parsing import Parser
from libmtl_recon.output import released, warn
from libmtl_recon.problems import BUILT_IN

if TYPE_CHECKING:
    from libmtl_recon.integrations.libmtl.hooks import TrainerHook
    from libmtl_recon.launcher import Target

_NO_SUCH_FLAG = 2  # the exit status with which a script's `argparse` refuses its arguments


def add_command(commands: Any, name: str, summary: str, description: str, epilog: str) -> Parser:
    """Add a subcommand whose help keeps its line breaks.

    Args:
        commands: The object returned by ``add_subparsers``.
        name: The subcommand.
        summary: One line for the list of commands.
        description: The description of the subcommand.
        epilog: Examples.
    """
    parser: Parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_script(
    parser: argparse.ArgumentParser, *, optional: bool = False, module: bool = True
) -> None:
    """Add ``script`` and ``args``: a script's name and, unchanged, everything after it.

    Args:
        parser: The command's.
        optional: Whether the script may be left out; ``script`` is then None.
        module: Whether ``-m`` gives a module in its place.
    """
    if module:
        parser.add_argument(
            "-m",
            dest="module",
            action="store_true",
            help="SCRIPT is the dotted name of a module, as for `python -m`",
        )
    parser.add_argument(
        "script",
        metavar="SCRIPT",
        # Not a positional and a REMAINDER: between these two, argparse removes a `--`.
        nargs=argparse.REMAINDER if optional else argparse.PARSER,
        action=_ScriptAndArgs,
        help=f"path of a LibMTL script, or a built-in problem: {', '.join(BUILT_IN)}; everything "
        "after it is passed to the script" + (" (default: none)" if optional else ""),
    )
    if optional and module:  # argparse would show three dots
        parser.usage = "%(prog)s [-h] [-m] [SCRIPT ...]"
    flags = frozenset(flag for flag in parser._option_string_actions if len(flag) > 2)
    parser.set_defaults(own_flags=flags - {"--help"})


def target_of(options: argparse.Namespace) -> Target:
    """Return the target that the options of :func:`add_script` name."""
    from libmtl_recon.launcher import Target

    return Target(options.script, options.module)


def launch(options: argparse.Namespace, hooks: Sequence[TrainerHook]) -> int:
    """Run the target that the options of :func:`add_script` name, and return its exit status."""
    from libmtl_recon.launcher import run

    with released():
        status = run(target_of(options), options.args, hooks=hooks, until_exit=options.own_process)
    ours = [word for word in options.args if word.partition("=")[0] in options.own_flags]
    if status == _NO_SUCH_FLAG and ours:
        warn(
            f"libmtl-recon: {ours[0]} was given after {options.script} and therefore passed to "
            f"the script. Put flags of libmtl-recon before {options.script}."
        )
    return status


class _ScriptAndArgs(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Separate the script from its arguments."""
        # Only some versions of argparse remove a leading `--`.
        given = values[1:] if values[:1] == ["--"] else values
        if not values and self.nargs == argparse.REMAINDER:
            namespace.script, namespace.args = None, []
            return
        if not given:
            parser.error("the following arguments are required: SCRIPT")
        namespace.script, *namespace.args = given
