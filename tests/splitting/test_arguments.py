"""Arguments of another kind are refused by name, with what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from libmtl_recon import UsageError, extract_task, only_task, split_layers
from libmtl_recon.splitting import is_split, shared_parameters, task_parameters

TASKS = ["digit", "article"]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ("0", r"layers must be a sequence of layer names \(got '0'\)\. Write \['0'\]\.$"),
        ("conv1", r"\(got 'conv1'\)\. Write \['conv1'\]\.$"),
        (b"0", "layers must be a sequence"),
        (None, r"sequence of layer names \(got None\)\. Write \['0'\]"),
        (2, r"sequence of layer names \(got 2\)"),
        ([0], r"layers must be names \(got 0\)"),
        (["0", None], r"layers must be names \(got None\)"),
        ([["0"]], "layers must be names"),
        (["00"], r"must name modules .*\(got '00'\)\. There is no such module; similar names: 0"),
        (["1"], "must name modules that hold trainable parameters"),
    ],
)
def test_layers(layers: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        split_layers(network(), layers, TASKS)


def test_a_module_in_the_place_of_its_name_is_called_by_it() -> None:
    net = network()
    with pytest.raises(UsageError, match=r"got Linear.*Write \['2'\]"):
        split_layers(net, net[2], TASKS)
    with pytest.raises(UsageError, match=r"got Linear.*Write a layer's path .*, such as '2'\."):
        split_layers(net, ["0", net[2]], TASKS)


class WithToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(4))
        self.last = nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([0], r"such as '\(root\)'\."),
        (["token"], r"got 'token'\)\. It is a parameter of '\(root\)': give that name\."),
        (["last.bias"], r"got 'last\.bias'\)\. It is a parameter of 'last': give that name\."),
        (["tokens"], r"There is no such module; similar names: \(root\), last"),
    ],
)
def test_a_parameter_in_the_place_of_its_layer(layers: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        split_layers(WithToken(), layers, TASKS)
    with pytest.raises(UsageError, match=r"got WithToken.*Write \['\(root\)'\]"):
        split_layers(net := WithToken(), net, TASKS)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (2, r"tasks must be different names, .* \(got 2\)\. Write one name per task"),
        ("digit", r"at least one \(got 'digit'\)\. Write \['digit', \.\.\.\]"),
        (None, r"tasks must be different names, at least one \(got None\)"),
        ([1, 2], r"tasks must be names \(got 1\)"),
        ([["a"], ["b"]], r"tasks must be names \(got \['a'\]\)"),
        ({"a", "b"}, "ordered sequence"),
        (["a", "a"], "different names"),
        ([], "at least one"),
    ],
)
def test_tasks(tasks: Any, said: str) -> None:
    net = network()
    before = list(net.state_dict())
    with pytest.raises(UsageError, match=said):
        split_layers(net, ["0"], tasks)
    assert list(net.state_dict()) == before, "nothing was split"


CALLS: dict[str, Callable[[Any], Any]] = {
    "split_layers": lambda net: split_layers(net, ["0"], TASKS),
    "only_task": lambda net: only_task(net, "digit").__enter__(),
    "extract_task": lambda net: extract_task(net, "digit"),
    "is_split": is_split,
    "shared_parameters": shared_parameters,
    "task_parameters": lambda net: task_parameters(net, "digit"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("given", ["net.pt", 3, None, torch.ones(2), network])
def test_what_is_no_network(given: Any, name: str) -> None:
    with pytest.raises(UsageError, match=r"(module|model) must be a torch\.nn\.Module"):
        CALLS[name](given)


def test_a_class_is_no_network() -> None:
    with pytest.raises(UsageError, match=r"Give an instance, Linear\(\.\.\.\), not the class"):
        split_layers(nn.Linear, [""], TASKS)


@pytest.mark.parametrize("task", ["digitt", 0, None, ["digit"], {}, "digit "])
def test_a_task_that_there_is_not(task: Any) -> None:
    split = split_layers(network(), ["2"], TASKS)
    for act in (
        lambda: only_task(split, task).__enter__(),
        lambda: extract_task(split, task),
        lambda: task_parameters(split, task),
    ):
        with pytest.raises(UsageError, match=r"must be one of .*The tasks are digit, article"):
            act()
    with pytest.raises(UsageError, match=r"Did you mean digit\?"):
        extract_task(split, "digits")


@pytest.mark.parametrize(
    ("layers", "tasks"),
    [
        ((name for name in ["0", "2"]), (task for task in TASKS)),
        (("0", "2"), tuple(TASKS)),
        ({"0": 0.5, "2": 0.25}, dict.fromkeys(TASKS)),
        ({"2", "0"}, TASKS),
    ],
)
def test_any_iterable_will_do(layers: Any, tasks: Any) -> None:
    split = split_layers(network(), layers, tasks)
    assert split(torch.ones(1, 4)).tasks == ("digit", "article")
    assert {n.split(".")[0] for n in task_parameters(split, "digit")} == {"0", "2"}


def test_a_set_of_layers_is_drawn_in_one_order() -> None:
    """Sets go through their words in another order in each process."""
    drawn = []
    for layers in ({"2", "0"}, ["0", "2"]):
        torch.manual_seed(0)
        drawn.append(split_layers(network(), layers, TASKS, init="fresh").state_dict())
        torch.manual_seed(0)
    assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in drawn[1])
