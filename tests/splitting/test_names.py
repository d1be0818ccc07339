"""What a split network returns is taken by the tasks' names, however deep inside it stands."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from sample_networks import normed, rows
from torch import Tensor, nn

from libmtl_recon import (
    ReconError,
    TaskTensor,
    UsageError,
    by_task,
    extract_task,
    only_task,
    split_layers,
)

TASKS = ["digit", "article"]


def apart(network: nn.Module, layers: list[str], tasks: list[str] = TASKS) -> nn.Module:
    """A split network whose tasks' copies differ."""
    torch.manual_seed(0)
    split = split_layers(network, layers, tasks)
    with torch.no_grad():
        for parameter in split.parameters():
            parameter.add_(torch.randn_like(parameter))
    return split


@pytest.mark.parametrize("layer", ["0", "1", "3"])
def test_a_networks_output_is_taken_by_name(layer: str) -> None:
    split = apart(normed(), [layer]).eval()
    out = split(rows())
    assert out.tasks == ("digit", "article")
    assert list(out.by_task()) == TASKS
    for task, part in zip(TASKS, out.parts, strict=True):
        assert out[task] is part
        assert out.by_task()[task] is part
        assert torch.equal(part, extract_task(split, task)(rows()))
    assert not torch.equal(out["digit"], out["article"])


COMPUTED: dict[str, Callable[[Any], Any]] = {
    "operator": lambda out: 2 * out + 1,
    "plain first": lambda out: torch.ones(3, 2) - out,
    "method": lambda out: out.softmax(-1),
    "function of several": lambda out: torch.cat([out, torch.ones(3, 2)]),
    "one of a tuple": lambda out: out.max(dim=1).values,
    "index": lambda out: out[0],
    "copy": copy.deepcopy,
    "pickle": lambda out: pickle.loads(pickle.dumps(out.detach())),
    "in place": lambda out: out.clone().add_(1),
    "into a plain one": lambda out: _added(torch.ones(3, 2), out),
}


def _added(plain: Any, other: Any) -> Any:
    plain += other
    return plain


@pytest.mark.parametrize("name", COMPUTED)
def test_what_is_computed_from_it_has_the_names(name: str) -> None:
    parts = [torch.arange(6.0).reshape(3, 2), torch.ones(3, 2)]
    found = COMPUTED[name](TaskTensor(parts, tasks=TASKS))
    assert list(found.by_task()) == TASKS
    assert torch.equal(found["article"], COMPUTED[name](parts[1]))


def test_one_tasks_values_have_its_name() -> None:
    alone = TaskTensor([torch.ones(2)], 1, TASKS) * 3
    assert alone.tasks == ("article",)
    assert [*alone.by_task()] == ["article"]
    assert alone["article"].tolist() == [3, 3]
    with pytest.raises(
        UsageError, match="must be 'article', because this is the value of that task only"
    ):
        alone["digit"]
    split = apart(normed(), ["0"])
    with only_task(split, "digit"):
        assert split[0](rows()).tasks == ("digit",)


def test_all_other_indices_keep_a_tensors_meaning() -> None:
    parts = [torch.arange(12.0).reshape(2, 2, 3), torch.randn(2, 2, 3)]
    out = TaskTensor(parts, tasks=TASKS)
    indices = [0, -1, slice(1), None, ..., (0, 1), (slice(None), 0), [1, 0], torch.tensor([1])]
    for index in [*indices, torch.tensor([True, False]), (..., None), True]:
        for task, part in zip(TASKS, parts, strict=True):
            assert torch.equal(out[index][task], part[index])
    first, second = out  # rows, not tasks
    assert torch.equal(first["digit"], parts[0][0])
    assert torch.equal(second["article"], parts[1][1])
    assert [row["digit"].shape for row in out] == [(2, 3)] * 2
    out[0] = 7.0
    assert torch.equal(parts[1][0], torch.full((2, 3), 7.0))


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda out: out["digitt"], r"'digitt'.*Did you mean digit\? The tasks are digit, article"),
        (lambda out: out["digit", 0], r"either a task's name.*out\['digit'\]\[\.\.\.\]"),
        (lambda out: out[["digit"]], "either a task's name"),
        (lambda out: out.__setitem__("digit", 0), "to read that task's tensor"),
    ],
)
def test_says_which_names_there_are(act: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        act(TaskTensor([torch.ones(2), torch.zeros(2)], tasks=TASKS))


def test_a_task_tensor_without_names_says_so() -> None:
    for act in (lambda b: b["digit"], lambda b: b.by_task(), by_task):
        with pytest.raises(ReconError, match="without the tasks' names"):
            act(TaskTensor([torch.ones(2), torch.zeros(2)]))


@pytest.mark.parametrize(
    ("parts", "task", "tasks"),
    [(2, None, ["a"]), (2, None, ["a", "a"]), (2, None, "ab"), (1, 2, TASKS), (2, None, 2)],
)
def test_names_must_be_one_per_task(parts: int, task: int | None, tasks: Any) -> None:
    with pytest.raises(UsageError, match="tasks must be a different name for each task"):
        TaskTensor([torch.ones(1)] * parts, task, tasks)
    with pytest.raises(ReconError, match="one plain tensor per task"):
        TaskTensor([1.0, 2.0])


def test_networks_of_other_tasks_do_not_mix() -> None:
    first, second = apart(normed(), ["3"]), apart(normed(), ["3"], ["article", "digit"])
    with pytest.raises(ReconError, match=r"\(article, digit\) and \(digit, article\)"):
        first(rows()) + second(rows())


@dataclass
class Output(OrderedDict):
    """As Transformers' outputs are: a dict that is a dataclass, and forbids `update`."""

    logits: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            self[field.name] = getattr(self, field.name)

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        super().__setattr__(name, value)

    def update(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError


Pair = namedtuple("Pair", ["logits", "more"])
STRUCTURES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "itself": lambda out, _: out,
    "tuple": lambda out, x: (x, out),
    "list": lambda out, x: [out, [x, out]],
    "dict": lambda out, x: {"logits": out, "x": {"deep": (out, x), "none": None}},
    "named tuple": lambda out, x: Pair(out, x),
    "output": lambda out, x: Output(out, (x, out)),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_nested_outputs_are_reached_by_task(name: str) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = normed()

        def forward(self, x: Tensor) -> Any:
            return STRUCTURES[name](self.inner(x), x)

    split = apart(Network(), ["inner.3"]).eval()
    found = by_task(split(rows()))
    assert list(found) == TASKS
    for task, value in found.items():
        expected = extract_task(split, task)(rows())
        assert type(value) is type(expected)
        assert repr(value) == repr(expected)


def test_what_one_task_alone_computed_is_none_for_the_others() -> None:
    first, second = (TaskTensor([torch.full((1,), float(n))], n, TASKS) for n in range(2))
    shared = torch.ones(1)
    found = by_task([first, second, shared])
    assert found["digit"] == [first.parts[0], None, shared]
    assert found["article"] == [None, second.parts[0], shared]
    assert list(by_task([second])) == ["article"]


@pytest.mark.parametrize("output", [torch.ones(2), 3, None, [], {"x": torch.ones(2)}])
def test_what_is_the_same_for_all_tasks_is_not_split(output: Any) -> None:
    with pytest.raises(
        UsageError, match="must contain a tensor that depends on a task-specific layer"
    ):
        by_task(output)


def test_values_of_one_task_are_named_where_they_leave_the_network() -> None:
    """Parts of a network that mark their outputs as one task's need not know the names."""

    class Lists(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> list[Any]:
            return [TaskTensor([x + number], number) for number in range(2)]

    x = torch.ones(1)
    found = split_layers(Lists(), ["one"], TASKS)(x)
    assert [one.tasks for one in found] == [("digit",), ("article",)]
    assert by_task(found)["article"] == [None, x + 1]
