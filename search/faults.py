"""Several faults of one file, said at once and within bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from libmtl_recon import ReconError, UsageError
from libmtl_recon.texts import bounded, printable

_LONGEST = 1_400  # characters of all faults together
_LONGEST_ONE = 600


class FaultsError(UsageError):
    """Several values break rules.

    Args:
        subject: Where they are: a file's name.
        faults: One for each.
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
        """All of them, a line for each, however many there are."""
        lines = [f"{bounded(printable(self.parameter), 200)} has {len(self.faults)} faults."]
        for number, fault in enumerate(self.faults):
            lines.append(f"  {number + 1}. {printable(str(_without(self.parameter, fault)))}")
        return "\n".join(lines)

    def _text(self) -> str:
        """All of them, a line for each, as far as there is room."""
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
    """A fault that does not name the subject, which stands above all of them."""
    if not isinstance(fault, UsageError) or not fault.parameter.startswith(f"{subject}: "):
        return fault
    key = fault.parameter.removeprefix(f"{subject}: ")
    return UsageError(key, fault.rule, fault.value, fault.way_out)


def raise_all(subject: str, faults: Sequence[ReconError]) -> None:
    """Raise nothing, the only fault, or all faults as one error.

    Raises:
        UsageError: There is a fault.
    """
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise FaultsError(subject, faults)
