from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from libmtl_recon import ReconError, UsageError
from libmtl_recon.conflicts.counter import ConflictCounter
from libmtl_recon.conflicts.grid import EDGES
from libmtl_recon.conflicts.layers import Layer, layers_of
from libmtl_recon.gradients import task_gradients

LAYERS = (
    Layer("a", "Linear", ((3, 2),)),
    Layer("b", "BatchNorm1d", ((2,), (2,))),
    Layer("c", "Linear", ((1,),)),
)
WIDTHS = (6, 4, 1)
TASKS = ("x", "y", "z")


def definition_3(steps: list[Tensor], S: float) -> dict[str, int]:
    """Definition 3 of the Recon paper in float64, one cosine after the other."""
    scores = dict.fromkeys((layer.name for layer in LAYERS), 0)
    for step in steps:
        parts = step.double().split(WIDTHS, dim=1)
        for layer, part in zip(LAYERS, parts, strict=True):
            for i, j in itertools.combinations(range(len(step)), 2):
                u, v = part[i].numpy(), part[j].numpy()
                norm = np.linalg.norm(u) * np.linalg.norm(v)
                scores[layer.name] += bool(norm > 0 and u @ v / norm < S)
    return scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_scores_are_definition_3(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    steps = [torch.randn(3, 11).to(dtype) for _ in range(57)]
    steps[3][1, :6] = 0  # task y does not reach layer a
    counter = ConflictCounter(LAYERS, TASKS)
    for step in steps:
        counter.record(step)
    profile = counter.profile({"dataset": "noise"})
    assert profile.steps == 57
    assert profile.undefined.sum(axis=0).tolist() == [2, 0, 0]
    for S in EDGES[1:201]:
        assert profile.scores(float(S)) == definition_3(steps, float(S))


@pytest.mark.parametrize("flipped", range(8, 16))
def test_a_cosine_on_an_edge_is_no_conflict_at_it(flipped: int) -> None:
    # Signs only, 16 of them: norms are 4 and every cosine is exact, a multiple of 1/8.
    signs = torch.ones(16)
    signs[:flipped] = -1
    S = 1 - flipped / 8
    counter = ConflictCounter((Layer("a", "Linear", ((16,),)),), ("x", "y"))
    counter.record(torch.stack([torch.ones(16), signs]))
    profile = counter.profile({})
    assert profile.scores(S) == {"a": 0}
    assert S == 0 or profile.scores(S + 0.005) == {"a": 1}


def test_opposite_and_equal_gradients_stand_at_the_ends() -> None:
    counter = ConflictCounter((Layer("a", "Linear", ((3,),)),), ("x", "y", "z"))
    g = torch.tensor([0.1, -0.7, 0.3])
    counter.record(torch.stack([g, -3 * g, 1e-30 * g]))
    counts = counter.profile({}).counts[0, 0]
    assert np.flatnonzero(counts).tolist() == [0, 399]
    assert counts[0] == 2
    assert counts[399] == 1


def test_long_runs_have_no_more_than_20_blocks() -> None:
    counter = ConflictCounter((Layer("a", "Linear", ((2,),)),), ("x", "y"))
    for step in range(203):
        sign = -1.0 if step < 100 else 1.0
        counter.record(torch.tensor([[1.0, 0.5], [sign, sign * 0.5]]))
    profile = counter.profile({})
    assert len(profile.block_steps) <= 20
    assert profile.steps == 203
    # All blocks but the last are equally long, and hold the steps in order.
    assert set(profile.block_steps[:-1].tolist()) == {16}
    assert profile.scores(0.0) == {"a": 100}
    conflicts = profile.counts[:, 0, :200].sum(axis=1)
    assert conflicts.tolist() == [16] * 6 + [4] + [0] * 6


def test_a_gradient_that_is_not_finite_names_task_and_layer() -> None:
    counter = ConflictCounter(LAYERS, TASKS)
    step = torch.ones(3, 11)
    counter.record(step)
    counter.check()
    step[2, 7] = float("nan")
    counter.record(step)
    with pytest.raises(ReconError, match="task 'z' in layer 'b' was not finite"):
        counter.check()
    with pytest.raises(ReconError, match="was not finite"):
        counter.profile({})


@pytest.mark.parametrize("tasks", [(), ("only",)])
def test_fewer_than_two_tasks_are_refused(tasks: tuple[str, ...]) -> None:
    with pytest.raises(ReconError, match=f"this run has {len(tasks)}"):
        ConflictCounter(LAYERS, tasks)


def test_a_network_without_shared_layers_is_refused() -> None:
    with pytest.raises(ReconError, match="no trainable shared layer"):
        ConflictCounter((), TASKS)


def test_more_layers_than_a_profile_holds_are_refused_at_the_start() -> None:
    layers = [Layer(f"l{n}", "Linear", ((1,),)) for n in range(26_215)]
    with pytest.raises(ReconError, match=r"could not be kept: it has 26,215 layers in 20 blocks"):
        ConflictCounter(layers, TASKS)
    ConflictCounter(layers[:-1], TASKS)


def test_gradients_are_left_alone() -> None:
    step = torch.randn(3, 11)
    before = step.clone()
    ConflictCounter(LAYERS, TASKS).record(step)
    assert torch.equal(step, before)


def test_rows_with_columns_of_frozen_parameters_are_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    net[0].weight.requires_grad_(False)
    counter = ConflictCounter(layers_of(net), ("x", "y"))
    losses = list(net(torch.ones(1, 3)).square().sum(0))
    everything = task_gradients(losses, list(net.parameters()), retain_graph=True)
    with pytest.raises(UsageError, match=r"gradients must have 2 rows, .* 8 columns") as caught:
        counter.record(everything)
    assert "[2, 14]" in str(caught.value)
    assert counter.steps == 0
    # As the message says.
    counter.record(task_gradients(losses, [p for p in net.parameters() if p.requires_grad]))
    assert counter.steps == 1


@pytest.mark.parametrize("present", [None, [0], [0, 1, 2]])
def test_as_many_rows_as_tasks_are_taken(present: list[int] | None) -> None:
    counter = ConflictCounter(LAYERS, TASKS)
    with pytest.raises(UsageError, match=r"gradients must have [13] rows"):
        counter.record(torch.ones(2, 11), present)
    with pytest.raises(UsageError, match=r"got \[11\]"):
        counter.record(torch.ones(11), present)
