"""Which architecture a set of layers is: a strict and a loose fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from libmtl_recon.conflict.layers import Layer


def fingerprint(layers: Sequence[Layer]) -> str:
    """Equal for networks whose layers have the same names, types and shapes."""
    return _digest([[layer.name, layer.type, layer.shapes] for layer in layers])


def loose_fingerprint(layers: Sequence[Layer]) -> str:
    """Equal for networks whose layers have the same names and types.

    A ResNet18 for images of one channel has that of one for three.
    """
    return _digest([[layer.name, layer.type] for layer in layers])


def _digest(description: object) -> str:
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:16]
