"""What a step, a record and the weightings with a state refuse in a sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.gradients import recording
from libmtl_recon.weighting import (
    GradNorm,
    GradVac,
    NashMTL,
    cagrad_weights,
    gradops_weights,
    gradvac_weights,
)
from libmtl_recon.weighting.step import step


def made(tasks: int = 2) -> tuple[nn.Linear, Callable[[], list[Tensor]]]:
    torch.manual_seed(0)
    encoder, heads = nn.Linear(3, 4), [nn.Linear(4, 1) for _ in range(tasks)]
    x = torch.randn(5, 3)
    return encoder, lambda: [(head(encoder(x)) - 1).square().mean() for head in heads]


class TestWeightings:
    @pytest.mark.parametrize(
        ("weighting", "said"),
        [
            (gradvac_weights, r"also needs targets, orders, beta .*such as GradVac\(\)"),
            (lambda m, alpha: m, r"also needs alpha .*functools\.partial"),
            (lambda m, *, alpha: m, "also needs alpha"),
            (lambda m, losses: m, r"also needs losses .*A method may also take `losses`"),
            (lambda: torch.ones(2), "must take the Gramian as its first argument"),
            (lambda **more: torch.ones(2), "must take the Gramian as its first argument"),
        ],
    )
    def test_ones_that_need_more_than_the_gramian(self, weighting: Any, said: str) -> None:
        encoder, losses = made()
        with pytest.raises(UsageError, match=said):
            step(losses(), encoder, weighting)
        assert encoder.weight.grad is None

    def test_methods_that_need_more(self) -> None:
        class Wrong:
            def weights(self, gramian: Tensor, epoch: int) -> Tensor:
                raise AssertionError

        encoder, losses = made()
        with pytest.raises(UsageError, match="also needs epoch"):
            step(losses(), encoder, Wrong())

    @pytest.mark.parametrize(
        "weighting",
        [
            partial(cagrad_weights, c=0.2),
            lambda *arguments: gradops_weights(*arguments),
            lambda m, alpha=-1.0, **more: gradops_weights(m, alpha),
            GradNorm(),
            torch.diagonal,
        ],
    )
    def test_ones_that_need_it_alone(self, weighting: Any) -> None:
        encoder, losses = made()
        assert step(losses(), encoder, weighting).weights.shape == (2,)


class TestLosses:
    @pytest.mark.parametrize(
        "weighting", [GradVac(), GradNorm(), NashMTL(), GradNorm(first_losses=[1.0, 2.0])]
    )
    def test_one_loss_for_the_tasks_of_a_state(self, weighting: Any) -> None:
        encoder, losses = made()
        if weighting.tasks is None:
            step(losses(), encoder, weighting)
        assert weighting.tasks == 2
        encoder.zero_grad()
        with pytest.raises(UsageError, match=r"must be 2, one per task.*not their sum"):
            step([sum(losses())], encoder, weighting)
        assert encoder.weight.grad is None
        weighting.reset()
        assert weighting.tasks in (None, 2)

    def test_one_tensor_for_two_tasks(self) -> None:
        encoder, losses = made()
        loss = losses()[0]
        with pytest.raises(UsageError, match="loss of task 'b' must be its own, and not the same"):
            step({"a": loss, "b": loss}, encoder, gradops_weights)

    def test_a_stack_is_no_loss(self) -> None:
        encoder, losses = made()
        with pytest.raises(UsageError, match=r"got \[2\]\).*by itself, without torch\.stack"):
            step([torch.stack(losses())], encoder, gradops_weights)

    def test_a_network_that_none_reaches(self) -> None:
        _, losses = made()
        with pytest.raises(ReconError, match="No trainable parameter of the network is reached by"):
            step(losses(), nn.Linear(3, 3), gradops_weights)


class TestRecord:
    @pytest.mark.parametrize("parameter", ["weights", "specific"])
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ([1.0, 1.0], "must be a tensor"),
            (1.0, "must be a tensor"),
            (torch.ones(3), r"must have the shape \[2\] \(got \[3\]\)"),
            (torch.ones(2, 1), r"must have the shape \[2\]"),
            (torch.tensor([1.0, float("nan")]), r"must be finite real numbers \(got \[1.0, nan\]"),
            (torch.tensor([float("inf"), 1.0]), "must be finite real numbers"),
            (torch.ones(2) * 1j, "must be finite real numbers"),
        ],
    )
    def test_factors_of_another_kind(self, parameter: str, given: Any, said: str) -> None:
        encoder, losses = made()
        with recording(encoder) as record:
            found = losses()
        record.gramian(found)
        factors = {"weights": torch.ones(2), parameter: given}
        with pytest.raises(UsageError, match=f"^{parameter} {said}"):
            record.backward(**factors)
        assert encoder.weight.grad is None
        record.backward(torch.ones(2))  # the Gramian is still there
        assert encoder.weight.grad is not None


WITH_STATE: dict[str, Callable[[], Any]] = {
    "GradVac": GradVac,
    "GradNorm": GradNorm,
    "NashMTL": NashMTL,
}


@pytest.mark.parametrize("name", WITH_STATE)
def test_none_of_a_damaged_state_is_loaded(name: str) -> None:
    def trained(scale: float) -> Any:
        weighting, more = WITH_STATE[name](), {}
        for place in range(3):
            gradients = torch.tensor([[1.0, 0.0], [-1.0, scale + place]], dtype=torch.float64)
            more = {"losses": [1.0, 2.0 + place]} if name == "GradNorm" else {}
            weighting.weights(gradients @ gradients.T, **more)
        return weighting

    state, other = trained(1.0).state_dict(), trained(2.0)
    damaged: list[Any] = [{}, None, [], nn.Linear(2, 2).state_dict()]
    nan = torch.full((2,), float("nan"), dtype=torch.float64)
    for key in state:
        damaged.append({k: v for k, v in state.items() if k != key})
        for wrong in ("x", [1.0], -1, nan, torch.ones(2, 3), torch.ones(0), True):
            damaged.append({**state, key: wrong})
    if name == "GradNorm":
        damaged += [
            {**state, "adam": {}},
            {**state, "adam": {**state["adam"], "moments.weights.mean": nan}},
            {**state, "first_losses": torch.ones(3)},
            {**state, "weights": None},
        ]
    if name == "NashMTL":
        damaged += [{**state, "step": 0}, {**state, "weights": None}]
    kept = str(other.state_dict())
    for one in damaged:
        with pytest.raises(UsageError, match=f"a {name}"):
            other.load_state_dict(one)
        assert str(other.state_dict()) == kept
    loaded = copy.deepcopy(state)
    other.load_state_dict(loaded)
    assert str(other.state_dict()) == str(state)
    for entry in loaded.values():  # what is loaded is the weighting's own
        if isinstance(entry, Tensor):
            entry.zero_()
    assert str(other.state_dict()) == str(state)
