"""What is known of a tensor of losses: LibMTL's two ways of making it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import libmtl_recon.integrations.libmtl.step.step as step_module
from libmtl_recon.integrations.libmtl.step.step import Step, task_scalars

Scalars = list[Tensor]


def written(scalars: Sequence[Tensor]) -> Tensor:
    """Write losses into a vector, as LibMTL's Trainer does with `multi_input`."""
    losses = torch.zeros(len(scalars))
    for place, scalar in enumerate(scalars):
        losses[place] = scalar
    return losses


def batched(*vectors: Tensor) -> Tensor:
    """Combine vectors of losses as LibMTL's main branch does for one batch or three."""
    return torch.stack(vectors).squeeze(0)


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(4, 3)


@pytest.fixture
def step(model: nn.Module) -> Step:
    return step_module.step_of(model)


@pytest.fixture
def scalars(model: nn.Module) -> Scalars:
    out = model(torch.ones(2, 4))
    return [out[:, task].square().mean() * (task + 1.0) for task in range(3)]


@pytest.mark.parametrize(
    "make", [written, lambda scalars: batched(written(scalars))], ids=["release", "main"]
)
def test_entries_that_were_written_are_known_by_their_scalars(
    model: nn.Module, step: Step, scalars: Scalars, make: Callable[[Scalars], Tensor]
) -> None:
    for scalar in scalars:
        step.note_scalar(scalar, 3)
    losses = make(scalars)
    assert step.open(losses)
    assert [one is other for one, other in zip(step.batches[0].scalars, scalars, strict=True)] == (
        [True] * 3
    )
    assert all(
        one is other for one, other in zip(task_scalars(model, losses), scalars, strict=True)
    )


def test_three_batches_that_were_stacked_are_known(step: Step, scalars: Scalars) -> None:
    batches = [[scalar * factor for scalar in scalars] for factor in (1.0, 2.0, 3.0)]
    vectors = [torch.stack(batch) for batch in batches]
    for vector, batch in zip(vectors, batches, strict=True):
        step.note_vector(vector, batch, 3)
    assert step.open(batched(*vectors))
    assert [batch.scalars for batch in step.batches] == [tuple(batch) for batch in batches]


CHANGED: dict[str, Callable[[Scalars], Tensor]] = {
    "doubled": lambda scalars: 2 * written(scalars),
    "doubled in place": lambda scalars: written(scalars).mul_(2),
    "one entry doubled": lambda s: written([s[0], 2 * s[1], s[2]]),
    "in another order": lambda s: written([s[1], s[0], s[2]]),
    "one of them twice": lambda s: written([s[0], s[0], s[2]]),
    "one of them without its graph": lambda s: written([s[0], s[1].detach(), s[2]]),
    "with a penalty": lambda s: written(s) + 0.1 * s[0].sqrt(),
    "with gradients scaled": lambda s: 0.5 * written(s) + 0.5 * written(s).detach(),
    "mixed": lambda s: torch.eye(3).flip(0) @ written(s),
    "one entry more": lambda s: written([*s, s[0]]),
}


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("name", CHANGED)
def test_of_other_losses_nothing_is_claimed(
    step: Step, scalars: Scalars, name: str, stacked: bool
) -> None:
    for scalar in scalars:
        step.note_scalar(scalar, 3)
    step.note_vector(torch.stack(scalars), scalars, 1)
    losses = CHANGED[name](scalars)
    assert not step.open(batched(losses) if stacked else losses)
    assert step.batches == []


def test_a_vector_that_is_changed_in_place_is_another(step: Step, scalars: Scalars) -> None:
    vector = torch.stack(scalars)
    step.note_vector(vector, scalars, 1)
    vector *= 2
    assert not step.open(vector)


def test_outputs_of_one_node_are_told_apart(step: Step, scalars: Scalars) -> None:
    together = list(torch.stack(scalars).unbind())  # as of a loss that is computed for all tasks
    for scalar in together:
        step.note_scalar(scalar, 3)
    assert step.open(written(together))
    assert not step.open(written([together[1], together[0], together[2]]))
