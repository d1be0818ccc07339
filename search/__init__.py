"""The search: an Optuna study over S, K, α, the weighting and any flag."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libmtl_recon_search.checking import check_search
    from libmtl_recon_search.comparing import Performance
    from libmtl_recon_search.config import Config
    from libmtl_recon_search.load import load_config, shipped_configs, shipped_schema
    from libmtl_recon_search.objective import relative_improvement
    from libmtl_recon_search.search_result import (
        SearchResult,
        optimize,
        run_search,
        write_report,
    )
    from libmtl_recon_search.trainings import Network, TrainedNetwork, Training, Trainings

__all__ = [
    "Config",
    "Network",
    "Performance",
    "SearchResult",
    "TrainedNetwork",
    "Training",
    "Trainings",
    "check_search",
    "load_config",
    "optimize",
    "relative_improvement",
    "run_search",
    "shipped_configs",
    "shipped_schema",
    "write_report",
]

_HOMES = {
    "Network": "trainings",
    "Performance": "comparing",
    "TrainedNetwork": "trainings",
    "Training": "trainings",
    "Trainings": "trainings",
    "Config": "config",
    "check_search": "checking",
    "load_config": "load",
    "relative_improvement": "objective",
    "optimize": "search_result",
    "run_search": "search_result",
    "SearchResult": "search_result",
    "write_report": "search_result",
    "shipped_configs": "load",
    "shipped_schema": "load",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
