"""Size of a network: ``summary``, which knows the parts of LibMTL's models."""

from __future__ import annotations

from typing import Any

from torch import nn

from libmtl_recon.integrations.libmtl.architectures.task_parts import places_of_tasks
from libmtl_recon.integrations.libmtl.splits import is_libmtls
from libmtl_recon.splitting import sizes
from libmtl_recon.splitting.arguments import checked_module
from libmtl_recon.splitting.compile_compat import uncompiled
from libmtl_recon.splitting.sizes import Owner, Summary


def summary(network: nn.Module) -> Summary:
    """Count the parameters of a network that all tasks share, and those of each task.

    A parameter that several modules hold counts once; buffers, such as a norm's statistics, do
    not count. Frozen parameters do. Sizes are in MB of 2^20 bytes, of float32 numbers, as in the
    tables of the Recon paper.

    Args:
        network: Split by :func:`~libmtl_recon.split_layers`, or not; any module that holds it; or
            LibMTL's model, of any architecture: a task's own parameters are its copies in split
            layers, its decoder, and its gates, experts or attention; those that a weighting learns
            are listed separately.

    Returns:
        A summary. Its ``rows`` (``shared``, each task, ``weighting`` if that learns something,
        ``total``) have ``parameters``, ``megabytes`` and, by the parts of LibMTL's model,
        ``parts``; ``unsplit`` is the number of parameters before the split, and ``growth`` the
        factor by which the split increased it. Printed, it is a table.

    Raises:
        UsageError: The argument is not a network.
        ReconError: The network is lazy and has not seen an input.

    Example:
        >>> from libmtl_recon import split_layers, summary
        >>> network = split_layers(
        ...     nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), ["1"], ["left", "right"]
        ... )
        >>> print(summary(network))
                parameters    MB
        shared          40  0.00
        left            18  0.00
        right           18  0.00
        total           76  0.00
        1.31 × the network before its split (58 parameters, 0.00 MB)
    """
    network = uncompiled(checked_module(network, "network"))
    return _of_model(network) if is_libmtls(network) else sizes.summary(network)


def _of_model(model: Any) -> Summary:
    tasks = list(model.task_name)
    owners: dict[int, set[str]] = {}
    for identity, task in sizes.copies_of(model).items():
        owners[identity] = {task}
    shared = {id(parameter) for parameter in model.get_share_params()}
    for place in places_of_tasks(model, tasks, model.get_share_params()):
        for parameter in place.module.parameters():
            owners.setdefault(id(parameter), set()).add(place.task)
    architectures = getattr(model, "is_architectures", None)

    def owner_of(name: str, parameter: nn.Parameter) -> Owner:
        part = name.partition(".")[0]
        if "." not in name or (architectures is not None and not architectures(name)):
            return Owner(part=part, weighting=True)
        found = owners.get(id(parameter), set())
        alone = len(found) == 1 and id(parameter) not in shared
        return Owner(next(iter(found)) if alone else None, part)

    return sizes.counted(model, tasks, owner_of)
