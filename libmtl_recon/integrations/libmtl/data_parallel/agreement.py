"""What rank 0 does for all ranks, and what it ends by, the others end by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from libmtl_recon.integrations.libmtl.data_parallel.endings import EndedElsewhere, leave_note
from libmtl_recon.integrations.libmtl.data_parallel.group import ranks

Result = TypeVar("Result")


class StopRun(BaseException):
    """Raised by a hook to end the script early; the run counts as a success."""


def of_first(function: Callable[[], Result]) -> Result:
    """What a function returns on rank 0, on all ranks; where it raises there, all ranks end.

    In one process it is only called.

    Args:
        function: All ranks ask for it at once; rank 0 alone calls it. What it returns is pickled.

    Raises:
        StopRun: The function has, on rank 0.
        EndedElsewhere: It has raised something else there, which rank 0 raises itself.
    """
    group = ranks()
    if group is None:
        return function()
    raised: BaseException | None = None
    outcome: tuple[str, Any] = ("", None)
    if group.is_first:
        try:
            outcome = ("", function())
        except StopRun as stop:
            raised, outcome = stop, ("stop", None)
        except BaseException as error:  # noqa: BLE001  # raised again below
            raised, outcome = error, ("error", None)
            leave_note(f"{type(error).__name__}: {error}")
    with group.sending("agreement"):
        what, result = group.from_first(outcome)
    if raised is not None:
        raise raised
    if what == "stop":
        raise StopRun
    if what:
        raise EndedElsewhere
    return cast("Result", result)
