"""Tmp."""

import warnings
from typing import Any

import optuna


def make_sampler(config: Any, seed: int) -> Any:
    """Tmp."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=6, constant_liar=True)


def make_pruner(config: Any, epochs: int) -> Any:
    """Tmp."""
    return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, epochs // 3))
