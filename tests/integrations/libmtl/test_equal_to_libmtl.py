"""With the patch `fast-gradients` LibMTL trains as it does without it, up to rounding.

Both LibMTLs: the installed one, and the checkout of its main branch that LIBMTL_MAIN names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from main_checkout import MAIN, on_main

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import LibMTL.weighting as weightings
import pytest
import torch

from libmtl_recon.integrations.libmtl.patches import PATCHES

CHILD = Path(__file__).with_name("train_every_weighting.py")
REPOSITORY = Path(__file__).parents[3]
INSTALLED = [n for n in weightings.__all__ if not n.startswith(("Abs", "GradOPS", "RotoGrad"))]
OF_MAIN = [
    *("EW", "UW", "GradNorm", "GLS", "RLW", "MGDA", "PCGrad", "GradVac", "CAGrad", "GradDrop"),
    *("DWA", "IMTL", "Nash_MTL", "MoCo", "DB_MTL", "STCH", "ExcessMTL"),
    *("FairGrad", "FAMO", "MoDo", "UPGrad"),
]
# SciPy's solver takes derivatives from differences, which make 1e-8 of a rounding.
BY_DIFFERENCES = ("CAGrad", "FairGrad")
# They change what these weightings do, and what is compared with here is LibMTL's own.
LEFT_OUT = ("cagrad-tasks", "gradvac-targets")

Results = dict[str, dict[str, torch.Tensor]]


def train_twice(folder: Path, libmtl: str, names: list[str]) -> tuple[Results, Results]:
    """Every weighting's parameters after training, with the patch and without it."""
    found = []
    for without in (LEFT_OUT, (*LEFT_OUT, "fast-gradients")):
        patches = ",".join(patch.name for patch in PATCHES if patch.name not in without)
        path = folder / f"{len(found)}.pt"
        python_path = [libmtl, str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "LIBMTL_RECON_PATCHES": patches,
            "LIBMTL_RECON_DEVICE": "cpu",
            "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
        }
        done = subprocess.run(
            [sys.executable, CHILD, path, *names],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(torch.load(path))
    return found[0], found[1]


def check(name: str, both: tuple[Results, Results]) -> None:
    ours, theirs = both
    assert ours.keys() == theirs.keys()
    keys = [key for key in ours if key.startswith(f"{name},")]
    assert keys
    coarse = name in BY_DIFFERENCES
    for key in keys:
        for parameter, value in ours[key].items():
            torch.testing.assert_close(
                value,
                theirs[key][parameter],
                rtol=1e-6 if coarse else 1e-9,
                atol=1e-7 if coarse else 1e-11,
                equal_nan=True,
                msg=lambda text, k=key, p=parameter: f"{k}, {p}: {text}",
            )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    return train_twice(tmp_path_factory.mktemp("installed"), "", INSTALLED)


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    return train_twice(tmp_path_factory.mktemp("main"), MAIN, OF_MAIN)


@pytest.mark.parametrize("name", INSTALLED)
def test_the_installed_libmtl(name: str, installed: tuple[Results, Results]) -> None:
    check(name, installed)


@on_main
@pytest.mark.parametrize("name", OF_MAIN)
def test_the_main_branch(name: str, main: tuple[Results, Results]) -> None:
    check(name, main)
