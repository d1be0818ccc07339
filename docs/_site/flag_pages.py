"""The flags of the command, and those added to LibMTL's, from their parsers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from libmtl_recon.cli import build_parser
from libmtl_recon.integrations.libmtl.flags import add_flags
from libmtl_recon.problems import BUILT_IN

_DEFAULT = re.compile(r"\s*\(default: ((?:[^()]|\([^()]*\))*)\)")
_CODE = re.compile(r"(`[^`]*`)|((?<![\w-])--[a-z][\w-]*|\{[^{}]*\}|LIBMTL_RECON_[A-Z]+)")
_OPTIONAL = (argparse.OPTIONAL, argparse.ZERO_OR_MORE, argparse.REMAINDER)


def script_flags() -> str:
    """Return all flags that are added to LibMTL's parser, by group."""
    parser = argparse.ArgumentParser(add_help=False)
    add_flags(SimpleNamespace(config=SimpleNamespace(LibMTL_args=parser)))
    groups = [group for group in parser._action_groups if group._group_actions]
    return "\n\n".join(
        f"## {_title(str(group.title))}\n\n{_entries(parser, group._group_actions, 3)}"
        for group in groups
    )


def command() -> str:
    """Return the command, its subcommands and their actions, with all arguments."""
    return "\n\n".join(
        _section(parser, "##" if parser.prog.count(" ") < 2 else "###")
        for parser in _parsers(build_parser())
    )


def problem_flags() -> str:
    """Each built-in problem: its own flags, and those of LibMTL's to which it gives a default."""
    return "\n\n".join(_problem(name) for name in BUILT_IN)


def _problem(name: str) -> str:
    parser = _parser_of(name)
    (own,) = (group for group in parser._action_groups if group.title == name)
    changed = " ".join(f"--{flag} {value}" for flag, value in parser._defaults.items())
    parts = [
        f"## {name}",
        _text(f"{BUILT_IN[name][0].upper()}{BUILT_IN[name][1:]}."),
        f"Other defaults of LibMTL's flags: `{changed}`." if changed else "",
        _entries(parser, own._group_actions, 3),
    ]
    return "\n\n".join(part for part in parts if part)


class _Told(argparse.ArgumentParser):
    """In the place of LibMTL's, it is told the flags of a script, and ends it before it parses."""

    def parse_args(self, *_: Any, **__: Any) -> Any:
        raise _StoppedError


class _StoppedError(Exception):
    pass


def _parser_of(name: str) -> argparse.ArgumentParser:
    script: Any = import_module(f"libmtl_recon.problems.{name}")
    parser = _Told(prog=f"libmtl-recon run {name}")
    libmtls, script.LibMTL_args = script.LibMTL_args, parser
    try:
        with suppress(_StoppedError):
            script.parse_args()
    finally:
        script.LibMTL_args = libmtls
    return parser


def _parsers(parser: Any) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for below in getattr(parser, "_others", {}).values():
        yield from _parsers(below)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in dict.fromkeys(action.choices.values()):
                yield from _parsers(below)


def _section(parser: argparse.ArgumentParser, mark: str) -> str:
    formatter = argparse.HelpFormatter(parser.prog, width=84)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    shown = [action for action in parser._actions if _is_shown(action)]
    parts = [
        f"{mark} {parser.prog}",
        f"```text\n{formatter.format_help().strip()}\n```",
        _text(" ".join((parser.description or "").split())),
        _entries(parser, shown, len(mark) + 1),
        f"```text\n{parser.epilog.strip()}\n```" if parser.epilog else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _is_shown(action: argparse.Action) -> bool:
    hidden = argparse._SubParsersAction | argparse._HelpAction
    return not isinstance(action, hidden) and action.help is not argparse.SUPPRESS


def _entries(
    parser: argparse.ArgumentParser, actions: Iterable[argparse.Action], level: int
) -> str:
    return "\n\n".join(_entry(parser, action, level) for action in actions)


def _entry(parser: argparse.ArgumentParser, action: argparse.Action, level: int) -> str:
    said = argparse.HelpFormatter(parser.prog)._expand_help(action) if action.help else ""
    named = _DEFAULT.search(said)
    default = _default(action, named[1] if named else None)
    anchor = re.sub(r"\W+", "-", f"{parser.prog.partition(' ')[2]} {_name(action)}".strip("- "))
    # The script that a reader will write has no prog.
    anchor = _name(action).strip("-") if parser.add_help is False else anchor
    heading = f"{'#' * level} `{_form(action)}` {{ #{anchor} .entry }}"
    text = _text(_DEFAULT.sub("", said).strip())
    return "\n\n".join(part for part in (heading, text, default) if part)


def _name(action: argparse.Action) -> str:
    return (
        action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)
    )


def _form(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    kinds = {int: "N", float: "X"}
    value = action.metavar or kinds.get(action.type, action.dest.upper())  # type: ignore[call-overload]
    if action.choices and action.metavar is None:
        value = "|".join(map(str, action.choices))
    if action.nargs in ("+", "*", argparse.REMAINDER, argparse.PARSER):
        value = f"{value} ..."
    return " ".join((", ".join(action.option_strings), str(value))).strip()


def _default(action: argparse.Action, said: str | None) -> str:
    if said is not None:
        bare = re.fullmatch(r"[\w.+-]+", said)
        return f"*Default:* `{said}`" if bare else f"*Default:* {_text(said)}"
    if action.required and action.nargs not in _OPTIONAL:
        return "*Required.*"
    if action.nargs == 0 or action.default in (None, argparse.SUPPRESS):
        return "" if action.nargs == 0 or not action.option_strings else "*Default:* none"
    return f"*Default:* `{action.default}`"


def _title(title: str) -> str:
    return re.sub(r"\((--[^)]*)\)", r"(`\1`)", title)


def _text(text: str) -> str:
    """Return a help text as Markdown, with flags and braces as code."""
    return _CODE.sub(lambda found: found[1] or f"`{found[2]}`", text.replace("<", "&lt;"))
