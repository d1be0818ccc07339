"""Import a profile, scores or a list of layers into the cache, under a network's own names."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from pathlib import Path

from libmtl_recon.conflicts.fingerprint import loose_fingerprint
from libmtl_recon.conflicts.layer_ranking import LayerRanking
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.files import is_file
from libmtl_recon.profiles.cache import Entry, ProfileCache, RankingEntry, built_in_entries
from libmtl_recon.profiles.fitting import fits, fitted_profile
from libmtl_recon.profiles.given import Given, of_entry, read_given
from libmtl_recon.profiles.layer_names import (
    NAMES,
    ORDER,
    Matching,
    check_match,
    without_wrappers,
)
from libmtl_recon.profiles.sources import ranked_names

_WAY_OUT = "Give the file of an exported profile, of scores {layer: score}, or of a JSON list."


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Attributes:
        id: The ID of the imported profile or ranking in the cache.
        what: ``profile``, or ``ranking`` for scores and lists.
        matching: The matching of the file's names with the network's, or None if the file was
            imported unchanged.
        like: The title of the profile whose network was used; empty if the file was imported
            unchanged.
        layers: The network's layers.
    """

    id: str
    what: str
    matching: Matching | None
    like: str
    layers: tuple[Layer, ...]


def import_layers(
    cache: ProfileCache,
    file: str,
    like: str | None = None,
    match: str = NAMES,
    skip_missing: bool = False,
) -> Imported:
    """Import a file into the cache.

    An exported profile or ranking contains the layers of its network, and is imported unchanged
    unless ``like`` selects another network, or its names fit a network in the cache only without
    their wrappers.

    Args:
        cache: The cache of profiles.
        file: An exported profile or ranking, a JSON object ``{layer: score}``, or a JSON list.
        like: A profile of the network that the layers belong to: its ID, its built-in name or its
            file. By default the only network in the cache, or of a built-in profile, whose layers
            they are.
        match: See :meth:`~libmtl_recon.profiles.given.Given.matched`.
        skip_missing: Whether to ignore layers that the network lacks.

    Raises:
        UsageError: The names cannot be matched with the network's.
        ReconError: The file cannot be read, or fits no network or more than one.
    """
    check_match("match", match)
    given = read_given(file, _WAY_OUT, "file")
    if like is not None:
        target = _like(cache, like)
        return _import(cache, given, target, match, skip_missing)
    plain = given.architecture is not None and match == NAMES and not skip_missing
    targets = _targets(cache)
    others = [target for target in targets if not fits(given, target.architecture or ())]
    known = len(others) < len(targets)
    if plain and known:
        return _as_it_is(cache, given)
    found: list[Given] = []
    partly: list[Given] = []
    refusals: list[tuple[tuple[int, bool], ReconError]] = []
    for target in others:
        try:
            _, matching = _matched(given, target, match, skip_missing)
        except ReconError as error:
            common, refusal = _common(given, target), _telling(error, target)
            if match != NAMES and common == (len(given.names), True):
                # By its names it is this network, whatever else it fits by position.
                raise refusal from error
            refusals.append((common, refusal))
        else:
            # Of a few layers, such as conv1 alone, it cannot be told which network they are of.
            whole = len(matching.pairs) == len(target.architecture or ())
            (found if whole else partly).append(target)
    if len(found) == 1:
        return _import(cache, given, found[0], match, skip_missing)
    if plain or (known and not found and match in (NAMES, ORDER)):
        return _as_it_is(cache, given)
    if found:
        titles = ", ".join(target.title for target in found)
        raise ReconError(
            f"The layers in {file} fit several networks: those of {titles}. Choose one with `like`."
        )
    if refusals and not partly:
        (most, _), nearest = max(refusals, key=lambda one: one[0])
        if 2 * most >= len(given.names) or match != NAMES:
            raise nearest
    such = f", such as {partly[0].title}" if partly else ""
    raise ReconError(
        f"{file} contains {_kind(given)}, but the cache has no profile of a network with exactly "
        f"these layers ({cache.folder}). Create a profile of the network with `libmtl-recon "
        f"score`, or give one with `like`{such}. `libmtl-recon run` takes layers from such a file "
        "without importing it."
    )


def _like(cache: ProfileCache, like: str) -> Given:
    if is_file(like):
        given = read_given(like, _WAY_OUT, "like")
        if given.architecture is None:
            raise ReconError(
                f"`like` {like} contains only names of layers, without types and shapes. Give the "
                "ID or the file of a profile."
            )
        return given
    return of_entry(cache.load_any(like, "like"))


def _targets(cache: ProfileCache) -> list[Given]:
    """Return one profile per known network, newest first, or else one ranking."""
    entries: list[Entry | RankingEntry] = [*cache.list(), *built_in_entries(), *cache.rankings()]
    found: dict[str, Given] = {}
    for entry in entries:
        given = of_entry(entry)
        found.setdefault(loose_fingerprint(given.architecture or ()), given)
    return list(found.values())


def _telling(error: ReconError, target: Given) -> ReconError:
    """Return an error that also says which network the layers were matched with."""
    more = f"This network is that of {target.title}; name another one with `like`."
    if isinstance(error, UsageError):
        return UsageError(error.parameter, error.rule, error.value, f"{error.way_out} {more}")
    return ReconError(f"{error} {more}")


def _common(given: Given, target: Given) -> tuple[int, bool]:
    """Return the number of names that a network has too, and whether it has as many layers."""
    layers = target.architecture or ()
    bare = {without_wrappers(layer.name) for layer in layers}
    common = sum(without_wrappers(name) in bare for name in given.names)
    return common, len(layers) == len(given.names)


def _matched(
    given: Given, target: Given, match: str, skip_missing: bool
) -> tuple[ConflictProfile | LayerRanking, Matching]:
    layers = target.architecture or ()
    if given.profile is not None:
        profile, matching = fitted_profile(given, layers, match, skip_missing)
        return replace(profile, provenance=_origin(given, matching)), matching
    matching = given.matched(layers, match, skip_missing)
    names, _ = ranked_names(given, matching, layers)
    scores = None
    if given.scores is not None:
        there = {ours: theirs for theirs, ours in matching.pairs.items()}
        scores = tuple(given.scores[there[name]] for name in names)
    return LayerRanking(layers, tuple(names), scores, _origin(given, matching)), matching


def _origin(given: Given, matching: Matching) -> dict[str, object]:
    """Return the provenance of an import, which records changes of names."""
    found: dict[str, object] = dict(given.provenance)
    if given.architecture is None:
        found["imported"] = Path(given.title).name
        found["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if matching.renamed:
        found["names"] = "matched by position" if matching.by_order else "without wrappers"
    if matching.missing:
        found["left out"] = list(matching.missing)
    return found


def _import(
    cache: ProfileCache, given: Given, target: Given, match: str, skip_missing: bool
) -> Imported:
    kept, matching = _matched(given, target, match, skip_missing)
    what = "profile" if given.profile is not None else "ranking"
    return Imported(cache.save(kept), what, matching, target.title, target.architecture or ())


def _as_it_is(cache: ProfileCache, given: Given) -> Imported:
    layers = given.architecture or ()
    if given.profile is not None:
        return Imported(cache.save(given.profile), "profile", None, "", layers)
    scores = None if given.scores is None else tuple(given.scores.values())
    ranking = LayerRanking(layers, given.names, scores, given.provenance)
    return Imported(cache.save(ranking), "ranking", None, "", layers)


def _kind(given: Given) -> str:
    if given.profile is not None:
        return "a profile"
    return "scores of layers" if given.scores is not None else "a list of layers"
