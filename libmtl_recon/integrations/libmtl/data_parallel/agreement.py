"""Run a function on rank 0 for all ranks; its result, or its error, is that of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from libmtl_recon.integrations.libmtl.data_parallel.endings import EndedElsewhere, leave_note
from libmtl_recon.integrations.libmtl.data_parallel.group import ranks

Result = TypeVar("Result")


class StopRun(BaseException):
    """Raised by a hook to end the script early; the run counts as a success."""


def of_first(function: Callable[[], Result]) -> Result:
    """Return on all ranks what a function returns on rank 0; if it raises there, all ranks end.

    In a single process it is simply called.

    Args:
        function: All ranks call ``of_first`` together; only rank 0 calls the function. Its result
            is pickled.

    Raises:
        StopRun: The function raised it on rank 0.
        EndedElsewhere: The function raised something else on rank 0, which rank 0 raises itself.
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
