"""The rotations of RotoGrad learn more slowly than the network, in every epoch, or are refused."""

from __future__ import annotations

import copy
from typing import Any

from small_problem import batches, make_trainer

# isort: split
import numpy as np
import pytest
import torch
from LibMTL.config import LibMTL_args, prepare_args
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from libmtl_recon import UsageError
from libmtl_recon.plugin.leading import network_lrs, refuse_fast_leader

BATCHES = 4


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")


def weight_args(**changes: Any) -> dict[str, Any]:
    found = {
        "mode": "full", "lr": 5e-3, "decay": 0.99, "burn_in": 2, "map": "cayley", "every": 1,
        "size": None, "alpha": 1.5,
    }  # fmt: skip
    return {f"rotograd_{name}": value for name, value in {**found, **changes}.items()}


def trainer_with(scheduler: dict[str, Any] | None, **changes: Any) -> Any:
    return make_trainer("RotoGrad", weight_args=weight_args(**changes), scheduler_param=scheduler)


def schedulers(optimizer: Any) -> list[Any]:
    return [
        StepLR(optimizer, step_size=2, gamma=0.3),
        ExponentialLR(optimizer, 0.7),
        CosineAnnealingLR(optimizer, T_max=6),
        SequentialLR(
            optimizer, [ExponentialLR(optimizer, 0.9), StepLR(optimizer, 1)], milestones=[3]
        ),
    ]


@pytest.mark.parametrize("index", range(4))
def test_the_rates_to_come_are_those_that_come(index: int) -> None:
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = SGD([parameter], lr=0.5)
    scheduler = schedulers(optimizer)[index]
    for _ in range(2):  # also from the middle of training
        before = copy.deepcopy(optimizer.state_dict())
        foreseen = list(network_lrs(optimizer, scheduler, 5))
        assert optimizer.state_dict() == before
        found = []
        for _ in range(5):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        np.testing.assert_allclose(foreseen, found, rtol=1e-12)


def test_a_plateau_may_come_at_any_time() -> None:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=1)
    np.testing.assert_allclose(list(network_lrs(optimizer, scheduler, 5)), [1, 1, 1, 0.1, 0.1])
    assert scheduler.num_bad_epochs == 0


def test_the_lowest_of_several_rates_counts() -> None:
    parameters = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    optimizer = SGD([{"params": [parameters[0]], "lr": 0.1}, {"params": [parameters[1]]}], lr=1.0)
    assert list(network_lrs(optimizer, None, 2)) == [0.1, 0.1]


def test_a_slower_leader_trains() -> None:
    trainer = trainer_with({"scheduler": "step", "step_size": 1, "gamma": 0.97})
    trainer.train(batches(2), batches(2), 3)
    assert trainer.model.rotograd.steps == 3 * BATCHES


@pytest.mark.parametrize("multi_input", [False, True])
def test_a_leader_that_the_schedule_overtakes_is_refused(multi_input: bool) -> None:
    scheduler = {"scheduler": "step", "step_size": 2, "gamma": 0.1}
    trainer = make_trainer(
        "RotoGrad", weight_args=weight_args(), scheduler_param=scheduler, multi_input=multi_input
    )
    data: Any = batches(2)
    if multi_input:
        data = {name: [(x, y[name]) for x, y in batches(2)] for name in ("t0", "t1")}
    with pytest.raises(UsageError, match=r"--rotograd_decay must keep .* by epoch 2") as raised:
        trainer.train(data, data, 5)
    assert trainer.model.rotograd.steps == 0
    decay = float(raised.value.way_out.split("try ")[1].split(",")[0])
    assert 0.5 < decay < 0.99
    trainer.kwargs["weight_args"] = weight_args(decay=decay)
    refuse_fast_leader(trainer, data, 5)
    trainer.kwargs["weight_args"] = weight_args(decay=decay + 0.06)
    with pytest.raises(UsageError):
        refuse_fast_leader(trainer, data, 5)


def test_a_leader_that_is_the_faster_from_the_start_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--rotograd_lr must be at most .* network, 0.01"):
        trainer_with(None, lr=0.02).train(batches(2), batches(2), 1)


def test_what_is_over_counts() -> None:
    trainer = trainer_with(None, lr=0.01, decay=0.9)
    trainer.train(batches(2), batches(2), 2)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.005
    refuse_fast_leader(trainer, batches(2), 2)  # 0.01 x 0.9^8 is below


def flags(*given: str) -> dict[str, Any]:
    prepared = prepare_args(LibMTL_args.parse_args(["--weighting", "RotoGrad", *given]))
    return prepared[0]["weight_args"]


def test_the_flags_arrive_with_their_defaults() -> None:
    assert flags("--lr", "0.1") == weight_args(lr=5e-4, decay=0.9999, burn_in=20)
    assert flags("--lr", "1e-4")["rotograd_lr"] == 5e-5
    given = flags(
        *("--lr", "0.1", "--rotograd_mode", "gradnorm", "--rotograd_lr", "0.01", "--rotograd_size"),
        *("6", "--rotograd_decay", "0.9", "--rotograd_burn_in", "0", "--rotograd_every", "10"),
        *("--rotograd_map", "matrix_exp", "--rotograd_alpha", "0.5"),
    )
    assert given == weight_args(
        mode="gradnorm", lr=0.01, decay=0.9, burn_in=0, every=10, size=6, map="matrix_exp",
        alpha=0.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--rotograd_mode", "both"], "--rotograd_mode must be one of full, rotate"),
        (["--rotograd_map", "householder"], "--rotograd_map must be one of cayley"),
        (["--rotograd_lr", "1"], "--rotograd_lr must be above 0 and at most"),
        (["--rotograd_lr", "nan"], "--rotograd_lr must be above 0 and at most"),
        (["--rotograd_decay", "1"], "--rotograd_decay must be a number above 0 and below 1"),
        (["--rotograd_every", "0"], "--rotograd_every must be a whole number from 1 up"),
        (["--rotograd_burn_in", "-1"], "--rotograd_burn_in must be a whole number from 0 up"),
        (["--rotograd_size", "1"], "--rotograd_size must be a whole number from 2 up"),
        (["--rotograd_alpha", "-1"], "--rotograd_alpha must be a finite number from 0 up"),
    ],
)
def test_wrong_flags_end_as_argparse_ends_them(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        flags(*given)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
