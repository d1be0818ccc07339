"""Strict and loose fingerprints of architectures, and descriptions of their differences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from libmtl_recon.conflicts.layers import Layer

_NAMED = 3  # the number of layers named per kind of difference; the others are counted


def fingerprint(layers: Sequence[Layer]) -> str:
    """Return a hash that is equal if all layers have the same names, types and shapes."""
    return _digest([[layer.name, layer.type, layer.shapes] for layer in layers])


def loose_fingerprint(layers: Sequence[Layer]) -> str:
    """Return a hash that is equal if all layers have the same names and types.

    A ResNet18 for images of one channel has the same hash as one for three channels.
    """
    return _digest([[layer.name, layer.type] for layer in layers])


def differences(theirs: Sequence[Layer], ours: Sequence[Layer]) -> str:
    """Describe the layers in which another network differs from this one; empty if in none.

    Shapes are only compared if names and types are the same.
    """
    other, own = {a.name: a for a in theirs}, {a.name: a for a in ours}
    both = [(other[name], layer) for name, layer in own.items() if name in other]
    found = [
        _listed("only there", [a.title for a in theirs if a.name not in own]),
        _listed("only here", [a.title for a in ours if a.name not in other]),
        _listed(
            "of another type",
            [f"{b.title} ({a.type}, here {b.type})" for a, b in both if a.type != b.type],
        ),
    ]
    if not any(found) and list(other) != list(own):
        found.append("the same layers in another order")
    if not any(found):
        shapes = [
            f"{b.title} ({sizes(a)}, here {sizes(b)})" for a, b in both if a.shapes != b.shapes
        ]
        found.append(_listed("", shapes))
    return "; ".join(part for part in found if part)


def _listed(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{kind}: {', '.join(names[:_NAMED])}{more}".removeprefix(": ")


def sizes(layer: Layer) -> str:
    """Return the shapes of a layer's parameters, as in ``64x3x7x7 + 64``."""
    return " + ".join("x".join(map(str, shape)) or "1" for shape in layer.shapes)


def _digest(description: object) -> str:
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:16]
