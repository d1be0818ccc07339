"""What is installed: the wheel's top level, and every package and file of the tree in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

TREE = Path(__file__).parents[2]
# Where each of the tree's folders lies in the wheel.
INSTALLED = {
    "libmtl_recon": "libmtl_recon",
    "search": "libmtl_recon_search",
    "configs": "libmtl_recon_search/configs",
}
BUILD = "import setuptools.build_meta, sys; print(setuptools.build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of all files in the wheel of this tree, which is built from a copy."""
    copy = tmp_path_factory.mktemp("tree")
    for folder in INSTALLED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(TREE / folder, copy / folder, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TREE / file, copy)
    built = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, built], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with ZipFile(built / done.stdout.splitlines()[-1]) as archive:
        return archive.namelist()


def test_the_top_level_is_ours_alone(wheel: list[str]) -> None:
    """A module `search` or `configs` there would take the place of a user's own."""
    top = {name.partition("/")[0] for name in wheel}
    (information,) = (name for name in top if name.endswith(".dist-info"))
    assert information.startswith("libmtl_recon-")
    assert top - {information} == {"libmtl_recon", "libmtl_recon_search"}


def test_nothing_of_the_tree_is_forgotten(wheel: list[str]) -> None:
    expected = {
        f"{there}/{file.relative_to(TREE / here).as_posix()}"
        for here, there in INSTALLED.items()
        for file in (TREE / here).rglob("*")
        if file.suffix in (".py", ".yaml", ".json", ".typed", ".css", ".js")
    }
    assert {name for name in wheel if ".dist-info/" not in name} == expected
    assert {"libmtl_recon/py.typed", "libmtl_recon_search/py.typed"} < expected
    assert "libmtl_recon_search/configs/multidigits.yaml" in expected
