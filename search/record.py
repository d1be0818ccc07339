"""The record of a run: reading, and detection of damage."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from libmtl_recon_search.recorder import DIGEST
from libmtl_recon_search.result import Result

_BEGINNING = b'{"event": '  # of each line


class Damaged(Exception):  # noqa: N818  # reported with the file's name by the caller
    """The contents of a record are invalid; the message gives the reason."""


def read_record(file: Path, search: str = "") -> Result | None:
    """Return the result of a run that finished successfully.

    Args:
        file: The record of the run.
        search: The digest that the run must have; empty accepts any.

    Returns:
        The result; None if there is no such run, or it was cut off, or failed.

    Raises:
        Damaged: The record is not as the run wrote it, or belongs to another script.
        OSError: The file cannot be read.
    """
    result, sound = _read(file)
    if not sound:
        raise Damaged(f"it is damaged from byte {result.notes['damaged at']} on")
    of = result.notes.get("started", {}).get("search", search)
    if search and of != search:
        raise Damaged(
            "it belongs to another script, or was written with other versions of the packages"
        )
    return result if result.finished else None


def _read(file: Path) -> tuple[Result, bool]:
    """Return the events of a record up to the first damage, and whether it is complete."""
    result, position = Result(), 0
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return result, True
    *lines, rest = content.split(b"\n")
    for line in lines:
        try:
            event = json.loads(line)
            _check(event, content[:position])
            result.add(event)
        # The file may contain anything; a line that raises these errors is not a valid event.
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            result.notes["damaged at"] = position
            return result, False
        position += len(line) + 1
    # A killed run leaves a truncated last line; a power failure leaves zeros.
    cut_off = _BEGINNING.startswith(rest[: len(_BEGINNING)]) and b"\0" not in rest
    result.notes["damaged at"] = position
    return result, cut_off and not (rest and "ended" in result.notes)


def _check(event: Any, before: bytes) -> None:
    """Check that a line is an event, with numbers where required."""
    if DIGEST in event and event[DIGEST] != hashlib.sha256(before).hexdigest():
        raise ValueError
    if event["event"] == "measured":
        for own in event["metrics"].values():
            for value in own.values():
                # None stands for NaN.
                if value is not None and not math.isfinite(value):
                    raise ValueError
    if event["event"] == "cost":
        for value in (event["step_time"], event["memory"]):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError
    if event["event"] == "built" and not isinstance(event["parameters"], int):
        raise ValueError
