"""What rank 0 does for all ranks, and what it ends by, the others end by."""

from __future__ import annotations

from collections.abc import Callable

from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.integrations.libmtl.data_parallel.endings import EndedElsewhere, leave_note


class StopRun(BaseException):
    """Raised by a hook to end the script early; the run counts as a success."""


def agree(function: Callable[[], None], group: Ranks) -> None:
    """Call a function on rank 0 alone; where it raises, all ranks end.

    Args:
        function: All ranks call :func:`agree` of it.
        group: The ranks.

    Raises:
        StopRun: The function has, on rank 0.
        EndedElsewhere: It has raised something else there, which rank 0 raises itself.
    """
    raised: BaseException | None = None
    outcome = ""
    if group.is_first:
        try:
            function()
        except StopRun as stop:
            raised, outcome = stop, "stop"
        except BaseException as error:  # noqa: BLE001  # raised again below
            raised, outcome = error, "error"
            leave_note(f"{type(error).__name__}: {error}")
    with group.sending("agreement"):
        outcome = group.from_first(outcome)
    if raised is not None:
        raise raised
    if outcome == "stop":
        raise StopRun
    if outcome:
        raise EndedElsewhere
