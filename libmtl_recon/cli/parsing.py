"""The command's argument parser: no abbreviated flags, and "Did you mean" for unknown names."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from typing import Any

from libmtl_recon.texts import bounded, did_you_mean, printable

_LONGEST = 1000  # characters of a message


class Parser(argparse.ArgumentParser):
    """Parse the words of the command or of a subcommand, whose parsers are also of this class.

    Abbreviated flags are not accepted: a flag that is added later, or a flag of the script that is
    given before its name, would silently become another flag.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self._commands: Any = None
        self._others: dict[str, Parser] = {}

    def add_subparsers(self, **kwargs: Any) -> Any:
        """Add subcommands, as ``argparse`` does."""
        self._commands = super().add_subparsers(**kwargs)
        return self._commands

    def add_other(self, word: str, **kwargs: Any) -> Parser:
        """Add a parser that replaces this one if the first word is ``word``.

        Args:
            word: The word; a file of this name is given as ``./word``.
            **kwargs: As for a parser.
        """
        self._others[word] = Parser(prog=f"{self.prog} {word}", **kwargs)
        return self._others[word]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse words; end the program if one is not a flag or subcommand of this parser."""
        words = sys.argv[1:] if args is None else list(args)
        if words and words[0] in self._others:
            return self._others[words[0]].parse_known_args(words[1:], namespace)
        if self._commands is not None:
            self._refuse_unknown_command(words)
        found, unknown = super().parse_known_args(words, namespace)
        if unknown:
            self._refuse_unknown_flag(unknown, found)
        return found, unknown

    def error(self, message: str) -> Any:
        """End the program with a usage line and a message of bounded length."""
        super().error(bounded(printable(message), _LONGEST))

    def _refuse_unknown_command(self, words: Sequence[str]) -> None:
        # No flag of a parser that has subcommands takes a value.
        flags = list(itertools.takewhile(lambda word: word.startswith("-"), words))
        unknown = [flag for flag in flags if flag not in self._option_string_actions]
        if unknown:
            self._refuse_unknown_flag(unknown, argparse.Namespace())
        if words[len(flags) :] and words[len(flags)] not in self._commands.choices:
            name = words[len(flags)]
            kind = str(self._commands.metavar).lower()
            known = list(self._commands.choices)
            self.error(
                f"Unknown {kind} {bounded(repr(name), 100)}. {did_you_mean(name, known)}Known "
                f"{kind}s: {', '.join(known)}."
            )

    def _refuse_unknown_flag(self, unknown: Sequence[str], found: argparse.Namespace) -> None:
        word = unknown[0]
        if not word.startswith("-"):
            self.error(f"Unexpected argument {bounded(repr(word), 100)}.")
        flag = word.partition("=")[0]
        hint = did_you_mean(
            flag, (known for known in self._option_string_actions if len(known) > 2)
        )
        where = "Flags of the script must follow its name." if hasattr(found, "script") else ""
        self.error(f"Unknown flag {bounded(flag, 100)}. {hint}{where}".rstrip())


def numbers(text: str) -> list[float]:
    """Parse a comma-separated list of numbers."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a comma-separated list of numbers (got {text!r})"
        ) from None


def add_edges(parser: argparse.ArgumentParser) -> None:
    """Add ``--edges`` and ``--severe``, which determine a table of cosines."""
    parser.add_argument(
        "--edges",
        type=numbers,
        metavar="E,E,...",
        help="edges of the table's intervals, descending from 0, multiples of 0.005 (default: "
        "0,-0.01,-0.02,-0.03; write --edges=...)",
    )
    parser.add_argument(
        "--severe",
        type=float,
        metavar="E",
        help="the edge below which cosines count for the reduction (default: the second one, as "
        "in Tables 6, 8 and 10 of the Recon paper; Table 9 has -0.04)",
    )
