"""The rotations of RotoGrad learn more slowly than the network, in every epoch, or are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from small_problem import batches, make_trainer

# isort: split
import LibMTL
import numpy as np
import pytest
import torch
from LibMTL.config import LibMTL_args, prepare_args
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from libmtl_recon import UsageError
from libmtl_recon.integrations.libmtl.lr_guard import group_lrs, refuse_fast_leader

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
        foreseen = list(group_lrs(optimizer, scheduler, 5))
        assert optimizer.state_dict() == before
        found = []
        for _ in range(5):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        np.testing.assert_allclose(np.ravel(foreseen), found, rtol=1e-12)


def test_a_plateau_may_come_at_any_time() -> None:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=1)
    found = np.ravel(list(group_lrs(optimizer, scheduler, 5)))
    np.testing.assert_allclose(found, [1, 1, 1, 0.1, 0.1])
    assert scheduler.num_bad_epochs == 0


def network(*rates: float) -> SGD:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    return SGD(groups, lr=1.0)


class Leader:
    """What leads, as a model tells it."""

    def leader_lr(self, arguments: dict[str, float], steps: int = 0) -> float:
        return arguments["rotograd_lr"] * float(arguments["rotograd_decay"] ** steps)


def compare(
    optimizer: SGD, scheduler: Any, epochs: int, lr: float = 5e-4, decay: float = 0.9999
) -> None:
    trainer = SimpleNamespace(
        model=Leader(),
        optimizer=optimizer,
        scheduler=scheduler,
        multi_input=False,
        kwargs={"weight_args": {"rotograd_lr": lr, "rotograd_decay": decay}},
    )
    refuse_fast_leader(trainer, batches(2), epochs)


def test_the_lowest_of_several_rates_counts() -> None:
    compare(network(0.1, 1.0), None, 2, lr=0.1)
    with pytest.raises(UsageError, match=r"at most the learning rate of the network, 0\.1,"):
        compare(network(0.1, 1.0), None, 2, lr=0.11)


def test_a_group_with_a_rate_of_zero_is_left_out() -> None:
    compare(network(0.0, 1e-3), None, 2)
    compare(network(0.0), None, 2)
    with pytest.raises(UsageError, match=r"network, 0\.0004,"):
        compare(network(0.0, 4e-4), None, 2)


EPOCHS = 6
WARM_UPS: dict[str, Callable[[SGD], Any]] = {
    "from zero": lambda o: LambdaLR(o, lambda e: min(1.0, e / 3)),
    "from little": lambda o: LinearLR(o, 1e-4, total_iters=4),
    "longer than the run": lambda o: LambdaLR(o, lambda e: e / 100),
    "longer than the run, linear": lambda o: LinearLR(o, 1e-4, total_iters=1000),
    "one cycle of steps": lambda o: OneCycleLR(o, 1e-3, total_steps=EPOCHS * BATCHES * 10),
    "restarts": lambda o: CosineAnnealingWarmRestarts(o, T_0=2),
    "then constant": lambda o: SequentialLR(
        o, [LinearLR(o, 1e-3, total_iters=3), ConstantLR(o, 1.0)], milestones=[3]
    ),
    "one group after the other": lambda o: LambdaLR(
        o, [lambda _: 1.0, lambda e: min(1.0, e / 3)][: len(o.param_groups)]
    ),
    "to zero and back": lambda o: CosineAnnealingLR(o, T_max=2),
    "to zero at the end": lambda o: LambdaLR(o, lambda e: float(e < EPOCHS - 1)),
}


@pytest.mark.parametrize("name", WARM_UPS)
@pytest.mark.parametrize("rates", [(1e-3,), (1e-3, 1e-3), (0.0, 1e-3)])
@pytest.mark.parametrize("own", [True, False])
def test_a_warm_up_trains_and_what_it_rises_to_is_compared(
    name: str, rates: tuple[float, ...], own: bool
) -> None:
    optimizer = network(*rates)
    # In the Trainer, or stepped by the script.
    scheduler = WARM_UPS[name](optimizer)
    scheduler = scheduler if own else None
    compare(optimizer, scheduler, EPOCHS)
    with pytest.raises(UsageError, match=r"the learning rate of the network, 0\.001,"):
        compare(optimizer, scheduler, EPOCHS, lr=2e-3, decay=0.99999)


FALLS: dict[str, Callable[[SGD], Any]] = {
    "cosine": lambda o: CosineAnnealingLR(o, T_max=EPOCHS),
    "cosine to zero": lambda o: CosineAnnealingLR(o, T_max=EPOCHS - 1),
    "one cycle": lambda o: OneCycleLR(o, 1e-3, total_steps=EPOCHS),
    "warmed up": lambda o: SequentialLR(
        o, [LinearLR(o, 1e-3, total_iters=2), CosineAnnealingLR(o, T_max=4)], milestones=[2]
    ),
    "steep": lambda o: ExponentialLR(o, 1e-5),
}


@pytest.mark.parametrize("name", FALLS)
def test_what_is_advised_for_a_rate_that_falls_can_be_followed(name: str) -> None:
    optimizer = network(1e-3)
    scheduler = FALLS[name](optimizer)
    compare(optimizer, scheduler, EPOCHS, lr=1e-40)
    with pytest.raises(UsageError, match="--rotograd_decay must keep") as raised:
        compare(optimizer, scheduler, EPOCHS)
    decay = float(raised.value.way_out.split("try ")[1].split(",")[0])
    compare(optimizer, scheduler, EPOCHS, decay=decay)


def test_where_no_decay_would_do_a_lower_rate_is_advised() -> None:
    optimizer = network(1e-3)
    with pytest.raises(UsageError, match="Try a lower --rotograd_lr"):
        compare(optimizer, ExponentialLR(optimizer, 1e-12), 20)


def test_a_warm_up_from_zero_trains_the_network() -> None:
    class Warm(LibMTL.Trainer):  # type: ignore[misc]
        def _prepare_optimizer(self, *_: Any) -> None:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3)
            self.scheduler = LambdaLR(self.optimizer, lambda e: min(1.0, e / 3))

    trainer = make_trainer("RotoGrad", weight_args={}, trainer_class=Warm)
    before = trainer.model.encoder.one.weight.detach().clone()
    trainer.train(batches(2), batches(2), 3)
    assert trainer.model.rotograd.steps == 3 * BATCHES
    assert not torch.equal(trainer.model.encoder.one.weight, before)


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
