"""A split network computes what one call of the plain one, mapped over its parameters, computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import total
from sample_networks import NETWORKS, image, seeded, sequence, transformer
from torch import Tensor, nn
from vmap_oracle import Computed, computed

from libmtl_recon.splitting import split_layers, task_parameters

# Of functions that it takes the tasks through one by one.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

# What vmap says of them; these are compared with T plain networks, here and in test_split.py.
NOT_MAPPED = {
    "after-dicts": "Batching rule not implemented for aten::lstm_cell",
    "cells": "Batching rule not implemented for aten::lstm_cell",
    "lstm": r"Batching rule not implemented for aten::lstm\.input",
    "after-lstm": r"Batching rule not implemented for aten::lstm\.input",
    "gru": r"Batching rule not implemented for aten::gru\.input",
    "shared-gru": r"Batching rule not implemented for aten::gru\.input",
    # The lengths of a packed sequence, and one over the number of batches of `momentum=None`.
    "packed-lstm": r"calling \.item\(\) on a Tensor",
    "after-packed": r"calling \.item\(\) on a Tensor",
    "averaged-norm": r"calling \.item\(\) on a Tensor",
    "split-averaged-norm": r"calling \.item\(\) on a Tensor",
    # A reentrant checkpoint is a custom function of the old kind.
    "parameter-lists": "must override the setup_context",
    "spectral-norm": r"Batching rule not implemented for aten::div\.out",
    "before-spectral-norm": r"Batching rule not implemented for aten::div\.out",
}
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


class Pair:
    """A split network and the same, mapped.

    Args:
        network: In float64; not changed.
        layers: To split.
        tasks: How many.
    """

    def __init__(self, network: nn.Module, layers: list[str], tasks: int) -> None:
        self.plain, self.tasks = network, [f"task{n}" for n in range(tasks)]
        self.split = split_layers(copy.deepcopy(network), layers, self.tasks)
        torch.manual_seed(5)
        with torch.no_grad():
            for values in self._own():
                for value in values.values():
                    value.add_(0.05 * torch.randn_like(value))

    def _own(self) -> list[dict[str, Tensor]]:
        names = dict(self.plain.named_parameters()).keys()  # tied ones once
        return [
            {
                name: value
                for name, value in task_parameters(self.split, task).items()
                if name in names
            }
            for task in self.tasks
        ]

    def _buffers(self) -> list[dict[str, Tensor]]:
        """Each task's, those that all share among them."""
        shared = dict(self.split.named_buffers())
        found = []
        for task in self.tasks:
            values = {**shared, **task_parameters(self.split, task)}
            found.append({name: values[name] for name, _ in self.plain.named_buffers()})
        return found

    def mapped(self, x: Tensor) -> Computed:
        return computed(self.plain, self._own(), self._buffers(), x)

    def check(self, x: Tensor) -> None:
        """Outputs, gradients and statistics of a call in training, and a call in evaluation."""
        expected = self.mapped(x)
        out: Any = self.split(x)
        parts = [out] * len(self.tasks) if type(out) is Tensor else list(out.parts)
        torch.testing.assert_close(torch.stack(parts), expected.outputs, **CLOSE)
        for task, values in enumerate(self._buffers()):
            for name, value in values.items():
                torch.testing.assert_close(value, expected.buffers[name][task], **CLOSE)
        total(parts).backward()
        total(list(expected.outputs)).backward()
        for task, values in enumerate(self._own()):
            for name, value in values.items():
                _assert_gradient(value.grad, expected.own[name].grad[task])
        for name, value in self.split.named_parameters():
            if name in expected.shared:
                _assert_gradient(value.grad, expected.shared[name].grad)
        self.split.eval()
        self.plain.eval()
        with torch.no_grad():
            out = self.split(x)
            parts = [out] * len(self.tasks) if type(out) is Tensor else list(out.parts)
            torch.testing.assert_close(torch.stack(parts), self.mapped(x).outputs, **CLOSE)


def _assert_gradient(found: Tensor | None, expected: Tensor | None) -> None:
    """Equal; where nothing came, vmap may have zeros."""
    if found is None or expected is None:
        assert not any(value.any() for value in (found, expected) if value is not None)
        return
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in NOT_MAPPED])
def test_sample_networks(name: str) -> None:
    make, layers, data = NETWORKS[name]
    Pair(seeded(make).double(), layers, tasks=3).check(data().double())


@pytest.mark.parametrize("name", NOT_MAPPED)
def test_these_cannot_be_mapped(name: str) -> None:
    """If this fails, vmap has learnt it: compare that network above, too."""
    make, layers, data = NETWORKS[name]
    with pytest.raises(RuntimeError, match=NOT_MAPPED[name]):
        Pair(seeded(make).double(), layers, tasks=2).mapped(data().double())


LARGER: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    # Large enough that the last norms do not divide by the spread of a few numbers.
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), lambda: image(64)),
    "densenet": (
        lambda: torchvision.models.DenseNet(4, (2, 3, 2), 8, num_classes=5),
        image,
    ),
    "mobilenet": (
        lambda: torchvision.models.mobilenet_v3_small(num_classes=5, dropout=0.0),
        lambda: image(64),
    ),
    "transformer": (transformer, sequence),
}


@pytest.mark.parametrize("name", LARGER)
@given(choice=st.data())
@settings(max_examples=3, deadline=None)
def test_any_layers_of_any_number_of_tasks(name: str, choice: st.DataObject) -> None:
    make, data = LARGER[name]
    network = seeded(make).double()
    names = [
        path for path, part in network.named_modules() if any(True for _ in part.parameters(False))
    ]
    layers = choice.draw(st.lists(st.sampled_from(names), min_size=1, max_size=6, unique=True))
    Pair(network, layers, choice.draw(st.integers(2, 4))).check(data().double())
