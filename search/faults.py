"""Several errors in one file, reported together with limited length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from libmtl_recon import ReconError, UsageError
from libmtl_recon.texts import bounded, printable

_LONGEST = 1_400  # characters of all faults together
_LONGEST_ONE = 600


class FaultsError(UsageError):
    """Several values are invalid.

    Args:
        subject: The name of the file.
        faults: One error per value.
    """

    def __init__(self, subject: str, faults: Sequence[ReconError]) -> None:
        self.parameter, self.rule, self.value = subject, f"has {len(faults)} faults", None
        self.way_out = "Correct them."
        self.faults = tuple(faults)
        ReconError.__init__(self, self._text())

    def rename(self, names: Mapping[str, str]) -> None:
        """Rename arguments in all faults to the names that another caller uses."""
        for fault in self.faults:
            fault.rename(names)
        self.args = (self._text(),)

    @property
    def in_full(self) -> str:
        """Return all errors, one line each, without a limit."""
        lines = [f"{bounded(printable(self.parameter), 200)} has {len(self.faults)} faults."]
        for number, fault in enumerate(self.faults):
            lines.append(f"  {number + 1}. {printable(str(_without(self.parameter, fault)))}")
        return "\n".join(lines)

    def _text(self) -> str:
        """Return the errors, one line each, up to the limit."""
        count = len(self.faults)
        text = f"{bounded(printable(self.parameter), 200)} has {count} faults."
        for number, fault in enumerate(self.faults):
            said = bounded(printable(str(_without(self.parameter, fault))), _LONGEST_ONE)
            line = f"\n  {number + 1}. {said}"
            if len(text) + len(line) > _LONGEST:
                return f"{text}\n  … and {count - number} more."
            text += line
        return text

    def __reduce__(self) -> tuple[type[FaultsError], tuple[str, tuple[ReconError, ...]]]:  # type: ignore[override]
        return type(self), (self.parameter, self.faults)


def _without(subject: str, fault: ReconError) -> ReconError:
    """Return an error without the subject, which is given once above all errors."""
    if not isinstance(fault, UsageError) or not fault.parameter.startswith(f"{subject}: "):
        return fault
    key = fault.parameter.removeprefix(f"{subject}: ")
    return UsageError(key, fault.rule, fault.value, fault.way_out)


def raise_all(subject: str, faults: Sequence[ReconError]) -> None:
    """Raise the only error, or all errors as one; return if there is none.

    Raises:
        UsageError: There is an error.
    """
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise FaultsError(subject, faults)
