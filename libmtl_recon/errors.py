"""Errors that users can cause, each with a message that says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from libmtl_recon.texts import bounded, printable

# Characters: of a whole message, and of the parts of one about a value, which together are fewer
# than 1,000.
_LONGEST = 1500
_LONGEST_VALUE = 200
_LONGEST_PARTS = {"parameter": 80, "rule": 260, "way_out": 440}
# Rules about whether a parameter is given, for which True, False and None are not informative.
_ABOUT_PRESENCE = ("must be given", "cannot be combined", "needs ")


class ReconError(Exception):
    """Error with a message for users: ``str(error)`` is one paragraph, with a way out.

    The launcher prints this paragraph instead of a traceback, and exits with :attr:`exit_status`.

    Args:
        text: The paragraph. Since it may contain names and words from outside, control characters
            in it are escaped, and the middle of a paragraph that is too long is left out.
    """

    exit_status = 1

    def __init__(self, text: str) -> None:
        super().__init__(bounded(printable(text, keep="\n"), _LONGEST))

    def rename(self, names: Mapping[str, str]) -> None:
        """Rename arguments in the message; see :func:`naming`."""
        self.args = (renamed(str(self), names),)


class UsageError(ReconError, ValueError):
    """Error for an invalid value of a parameter.

    Args:
        parameter: The name of the parameter for the caller (``--recon_k``, ``alpha``).
        rule: The violated rule, as the rest of a sentence ("must be a whole number from 1 to 12").
        value: The given value. True, False and None are left out of the message if the rule is
            about whether the parameter is given ("must be given with ...", "cannot be combined
            with ...", "needs ...").
        way_out: What to do instead, as a full sentence. In it and in the rule, names of other
            parameters are in backticks.
    """

    exit_status = 2

    def __init__(self, parameter: str, rule: str, value: object, way_out: str) -> None:
        self.parameter = parameter
        self.rule = rule
        self.value = value
        self.way_out = way_out
        super().__init__(self._text())

    def rename(self, names: Mapping[str, str]) -> None:
        """Rename arguments in the error; see :func:`naming`."""
        self.parameter = names.get(self.parameter, self.parameter)
        self.rule = renamed(self.rule, names)
        self.way_out = renamed(self.way_out, names)
        self.args = (self._text(),)

    def _text(self) -> str:
        parameter, rule, way_out = (
            bounded(printable(getattr(self, part)), longest)
            for part, longest in _LONGEST_PARTS.items()
        )
        silent = isinstance(self.value, bool | None) and rule.startswith(_ABOUT_PRESENCE)
        found = "" if silent else f" (got {_shortened(self.value)})"
        return f"{parameter} {rule}{found}. {way_out}".rstrip()

    def __reduce__(self) -> tuple[type[UsageError], tuple[str, str, object, str]]:
        return type(self), (self.parameter, self.rule, self.value, self.way_out)


@contextmanager
def naming(**names: str) -> Iterator[None]:
    """Rename arguments in errors raised inside the ``with`` block to the names that users know.

    Library functions name their own arguments. Code that takes the arguments from command-line
    flags names the flags once: ``with naming(K="--recon_k"): select_layers(...)``.

    Args:
        **names: The users' names, by the names of the arguments. In messages, arguments are
            recognised by their backticks.
    """
    try:
        yield
    except ReconError as error:
        error.rename(names)
        raise


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Return a text with other names for the arguments in backticks; see :func:`naming`."""
    for name, other in names.items():
        text = text.replace(f"`{name}`", other)
    return text


def _shortened(value: object) -> str:
    try:
        shown = repr(value)
    except Exception as error:  # noqa: BLE001  # a caller's own __repr__ must not hide our message
        shown = f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"
    shown = printable(shown)
    return shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}…"


class MissingPackageError(ReconError, ImportError):
    """Error for a part of this package that needs another package, which is not installed.

    Args:
        wanted: The part that needs the package.
        package: The name of the package for pip.
        extra: The extra of libmtl-recon that installs it.
    """

    def __init__(self, wanted: str, package: str, extra: str) -> None:
        super().__init__(
            f"{wanted} needs the package {package}, which is not installed. Install it with `pip "
            f"install 'libmtl-recon[{extra}]'`."
        )
        self._given = wanted, package, extra

    def __reduce__(self) -> tuple[type[MissingPackageError], tuple[str, str, str]]:
        return type(self), self._given
