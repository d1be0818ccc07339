"""The errors that a user can cause, each of which names what is wrong and the way out."""

from __future__ import annotations

_LONGEST = 200  # characters of a value in a message


class ReconError(Exception):
    """Something that the run needs is missing or broken; ``str(error)`` is one paragraph.

    The launcher prints that paragraph instead of a traceback and exits with
    :attr:`exit_status`.
    """

    exit_status = 1


class UsageError(ReconError, ValueError):
    """A value that the caller gave breaks a rule.

    Args:
        parameter: The name under which the caller gave it (``--recon_k``, ``alpha``).
        rule: What holds for it, as a full clause ("must be a whole number from 1 to 12").
        value: What was found.
        way_out: What to do instead, as a full sentence.
    """

    exit_status = 2

    def __init__(self, parameter: str, rule: str, value: object, way_out: str) -> None:
        super().__init__(f"{parameter} {rule} (got {_shortened(value)}). {way_out}")
        self.parameter = parameter
        self.rule = rule
        self.value = value
        self.way_out = way_out

    def __reduce__(self) -> tuple[type[UsageError], tuple[str, str, object, str]]:
        return type(self), (self.parameter, self.rule, self.value, self.way_out)


def _shortened(value: object) -> str:
    try:
        shown = repr(value)
    except Exception as error:  # noqa: BLE001  # a caller's own __repr__ must not hide our message
        shown = f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


class MissingPackageError(ReconError, ImportError):
    """A part of the software needs a package that is not installed.

    Args:
        wanted: What needs it.
        package: What pip calls it.
        extra: The extra of libmtl-recon that brings it.
    """

    def __init__(self, wanted: str, package: str, extra: str) -> None:
        super().__init__(
            f"{wanted} needs the package {package}, which is not installed. Install it by "
            f"`pip install 'libmtl-recon[{extra}]'`."
        )
        self._given = wanted, package, extra

    def __reduce__(self) -> tuple[type[MissingPackageError], tuple[str, str, str]]:
        return type(self), self._given
