"""What all commands have in common."""

from __future__ import annotations

import argparse
from typing import Any


def add_command(
    commands: Any, name: str, summary: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    """Add a subcommand whose help keeps its line breaks.

    Args:
        commands: What ``add_subparsers`` returned.
        name: The subcommand.
        summary: One line for the list of commands.
        description: What it does.
        epilog: Examples.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_script(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a script and hand it everything behind its name."""
    parser.add_argument(
        "script",
        metavar="SCRIPT",
        help="path of a LibMTL script, or a built-in problem: multidigits, multi_fashion_mnist",
    )
    parser.add_argument(
        "args",
        metavar="ARGS",
        nargs=argparse.REMAINDER,
        help="everything behind SCRIPT goes to the script",
    )
