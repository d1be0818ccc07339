"""A rotation that was folded into the layer behind it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from rotograd_tasks import a_rotation
from torch import nn

from libmtl_recon import ReconError, UsageError, fold_rotation
from libmtl_recon.weighting.rotation import rotate

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "linear on tokens": (lambda: nn.Linear(6, 4), (2, 3, 6)),
    "1x1": (lambda: nn.Conv2d(6, 4, 1), (2, 6, 3, 3)),
    "3x3": (lambda: nn.Conv2d(6, 4, 3, padding=1, stride=2), (2, 6, 5, 5)),
    "reflected": (lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), (2, 6, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, stride=2), (2, 6, 3, 3)),
    "volumes": (lambda: nn.Conv3d(6, 4, 2), (2, 6, 3, 3, 3)),
}


@pytest.mark.parametrize("size", [6, 4])
@pytest.mark.parametrize("name", LAYERS)
def test_a_folded_layer_computes_the_same(name: str, size: int) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, matrix = make(), a_rotation(size, 1).float()
    before = copy.deepcopy(layer.state_dict())
    z = torch.randn(shape)
    folded = fold_rotation(layer, matrix)
    torch.testing.assert_close(folded(z), layer(rotate(z, matrix)), rtol=0, atol=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_a_layer_behind_a_flattening_is_folded_by_channels() -> None:
    torch.manual_seed(0)
    layer, matrix, z = nn.Linear(24, 3), a_rotation(4, 1).float(), torch.randn(5, 6, 2, 2)
    folded = fold_rotation(layer, matrix, channels=6)
    expected = layer(rotate(z, matrix).flatten(1))
    torch.testing.assert_close(folded(z.flatten(1)), expected, rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="divide the layer's 24 inputs"):
        fold_rotation(layer, matrix, channels=7)
    with pytest.raises(ReconError, match="groups=2"):
        fold_rotation(nn.Conv2d(6, 4, 1, groups=2), matrix)
    with pytest.raises(ReconError, match="BatchNorm1d"):
        fold_rotation(nn.BatchNorm1d(6), matrix)
