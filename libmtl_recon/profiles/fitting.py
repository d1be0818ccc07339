"""Fit a profile to a network whose layers may have other names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from libmtl_recon.conflicts.fingerprint import differences, loose_fingerprint
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.errors import ReconError
from libmtl_recon.profiles.given import Given
from libmtl_recon.profiles.layer_names import NAMES, Matching, check_match, match_names


def fitted_profile(
    given: Given, layers: Sequence[Layer], match: str = NAMES, skip_missing: bool = False
) -> tuple[ConflictProfile, Matching]:
    """Return a profile under the names of a network's layers, and the matching of the names.

    Args:
        given: The source, which must be a profile.
        layers: The network's layers.
        match: See :meth:`~libmtl_recon.profiles.given.Given.matched`.
        skip_missing: Whether to ignore layers of the profile that the network lacks.

    Raises:
        UsageError: The names cannot be matched in this way.
        ReconError: The profile is of another architecture.
    """
    check_match("match", match)
    profile = given.profile
    assert profile is not None
    if match == NAMES:
        found = match_names(given.names, layers, given.title)
    else:
        found = given.matched(layers, match, skip_missing)
    fitted = _as_named(profile, found)
    loose = loose_fingerprint(layers)
    if loose_fingerprint(fitted.architecture) == loose and (skip_missing or not found.missing):
        return fitted, found
    theirs = profile.architecture
    way_out = "Score this network with `libmtl-recon score`, or give the profile that belongs to it"
    if found.missing and loose_fingerprint(fitted.architecture) == loose:
        way_out += ", or leave out what this network lacks by `skip_missing`"
    elif not found.pairs and len(theirs) == len(layers):
        way_out += ", or match the same network under other names by `match` order"
    raise ReconError(
        f"`source` {given.title} is the profile of another architecture, or the network has "
        f"changed since: it has {len(theirs)} layers and this network {len(layers)} "
        f"({differences(theirs, layers)}). {way_out}."
    )


def fits(given: Given, layers: Sequence[Layer]) -> bool:
    """Return whether the source's network has layers with these names and types in this order."""
    theirs = given.architecture
    return theirs is not None and loose_fingerprint(theirs) == loose_fingerprint(layers)


def _as_named(profile: ConflictProfile, matching: Matching) -> ConflictProfile:
    """Return a profile under a network's names, without the layers that the network lacks."""
    if not matching.renamed and not matching.missing:
        return profile
    names = profile.layer_names
    rows = [i for i, name in enumerate(names) if name in matching.pairs]
    return replace(
        profile,
        architecture=tuple(
            replace(profile.architecture[i], name=matching.pairs[names[i]]) for i in rows
        ),
        counts=profile.counts[:, rows],
        undefined=profile.undefined[:, rows],
        # It counts the gradient of all layers together.
        whole=None if matching.missing else profile.whole,
    )
