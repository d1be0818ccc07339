"""Training with missing labels: the same as a loop that knows of the present ones only."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from missing_problem import (
    ALL,
    MAIN,
    NONE,
    ONE,
    PATTERN,
    SOME,
    Encoder,
    batches,
    make_trainer,
    masks,
    names,
    parameters,
    per_task,
)

# isort: split
import LibMTL
import LibMTL.weighting as weightings
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from LibMTL import Trainer
from scipy.optimize import minimize
from torch import Tensor, nn

from libmtl_recon import ReconError, gradops_weights
from libmtl_recon.integrations.libmtl import hook_table
from libmtl_recon.integrations.libmtl.step.step import present_tasks
from libmtl_recon.integrations.libmtl.wrapper import Hook, Row, wrap

EPOCHS = 3
LOSSES = ["EW", "UW", "DWA", "GLS", "RLW"]
GRADIENTS = ["GradNorm", "MGDA", "PCGrad", "GradVac", "CAGrad", "GradDrop", "IMTL", "GradOPS"]
GRADIENTS += ["RotoGrad"]
GRADIENTS += [name for name in ("Aligned_MTL", "DB_MTL", "FairGrad", "Nash_MTL", "UPGrad") if MAIN]


pytestmark = pytest.mark.usefixtures("float64_on_the_cpu")


def train(trainer: Any, data: Any, epochs: int = EPOCHS) -> Any:
    random.seed(1)
    torch.manual_seed(1)
    trainer.train(data, data, epochs=epochs)
    return trainer


# --- the loop by hand -----------------------------------------------------------------------


def ew(gradients: Tensor) -> Tensor:
    return gradients.sum(0)


def gradops(gradients: Tensor) -> Tensor:
    return gradops_weights(gradients @ gradients.T, alpha=-1.0) @ gradients


def mgda(gradients: Tensor) -> Tensor:
    if len(gradients) == 1:
        return gradients[0]
    solver = weightings.MGDA()
    solver.device = gradients.device
    return solver._find_min_norm_element(gradients) @ gradients


def pcgrad(gradients: Tensor) -> Tensor:
    projected = gradients.clone()
    for i, row in enumerate(projected):
        order = list(range(len(gradients)))
        random.shuffle(order)
        for j in order:
            if j != i and row @ gradients[j] < 0:
                # LibMTL's main branch adds 1e-8 to the denominator.
                row -= (
                    (row @ gradients[j]) / (gradients[j].norm() ** 2 + 1e-8 * MAIN) * gradients[j]
                )
    return projected.sum(0)


def cagrad(gradients: Tensor) -> Tensor:
    tasks, gramian = len(gradients), (gradients @ gradients.T).numpy()
    start = np.ones(tasks) / tasks
    radius = 0.5 * float(np.sqrt(gramian.mean() + 1e-8)) + 1e-8

    def objective(w: Any) -> float:
        return float(w @ gramian @ start + radius * np.sqrt(w @ gramian @ w + 1e-8))

    sums_to_one = {"type": "eq", "fun": lambda w: 1 - sum(w)}
    found = minimize(objective, start, bounds=[(0, 1)] * tasks, constraints=sums_to_one).x
    worst = torch.as_tensor(found) @ gradients
    return (gradients.mean(0) + radius / (worst.norm() + 1e-8) * worst) / (1 + 0.5**2)


def by_hand(trainer: Any, combine: Callable[[Tensor], Tensor], *, inputs: bool) -> None:
    """Train the Trainer's model without LibMTL, each batch on its present labels only."""
    random.seed(1)
    model, data = trainer.model, batches(PATTERN, "full")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    shared = list(model.encoder.parameters())
    for _ in range(EPOCHS):
        for (x, labels), present in zip(data, masks(PATTERN), strict=True):
            optimizer.zero_grad()
            rows = []
            for task, mask in zip(labels, present, strict=True):
                if not mask.any():
                    continue
                # With an input a task, each batch is a pass of its own; the numbers are the same.
                prediction = model.decoders[task](model.encoder(x[mask] if inputs else x))
                chosen = prediction if inputs else prediction[mask]
                loss = (chosen - labels[task][mask]).square().mean()
                decoder = list(model.decoders[task].parameters())
                found = torch.autograd.grad(loss, [*shared, *decoder])
                rows.append(torch.cat([g.flatten() for g in found[: len(shared)]]))
                for parameter, gradient in zip(decoder, found[len(shared) :], strict=True):
                    parameter.grad = gradient
            if rows:
                update = combine(torch.stack(rows))
                for p, part in zip(shared, update.split([p.numel() for p in shared]), strict=True):
                    p.grad = part.view_as(p)
            optimizer.step()


@pytest.mark.parametrize("multi_input", [False, True])
@pytest.mark.parametrize("style", ["nan", "mask"])
@pytest.mark.parametrize(
    ("weighting", "combine"),
    [("EW", ew), ("GradOPS", gradops), ("MGDA", mgda), ("PCGrad", pcgrad), ("CAGrad", cagrad)],
)
def test_trains_as_a_loop_over_present_labels(
    weighting: str, combine: Any, style: str, multi_input: bool
) -> None:
    data = batches(PATTERN, style)
    ours = make_trainer(weighting, multi_input=multi_input)
    train(ours, per_task(data) if multi_input else data)
    oracle = make_trainer(weighting)
    by_hand(oracle, combine, inputs=multi_input)
    expected = parameters(oracle)
    for name, value in parameters(ours).items():
        # CAGrad's solver stops at a tolerance; LibMTL's goes through float32.
        tolerance = 1e-5 if weighting == "CAGrad" else 1e-11
        torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance)


# --- what the tasks that are there get, whatever the weighting ------------------------------


@pytest.mark.parametrize("multi_input", [False, True])
@pytest.mark.parametrize("weighting", [*LOSSES, *GRADIENTS])
def test_a_task_that_is_always_absent_might_as_well_not_exist(
    weighting: str, multi_input: bool
) -> None:
    pattern = [(ALL, SOME), (SOME, ALL), (ONE, ALL)]
    alone = make_trainer(weighting, 2, multi_input=multi_input)
    more = make_trainer(weighting, 3, multi_input=multi_input)
    ours, theirs = more.model.state_dict(), alone.model.state_dict()
    same = {name: value for name, value in theirs.items() if value.shape == ours[name].shape}
    more.model.load_state_dict({**ours, **same})
    idle = parameters(more)

    data = batches(pattern), batches([(*batch, NONE) for batch in pattern])
    for trainer, own in zip((alone, more), data, strict=True):
        train(trainer, per_task(own) if multi_input else own)

    after = parameters(more)
    for name, value in parameters(alone).items():
        kept = after[name][:2] if name == "loss_scale" else after[name]
        torch.testing.assert_close(kept, value, rtol=1e-12, atol=1e-14)
    for name in idle:
        if ".t2." in name:
            assert torch.equal(after[name], idle[name]), name


@pytest.mark.parametrize("weighting", [*LOSSES, *GRADIENTS])
def test_one_task_alone_is_trained(weighting: str) -> None:
    trainer = make_trainer(weighting, 2)
    before = parameters(trainer)
    data = batches([(SOME, NONE), (NONE, ONE)])
    train(trainer, data, epochs=1)
    after = parameters(trainer)
    assert [name for name in before if not torch.isfinite(after[name]).all()] == []
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if "loss_scale" not in name} <= moved


@pytest.mark.parametrize("weighting", ["EW", "UW", "GradOPS", "MGDA", "GradVac", "RotoGrad"])
@pytest.mark.parametrize("multi_input", [False, True])
def test_a_batch_without_any_label_moves_nothing(weighting: str, multi_input: bool) -> None:
    trainer = make_trainer(
        weighting,
        2,
        multi_input=multi_input,
        optim_param={"optim": "adam", "lr": 0.1, "weight_decay": 0.1},
    )
    full, empty = batches([(ALL, ALL)]), batches([(NONE, NONE)])
    train(trainer, per_task(full) if multi_input else full, epochs=1)
    before = parameters(trainer)
    train(trainer, per_task(empty) if multi_input else empty, epochs=1)
    for name, value in parameters(trainer).items():
        assert torch.equal(value, before[name]), name
    assert np.isnan(trainer.batch_weight).all()


def test_weights_of_absent_tasks_are_nan() -> None:
    trainer = train(make_trainer("EW"), batches([(ALL, NONE, SOME)]), epochs=1)
    np.testing.assert_array_equal(trainer.batch_weight[:, 0, 0], [1.0, np.nan, 1.0])
    assert present_tasks(trainer.model) == [0, 1, 2]
    assert trainer.model.task_name == trainer.task_name == names(3)
    assert trainer.model.task_num == trainer.task_num == 3


# --- with and without -----------------------------------------------------------------------


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pattern=st.lists(
        st.tuples(*[st.text("01", min_size=6, max_size=6)] * 3), min_size=1, max_size=4
    ),
    weighting=st.sampled_from(["EW", "UW", "GradOPS", "PCGrad", "GradVac", "DWA", "RotoGrad"]),
)
def test_nan_and_mask_train_the_same(pattern: list[tuple[str, ...]], weighting: str) -> None:
    by_nan = train(make_trainer(weighting), batches(pattern, "nan"))
    by_mask = train(make_trainer(weighting), batches(pattern, "mask"))
    for name, value in parameters(by_nan).items():
        assert torch.equal(value, parameters(by_mask)[name]), name
    np.testing.assert_array_equal(by_nan.model.train_loss_buffer, by_mask.model.train_loss_buffer)


def others(row: Row) -> tuple[Hook, ...]:
    """The hooks around a member that know nothing of missing labels."""
    own = ("missing-labels", "present-tasks")
    return tuple(hook for hook in row.around if hook.name not in own)


def without_ours(member: Any, name: str) -> Any:
    """A member that is wrapped with these hooks alone."""
    (row,) = (row for row in hook_table.ROWS if row.member.endswith(f".{name}"))
    kept = replace(row, around=others(row)).in_force(hook_table.applied(LibMTL))
    return wrap(inspect.unwrap(member), kept)


@pytest.mark.parametrize("weighting", [*LOSSES, *GRADIENTS])
@pytest.mark.parametrize("multi_input", [False, True])
def test_without_missing_labels_nothing_changes(
    weighting: str, multi_input: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = [(ALL, ALL, ALL)] * 3

    def trained(style: str) -> dict[str, Tensor]:
        data = batches(pattern, style)
        trainer = make_trainer(weighting, multi_input=multi_input)
        return parameters(train(trainer, per_task(data) if multi_input else data))

    plain, masked = trained("full"), trained("mask")
    meter = LibMTL._record._PerformanceMeter
    for owner, name in ((Trainer, "_compute_loss"), (meter, "update"), (meter, "get_score")):
        monkeypatch.setattr(owner, name, without_ours(getattr(owner, name), name))
    backward = replace(hook_table.BACKWARD, around=others(hook_table.BACKWARD))
    monkeypatch.setattr(hook_table, "BACKWARD", backward)
    without = trained("full")
    for name, value in without.items():
        assert torch.equal(plain[name], value), name
        assert torch.equal(masked[name], value), name


# --- what weightings keep -------------------------------------------------------------------


def test_gradvac_keeps_what_it_knows_of_absent_tasks() -> None:
    trainer = train(make_trainer("GradVac"), batches([(ALL, ALL, NONE)]), epochs=3)
    rho = trainer.model.rho_T
    assert rho.shape[:2] == (3, 3)
    assert bool(rho[0, 1].any())
    assert not rho[2].any()
    assert not rho[:, 2].any()
    known = rho.clone()
    train(trainer, batches([(NONE, ALL, ALL)]), epochs=1)
    assert torch.equal(trainer.model.rho_T[0], known[0])


def test_uncertainties_of_absent_tasks_get_no_gradient() -> None:
    trainer = train(make_trainer("UW"), batches([(ALL, NONE, SOME)]), epochs=1)
    gradient = trainer.model.loss_scale.grad
    assert gradient[1] == 0
    assert gradient[0] != 0
    assert isinstance(trainer.model.loss_scale, nn.Parameter)
    assert "loss_scale" not in vars(trainer.model)


class WithGaps(Trainer):  # type: ignore[misc]
    """Is given other data in each epoch."""

    def _process_data(self, loader: Any) -> Any:
        x, labels = super()._process_data(loader)
        if self.model.training:
            hidden = {task for task, epochs in self.gaps.items() if self.model.epoch in epochs}
            labels = {t: y * float("nan") if t in hidden else y for t, y in labels.items()}
        return x, labels


@pytest.mark.parametrize(
    ("gap", "ratio"),
    [
        ([1], lambda mean: 1.0),  # then the last known mean stands for that of epoch 1
        ([0], lambda mean: 1.0),  # and here the first
        ([0, 1], lambda mean: 1.0),  # nothing known
        ([], lambda mean: mean[1] / mean[0]),
    ],
)
def test_dwa_bridges_an_epoch_without_labels(gap: list[int], ratio: Any) -> None:
    trainer = make_trainer("DWA", 2, trainer_class=WithGaps)
    trainer.gaps = {"t1": gap}
    train(trainer, batches([(ALL, ALL)]), epochs=3)
    means = trainer.model.train_loss_buffer
    assert np.isnan(means[1]).nonzero()[0].tolist() == gap
    expected = np.array([means[0, 1] / means[0, 0], ratio(means[1])])
    expected = 2 * np.exp(expected / 2.0) / np.exp(expected / 2.0).sum()
    np.testing.assert_allclose(trainer.batch_weight[:, 2, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("gap", [[0], [0, 1], [1]])
def test_gradnorm_starts_from_the_first_mean_that_is_known(gap: list[int]) -> None:
    trainer = make_trainer("GradNorm", 2, trainer_class=WithGaps)
    trainer.gaps = {"t1": gap}
    train(trainer, batches([(ALL, ALL)]), epochs=4)
    assert np.isfinite(trainer.batch_weight[0]).all()
    assert all(torch.isfinite(value).all() for value in parameters(trainer).values())


# --- what is refused ------------------------------------------------------------------------


class Own(weightings.EW):  # type: ignore[misc]
    """A script's own weighting."""


class Aware(weightings.EW):  # type: ignore[misc]
    """A script's own weighting that says it can."""

    takes_missing_labels = True

    def backward(self, losses: Tensor, **kwargs: Any) -> Any:
        self.seen = [*getattr(self, "seen", []), (present_tasks(self), list(self.task_name))]
        assert len(losses) == self.task_num
        return super().backward(losses, **kwargs)


def test_an_unknown_weighting_is_not_given_fewer_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weightings, "Own", Own, raising=False)
    train(make_trainer("Own"), batches([(ALL, SOME, ONE)]))
    with pytest.raises(ReconError, match=r"Own stops here: .* task 't1', .*takes_missing_labels"):
        train(make_trainer("Own"), batches(PATTERN))


def test_a_weighting_that_can_is_told_which_tasks_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weightings, "Aware", Aware, raising=False)
    trainer = train(make_trainer("Aware"), batches([(ALL, NONE, ONE), (ALL, ALL, ALL)]), epochs=1)
    assert trainer.model.seen == [([0, 2], ["t0", "t2"]), ([0, 1, 2], names(3))]


@pytest.mark.skipif(not MAIN, reason="these weightings are in LibMTL's main branch only")
@pytest.mark.parametrize("weighting", ["MoCo", "FAMO", "STCH"])
def test_a_weighting_that_would_train_wrongly_is_refused(weighting: str) -> None:
    train(make_trainer(weighting), batches([(ALL, SOME, ONE)]), epochs=1)
    with pytest.raises(ReconError, match=f"{weighting} stops here"):
        train(make_trainer(weighting), batches(PATTERN), epochs=1)


@pytest.mark.skipif(not MAIN, reason="Nash_MTL is in LibMTL's main branch only")
def test_nash_mtl_does_not_mix_weights_of_several_bargains() -> None:
    settings = {"update_weights_every": 2, "optim_niter": 20, "max_norm": 1.0}
    trainer = make_trainer("Nash_MTL", weight_args=settings)
    with pytest.raises(ReconError, match=r"--update_weights_every above 1"):
        train(trainer, batches([(ALL, ALL, ALL), (NONE, SOME, ALL)]), epochs=1)


@pytest.mark.skipif(not MAIN, reason="Nash_MTL is in LibMTL's main branch only")
def test_nash_mtl_keeps_the_weights_of_absent_tasks() -> None:
    trainer = train(make_trainer("Nash_MTL"), batches([(ALL, ALL, ALL)]), epochs=1)
    before = trainer.model.prvs_alpha.copy()
    train(trainer, batches([(ALL, NONE, ALL)]), epochs=1)
    assert trainer.model.prvs_alpha[1] == before[1]
    assert trainer.model.prvs_alpha[0] != before[0]


def test_a_prediction_that_mixes_the_samples_is_refused() -> None:
    class Flat(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).repeat(2, 1)

    trainer = make_trainer("EW", encoder_class=Flat)
    with pytest.raises(ReconError, match=r"the prediction of task 't1', of shape \[12, 2\]"):
        train(trainer, batches([(NONE, SOME, NONE)]))
