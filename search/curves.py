"""The storage of a trial's learning curve.

With one objective these are Optuna's intermediate values. A study of several objectives has none:
Optuna's storages would accept them, but its samplers, including those of a user who adds trials,
could then not choose any more. There the curve is an attribute, which is short, since the best
value so far rarely changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial

CURVE = "curve"
_LAST, _CHANGES = "last", "changes"


def curve_of(trial: FrozenTrial) -> dict[int, float]:
    """Return the best lead up to each epoch, for a trial of the search."""
    kept = trial.user_attrs.get(CURVE)
    if kept is None:
        return dict(trial.intermediate_values)
    found: dict[int, float] = {}
    changes = {int(epoch): value for epoch, value in kept[_CHANGES].items()}
    value = 0.0
    for epoch in range(min(changes), kept[_LAST] + 1):
        value = changes.get(epoch, value)
        found[epoch] = value
    return found


def longer(kept: Mapping[str, Any] | None, epoch: int, value: float) -> dict[str, Any]:
    """Return the attribute of a curve with one more epoch."""
    changes = dict(kept[_CHANGES]) if kept else {}
    if not changes or list(changes.values())[-1] != value:
        changes[str(epoch)] = value
    return {_LAST: epoch, _CHANGES: changes}
