"""Choose the layers that ``--arch Recon`` splits, and what its checkpoints record about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from libmtl_recon.conflicts.baselines import MEASURED, SEEDED
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.integrations.libmtl.commands import scoring_command
from libmtl_recon.integrations.libmtl.data_parallel.agreement import of_first
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.split_source import SplitSource
from libmtl_recon.integrations.libmtl.splits import BASE
from libmtl_recon.profiles.layer_names import NAMES
from libmtl_recon.profiles.selection import Selection, select_layers
from libmtl_recon.splitting.spec import SplitSpec, own_versions
from libmtl_recon.texts import shorten


def as_asked(
    layers: Sequence[Layer], tasks: Sequence[str], asked: Mapping[str, Any]
) -> tuple[Selection, SplitSpec]:
    """Return the layers that a run's arguments select.

    Args:
        layers: The network's layers.
        tasks: The run's tasks.
        asked: The architecture's arguments.

    Returns:
        The layers; and the specification of the split that the network's checkpoints record.

    Raises:
        UsageError: See :func:`~libmtl_recon.profiles.selection.select_layers`.
        ReconError: As for :func:`~libmtl_recon.profiles.selection.select_layers`.
    """
    import LibMTL

    K, S, source = int(asked["recon_k"]), float(asked["recon_s"]), asked["recon_layers"]
    select, seed = asked.get("recon_select", "conflict"), asked.get("recon_select_seed", 0)
    base = asked.get("recon_base", "HPS")
    # Of several ranks the first one's cache counts: the ranks may be on several machines.
    chosen = of_first(
        lambda: select_layers(
            layers,
            K,
            S,
            source,
            command=scoring_command(base),
            tasks=tasks,
            select=select,
            seed=seed,
            **matching_of(asked),
        )
    )
    origin = {
        BASE: base,
        "K": K,
        "S": S,
        "select": select,
        "source": source,
        "profile": chosen.profile,
    }
    if select in SEEDED:
        origin["select_seed"] = int(seed)
    libmtl = f"{version('LibMTL')} ({detect(LibMTL).label})"
    made = SplitSpec(
        chosen.names,
        tuple(tasks),
        asked.get("recon_bn", "per_task"),
        asked.get("recon_init", "copy"),
        origin=origin,
        versions={**own_versions(), "LibMTL": libmtl},
    )
    return chosen, made


def as_saved(
    split: SplitSource,
    layers: Sequence[Layer],
    tasks: Sequence[str],
    path: str,
    asked: str | None,
    matching: Mapping[str, Any],
) -> tuple[Selection, SplitSpec]:
    """Return the layers that were split according to a checkpoint.

    Args:
        split: The checkpoint's specification of the split.
        layers: The network's layers.
        tasks: The run's tasks.
        path: The path in LibMTL's model of the network that has these layers.
        asked: The source of layers that was also given; None if none was.
        matching: How its names are matched; see :func:`matching_of`.

    Returns:
        See :func:`as_asked`.

    Raises:
        UsageError: The source that was given selects other layers.
        ReconError: The checkpoint is of another network, or of other tasks.
    """
    spec, source = split.spec, split.source
    known = {layer.name for layer in layers}
    foreign = [name for name in spec.layers if name not in known]
    if foreign or spec.root not in ("", path):
        what = shorten(foreign) or f"what it has under {spec.root}"
        raise ReconError(
            f"{source} is the checkpoint of another network: it has task-specific layers that "
            f"this one lacks ({what}). Use the architecture, encoder and decoders with which it "
            "was saved."
        )
    in_order = tuple(tasks) == spec.tasks
    if set(tasks) != set(spec.tasks) or (spec.per_task_output and not in_order):
        raise ReconError(
            f"{source} is of a network for the tasks {', '.join(spec.tasks)}, but the script's "
            f"tasks are {', '.join(tasks)}. Load a checkpoint with the tasks with which it was "
            "saved."
        )
    if asked is not None and not _names_these(asked, spec, layers, matching):
        raise UsageError(
            "--recon_layers",
            f"must name the layers that are task-specific in {source}",
            asked,
            "Leave it out: the network is built as described in the checkpoint.",
        )
    origin = spec.origin
    words = [f"{name} = {origin[name]}" for name in ("K", "S") if name in origin]
    words += [f"profile {origin['profile']}"] if origin.get("profile") else []
    note = f"layers as {source} says" + (f" ({', '.join(words)})" if words else "")
    return Selection(spec.layers, note), replace(spec, tasks=tuple(tasks), root="")


def matching_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a source's names are matched with the network's, for ``select_layers``.

    Args:
        asked: The architecture's arguments.
    """
    return {
        "match": asked.get("recon_match", NAMES),
        "skip_missing": bool(asked.get("recon_skip_missing", False)),
    }


def _names_these(
    asked: str, spec: SplitSpec, layers: Sequence[Layer], matching: Mapping[str, Any]
) -> bool:
    """Return whether a source of layers is a split's own, or selects the same layers now."""
    origin = spec.origin
    profile = origin.get("profile")
    if asked == origin.get("source") or (profile and str(profile).startswith(asked)):
        return True
    if origin.get("select", "conflict") not in MEASURED:
        return True  # the source is not read, and a message reports that
    try:
        found = select_layers(
            layers,
            origin.get("K", len(spec.layers)),
            origin.get("S", 0.0),
            asked,
            select=origin.get("select", "conflict"),
            seed=origin.get("select_seed", 0),
            **matching,
        )
    except ReconError:
        return False
    return set(found.names) == set(spec.layers)
