"""Plans of trainings: a weighting, its flags, and the layers that are split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Flags = tuple[tuple[str, Any], ...]
"""Searched flags with the values that were chosen; lists as tuples, so that it can be hashed."""

MEASURED = ("conflict", "random_params")
"""The ways of choosing layers that look at conflict scores."""
_DRAWN = ("random", "random_params")


@dataclass(frozen=True)
class Plan:
    """A configuration that can be trained.

    Attributes:
        weighting: The name of the weighting in LibMTL.
        alpha: The exponent of GradOPS; None for other weightings.
        S: The severity; None if nothing is split, or no scores are used.
        layers: The split layers, worst first; empty for plain hard parameter sharing.
        select: How they were chosen, as in ``--recon_select``.
        K: The requested number of layers; ``random_params`` may choose another number.
        seed: The seed of the choice, if it was random.
        flags: The script's flags that were searched.
    """

    weighting: str
    alpha: float | None = None
    S: float | None = None
    layers: tuple[str, ...] = ()
    select: str = "conflict"
    K: int | None = None
    seed: int = 0
    flags: Flags = ()

    @property
    def key(self) -> tuple[object, ...]:
        """Return a key that is equal for plans of the same training, even if S and K differ."""
        return self.weighting, self.alpha, frozenset(self.layers), self.flags

    @property
    def identity(self) -> list[object]:
        """Return the key as JSON, the same in every process."""
        flags = [[name, value] for name, value in self.flags]
        return [self.weighting, self.alpha, sorted(self.layers), flags]

    @property
    def title(self) -> str:
        """Return a short description of the plan."""
        alpha = "" if self.alpha is None else f" α={self.alpha:g}"
        flags = "".join(f", {name}={shown(value)}" for name, value in self.flags)
        return f"{self.weighting}{alpha}, {self._split}{flags}"

    @property
    def _split(self) -> str:
        if not self.layers:
            return "HPS"
        K = len(self.layers) if self.K is None else self.K
        how = "" if self.select == "conflict" else f" {self.select}"
        S = "" if self.S is None else f" S={self.S:g}"
        return f"Recon{how}{S} K={K}"

    def arguments(self, profile: str) -> tuple[str, ...]:
        """Return the plan as flags, without those of the script.

        Args:
            profile: The file of the conflict profile.
        """
        found = ["--weighting", self.weighting]
        if self.alpha is not None:
            short = f"{self.alpha:.12g}"
            found += [f"--gradops_alpha={short if float(short) == self.alpha else self.alpha}"]
        if not self.layers:
            return (*found, "--arch", "HPS")
        K = len(self.layers) if self.K is None else self.K
        found += ["--arch", "Recon", "--recon_k", str(K)]
        if self.select != "conflict":
            found += ["--recon_select", self.select]
        if self.select in _DRAWN:
            found += ["--recon_select_seed", str(self.seed)]
        if self.select in MEASURED:
            found += [f"--recon_s={self.S:g}", "--recon_layers", profile]
        return tuple(found)


def shown(value: Any) -> str:
    """Return a flag's value as shown in a title."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        return " ".join(map(shown, value))
    return str(value)


REFERENCE = Plan("EW")
"""Return the plan of equal weighting with plain hard parameter sharing."""
