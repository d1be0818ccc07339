"""A script to be scored, in a folder with a cache of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The helpers beside the tests, which are no package.
sys.path.insert(0, str(Path(__file__).parent))

from scored_script import SCRIPT


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "main.py"
    file.write_text(SCRIPT)
    return str(file)
