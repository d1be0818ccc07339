"""Find the flags of a script by running it until it would read them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from libmtl_recon.integrations.libmtl.hooks import StopRun, TrainerHook, trainer_hooks

# argparse's methods that read a command line: those that refuse unknown arguments, and those that
# leave them for another parser.
_STRICT = ("parse_args", "parse_intermixed_args")
_TOLERANT = ("parse_known_args", "parse_known_intermixed_args")
_ONE_VALUE = (None, 0, 1, argparse.OPTIONAL)


@dataclass(frozen=True)
class ScriptFlags:
    """The flags of a script, without their dashes, in the order in which the script adds them.

    Attributes:
        known: All flags; None if the script reads its command line without argparse.
        several: Flags that take several values, such as ``--img_size 3 32 32`` (``nargs``).
    """

    known: tuple[str, ...] | None
    several: tuple[str, ...]


@contextmanager
def script_flags(told: Callable[[ScriptFlags], None]) -> Iterator[None]:
    """Find the flags of scripts that are run inside the ``with`` block, which ends them early.

    A script ends, as by ``StopRun``, when it reads its command line: when LibMTL's parser, or one
    that includes its flags, parses ``sys.argv``, or when another parser does so with a method that
    refuses unknown flags. Flags that were read before by parsers that accept unknown flags (for a
    ``--config``, for example) are included; arguments that these parsers require may be missing. A
    script that has only such parsers, or none, ends when it calls ``prepare_args`` or builds a
    Trainer.

    Args:
        told: Called with the flags when the script ends, on each rank.

    Example:
        >>> found = []
        >>> with script_flags(found.append):  # doctest: +SKIP
        ...     run_script("main.py")
        >>> "img_size" in found[0].several  # doctest: +SKIP
        True
    """
    global _current
    if _current is not None:
        raise RuntimeError("script_flags does not nest")
    question = _Question(told)
    with ExitStack() as changes:
        _current = question
        changes.callback(_forget)
        for name in (*_STRICT, *_TOLERANT):
            own = getattr(argparse.ArgumentParser, name)
            changes.callback(setattr, argparse.ArgumentParser, name, own)
            setattr(argparse.ArgumentParser, name, question.asked_by(own, name in _STRICT))
        changes.enter_context(trainer_hooks(_AtTrainer(question)))
        yield


def end_if_asked() -> None:
    """End the script at LibMTL's ``prepare_args`` if only its flags are wanted."""
    if _current is not None:
        _current.answer()


class _Question:
    def __init__(self, told: Callable[[ScriptFlags], None]) -> None:
        self._told = told
        self._parsers: list[argparse.ArgumentParser] = []

    def asked_by(self, own: Callable[..., Any], strict: bool) -> Callable[..., Any]:
        """Return the replacement of a parser's method."""

        def parse(
            parser: argparse.ArgumentParser,
            args: Sequence[str] | None = None,
            namespace: Any = None,
        ) -> Any:
            given = None if args is None else list(args)
            if not self._is_command_line(given):
                return own(parser, given, namespace)
            self._parsers.append(parser)
            # An empty list may be the command line, or come from code that only wants defaults.
            if _has_flags_of_libmtl(parser) or (strict and given != []):
                self.answer()
            with _nothing_required(parser):
                return own(parser, given, namespace)

        return parse

    def _is_command_line(self, given: list[str] | None) -> bool:
        """Return whether these are the script's arguments, or another parser's remainder."""
        words = sys.argv[1:]
        if given is None or given == words:
            return True
        return bool(given or self._parsers) and set(given) <= set(words)

    def answer(self) -> NoReturn:
        """Pass on the flags, and end the script."""
        takes: dict[str, bool] = {}
        for parser in self._parsers:
            takes |= dict(_flags_of(parser))
        several = tuple(name for name, many in takes.items() if many)
        self._told(ScriptFlags(tuple(takes) if self._parsers else None, several))
        raise StopRun


class _AtTrainer(TrainerHook):
    """Ends a script that builds a Trainer, before that."""

    on_every_rank = True

    def __init__(self, question: _Question) -> None:
        self._question = question

    def choose_tasks(self, tasks: tuple[str, ...]) -> tuple[str, ...]:
        self._question.answer()


_current: _Question | None = None


def _forget() -> None:
    global _current
    _current = None


def _has_flags_of_libmtl(parser: argparse.ArgumentParser) -> bool:
    config = sys.modules.get("LibMTL.config")
    theirs = getattr(config, "LibMTL_args", None)
    return theirs is not None and set(dict(_flags_of(theirs))) <= set(dict(_flags_of(parser)))


def _flags_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, bool]]:
    """Yield the names of a parser's flags, each with whether it takes several values."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _flags_of(command)
        for word in action.option_strings:
            if word.startswith("--"):
                yield word[2:], action.nargs not in _ONE_VALUE


@contextmanager
def _nothing_required(parser: argparse.ArgumentParser) -> Iterator[None]:
    parts: list[Any] = [*parser._actions, *parser._mutually_exclusive_groups]
    before = [part.required for part in parts]
    try:
        for part in parts:
            part.required = False
        yield
    finally:
        for part, required in zip(parts, before, strict=True):
            part.required = required
