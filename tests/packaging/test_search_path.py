"""The search's public path, which takes no name of a user's."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import libmtl_recon_search
import pytest
from forks import python

import libmtl_recon.search
from libmtl_recon import ReconError

TREE = Path(__file__).parents[2]
OF_USERS = 'WHO = "the user"\n'


def test_it_offers_what_the_package_offers() -> None:
    assert libmtl_recon.search.__all__ == libmtl_recon_search.__all__
    for name in libmtl_recon.search.__all__:
        assert getattr(libmtl_recon.search, name) is getattr(libmtl_recon_search, name)
    assert libmtl_recon.search.shipped_configs() == libmtl_recon_search.shipped_configs()
    assert {"multidigits", "nyuv2", "nyuv2-small"} <= set(libmtl_recon.search.shipped_configs())


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys\nimport libmtl_recon.search\n"
        "print(sorted({'torch', 'LibMTL', 'optuna', 'pydantic', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_source_tree_that_is_not_installed_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Missing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "libmtl_recon_search":
                raise ModuleNotFoundError(name, name=name)

    for name in ("libmtl_recon_search", "libmtl_recon.search"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(ReconError, match=r"Install both with `pip install -e \.`"):
        importlib.import_module("libmtl_recon.search")


def test_a_search_beside_a_users_script_is_the_scripts(tmp_path: Path) -> None:
    """The command and each of its runs, in the user's folder and with its script there."""
    (tmp_path / "search.py").write_text(OF_USERS, encoding="utf-8")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text(OF_USERS, encoding="utf-8")
    tiny = (TREE / "tests" / "search" / "tiny.py").read_text(encoding="utf-8")
    first = "from __future__ import annotations\n"
    assert first in tiny
    (tmp_path / "main.py").write_text(
        tiny.replace(
            first, f"{first}import configs\nimport search\nprint(search.WHO, configs.WHO)\n"
        ),
        encoding="utf-8",
    )
    (tmp_path / "study.yaml").write_text(
        "script: main.py\nflags: {epochs: 1}\ntrials: 1\nscore: {steps: 2}\n"
        "finalists: {count: 1, seeds: [9]}\nconfirm: [1]\n"
        "space: {weighting: [EW], s: [0.0], k: {low: 0, high: 1}}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [*python(), "-m", "libmtl_recon", "search", "study.yaml", "--out", "out"],
        cwd=tmp_path,
        env={**os.environ, "LIBMTL_RECON_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    logs = [file.read_text(encoding="utf-8") for file in (tmp_path / "out" / "runs").glob("*.log")]
    assert len(logs) > 4
    assert {log.splitlines()[0] for log in logs} == {"the user the user"}
