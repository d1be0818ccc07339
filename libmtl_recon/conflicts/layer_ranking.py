"""A ranking of a network's layers that comes without cosines, such as a published one."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libmtl_recon.conflicts.file_format import decode_layer, encode_layer
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.strict_json import parse
from libmtl_recon.errors import ReconError

FORMAT = "libmtl-recon layer ranking"
VERSION = 1


@dataclass(frozen=True)
class LayerRanking:
    """Layers of a network from worst to best, for no severity in particular.

    Attributes:
        architecture: The network's L layers, in network order.
        names: The ranked layers, worst first; all L or some of them.
        scores: One score per name, if there are any.
        provenance: The origin: the file, and how its names were matched with the network's.
    """

    architecture: tuple[Layer, ...]
    names: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """An identifier of this ranking, of twelve characters."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """Return the ranking as a readable JSON text."""
        ranked: object = list(self.names)
        if self.scores is not None:
            ranked = dict(zip(self.names, self.scores, strict=True))
        data = {
            "format": FORMAT,
            "version": VERSION,
            "provenance": dict(self.provenance),
            "architecture": [encode_layer(layer) for layer in self.architecture],
            "ranking": ranked,
        }
        return json.dumps(data, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "the text") -> LayerRanking:
        """Create a ranking from a text written by :meth:`to_json`.

        Args:
            text: The JSON text.
            source: The name of its file, for the message.

        Raises:
            ReconError: It is not a ranking of layers, or is damaged.
        """
        try:
            return _decode(parse(text))
        except ValueError as error:
            raise ReconError(f"{source} is not a readable ranking of layers: {error}.") from error


def is_score(value: object) -> bool:
    """Return whether a JSON value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float is near
        return False


def _decode(data: Any) -> LayerRanking:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f'it has no "format": "{FORMAT}"')
    if data.get("version") != VERSION:
        raise ValueError(f"its version is {data.get('version')!r}; this program reads {VERSION}")
    layers, provenance, ranked = (
        data.get(key) for key in ("architecture", "provenance", "ranking")
    )
    if not isinstance(layers, list) or not isinstance(provenance, dict):
        raise ValueError("it has no architecture or no provenance")
    architecture = tuple(map(decode_layer, layers))
    if not isinstance(ranked, dict | list) or not ranked:
        raise ValueError("it ranks no layers")
    names = {layer.name for layer in architecture}
    if len(names) < len(architecture):
        raise ValueError("two of its layers have the same name")
    if not all(isinstance(name, str) and name in names for name in ranked):
        raise ValueError("it ranks a layer that its architecture lacks")
    if len(set(ranked)) < len(ranked):
        raise ValueError("it ranks a layer twice")
    scores = None
    if isinstance(ranked, dict):
        if not all(map(is_score, ranked.values())):
            raise ValueError("a score is not a finite number")
        scores = tuple(ranked.values())
        if list(scores) != sorted(scores, reverse=True):
            raise ValueError("its layers are not in the order of their scores")
    return LayerRanking(architecture, tuple(ranked), scores, provenance)
