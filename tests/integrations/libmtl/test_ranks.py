"""Several ranks train as one process does, by every weighting and architecture, in both LibMTLs.

All that is written down is compared: the state dict, the weights of each step, losses and metrics
of each pass, and the best result. A batch size that the ranks do not divide, and a last batch of
one sample, which leaves ranks without any.
"""

from __future__ import annotations

from pathlib import Path

import forks
import pytest
from ranks_problem import Trained, distance, trained
from test_ways import MAIN, on_main

# SciPy's solvers take derivatives from differences, which make 1e-8 of a rounding.
COARSE = {"CAGrad": 1e-7, "FairGrad": 1e-10}
QUICK = (
    "EW",
    "GradOPS",
    "PCGrad",
    "RotoGrad full",
    "RotoGrad gradnorm",
    "GradOPS, Recon",
    "GradOPS, ghost",
    "GradOPS, stored",
    "EW, one task seldom",
    "GradOPS, missing labels",
    "PCGrad, multi_input",
    "MGDA, rep_grad",
    "GradOPS, batch norm",
    "PCGrad, batch norm, Recon",
    "RLW, other seeds",
    "EW, scored",
    "GradOPS, scored, stored",
    "EW, valid pixels",
    "GradOPS, stream",
)


def bound(case: str) -> float:
    return COARSE.get(case.partition(",")[0], 1e-12)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Trained]:
    folder, python = tmp_path_factory.mktemp("ranks"), forks.python(libmtl=False)
    one = trained(folder, QUICK, 1, python=python)
    return one, trained(folder, [*QUICK, "dropout"], 2, python=python)


@pytest.mark.parametrize("case", QUICK)
def test_two_ranks_train_as_one_process_does(case: str, quick: tuple[Trained, Trained]) -> None:
    one, two = quick
    off, where = distance(two[case], one[case])
    assert off <= bound(case), where


def test_each_rank_has_random_numbers_of_its_own(quick: tuple[Trained, Trained]) -> None:
    assert int(quick[1]["dropout"]["different"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("libmtl", ["", pytest.param(MAIN, marks=on_main)], ids=["PyPI", "main"])
def test_the_whole_matrix(libmtl: str, ranks: int, tmp_path: Path) -> None:
    one = trained(tmp_path, ["all"], 1, libmtl=libmtl)
    several = trained(tmp_path, ["all"], ranks, libmtl=libmtl)
    assert several.keys() == one.keys()
    del one["dropout"]
    off = {name: distance(several[name], one[name]) for name in one}
    assert {name: found for name, found in off.items() if not found[0] <= bound(name)} == {}
