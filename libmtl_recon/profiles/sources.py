"""Read the worst layers from the cache, a profile, published scores, or a list of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from libmtl_recon.conflicts.fingerprint import differences, fingerprint
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.profile import ConflictProfile, check_reached
from libmtl_recon.conflicts.schedule import DEFAULT_CONFIDENCE
from libmtl_recon.conflicts.stability import in_words, stability
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.profiles.cache import (
    Entry,
    ProfileCache,
    RankingEntry,
    built_in_entries,
    find_among,
)
from libmtl_recon.profiles.fitting import fits, fitted_profile
from libmtl_recon.profiles.given import Given, given_by, of_entry
from libmtl_recon.profiles.layer_names import NAMES, Matching


@dataclass(frozen=True)
class Selection:
    """The chosen layers.

    Attributes:
        names: The names of the layers, worst first.
        note: A line for the user about the origin of the layers. Names of arguments are in
            backticks.
        doubt: A line for the user if the profile has too few steps; otherwise empty.
        profile: The ID of the profile, or None if the layers do not come from a profile.
        places: The source's names and the network's, if they were matched by position.
    """

    names: tuple[str, ...]
    note: str
    doubt: str = ""
    profile: str | None = None
    places: tuple[tuple[str, str], ...] = ()


def from_cache(
    layers: Sequence[Layer],
    K: int,
    S: float,
    cache: ProfileCache,
    command: str,
    tasks: Sequence[str] | None = None,
) -> Selection:
    """Return the K worst layers by the newest profile that fits the network.

    If no profile in the cache fits, an imported ranking or a built-in profile is used.

    Args:
        layers: The network's layers.
        K: The number of layers to return.
        S: The severity.
        cache: The cache of profiles.
        command: The command that creates a profile of this network, for error messages.
        tasks: The tasks of this run; see :func:`describe`.

    Raises:
        UsageError: S is not a valid severity.
        ReconError: No profile fits. The message says in which layers the most similar differs.
    """
    match = cache.find(layers)
    if match is not None:
        given = of_entry(match.entry)
        found = _by_profile(layers, K, S, given, match.entry.profile, Matching({}), tasks)
        if not match.others:
            return found
        return _noted(found, f"; the newest of {match.others + 1} that fit")
    other = _ranking_of(layers, cache) or _built_in(layers)
    if other is None:
        raise ReconError(
            f"There is no conflict profile for this network of {len(layers)} layers, so it is "
            f"not known which of them conflict.{_nearest(layers, cache)} Create one with "
            f"`{command}`, or give another source with `source`."
        )
    found = _select(layers, K, S, of_entry(other), tasks, NAMES, False)
    return _noted(found, ", because no profile in the cache fits")


def from_source(
    layers: Sequence[Layer],
    K: int,
    S: float,
    source: str,
    cache: ProfileCache,
    tasks: Sequence[str] | None = None,
    *,
    match: str = NAMES,
    skip_missing: bool = False,
) -> Selection:
    """Return the K worst layers by ``source``.

    Args:
        layers: The network's layers.
        K: The number of layers to return.
        S: The severity. It is used only if the source is a profile.
        source: A file: an exported profile, a JSON object ``{layer: score}`` such as the Recon
            authors published, or a JSON list of layers, worst first. Or the (possibly shortened)
            ID of a profile or ranking in the cache; or the name of a built-in profile; or the
            comma-separated names of layers, worst first.
        cache: The cache of profiles.
        tasks: The tasks of this run; see :func:`describe`.
        match: The way to match the source's names with the network's: by ``names``, with or
            without wrappers such as ``module.``; by ``order``, the position in the network; or by
            ``order:FILE``, where FILE is a JSON list of the source's names in network order.
        skip_missing: Whether to ignore layers of the source that the network lacks.

    Raises:
        UsageError: The source has fewer than K layers or names one that the network lacks, the
            names cannot be matched, or S is not a valid severity.
        ReconError: The profile is of another architecture, or the source cannot be read.
    """
    return _select(layers, K, S, given_by(source, cache, layers), tasks, match, skip_missing)


def describe(profile: ConflictProfile, tasks: Sequence[str] | None = None) -> str:
    """Describe the origin of a profile in a few words.

    Args:
        profile: The profile.
        tasks: The tasks of this run. If the profile has others, the description lists them.
    """
    parts = [origin(profile.provenance, profile.steps)]
    if tasks is not None and set(tasks) != set(profile.tasks):
        parts.append(f"of the tasks {', '.join(profile.tasks)}")
    return ", ".join(parts)


def origin(provenance: Mapping[str, Any], steps: int | None = None) -> str:
    """Return a profile's data set, weighting and, if known, seed, number of steps and date."""
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

    If these do not distinguish all profiles, the titles are numbered from 1.
    """
    keys = ("dataset", "weighting", "architecture", "seed")
    origins = [profile.provenance for profile in profiles]
    telling = [k for k in keys if len({str(origin.get(k)) for origin in origins}) > 1]
    found = [" ".join(str(o.get(k)) for k in telling or ["dataset"]) for o in origins]
    if len(set(found)) < len(found):
        found = [f"{title} ({number})" for number, title in enumerate(found, 1)]
    return found


def _select(
    layers: Sequence[Layer],
    K: int,
    S: float,
    given: Given,
    tasks: Sequence[str] | None,
    match: str,
    skip_missing: bool,
) -> Selection:
    if given.profile is not None:
        profile, matching = fitted_profile(given, layers, match, skip_missing)
        return _by_profile(layers, K, S, given, profile, matching, tasks)
    matching = given.matched(layers, match, skip_missing)
    ranked, note = ranked_names(given, matching, layers)
    if len(ranked) < K:
        raise UsageError(
            "K",
            f"must be at most {len(ranked)}, the number of layers that {given.title} ranks",
            K,
            "Lower it, or give more layers with `source`.",
        )
    of = f", the first {K} of {len(ranked)}" if given.scores is None and len(ranked) > K else ""
    chosen = tuple(ranked[:K])
    note = f"layers from {given.title}{matching.note}{of}, {note}"
    return Selection(chosen, note, places=_places(matching))


def ranked_names(
    given: Given, matching: Matching, layers: Sequence[Layer]
) -> tuple[list[str], str]:
    """Return a network's layers, worst first, by scores or a list, and a note about the ranking.

    Args:
        given: The scores or the list.
        matching: The matching of its names with the network's.
        layers: The network's layers. Layers with equal scores are sorted by their order here.
    """
    if given.scores is None:
        return list(matching.pairs.values()), "in its order"
    place = {layer.name: number for number, layer in enumerate(layers)}
    scores = {ours: given.scores[theirs] for theirs, ours in matching.pairs.items()}
    ranked = sorted(scores, key=lambda name: (-scores[name], place[name]))
    return ranked, "by the scores in it (to which `S` does not apply)"


def _by_profile(
    layers: Sequence[Layer],
    K: int,
    S: float,
    given: Given,
    profile: ConflictProfile,
    matching: Matching,
    tasks: Sequence[str] | None,
) -> Selection:
    theirs = profile.architecture
    note = f"layers from {given.title} ({describe(profile, tasks)}){matching.note}"
    if fingerprint(theirs) != fingerprint(layers):
        note += (
            ", scored on a network whose layers have the same names and types but other shapes "
            f"({differences(theirs, layers)})"
        )
    check_reached("K", K, len(profile.reached), given.title)
    chosen = tuple(profile.layers(S, K))
    sure = stability(profile, S, K)
    doubt = "" if sure.holds(DEFAULT_CONFIDENCE) else in_words(sure, DEFAULT_CONFIDENCE)
    assert given.profile is not None
    return Selection(chosen, note, doubt, given.profile.id, _places(matching))


def _places(matching: Matching) -> tuple[tuple[str, str], ...]:
    return tuple(matching.pairs.items()) if matching.by_order else ()


def _noted(selection: Selection, more: str) -> Selection:
    return replace(selection, note=f"{selection.note}{more}")


def _ranking_of(layers: Sequence[Layer], cache: ProfileCache) -> RankingEntry | None:
    fitting = (entry for entry in cache.rankings() if fits(of_entry(entry), layers))
    return next(fitting, None)


def _built_in(layers: Sequence[Layer]) -> Entry | None:
    found = find_among(built_in_entries(), layers)
    return None if found is None else found.entry


def _nearest(layers: Sequence[Layer], cache: ProfileCache) -> str:
    """Return a sentence about the most similar profile, if it has at least half of the layers."""
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
