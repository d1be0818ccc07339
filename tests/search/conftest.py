"""Configurations for a tiny script, and a cache of the test's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# The helpers beside the tests, which are no package.
sys.path.insert(0, str(Path(__file__).parent))

TINY = Path(__file__).parent / "tiny.py"

WriteConfig = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(folder))
    return folder


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Write a configuration for tests/search/tiny.py; arguments replace its keys."""

    def write(**changes: Any) -> Path:
        values: dict[str, Any] = {
            "script": str(TINY),
            "flags": {"epochs": 3},
            "space": {
                "weighting": ["EW", "GradOPS"],
                "alpha": {"low": -1.0, "high": 1.0, "step": 1.0},
                "s": [-0.1, 0.0],
                "k": {"low": 0, "high": 4},
            },
            "score": {"steps": 8},
            "trials": 4,
            "finalists": {"count": 2, "seeds": [9]},
            "confirm": [1, 2],
        }
        file = tmp_path / "tiny.yaml"
        # JSON is YAML.
        file.write_text(json.dumps({**values, **changes}), encoding="utf-8")
        return file

    return write
