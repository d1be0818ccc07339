"""Each way of computing a step's Gramian trains the same, in both LibMTLs.

The installed one, and the checkout of its main branch that LIBMTL_MAIN names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from main_checkout import MAIN, on_main

CHILD = Path(__file__).with_name("train_by_each_way.py")
REPOSITORY = Path(__file__).parents[3]
INSTALLED = ("GradOPS", "PCGrad", "CAGrad", "MGDA", "IMTL", "GradNorm", "GradVac", "EW")
OF_MAIN = (*INSTALLED, "Nash_MTL", "Aligned_MTL", "UPGrad", "FairGrad")
# SciPy's solvers take derivatives from differences, which make 1e-8 of a rounding.
COARSE = {"CAGrad": 1e-6, "FairGrad": 1e-6}
SETTINGS = ("plain", "scored", "multi_input", "missing labels", "split")

# By what was trained and how: how far it came from the stored way, how many Gramians were computed
# from what was noted of forward passes, and how many layers by products.
Found = dict[str, tuple[float, int, int]]


def train(folder: Path, libmtl: str, names: tuple[str, ...]) -> Found:
    path = folder / "found.json"
    python_path = [libmtl, str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, CHILD, path, *names],
        env={
            **os.environ,
            "LIBMTL_RECON_DEVICE": "cpu",
            "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Found = json.loads(path.read_text(encoding="utf-8"))
    return found


def check(name: str, found: Found) -> None:
    for way in ("ghost", "auto"):
        for setting in SETTINGS:
            error, gramians, products = found[f"{name}, {setting}, {way}"]
            assert error < COARSE.get(name, 1e-9), (setting, way)
            if name != "EW" or setting == "scored":
                assert gramians >= 4 or way == "auto", (setting, way)
                assert products or way == "auto", (setting, way)
            else:
                assert gramians == 0, (setting, way)
    assert found[f"{name}, accumulated, ghost"][0] < COARSE.get(name, 1e-9)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return train(tmp_path_factory.mktemp("installed"), "", INSTALLED)


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return train(tmp_path_factory.mktemp("main"), MAIN, OF_MAIN)


@pytest.mark.parametrize("name", INSTALLED)
def test_the_installed_libmtl(name: str, installed: Found) -> None:
    check(name, installed)


@on_main
def test_nash_mtl_needs_a_gramian_only_where_it_solves(main: Found) -> None:
    error, gramians, _ = main["Nash_MTL, every other step, ghost"]
    assert error < 1e-9
    assert gramians == main["Nash_MTL, plain, ghost"][1] / 2


@on_main
@pytest.mark.parametrize("name", OF_MAIN)
def test_the_main_branch(name: str, main: Found) -> None:
    check(name, main)
