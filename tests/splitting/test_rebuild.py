"""The split travels with the network: any checkpoint of it builds the same one again."""

from __future__ import annotations

import copy
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torch.optim.swa_utils import AveragedModel

from libmtl_recon import ReconError, UsageError, extract_task, only_task, split_from, split_layers
from libmtl_recon.splitting import is_split
from libmtl_recon.splitting.spec import SplitSpec
from libmtl_recon.splitting.spec_storage import file_beside, spec_of, write_beside

TASKS = ("a", "b")
KEY = "libmtl_recon_split"


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8),
        nn.Linear(8, 2),
    )  # fmt: skip


class Tied(nn.Module):
    """A language model's output layer, which is its embedding; and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(5, 8), nn.Linear(8, 5, bias=False)
        self.out.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embedding(x.abs().long() % 5) * self.scale)


class Several(nn.Module):
    """One entry per task, whose heads are called as a split layer's values are."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(5, 8)
        self.tasks = nn.ModuleDict({task: nn.Linear(8, 3) for task in TASKS})

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.trunk(x)
        return [self.tasks[task](h) for task in TASKS]


def trained(net: nn.Module) -> nn.Module:
    """After some steps, in which the tasks' copies and statistics part."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for step in range(3):
        torch.manual_seed(step)
        for place, task in enumerate(TASKS):
            with only_task(net, task):
                out = net(torch.randn(6, 5) + place)
            leaves = out if isinstance(out, list | tuple) else [out]
            sum(leaf.square().sum() for leaf in leaves if leaf is not None).backward()
        optimizer.step()
        optimizer.zero_grad()
    return net


def outputs(net: nn.Module) -> list[Tensor]:
    """All that a network gives, in training and in evaluation; of a copy, which that changes."""
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(9))
    found = []
    for mode in (True, False):
        net = copy.deepcopy(net).train(mode)
        for task in TASKS:
            with only_task(net, task), torch.no_grad():
                out = net(x)
            found += [one for one in (out if isinstance(out, list) else [out]) if one is not None]
    return found


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = list(zip(outputs(one), outputs(other), strict=True))
    assert len(pairs) == 2 * len(TASKS)
    return all(torch.equal(a, b) for a, b in pairs)


CASES: dict[str, tuple[Callable[[], nn.Module], list[str], dict[str, Any]]] = {
    "a linear layer": (network, ["3"], {}),
    "statistics per task": (network, ["0", "4"], {}),
    "statistics of all": (network, ["0", "5"], {"bn": "mixed"}),
    "drawn anew": (network, ["0", "3"], {"init": "fresh"}),
    "a tied parameter": (Tied, ["embedding"], {}),
    "the root": (Tied, ["(root)"], {}),
    "one entry per task": (Several, ["trunk"], {"per_task_output": True}),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Callable[[], nn.Module], nn.Module]:
    make, layers, options = CASES[request.param]
    torch.manual_seed(0)
    return make, trained(split_layers(make(), layers, TASKS, **options))


def saved(value: Any, file: Any) -> Any:
    torch.save(value, file)
    return file


def test_the_same_network_is_built_again(
    case: tuple[Callable[[], nn.Module], nn.Module], tmp_path: Path
) -> None:
    make, split = case
    file = saved(split.state_dict(), tmp_path / "c.pt")
    again = make()
    assert split_from(file, again) is again
    assert same(again, split)
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in split.named_parameters()]
    # And it says the same of itself, so that it can be saved and built once more.
    assert again.state_dict()._metadata[""][KEY] == split.state_dict()._metadata[""][KEY]
    assert same(split_from(again.state_dict(), make()), split)


def test_without_metadata_the_file_beside_says_it(
    case: tuple[Callable[[], nn.Module], nn.Module], tmp_path: Path
) -> None:
    make, split = case
    file = saved(dict(split.state_dict()), tmp_path / "c.pt")
    spec = spec_of(split)
    assert spec is not None
    write_beside(file, spec)
    assert file_beside(file) == tmp_path / "c.pt.split.json"
    assert same(split_from(str(file), make()), split)


def test_the_metadata_is_plain_and_outlives_saving() -> None:
    split = split_layers(network(), ["3"], TASKS, bn="mixed")
    buffer = saved(split.state_dict(), io.BytesIO())
    buffer.seek(0)
    found = torch.load(buffer, weights_only=True)._metadata[""][KEY]
    assert (
        found
        == split.state_dict()._metadata[""][KEY]
        == SplitSpec(("3",), TASKS, "mixed").to_dict()
    )
    assert split.state_dict(prefix="net.")._metadata[""][KEY]["root"] == "net"


def around(split: nn.Module, kind: str) -> Any:
    if kind == "averaged":
        return AveragedModel(split).state_dict()
    if kind == "compiled":
        return torch.compile(split).state_dict()
    if kind == "with optimizer":
        optimizer = torch.optim.SGD(split.parameters(), lr=0.1)
        return {"model": split.state_dict(), "optimizer": optimizer.state_dict()}
    state = nn.DataParallel(split).state_dict()
    if kind == "prefix taken off":
        consume_prefix_in_state_dict_if_present(state, "module.")
    return state


@pytest.mark.parametrize(
    "kind", ["averaged", "compiled", "parallel", "prefix taken off", "with optimizer"]
)
def test_what_stands_around_the_network_does_not_matter(kind: str, tmp_path: Path) -> None:
    split = trained(split_layers(network(), ["3", "4"], TASKS))
    state = around(split, kind)
    assert same(split_from(state, network()), split)
    assert same(split_from(saved(state, tmp_path / "c.pt"), network()), split)


class Model(nn.Module):
    """Two networks, each split for itself, and heads."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.heads = network(), network(), nn.Linear(2, 2)


def test_a_part_of_a_network_is_found_in_it() -> None:
    torch.manual_seed(1)
    model = Model()
    trained(split_layers(model.one, ["3"], TASKS))
    state = nn.DataParallel(model).state_dict()
    assert state._metadata[""][KEY]["root"] == "module.one"
    assert same(split_from(state, network()), model.one)
    whole = split_from(state, Model())
    assert same(whole.one, model.one)  # type: ignore[arg-type]
    assert torch.equal(whole.heads.weight, model.heads.weight)  # type: ignore[union-attr]
    assert not is_split(whole.two)  # type: ignore[arg-type]


def test_two_split_networks_are_both_built() -> None:
    torch.manual_seed(1)
    model = Model()
    trained(split_layers(model.one, ["3"], TASKS))
    trained(split_layers(model.two, ["0", "5"], (*TASKS, "c"), bn="mixed"))
    assert KEY not in model.state_dict()._metadata[""]
    assert spec_of(model) is None
    whole = split_from(model.state_dict(), Model())
    assert same(whole.one, model.one)  # type: ignore[arg-type]
    assert same(whole.two, model.two)  # type: ignore[arg-type]
    assert list(whole.state_dict()) == list(model.state_dict())


def test_copies_say_it_and_one_task_s_network_does_not() -> None:
    split = trained(split_layers(network(), ["3"], TASKS))
    for copied in (copy.deepcopy(split), pickle.loads(pickle.dumps(split))):
        assert copied.state_dict()._metadata[""][KEY]["layers"] == ["3"]
        assert same(split_from(copied.state_dict(), network()), split)
    alone = extract_task(split, "a")
    assert KEY not in alone.state_dict()._metadata[""]
    alone.load_state_dict(network().state_dict())


@pytest.mark.parametrize("dropped", [True, False], ids=["metadata dropped", "metadata there"])
def test_the_file_of_another_checkpoint_is_refused(dropped: bool, tmp_path: Path) -> None:
    split = split_layers(network(), ["3"], TASKS)
    state = split.state_dict()
    file = saved(dict(state) if dropped else state, tmp_path / "c.pt")
    others = (
        SplitSpec(("0",), TASKS),
        SplitSpec(("3",), (*TASKS, "c")),
        SplitSpec(("3", "5"), TASKS),
    )
    for other in others:
        write_beside(file, other)
        net = network()
        with pytest.raises(ReconError, match=r"split.json file next to it .*Remove"):
            split_from(file, net)
        assert not is_split(net)
    write_beside(file, SplitSpec(("3",), TASKS, bn="mixed"))
    if not dropped:
        with pytest.raises(ReconError, match="contradicts this: it belongs to another file"):
            split_from(file, network())
    file_beside(file).write_text("{", encoding="utf-8")
    with pytest.raises(ReconError, match=r"c.pt.split.json does not record .*not JSON.*Remove it"):
        split_from(file, network())
    file_beside(file).write_bytes(b"\xff\xfe{")
    with pytest.raises(ReconError, match=r"c.pt.split.json cannot be read: it is not a text file"):
        split_from(file, network())


def test_a_checkpoint_that_does_not_say_it_is_refused(tmp_path: Path) -> None:
    split = split_layers(network(), ["3"], TASKS)
    with pytest.raises(ReconError, match="does not record how its network was split"):
        split_from(saved(dict(split.state_dict()), tmp_path / "c.pt"), network())
    with pytest.raises(ReconError, match="has no record of a split"):
        split_from(network().state_dict(), network())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("3.tasks.a.weight"), "has no 3.weight of the task 'a'"),
        (lambda state: state.pop("1.weight"), "has no 1.weight"),
        (lambda state: state.update(extra=torch.ones(1)), "has extra, which the network lacks"),
        (
            lambda state: state.update({"3.tasks.b.bias": torch.ones(3)}),
            r"3.bias has the shape \[3\] in it and \[8\] here",
        ),
        (
            lambda state: state.update({"3.tasks.b.bias": torch.ones(8, dtype=torch.int64)}),
            "3.bias has whole numbers",
        ),
    ],
)
def test_what_does_not_fit_leaves_the_network_as_it_was(
    change: Callable[[Any], Any], said: str
) -> None:
    state = trained(split_layers(network(), ["3"], TASKS)).state_dict()
    change(state)
    net = network()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ReconError, match=said):
        split_from(state, net)
    assert not is_split(net)
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())


def test_statistics_per_task_contradict_mixed_ones() -> None:
    split = trained(split_layers(network(), ["0"], TASKS))
    state = OrderedDict(split.state_dict())
    state._metadata = {"": {KEY: {**spec_of(split).to_dict(), "bn": "mixed"}}}  # type: ignore
    net = network()
    with pytest.raises(ReconError, match=r"1.running_mean per task, which a split with bn='mixed'"):
        split_from(state, net)
    assert not is_split(net)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: split_layers(network(), ["3"], TASKS), UsageError, "that is not split"),
        (lambda: torch.compile(network()), ReconError, "compiled by torch.compile"),
        (lambda: nn.Linear(2, 2), ReconError, "does not fit this network: it has no weight"),
        (lambda: network, UsageError, "network must be a torch.nn.Module"),
    ],
)
def test_another_network_is_refused(make: Any, error: type[Exception], said: str) -> None:
    state = split_layers(network(), ["3"], TASKS).state_dict()
    with pytest.raises(error, match=said):
        split_from(state, make())


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="checkpoint must be the name of a file or a state dict"):
        split_from(3, network())  # type: ignore[arg-type]
    with pytest.raises(ReconError, match=r"checkpoint .*none.pt cannot be read"):
        split_from(tmp_path / "none.pt", network())
    state = split_layers(network(), ["3"], TASKS).state_dict()
    state._metadata[""][KEY]["version"] = 7
    with pytest.raises(ReconError, match=r"metadata of The checkpoint does not record .*version 7"):
        split_from(state, network())
