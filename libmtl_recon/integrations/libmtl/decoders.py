"""The decoders that LibMTL's Trainer is given: one registered module per task.

LibMTL's documentation calls them a dict. A plain dict is not a module, so that its decoders are
neither moved to the device nor given to the optimiser, and silently stay untrained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.wrapper import Call
from libmtl_recon.task_names import check_task_names

_logger = logging.getLogger(__name__)

# Only these create no modules by the tasks' names.
_NAMELESS = "HPS"
_NAMING = "RotoGrad"


def check_decoders(call: Call) -> None:
    """Check the tasks' names and decoders that a Trainer is given."""
    given = call.arguments
    architecture, weighting = (
        getattr(given[key], "__name__", given[key]) for key in ("architecture", "weighting")
    )
    given["decoders"] = checked_decoders(
        list(given["task_dict"]),
        given["decoders"],
        named=architecture != _NAMELESS or weighting == _NAMING,
    )


def checked_decoders(tasks: Sequence[Any], decoders: Any, *, named: bool) -> Any:
    """Return the decoders, registered.

    Args:
        tasks: The names in ``task_dict``.
        decoders: The script's; a plain dict is converted to an ``nn.ModuleDict``, with a message.
        named: The tasks' names become names of further modules.

    Returns:
        The decoders that LibMTL trains.

    Raises:
        UsageError: A task has no decoder, a decoder is not a module, or a task's name is not
            valid for a module.
    """
    plain = isinstance(decoders, Mapping) and not isinstance(decoders, nn.Module)
    if plain or named or isinstance(decoders, nn.ModuleDict):
        check_task_names("task_dict", tasks, nn.ModuleDict)
    if not plain and not isinstance(decoders, nn.Module):
        raise UsageError(
            "decoders",
            "must be an nn.ModuleDict of each task's decoder",
            decoders,
            "Write nn.ModuleDict({task: ... for task in task_dict}).",
        )
    if plain or isinstance(decoders, nn.ModuleDict):
        missing = [task for task in tasks if task not in decoders]
        if missing:
            raise UsageError(
                "decoders",
                f"must have one for each task, but there is none for {', '.join(missing)}",
                list(decoders),
                "Name them as in task_dict.",
            )
    if not plain:
        return decoders
    for task in tasks:
        if not isinstance(decoders[task], nn.Module):
            raise UsageError(
                "decoders", "must be modules", decoders[task], f"Use an nn.Module for {task}."
            )
    _logger.info(
        "libmtl-recon: the decoders are a plain dict, which LibMTL would not have trained; they "
        "are trained, as an nn.ModuleDict"
    )
    return nn.ModuleDict({task: decoders[task] for task in tasks})
