"""Profiles and imported rankings, each with its ID in the cache or its built-in name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libmtl_recon.conflicts.fingerprint import fingerprint, loose_fingerprint
from libmtl_recon.conflicts.layer_ranking import LayerRanking
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.profiles.built_in import built_in_profiles


@dataclass(frozen=True)
class Entry:
    """A profile in the cache, or a built-in one.

    Attributes:
        id: The profile's ID, or the name of a built-in profile.
        profile: The profile.
        built_in: Whether the profile comes with the package.
    """

    id: str
    profile: ConflictProfile
    built_in: bool = False

    @property
    def what(self) -> str:
        """The kind of entry, as messages call it."""
        return "built-in profile" if self.built_in else "profile"


@dataclass(frozen=True)
class RankingEntry:
    """An imported ranking of layers in the cache.

    Attributes:
        id: The ranking's ID.
        ranking: The ranking.
    """

    id: str
    ranking: LayerRanking

    @property
    def what(self) -> str:
        """The kind of entry, as messages call it."""
        return "ranking"


@dataclass(frozen=True)
class Match:
    """A profile found for a network.

    Attributes:
        entry: The newest profile that fits.
        exact: Whether the layers have the same shapes, in addition to names and types.
        others: The number of other profiles that fit as well.
    """

    entry: Entry
    exact: bool
    others: int


def built_in_entries() -> list[Entry]:
    """Return the profiles that come with the package."""
    return [Entry(name, profile, built_in=True) for name, profile in built_in_profiles()]


def find_among(entries: Sequence[Entry], layers: Sequence[Layer]) -> Match | None:
    """Return the first profile for a network with these layers; see :meth:`ProfileCache.find`."""
    for exact, key in ((True, fingerprint), (False, loose_fingerprint)):
        wanted = key(layers)
        fitting = [e for e in entries if key(e.profile.architecture) == wanted]
        if fitting:
            return Match(fitting[0], exact, len(fitting) - 1)
    return None
