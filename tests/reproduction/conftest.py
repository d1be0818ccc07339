"""The search's runs that train nothing serve the reproductions as well."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The helpers beside the search's tests, which are no package.
sys.path.insert(0, str(Path(__file__).parents[1] / "search"))

from fake_runs import Asked, Curves, FakeRunner


def by_layers(asked: Asked, task: str) -> Curves:
    """A single task reaches 0.5; each split layer adds 0.01, and each seed 0.001."""
    value = 0.5 if asked.alone else 0.4 + 0.01 * asked.K
    return [0.1, value], [0.1, value + 0.001 * asked.seed]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRunner:
    """The runner of all trainings; the working folder has a script, main.py."""
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").write_text("never run", encoding="utf-8")
    fake = FakeRunner(by_layers)
    monkeypatch.setattr("libmtl_recon_search.trainings.Runner", fake)
    return fake
