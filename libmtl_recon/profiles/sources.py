"""Read the worst layers from the cache, a profile, published scores, or a list of layers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from libmtl_recon.conflicts.fingerprint import differences, fingerprint, loose_fingerprint
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.profile import FORMAT, ConflictProfile
from libmtl_recon.conflicts.schedule import DEFAULT_CONFIDENCE
from libmtl_recon.conflicts.stability import in_words, stability
from libmtl_recon.conflicts.strict_json import parse
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.files import is_file
from libmtl_recon.profiles.cache import ProfileCache, read_text
from libmtl_recon.texts import did_you_mean

_FILES = (
    "a profile written by `libmtl-recon layers export`, a JSON object {layer: score}, or a JSON "
    "list of layers"
)
_WAY_OUT = (
    f"Give a file with {_FILES}; or the ID of a profile in the cache; or the comma-separated "
    "names of the layers."
)


@dataclass(frozen=True)
class Selection:
    """The chosen layers.

    Attributes:
        names: Worst first.
        note: A line for the user: where they came from; names of arguments are in backticks.
        doubt: Another, where they come from a profile of too few steps; else empty.
        profile: The ID of the profile that they come from, if they do.
    """

    names: tuple[str, ...]
    note: str
    doubt: str = ""
    profile: str | None = None


def from_cache(
    layers: Sequence[Layer],
    K: int,
    S: float,
    cache: ProfileCache,
    command: str,
    tasks: Sequence[str] | None = None,
) -> Selection:
    """Return the K worst layers by the newest profile that fits the network.

    Args:
        layers: The network's.
        K: How many.
        S: The severity.
        cache: Where to look.
        command: What makes a profile of this network, for the message that there is none.
        tasks: This run's; see :func:`describe`.

    Raises:
        UsageError: S is not a valid severity.
        ReconError: No profile fits; names the layers in which the nearest differs.
    """
    match = cache.find(layers)
    if match is None:
        raise ReconError(
            f"There is no conflict profile for this network of {len(layers)} layers, so it is "
            f"not known which of them conflict.{_nearest(layers, cache)} Create one with "
            f"`{command}`, or give another source with `source`."
        )
    found = _by_profile(layers, K, S, f"profile {match.entry.id}", match.entry.profile, tasks)
    if not match.others:
        return found
    note = f"{found.note}; the newest of {match.others + 1} that fit"
    return replace(found, note=note)


def from_source(
    layers: Sequence[Layer],
    K: int,
    S: float,
    source: str,
    cache: ProfileCache,
    tasks: Sequence[str] | None = None,
) -> Selection:
    """Return the K worst layers by ``source``.

    Args:
        layers: The network's.
        K: How many.
        S: The severity; counts for a profile only.
        source: A file: an exported profile, a JSON object ``{layer: score}`` such as the Recon
            authors published, or a JSON list of layers, worst first. Or the (possibly shortened)
            id of a profile in the cache; or layers with commas between them, worst first.
        cache: Where profiles are kept.
        tasks: This run's; see :func:`describe`.

    Raises:
        UsageError: There are fewer layers than K, it names one that the network lacks, or S is no
            severity.
        ReconError: The profile is of another architecture, or the source cannot be read.
    """
    way_out = _WAY_OUT
    if not source.strip():
        raise UsageError("source", "must name layers, or a source of layers", source, _WAY_OUT)
    if not is_file(source):
        names = [name.strip() for name in source.split(",")]
        if len(names) > 1 or any(layer.name == source for layer in layers):
            return _by_list(layers, K, f"the list {source}", names)
        if re.fullmatch("[0-9a-f]{1,12}", source) and any(
            entry.id.startswith(source) for entry in cache.list()
        ):
            entry = cache.load(source)
            return _by_profile(layers, K, S, f"profile {entry.id}", entry.profile, tasks)
        way_out += f" {_hint(names, {layer.name: 0 for layer in layers})}"
    text = read_text(source, way_out)
    try:
        data = parse(text)
    except ValueError as error:
        raise ReconError(f"`source` {source} is not JSON ({error}). {_WAY_OUT}") from error
    if isinstance(data, dict) and data.get("format") == FORMAT:
        profile = ConflictProfile.from_json(text, source)
        return _by_profile(layers, K, S, source, profile, tasks)
    if isinstance(data, list) and data and all(isinstance(name, str) for name in data):
        return _by_list(layers, K, source, data)
    if isinstance(data, dict) and data and all(map(_is_score, data.values())):
        return _by_scores(layers, K, source, data)
    raise ReconError(f"`source` {source} must contain {_FILES}, and contains none of these.")


def describe(profile: ConflictProfile, tasks: Sequence[str] | None = None) -> str:
    """Describe the origin of a profile in a few words.

    Args:
        profile: Whose origin.
        tasks: If its tasks are not these, they are named.
    """
    parts = [origin(profile.provenance, profile.steps)]
    if tasks is not None and set(tasks) != set(profile.tasks):
        parts.append(f"of the tasks {', '.join(profile.tasks)}")
    return ", ".join(parts)


def origin(provenance: Mapping[str, Any], steps: int | None = None) -> str:
    """Return a profile's data set, weighting, seed, number of steps and date, as far as known."""
    parts = [
        str(provenance.get("dataset", "unknown data")),
        str(provenance.get("weighting", "unknown weighting")),
        "" if provenance.get("seed") is None else f"seed {provenance['seed']}",
        "" if steps is None else f"{steps} steps",
        str(provenance.get("date", ""))[:10],
    ]
    return ", ".join(part for part in parts if part)


def titles(profiles: Sequence[ConflictProfile]) -> list[str]:
    """Return one title per profile that distinguishes it: data set, weighting, architecture, seed.

    Where all of these are the same, or not enough, they are numbered from 1.
    """
    keys = ("dataset", "weighting", "architecture", "seed")
    origins = [profile.provenance for profile in profiles]
    telling = [k for k in keys if len({str(origin.get(k)) for origin in origins}) > 1]
    found = [" ".join(str(o.get(k)) for k in telling or ["dataset"]) for o in origins]
    if len(set(found)) < len(found):
        found = [f"{title} ({number})" for number, title in enumerate(found, 1)]
    return found


def _by_profile(
    layers: Sequence[Layer],
    K: int,
    S: float,
    title: str,
    profile: ConflictProfile,
    tasks: Sequence[str] | None,
) -> Selection:
    theirs = profile.architecture
    if loose_fingerprint(theirs) != loose_fingerprint(layers):
        raise ReconError(
            f"`source` {title} is the profile of another architecture, or the network has "
            f"changed since: it has {len(theirs)} layers and this network {len(layers)} "
            f"({differences(theirs, layers)}). Score this network with `libmtl-recon score`, or "
            "give the profile that belongs to it."
        )
    note = f"layers from {title} ({describe(profile, tasks)})"
    if fingerprint(theirs) != fingerprint(layers):
        note += (
            ", scored on a network whose layers have the same names and types but other shapes "
            f"({differences(theirs, layers)})"
        )
    chosen = tuple(profile.layers(S, K))
    sure = stability(profile, S, K)
    doubt = "" if sure.holds(DEFAULT_CONFIDENCE) else in_words(sure, DEFAULT_CONFIDENCE)
    return Selection(chosen, note, doubt, profile.id)


def _nearest(layers: Sequence[Layer], cache: ProfileCache) -> str:
    """Return a sentence about the profile with the most layers of this network, if it has half."""
    ours = {layer.name for layer in layers}

    def common(profile: ConflictProfile) -> int:
        return len(ours & set(profile.layer_names))

    entry = max(cache.list(), key=lambda entry: common(entry.profile), default=None)
    if entry is None or 2 * common(entry.profile) < len(ours):
        return ""
    return (
        f" The most similar one, {entry.id} ({describe(entry.profile)}), is of a network that "
        f"differs ({differences(entry.profile.architecture, layers)})."
    )


def _by_scores(
    layers: Sequence[Layer], K: int, source: str, data: dict[str, int | float]
) -> Selection:
    order = {layer.name: position for position, layer in enumerate(layers)}
    _check_names(list(data), order, K, source)
    ranked = sorted(data, key=lambda name: (-data[name], order[name]))
    note = f"layers from {source}, by the scores in it (to which `S` does not apply)"
    return Selection(tuple(ranked[:K]), note)


def _by_list(layers: Sequence[Layer], K: int, title: str, names: list[str]) -> Selection:
    order = {layer.name: position for position, layer in enumerate(layers)}
    _check_names(names, order, K, title)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError("source", "must name each layer once", twice, "Name it once.")
    of = f", the first {K} of {len(names)}" if len(names) > K else ""
    return Selection(tuple(names[:K]), f"layers from {title}{of}, in its order")


def _check_names(names: list[str], order: dict[str, int], K: int, title: str) -> None:
    unknown = [name for name in names if name not in order]
    if unknown:
        raise UsageError(
            "source",
            "must name layers of this network",
            unknown[0],
            f"{len(unknown)} of the {len(names)} layers in {title} do not exist here. "
            + _hint(names, order),
        )
    if len(names) < K:
        raise UsageError(
            "K",
            f"must be at most {len(names)}, the number of layers that {title} ranks",
            K,
            "Lower it, or give more layers with `source`.",
        )


def _is_score(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _hint(names: list[str], known: dict[str, int]) -> str:
    """Suggest a prefix to add to or remove from all names, or else some existing names."""
    longer = [k.removesuffix(names[0]) for k in known if k.endswith(f".{names[0]}")]
    for prefix in longer:
        if all(prefix + name in known for name in names):
            return f"All of them exist under {prefix!r}: add this prefix to each name."
    parts = names[0].split(".")
    for cut in range(1, len(parts)):
        prefix = ".".join(parts[:cut]) + "."
        if all(n.startswith(prefix) and n.removeprefix(prefix) in known for n in names):
            return f"All of them exist without {prefix!r}: remove this prefix from each name."
    hint = did_you_mean(next(name for name in names if name not in known), known)
    return f"{hint}The network's layers are {', '.join(list(known)[:4])}, ..."
