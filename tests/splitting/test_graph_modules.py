"""Networks that torch.fx traced, which copy and pickle themselves in their own way."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from plain import Twins
from sample_networks import normed, rows
from torch import Tensor, nn

from libmtl_recon import extract_task
from libmtl_recon.splitting import is_split, only_task


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_and_pickles(copied: Callable[[nn.Module], nn.Module]) -> None:
    twins = Twins(torch.fx.symbolic_trace(normed(0.1)), ["0", "3"])
    x = rows().double()
    twins.train_step(x, torch.optim.SGD(twins.split.parameters(), lr=0.1))
    for network in (twins.split, *twins.plain.values()):
        network.eval()
    twins.assert_equal(x)
    other = copied(twins.split).eval()
    assert is_split(other)
    for task, part in zip(twins.tasks, other(x).parts, strict=True):
        assert torch.equal(part, twins.plain[task](x))
        with only_task(other, task):
            alone = other(x)
        assert type(alone) is Tensor
        assert torch.equal(alone, part)
        assert torch.equal(extract_task(other, task)(x), part)
