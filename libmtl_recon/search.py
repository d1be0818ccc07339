"""The search, an Optuna study over S, K, α, the weighting and flags: its public path.

It is installed next to this package, as ``libmtl_recon_search``, and loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from libmtl_recon.errors import ReconError

try:
    import libmtl_recon_search
except ModuleNotFoundError as error:
    if error.name != "libmtl_recon_search":
        raise
    raise ReconError(
        "The search is not installed: this libmtl_recon was imported from its source folder, "
        "where the search has another name. Install both with `pip install -e .` in that "
        "folder."
    ) from error

if TYPE_CHECKING:
    from libmtl_recon_search import (
        Config,
        Network,
        Performance,
        SearchResult,
        TrainedNetwork,
        Training,
        Trainings,
        check_search,
        load_config,
        optimize,
        relative_improvement,
        run_search,
        shipped_configs,
        shipped_schema,
        write_report,
    )

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


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(libmtl_recon_search, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
