"""One task alone, in a `with` block and in a thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from plain import Twins
from sample_networks import image, normed, resnet, rows
from torch import Tensor, nn

from libmtl_recon.splitting import TaskTensor, only_task, split_layers
from libmtl_recon.splitting.split import split_beside
from libmtl_recon.splitting.task_selection import TaskSelection


def test_only_task_ends_with_its_block_even_by_an_error() -> None:
    split = split_layers(resnet(), ["fc"], ["a", "b"])
    with pytest.raises(KeyError), only_task(split, "a"):
        raise KeyError
    assert len(split(image()).parts) == 2


def test_nested_choices_end_one_by_one() -> None:
    split = split_layers(normed(), ["3"], ["a", "b"])
    with only_task(split, "a"):
        with only_task(split, "b"):
            assert torch.equal(split(rows()), nn.Sequential.forward(split, rows()).parts[0])
        assert type(split(rows())) is Tensor
    assert type(split(rows())) is TaskTensor


def test_each_thread_chooses_its_own_task() -> None:
    twins = Twins(resnet().eval(), ["layer2.0.conv1"])
    x = image().double()
    inside, done = threading.Event(), threading.Event()

    def other() -> Tensor:
        with only_task(twins.split, "b"):
            inside.set()
            done.wait(10)
            return twins.split(x)

    with ThreadPoolExecutor(1) as pool, only_task(twins.split, "a"):
        future = pool.submit(other)
        assert inside.wait(10)
        assert torch.equal(twins.split(x), twins.plain["a"](x))
        done.set()
        assert torch.equal(future.result(), twins.plain["b"](x))


def test_one_task_alone_is_plain_also_if_there_is_no_other() -> None:
    split = split_beside(normed(), ["0"], TaskSelection(["a"]))
    assert len(split(rows()).parts) == 1
    with only_task(split, "a"):
        assert type(split(rows())) is Tensor
