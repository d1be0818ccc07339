"""Which layers become task-specific: the K worst of a profile, a published list, or the cache.

Or, for comparison, as many that were not measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from libmtl_recon.conflict import baselines
from libmtl_recon.conflict.cache import ProfileCache, read_text
from libmtl_recon.conflict.fingerprint import fingerprint, loose_fingerprint
from libmtl_recon.conflict.layers import Layer
from libmtl_recon.conflict.profile import FORMAT, ConflictProfile, check_count
from libmtl_recon.errors import ReconError, UsageError

_LOOSE = (
    ", which was scored on a network whose layers have the same names and types but other shapes"
)


@dataclass(frozen=True)
class Selection:
    """The chosen layers.

    Attributes:
        names: Worst first.
        note: A line for the user: where they came from.
    """

    names: tuple[str, ...]
    note: str


def select_layers(
    layers: Sequence[Layer],
    K: int,
    S: float,
    source: str | None = None,
    cache: ProfileCache | None = None,
    command: str = "libmtl-recon score SCRIPT ARGS...",
    *,
    select: str = "conflict",
    seed: int = 0,
    tasks: Sequence[str] | None = None,
) -> Selection:
    """The K layers of a network that conflict most, or those of a baseline.

    Args:
        layers: The network's layers.
        K: How many.
        S: The severity, for a profile.
        source: A file: an exported profile, or a JSON object ``{layer: score}`` such as the
            Recon authors published. Without it, the cache.
        cache: The cache to look in; the user's by default.
        command: What makes a profile of this network, for the message that there is none.
        select: One of :data:`~libmtl_recon.conflict.baselines.SELECTIONS`. Only ``conflict`` and
            ``random_params``, whose number of parameters is that of the K worst, need scores.
        seed: Of the random ones.
        tasks: This run's, to be told from those that a profile was scored for: the layers are the
            network's, whatever the tasks are.

    Raises:
        UsageError: K leaves no layer shared, S is no severity, the file names a layer that the
            network lacks, or there is no such choice.
        ReconError: There is no profile for this network, the file's is of another, or the file
            cannot be read.
    """
    check_count("--recon_k", K, len(layers))
    if len(layers) == K:
        raise UsageError(
            "--recon_k",
            f"must leave a layer shared, so be below {K}, the number of shared layers",
            K,
            "Lower it; to train each task apart, use `libmtl-recon run --single-task NAME`.",
        )
    check_select("--recon_select", select)
    if select in _UNMEASURED:
        return Selection(*_UNMEASURED[select](layers, K, seed))
    worst = _worst(layers, K, S, source, cache, command, tasks)
    if select == "conflict":
        return worst
    size = {layer.name: layer.parameters for layer in layers}
    wanted = sum(size[name] for name in worst.names)
    names = tuple(baselines.random_parameters(layers, wanted, seed))
    if not names:
        raise UsageError(
            "--recon_select",
            f"can be random_params only if a layer has at most {wanted:,} parameters, as many as "
            f"the {K} worst have together",
            select,
            "Raise --recon_k.",
        )
    found = sum(size[name] for name in names)
    return Selection(
        names,
        f"layers chosen at random (seed {seed}) with {found:,} parameters in place of {wanted:,} "
        f"of the {K} worst ({worst.note})",
    )


def check_select(parameter: str, select: object) -> None:
    """Check a way of choosing layers.

    Raises:
        UsageError: There is none of this name.
    """
    if select not in baselines.SELECTIONS:
        known = "; ".join(f"{name}: {what}" for name, what in baselines.SELECTIONS.items())
        raise UsageError(
            parameter, f"must be one of {', '.join(baselines.SELECTIONS)}", select, f"{known}."
        )


_UNMEASURED: dict[str, Callable[[Sequence[Layer], int, int], tuple[tuple[str, ...], str]]] = {
    "random": lambda layers, K, seed: (
        tuple(baselines.random_layers(layers, K, seed)),
        f"{K} layers chosen at random (seed {seed})",
    ),
    "first": lambda layers, K, _: (
        tuple(baselines.first_layers(layers, K)),
        f"the first {K} layers, whatever their conflicts",
    ),
    "last": lambda layers, K, _: (
        tuple(baselines.last_layers(layers, K)),
        f"the last {K} layers, whatever their conflicts",
    ),
}


def _worst(
    layers: Sequence[Layer],
    K: int,
    S: float,
    source: str | None,
    cache: ProfileCache | None,
    command: str,
    tasks: Sequence[str] | None,
) -> Selection:
    if source is not None:
        return _from_file(layers, K, S, source, tasks)
    match = (cache or ProfileCache()).find(layers)
    if match is None:
        raise ReconError(
            f"No conflict profile is kept for this network of {len(layers)} layers, so --arch "
            f"Recon cannot know which of them conflict. Make one with `{command}`, or name a file "
            "with --recon_layers."
        )
    profile, entry = match.entry.profile, match.entry
    note = f"layers from profile {entry.id} ({describe(profile, tasks)})"
    if not match.exact:
        note += _LOOSE
    if match.others:
        note += f"; the newest of {match.others + 1} that fit"
    return Selection(tuple(profile.layers(S, K)), note)


def describe(profile: ConflictProfile, tasks: Sequence[str] | None = None) -> str:
    """Where a profile came from, in a few words; its tasks, if they are not these."""
    where = profile.provenance
    parts = [
        str(where.get("dataset", "unknown data")),
        str(where.get("weighting", "unknown weighting")),
        f"{profile.steps} steps",
        str(where.get("date", ""))[:10],
    ]
    if tasks is not None and set(tasks) != set(profile.tasks):
        parts.append(f"tasks {', '.join(profile.tasks)}")
    return ", ".join(part for part in parts if part)


def _from_file(
    layers: Sequence[Layer], K: int, S: float, source: str, tasks: Sequence[str] | None
) -> Selection:
    text = read_text(source)
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ReconError(
            f"--recon_layers {source} is not JSON ({error}). Name a file that `libmtl-recon layers "
            "export` wrote, or a JSON object {layer: score}."
        ) from error
    if isinstance(data, dict) and data.get("format") == FORMAT:
        profile = ConflictProfile.from_json(text, source)
        return _from_profile(layers, K, S, source, profile, tasks)
    return _from_scores(layers, K, source, data)


def _from_profile(
    layers: Sequence[Layer],
    K: int,
    S: float,
    source: str,
    profile: ConflictProfile,
    tasks: Sequence[str] | None,
) -> Selection:
    if loose_fingerprint(profile.architecture) != loose_fingerprint(layers):
        theirs, ours = set(profile.layer_names), {layer.name for layer in layers}
        differing = sorted(theirs ^ ours)[:3] or "the layers' types or order"
        raise ReconError(
            f"--recon_layers {source} is the profile of another architecture: it has "
            f"{len(theirs)} layers and this network {len(ours)}, differing in {differing}. Score "
            "this network with `libmtl-recon score`, or name the profile that belongs to it."
        )
    note = f"layers from {source} ({describe(profile, tasks)})"
    if fingerprint(profile.architecture) != fingerprint(layers):
        note += _LOOSE
    return Selection(tuple(profile.layers(S, K)), note)


def _from_scores(layers: Sequence[Layer], K: int, source: str, data: object) -> Selection:
    if not isinstance(data, dict) or not data or not all(map(_is_score, data.values())):
        raise ReconError(
            f"--recon_layers {source} holds neither a conflict profile nor a JSON object {{layer: "
            "score}} with a number for each layer."
        )
    order = {layer.name: position for position, layer in enumerate(layers)}
    unknown = [name for name in data if name not in order]
    if unknown:
        raise UsageError(
            "--recon_layers",
            "must name layers of this network",
            unknown[0],
            f"{len(unknown)} of the {len(data)} layers in {source} do not exist here. "
            + _hint(list(data), order),
        )
    ranks = len(data)
    if ranks < K:
        raise UsageError(
            "--recon_k",
            f"must be at most {ranks}, the number of layers that {source} ranks",
            K,
            "Lower it, or name a file that ranks more layers.",
        )
    ranked = sorted(data, key=lambda name: (-data[name], order[name]))
    note = f"layers from {source}, by its published scores (--recon_s does not apply to them)"
    return Selection(tuple(ranked[:K]), note)


def _is_score(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _hint(names: list[str], known: dict[str, int]) -> str:
    """The way out: a prefix that all the names lack or have too much, else some true names."""
    longer = [k.removesuffix(names[0]) for k in known if k.endswith(f".{names[0]}")]
    for prefix in longer:
        if all(prefix + name in known for name in names):
            return f"All of them do under {prefix!r}: put this before each name in the file."
    parts = names[0].split(".")
    for cut in range(1, len(parts)):
        prefix = ".".join(parts[:cut]) + "."
        if all(n.startswith(prefix) and n.removeprefix(prefix) in known for n in names):
            return f"All of them do without {prefix!r}: remove this from each name in the file."
    return f"The network's layers are called {', '.join(list(known)[:4])}, ..."
