"""Compare the rankings of two profiles, published scores or lists over the same layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from libmtl_recon.conflicts.comparison import Comparison, compare_rankings
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.stability import stability
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.files import exists, is_folder
from libmtl_recon.profiles.cache import ProfileCache
from libmtl_recon.profiles.given import Given, of_entry, read_given
from libmtl_recon.profiles.layer_names import NAMES, Matching, check_match, match_names
from libmtl_recon.profiles.sources import ranked_names

_WAY_OUT = (
    "Give the file of an exported profile, of scores {layer: score}, or of a JSON list; or the ID "
    "of a profile or an imported ranking."
)


@dataclass(frozen=True)
class Compared:
    """The comparison of two sources A and B.

    Attributes:
        found: The comparison.
        matching: The matching of the names of one source with those of the other.
        left_out: The layers that only A has, and those that only B has.
    """

    found: Comparison
    matching: Matching
    left_out: tuple[tuple[str, ...], tuple[str, ...]]


def given_as(source: str, cache: ProfileCache, parameter: str) -> Given:
    """Read a source of layers, which may be a file or a (possibly shortened) ID.

    Args:
        source: A file name or an ID.
        cache: The cache of profiles.
        parameter: The argument's name, for error messages.

    Raises:
        ReconError: The file cannot be read, or contains no profile, ranking, scores or list.
        UsageError: The file does not exist, and it is not the ID of exactly one profile or
            ranking.
    """
    if exists(source) and not is_folder(source):
        return read_given(source, _WAY_OUT)
    return of_entry(cache.load_any(source, f"{parameter} is not a file, and therefore"))


def compare_given(
    one: Given, other: Given, S: float, match: str = NAMES, skip_missing: bool = False
) -> Compared:
    """Compare the rankings of two sources, whose layers may have other names.

    Args:
        one: The source A.
        other: The source B.
        S: The severity. It is used only for profiles.
        match: The way to match the names of one with those of the other; see
            :meth:`~libmtl_recon.profiles.given.Given.matched`.
        skip_missing: Whether to ignore layers that only one of them has.

    Raises:
        UsageError: S is not a valid severity, or the names cannot be matched in this way.
        ReconError: The two rank different layers. The message names some of them.
    """
    check_match("match", match)
    turned = one.architecture is None and other.architecture is not None
    base, second = (other, one) if turned else (one, other)
    layers = base.architecture or tuple(Layer(name, "", ()) for name in base.names)
    own = match_names(base.names, layers, base.title)
    if match == NAMES:
        matching = match_names(second.names, layers, second.title)
        second.refuse_other_types(matching, layers)
    elif base.architecture is None:
        raise UsageError(
            "match",
            "can be order only if one of the two is a profile, whose network's order is known",
            match,
            "Give the profile of the network in the place of its scores.",
        )
    else:
        matching = second.matched(layers, match, skip_missing=True)
    rankings = _ranking(base, own, layers, S), _ranking(second, matching, layers, S)
    common = set(rankings[0]) & set(rankings[1])
    alone = tuple(name for name in rankings[0] if name not in common)
    there = {ours: theirs for theirs, ours in matching.pairs.items()}
    others = (*matching.missing, *(there[name] for name in rankings[1] if name not in common))
    if (alone or others) and not (skip_missing and common):
        _refuse(one, other, (*alone, *others), len(common))
    ranked = [[name for name in ranking if name in common] for ranking in rankings]
    ordered = [layer for layer in layers if layer.name in common]
    agreements = _agreement(base, S), _agreement(second, S)
    left_out: tuple[tuple[str, ...], tuple[str, ...]] = alone, others
    if turned:
        ranked, agreements, left_out = ranked[::-1], agreements[::-1], left_out[::-1]
    known = ordered if base.architecture is not None else None
    found = compare_rankings(ranked[0], ranked[1], known, agreements)
    return Compared(found, replace(matching, missing=()), left_out)


def _ranking(given: Given, matching: Matching, layers: Sequence[Layer], S: float) -> Sequence[str]:
    if given.profile is None:
        return ranked_names(given, matching, layers)[0]
    return [matching.pairs[name] for name in given.profile.ranking(S) if name in matching.pairs]


def _agreement(given: Given, S: float) -> float | None:
    return None if given.profile is None else stability(given.profile, S).agreement


def _refuse(one: Given, other: Given, differing: Sequence[str], common: int) -> None:
    what = "rankings" if one.profile is None or other.profile is None else "profiles"
    way_out = "Only rankings of the same layers can be compared"
    if common:
        way_out += f"; `skip_missing` compares the {common} that both have"
    elif len(one.names) == len(other.names):
        way_out += "; layers under other names are matched by `match` order"
    raise ReconError(
        f"These {what} are of different architectures, {len(one.names)} and {len(other.names)} "
        f"layers, and differ in {', '.join(sorted(differing)[:3])}. {way_out}."
    )
