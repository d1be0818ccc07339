"""Several ranks train as one process does, by every weighting and architecture, in both LibMTLs.

All that is written down is compared: the state dict, the weights of each step, losses and metrics
of each pass, and the best result. A batch size that the ranks do not divide, and a last batch of
one sample, which leaves ranks without any.
"""

from __future__ import annotations

from pathlib import Path

import forks
import pytest
from main_checkout import MAIN, on_main
from ranks_problem import Trained, distance, refused, trained

# SciPy's solvers take derivatives from differences, which make 1e-8 of a rounding.
# What LTB learns of its branches is nearly nothing, and of that Adam makes steps of full size.
# Of the wide network, a batch in another order makes 8e-7 of CAGrad in one process.
WIDE = {f"CAGrad, {way}": 1e-6 for way in ("auto", "ghost", "stored")}
COARSE = {"CAGrad": 1e-7, "FairGrad": 1e-10, "LTB": 1e-8, **WIDE}
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
    "GradOPS, batch norm, checkpointed",
    "RLW, other seeds",
    "EW, scored",
    "GradOPS, scored, stored",
    "EW, valid pixels",
    "GradOPS, stream",
    "GradOPS, chosen layers",
    "OfLosses",
    "OfGradients",
    "GradOPS, more losses",
    "EW, changed data",
    "GradOPS, accumulated",
    "PCGrad, sparse",
    "GradOPS, complex",
    "PCGrad, batch norm, mixed",
    "GradOPS, batch norm, checkpoint",
    "dtypes of batch norms",
    "begun otherwise",
    "norms apart",
    "EW, drawn",
    "MGDA, scored, rep_grad",
    "RotoGrad gradnorm, flat",
)
# What is near one process only, and how near: bfloat16, and batch norms of a part of the batch.
ROUGH = {
    "GradOPS, bf16": (0.0, 0.02),
    "EW, batch norm, off": (1e-3, 1.0),
    "PCGrad, batch norm, Recon, off": (1e-3, 1.0),
}
# What all ranks refuse at one place, and by which words it is told.
ALIKE = {
    "by itself": "--weighting ByItself differentiates the losses itself",
    "by itself, in silence": "--weighting ByItselfInSilence differentiates the losses itself",
    "own of representations": "OfGradients is not one of LibMTL's",
    "GradDrop": "GradDrop compares the signs",
    "own losses": "do not come from LibMTL's Trainer._compute_loss",
    "own loaders": "Trainer._prepare_dataloaders was not called",
    "other batch norms": "called different batch norms for the ranks' parts",
    "batch norms by PyTorch": "has a torch.nn.SyncBatchNorm",
    "own buffer": "The buffer encoder.mean is not the same on all ranks",
    "changed on one rank": "The parameter encoder.one.weight is not the same on all ranks",
    "of no sample": "does not have the samples along its first axis",
    "distributed sampler": "has a DistributedSampler",
    "padded": "have different shapes",
    "sets of indices": "gives batches of the type set",
}


# Of residual networks in one process, a batch in another order makes as much of a rounding.
DEEP = 1e-11


def bound(case: str) -> float:
    base = case.rpartition(" ")[2]
    deep = DEEP if base in ("MTAN", "MMoE", "CGC", "PLE", "DSelect_k", "Cross_stitch") else 1e-12
    return max(COARSE.get(name, deep) for name in (case, *case.split(", ")))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Trained]:
    folder, python = tmp_path_factory.mktemp("ranks"), forks.python(libmtl=False)
    one = trained(folder, [*QUICK, *ROUGH], 1, python=python)
    return one, trained(folder, [*QUICK, *ROUGH, "dropout"], 2, python=python)


@pytest.mark.parametrize("case", QUICK)
def test_two_ranks_train_as_one_process_does(case: str, quick: tuple[Trained, Trained]) -> None:
    one, two = quick
    off, where = distance(two[case], one[case])
    assert off <= bound(case), where


@pytest.mark.parametrize("case", ROUGH)
def test_two_ranks_train_nearly_as_one_process_does(
    case: str, quick: tuple[Trained, Trained]
) -> None:
    one, two = quick
    least, most = ROUGH[case]
    assert least <= distance(two[case], one[case])[0] <= most


def test_each_rank_has_random_numbers_of_its_own(quick: tuple[Trained, Trained]) -> None:
    assert int(quick[1]["dropout"]["different"]) == 2


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    python = forks.python(libmtl=False)
    return refused(tmp_path_factory.mktemp("refused"), list(ALIKE), 2, python=python)


@pytest.mark.parametrize("case", ALIKE)
def test_what_several_ranks_cannot_do_is_refused(case: str, told: list[dict[str, str]]) -> None:
    for of_rank in told:
        kind, _, text = of_rank[case].partition(": ")
        assert kind in ("ReconError", "UsageError")
        assert ALIKE[case] in text


def test_a_process_group_of_the_script_is_refused(tmp_path: Path) -> None:
    case = "own process group"
    for of_rank in refused(tmp_path, [case], 2, python=forks.python(libmtl=False)):
        assert of_rank[case].startswith("ReconError: The script has created its own process group")


def test_an_unknown_filler_is_refused_by_the_rank_that_has_it(tmp_path: Path) -> None:
    case = "changed data and batch norm"
    found = refused(tmp_path, [case], 2, python=forks.python(libmtl=False))
    assert "did not reach the model as it was loaded" in found[1][case]


@on_main
def test_all_ranks_take_the_branches_that_were_drawn(tmp_path: Path) -> None:
    case = "PCGrad, LTB"
    one, two = (trained(tmp_path, [case], ranks, libmtl=MAIN)[case] for ranks in (1, 2))
    off, where = distance(two, one)
    assert off <= bound(case), where


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
