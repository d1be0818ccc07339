"""What a trial is, and how Optuna chooses one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from libmtl_recon_search.config import Config, FloatRange

from libmtl_recon import ConflictProfile


@dataclass(frozen=True)
class Plan:
    """A configuration that can be trained.

    Attributes:
        weighting: LibMTL's name.
        alpha: GradOPS's exponent; None for other weightings.
        S: The severity; None where nothing is split.
        layers: The split layers, worst first; none is plain hard parameter sharing.
    """

    weighting: str
    alpha: float | None = None
    S: float | None = None
    layers: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, float | None, frozenset[str]]:
        """Equal for plans that train the same network in the same way, whatever S and K say."""
        return self.weighting, self.alpha, frozenset(self.layers)

    @property
    def title(self) -> str:
        """The plan in a few words."""
        alpha = "" if self.alpha is None else f" α={self.alpha:g}"
        split = f"Recon S={self.S:g} K={len(self.layers)}" if self.layers else "HPS"
        return f"{self.weighting}{alpha}, {split}"

    def arguments(self, profile: str) -> tuple[str, ...]:
        """The plan as LibMTL flags.

        Args:
            profile: The file of the conflict profile.
        """
        found = ["--weighting", self.weighting]
        if self.alpha is not None:
            found += [f"--gradops_alpha={self.alpha:g}"]
        if not self.layers:
            return (*found, "--arch", "HPS")
        found += ["--arch", "Recon", "--recon_k", str(len(self.layers))]
        return (*found, f"--recon_s={self.S:g}", "--recon_layers", profile)


REFERENCE = Plan("EW")
"""Equal weighting with plain hard parameter sharing: what there is without us."""


def suggest(trial: optuna.trial.BaseTrial, config: Config, profile: ConflictProfile) -> Plan:
    """Have Optuna choose a plan."""
    space = config.space
    weighting = trial.suggest_categorical("weighting", space.weighting)
    alpha = None
    if weighting == "GradOPS":
        alpha = _suggest_from(trial, "alpha", space.alpha)
    K = trial.suggest_int("k", space.k.low, space.k.high)
    if K == 0:
        return Plan(weighting, alpha)
    if isinstance(space.s, FloatRange):
        S = _suggest_from(trial, "s", space.s)
    else:
        S = trial.suggest_categorical("s", space.s)
    return Plan(weighting, alpha, S, tuple(profile.layers(S, K)))


def anchors(config: Config) -> list[dict[str, Any]]:
    """The first trials: each weighting with and without a split, at unremarkable values."""
    space = config.space
    middle = math.ceil((space.k.low + space.k.high) / 2)
    found = []
    for weighting in space.weighting:
        for K in dict.fromkeys((middle, space.k.low)):
            values: dict[str, Any] = {"weighting": weighting, "k": K}
            if weighting == "GradOPS":
                values["alpha"] = _nearest(space.alpha.values, 0.0)
            if K:
                values["s"] = _nearest(space.severities, -0.1)
            found.append(values)
    return found


def _suggest_from(trial: optuna.trial.BaseTrial, name: str, among: FloatRange) -> float:
    # Optuna wants a range that ends on a step, and adds steps up with rounding errors.
    value = trial.suggest_float(name, among.low, among.values[-1], step=among.step)
    return _nearest(among.values, value)


def _nearest(values: Sequence[float], value: float) -> float:
    return min(values, key=lambda candidate: abs(candidate - value))
