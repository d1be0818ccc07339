"""Read a source of layers: a profile, a ranking, scores, or a list of names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from libmtl_recon.conflicts.layer_ranking import FORMAT as RANKING_FORMAT
from libmtl_recon.conflicts.layer_ranking import LayerRanking, is_score
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.profile import FORMAT, ConflictProfile
from libmtl_recon.conflicts.strict_json import parse
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.files import is_file
from libmtl_recon.profiles.cache import (
    Entry,
    ProfileCache,
    RankingEntry,
    built_in_entries,
    read_text,
)
from libmtl_recon.profiles.layer_names import (
    NAMES,
    ORDER,
    ORDER_OF,
    Matching,
    check_match,
    hint,
    match_names,
    match_order,
    refuse_missing,
)
from libmtl_recon.texts import did_you_mean

_FILES = (
    "a profile written by `libmtl-recon layers export`, a JSON object {layer: score}, or a JSON "
    "list of layers"
)
WAY_OUT = (
    f"Give a file with {_FILES}; or the ID of a profile in the cache; or the name of a built-in "
    "profile; or the comma-separated names of the layers."
)


@dataclass(frozen=True)
class Given:
    """The contents of a source of layers.

    Attributes:
        title: The name of the source in messages.
        names: The names of the layers: for a profile in network order, for a list worst first,
            for scores in the order of the file.
        scores: The score of each layer, or None if the source has no scores.
        profile: The profile, or None if the source is not a profile.
        architecture: The layers of the source's network in network order, or None if they are
            not known.
        provenance: The origin of a profile or an imported ranking; otherwise empty.
    """

    title: str
    names: tuple[str, ...]
    scores: Mapping[str, float] | None = None
    profile: ConflictProfile | None = None
    architecture: tuple[Layer, ...] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def matched(
        self, layers: Sequence[Layer], match: str = NAMES, skip_missing: bool = False
    ) -> Matching:
        """Match the names of the source with those of a network.

        Args:
            layers: The network's layers.
            match: ``names``, ``order``, or ``order:FILE``, where FILE is a JSON list of the
                source's names in network order.
            skip_missing: Whether to ignore names that the network lacks.

        Raises:
            UsageError: The network lacks a name, a name is given twice, or the layers cannot be
                matched in this way.
            ReconError: The file in ``match`` cannot be read.
        """
        check_match("match", match)
        if match == NAMES:
            found = match_names(self.names, layers, self.title)
        else:
            # The file's names are the same layers, in an order of their own.
            known = self.architecture if match == ORDER else None
            order = self._network_order(match)
            found = match_order(self.names, order, layers, self.title, known)
        if not skip_missing or not found.pairs:
            refuse_missing(found, self.names, layers, self.title, match)
        if found.renamed and not found.by_order:
            self.refuse_other_types(found, layers)
        return found

    def _network_order(self, match: str) -> tuple[str, ...]:
        if match.startswith(ORDER_OF):
            file = match.removeprefix(ORDER_OF)
            wanted = "Give a JSON list of the source's layers in network order."
            try:
                names = parse(read_text(file, wanted))
            except ValueError as error:
                raise ReconError(f"`match` {file} is not JSON ({error}). {wanted}") from error
            if not _is_list(names):
                raise ReconError(f"`match` {file} must contain a JSON list of names. {wanted}")
            return tuple(names)
        if self.architecture is not None:
            return tuple(layer.name for layer in self.architecture)
        scores = None if self.scores is None else list(self.scores.values())
        if scores is None or scores == sorted(scores, reverse=True):
            what = "a list" if scores is None else "an object whose scores descend"
            raise UsageError(
                "match",
                f"cannot be order alone for {what}, whose order is that of the ranking and not "
                "that of the network",
                ORDER,
                "Write the names in network order as a JSON list (named_modules() gives that "
                "order), and give it as `match` order:FILE.",
            )
        return self.names

    def refuse_other_types(self, found: Matching, layers: Sequence[Layer]) -> None:
        """Check that each layer has the same type as the one that it was matched with.

        Raises:
            UsageError: A layer has another type. Unknown types are not compared.
        """
        here = {layer.name: layer.type for layer in layers}
        for layer in self.architecture or ():
            ours = found.pairs.get(layer.name)
            if ours is not None and here[ours] not in (layer.type, ""):
                raise UsageError(
                    "source",
                    "must name layers of the same types as this network's, with or without "
                    "wrappers",
                    layer.name,
                    f"It is a {layer.type} in {self.title}, and {ours} here is a {here[ours]}.",
                )


def read_given(file: str, way_out: str = WAY_OUT, parameter: str = "source") -> Given:
    """Read an exported profile or ranking, scores, or a list from a file.

    Args:
        file: The file's path.
        way_out: A sentence that tells the user what to give if the file cannot be read.
        parameter: The argument's name, for error messages.

    Raises:
        ReconError: The file cannot be read, or contains something else.
    """
    text = read_text(file, way_out)
    try:
        data = parse(text)
    except ValueError as error:
        raise ReconError(f"`{parameter}` {file} is not JSON ({error}). {way_out}") from error
    if isinstance(data, dict) and data.get("format") == FORMAT:
        return of_profile(ConflictProfile.from_json(text, file), file)
    if isinstance(data, dict) and data.get("format") == RANKING_FORMAT:
        return of_ranking(LayerRanking.from_json(text, file), file)
    if _is_list(data):
        return Given(file, tuple(data))
    if isinstance(data, dict) and data and all(map(is_score, data.values())):
        return Given(file, tuple(data), data)
    raise ReconError(f"`{parameter}` {file} must contain {_FILES}, and contains none of these.")


def given_by(source: str, cache: ProfileCache, layers: Sequence[Layer]) -> Given:
    """Read a source of layers, which may be a file, an ID, a name or a list of layers.

    Args:
        source: A file; the (possibly shortened) ID of a profile or ranking in the cache; the name
            of a built-in profile; or the comma-separated names of layers.
        cache: The cache of profiles.
        layers: The network's layers.

    Raises:
        UsageError: The source is empty.
        ReconError: The source is something else, or cannot be read.
    """
    if not isinstance(source, str) or not source.strip():
        raise UsageError("source", "must name layers, or a source of layers", source, WAY_OUT)
    way_out = WAY_OUT
    if not is_file(source):
        names = [name.strip() for name in source.split(",")]
        if len(names) > 1 or any(layer.name == source for layer in layers):
            return Given(f"the list {source}", tuple(names))
        if (found := _kept(source, cache)) is not None:
            return found
        listed = [layer.name for layer in layers]
        near = did_you_mean(source, (entry.id for entry in built_in_entries()))
        way_out += f" {near.strip() or hint(names, set(listed), listed)}"
    return read_given(source, way_out)


def of_entry(entry: Entry | RankingEntry) -> Given:
    """Return a profile or ranking of the cache, or a built-in profile, as a source of layers."""
    if isinstance(entry, RankingEntry):
        return of_ranking(entry.ranking, f"ranking {entry.id}")
    word = "the built-in profile" if entry.built_in else "profile"
    return of_profile(entry.profile, f"{word} {entry.id}")


def of_profile(profile: ConflictProfile, title: str) -> Given:
    """Return a profile as a source of layers."""
    layers, origin = profile.architecture, profile.provenance
    return Given(title, profile.layer_names, None, profile, layers, origin)


def of_ranking(ranking: LayerRanking, title: str) -> Given:
    """Return a ranking as a source of layers."""
    scores = None
    if ranking.scores is not None:
        scores = dict(zip(ranking.names, ranking.scores, strict=True))
    return Given(title, ranking.names, scores, None, ranking.architecture, ranking.provenance)


def _kept(source: str, cache: ProfileCache) -> Given | None:
    """Return the profile or ranking with this ID, or None if it is not an ID."""
    if any(entry.id == source for entry in built_in_entries()):
        return of_entry(cache.load_any(source))
    if not re.fullmatch("[0-9a-f]{1,12}", source):
        return None
    ids = [entry.id for entry in cache.list()] + [entry.id for entry in cache.rankings()]
    found = any(id.startswith(source) for id in ids)
    return of_entry(cache.load_any(source)) if found else None


def _is_list(data: object) -> bool:
    return isinstance(data, list) and bool(data) and all(isinstance(name, str) for name in data)
