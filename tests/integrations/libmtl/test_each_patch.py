"""Each patch: wrong without it, right with it, whichever of us a script imports first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import LibMTL
import pytest

from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.patches import PATCHES

PROBE = Path(__file__).with_name("probe_patches.py")
# What each defect looks like: an error, a wrong result, or the first parameter that is wrong.
WITHOUT = {
    "task-representations": "encoder.cross_unit",
    "mtan-zero-grad": "encoder.own.weight",
    "dselect-k-codes": "[[True, True], [True, True], [True, True], [True, True]]",
    "gls-logarithms": "[nan, nan, nan, nan, nan] for losses of 100000000.0",
    "gradnorm-first-epoch": "encoder.conv1.weight",
    "gradvac-targets": "[0.0, 0.0, 0.0, 0.0]",
    "mgda-solver": "not of least norm",
    "rlw-constrained-bernoulli": "ValueError: No support method RLW with constrained_Bernoulli",
    "optimizers-schedulers": "UnboundLocalError: cannot access local variable 'optim_param'",
}

pytestmark = pytest.mark.skipif(
    detect(LibMTL).saves_models, reason="the probe is written for LibMTL's release"
)


def probe(order: str, patches: str | None = None) -> dict[str, list[str]]:
    environment = {k: v for k, v in os.environ.items() if k != "LIBMTL_RECON_PATCHES"}
    if patches is not None:
        environment["LIBMTL_RECON_PATCHES"] = patches
    environment |= {"LIBMTL_RECON_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, PROBE, order],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("order", ["ours-first", "libmtl-first"])
def test_all_is_right_with_the_patches(order: str) -> None:
    found = probe(order)
    assert found == {name: [] for name in WITHOUT}


@pytest.fixture(scope="module")
def without() -> dict[str, list[str]]:
    # The fast gradients would hide what MTAN does between two tasks.
    left = [m.name for m in PATCHES if m.name not in {*WITHOUT, "fast-gradients"}]
    return probe("ours-first", ",".join(left))


@pytest.mark.parametrize("name", WITHOUT)
def test_each_defect_is_there_without_its_patch(name: str, without: dict[str, list[str]]) -> None:
    assert [said for said in without[name] if said.startswith(WITHOUT[name])]


def test_mtan_trains_no_attention_without_its_patch(without: dict[str, list[str]]) -> None:
    lost = [name for name in without["mtan-zero-grad"] if ".encoder_att." in name]
    assert {name.split(".")[-3] for name in lost} == {"0", "1", "2"}, "the tasks"
