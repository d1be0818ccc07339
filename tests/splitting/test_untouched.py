"""PyTorch's functions are what they were before, between and after a split network's calls."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._functorch.eager_transforms
import torch._functorch.vmap
import torch.utils.checkpoint
from sample_networks import image, normed, resnet, rows, transformer
from torch import Tensor, fx, nn
from torch.autograd import Function

import libmtl_recon
from libmtl_recon import ReconError, extract_task
from libmtl_recon.splitting import only_task, per_task_calls, split_layers


def functions() -> list[Any]:
    """All that a split network replaces, and what it once did."""
    checkpoint: Any = torch.utils.checkpoint
    return [
        *(len(vars(Function)), vars(Function).get("apply")),
        *(checkpoint.checkpoint, checkpoint.checkpoint.__code__),
        *dict(vars(checkpoint)).values(),
        *dict(vars(torch._functorch.vmap)).values(),
        *dict(vars(torch._functorch.eager_transforms)).values(),
        torch.backends.mha.get_fastpath_enabled(),
    ]


def assert_same(before: list[Any]) -> None:
    now = functions()
    assert len(now) == len(before)
    assert [k for k, (a, b) in enumerate(zip(now, before, strict=True)) if a is not b] == []


@pytest.fixture(autouse=True)
def _fast_path_as_torch_starts(monkeypatch: pytest.MonkeyPatch) -> Any:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def test_by_splitting_training_copying_and_taking_out() -> None:
    before = functions()
    network = split_layers(resnet(), ["layer2.0.conv1"], ["a", "b"])
    assert_same(before)
    for _ in range(2):
        sum(part.sum() for part in network(image()).parts).backward()
    assert_same(before)
    with only_task(network, "b"):
        network(image()).sum().backward()
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        other(image())
    extract_task(network, "a")(image())
    assert_same(before)


def test_by_importing() -> None:
    """The package is imported; nothing in PyTorch's modules is a function of its files."""
    home = str(Path(libmtl_recon.__file__).parent)
    codes = [getattr(getattr(value, "__func__", value), "__code__", None) for value in functions()]
    found = [code.co_filename for code in codes if hasattr(code, "co_filename")]
    assert any(name == torch.utils.checkpoint.__file__ for name in found)
    assert not [name for name in found if name.startswith(home)]


def test_by_a_traced_network() -> None:
    before = functions()
    network = split_layers(fx.symbolic_trace(normed(0.1)), ["0"], ["a", "b"])
    network(rows())
    with pytest.raises(RuntimeError):
        network(rows()[:, :2])
    assert_same(before)


class Breaks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.seen: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(vars(Function).get("apply"))
        raise ValueError(self.inner(x).shape)


def test_by_a_network_that_fails() -> None:
    before = functions()
    network = split_layers(Breaks(), ["inner"], ["a", "b"])
    with pytest.raises(ValueError, match="4"):
        network(rows())
    assert_same(before)
    assert network.seen != [vars(Function).get("apply")]


def test_by_networks_in_threads_that_overlap() -> None:
    """The first to come replaces them, the last to go puts them back."""
    before, inside, leave = functions(), threading.Event(), threading.Event()

    def other() -> None:
        with per_task_calls():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other, daemon=True)  # a failure is not to wait for it
    with per_task_calls():
        thread.start()
        inside.wait()
    assert vars(Function)["apply"] is not before[1]
    leave.set()
    thread.join()
    assert_same(before)


def test_what_another_put_around_ours_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with per_task_calls():
        monkeypatch.setattr(Function, "apply", classmethod(lambda cls, *args: args))
    assert Function.apply(1) == (1,)


def test_the_fast_path_is_switched_off_by_networks_that_have_it_alone() -> None:
    split_layers(normed(0.1), ["0"], ["a", "b"])(rows())
    assert torch.backends.mha.get_fastpath_enabled()
    network = split_layers(nn.Sequential(transformer(), nn.Linear(16, 2)), ["1"], ["a", "b"])
    assert not torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    pickle.loads(pickle.dumps(network))
    assert not torch.backends.mha.get_fastpath_enabled()


def test_an_unknown_version_of_checkpoints_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from libmtl_recon.splitting import replacements

    monkeypatch.setattr(replacements, "GENERATORS", ("_another_name",))
    monkeypatch.setattr(replacements, "_all", replacements._Replacements())
    before = functions()
    with pytest.raises(ReconError, match=r"implements torch\.utils\.checkpoint differently"):
        split_layers(normed(0.1), ["0"], ["a", "b"])(rows())
    monkeypatch.undo()
    assert_same(before)
    split_layers(normed(0.1), ["0"], ["a", "b"])(rows())
