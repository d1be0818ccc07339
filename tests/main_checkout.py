"""The checkout of LibMTL's main branch that LIBMTL_MAIN names, for tests of both LibMTLs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

MAIN = os.environ.get("LIBMTL_MAIN", "")
_PACKAGES = ("cvxpy", "qpsolvers", "torch_geometric")
_MISSING = [name for name in _PACKAGES if not importlib.util.find_spec(name)]
_REASON = (
    f"LibMTL's main branch needs {', '.join(_MISSING)}"
    if MAIN
    else "LIBMTL_MAIN names no checkout of LibMTL's main branch"
)

on_main = pytest.mark.skipif(not MAIN or bool(_MISSING), reason=_REASON)
"""Marks what needs the checkout."""


def said_with_main(file: str) -> str:
    """Run a file's tests with the main branch, see that they pass; what pytest printed."""
    path = os.pathsep.join(filter(None, [MAIN, os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "LIBMTL_MAIN": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", file],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout
