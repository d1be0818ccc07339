"""Packages that LibMTL needs and does not declare."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from libmtl_recon.errors import ReconError, UsageError

# Solvers that a weighting requests by name, in its first step only.
_SOLVERS = {"UPGrad": "quadprog"}


class MissingPackagesError(ReconError, ImportError):
    """LibMTL cannot be imported because packages that it does not declare are missing."""


def explain_failed_import(libmtl: ModuleType, error: ModuleNotFoundError) -> None:
    """Raise an error that names all missing packages; do nothing if that is not the reason.

    Args:
        libmtl: LibMTL's module, whose import failed.
        error: The error of the import.

    Raises:
        MissingPackagesError: Packages are missing.
    """
    missing = missing_packages([Path(folder) for folder in libmtl.__path__])
    if error.name is None or error.name.partition(".")[0] not in missing:
        return
    solvers = [name for name in _SOLVERS.values() if importlib.util.find_spec(name) is None]
    extra = f" (--weighting UPGrad also needs {', '.join(solvers)})" if solvers else ""
    raise MissingPackagesError(
        f"The LibMTL at {next(iter(libmtl.__path__))} needs {', '.join(missing)}, which it does "
        f"not declare and which are not installed{extra}: pip install "
        f"{' '.join([*missing, *solvers])}."
    ) from error


def missing_packages(folders: list[Path]) -> list[str]:
    """Return the missing packages among those that the folders' modules import at top level.

    Args:
        folders: Those of a package.
    """
    names = {
        name.partition(".")[0]
        for folder in folders
        for file in folder.rglob("*.py")
        for statement in ast.parse(file.read_bytes()).body
        for name in _imported(statement)
    }
    own = {folder.name for folder in folders}
    return sorted(
        name
        for name in names - own - set(sys.stdlib_module_names)
        if importlib.util.find_spec(name) is None
    )


def _imported(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
        return [statement.module]
    return []


def refuse_missing_solver(weighting: Any) -> None:
    """Refuse a weighting whose solver is not installed, before it trains.

    Args:
        weighting: Its class.

    Raises:
        UsageError: The solver is not installed.
    """
    solver = _SOLVERS.get(getattr(weighting, "__name__", ""))
    if solver is not None and importlib.util.find_spec(solver) is None:
        raise UsageError(
            "--weighting",
            f"needs the package {solver}, which LibMTL does not declare and which is not installed",
            weighting.__name__,
            f"Install it: pip install {solver}.",
        )
