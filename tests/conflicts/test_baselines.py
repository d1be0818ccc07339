"""The paper's other choices of layers, and norms first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from libmtl_recon.conflicts.baselines import (
    first_layers,
    last_layers,
    norms_first,
    random_layers,
    random_parameters,
)
from libmtl_recon.conflicts.layers import Layer

SIZES = st.lists(st.integers(1, 500), min_size=2, max_size=40)


def network(sizes: list[int]) -> list[Layer]:
    return [Layer(f"l{i}", "Linear", ((size,),)) for i, size in enumerate(sizes)]


@given(SIZES, st.integers(0, 99), st.data())
def test_random_parameters_are_as_many_as_can_be(sizes: list[int], seed: int, data) -> None:
    layers = network(sizes)
    wanted = data.draw(st.integers(min(sizes), sum(sizes)))
    chosen = random_parameters(layers, wanted, seed)
    count = {layer.name: layer.parameters for layer in layers}
    total = sum(count[name] for name in chosen)
    assert 0 < total <= wanted
    left = [size for name, size in count.items() if name not in chosen]
    assert total + min(left, default=wanted) > wanted or total == wanted or not left
    assert chosen == random_parameters(layers, wanted, seed)


def test_random_layers_are_seeded_and_differ() -> None:
    layers = network([1] * 30)
    assert random_layers(layers, 10, 3) == random_layers(layers, 10, 3)
    assert random_layers(layers, 10, 3) != random_layers(layers, 10, 4)
    assert len(set(random_layers(layers, 10, 3))) == 10
    seen = {name for seed in range(60) for name in random_layers(layers, 3, seed)}
    assert len(seen) == 30


def test_first_and_last_are_of_the_network() -> None:
    layers = network([5, 4, 3, 2])
    assert first_layers(layers, 2) == ["l0", "l1"]
    assert last_layers(layers, 2) == ["l2", "l3"]


def test_norms_come_first_and_each_kind_keeps_its_order() -> None:
    names = ["conv", "bn", "fc", "ln", "head"]
    types = ["Conv2d", "BatchNorm2d", "Linear", "LayerNorm", "Linear"]
    layers = [Layer(name, type, ((2,),)) for name, type in zip(names, types, strict=True)]
    layers[3] = Layer("ln", "Renamed", ((2,),), norm=True)
    ranking = ["bn", "ln", "conv", "fc", "head"]
    assert norms_first(layers) == ranking
    assert [norms_first(layers, K) for K in range(1, 6)] == [ranking[:K] for K in range(1, 6)]


@given(SIZES, st.integers(1, 40))
def test_without_norms_they_are_the_first(sizes: list[int], K: int) -> None:
    assert norms_first(network(sizes), K) == first_layers(network(sizes), K)
