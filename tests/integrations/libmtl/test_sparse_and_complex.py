"""Networks with sparse embeddings and with complex weights train as the plain ones do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from micro_batches import Runs

# isort: split
import LibMTL
import LibMTL.architecture as architectures
import LibMTL.weighting as weightings
import pytest
import torch
from torch import Tensor, nn

from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.integrations.libmtl.scoring import ScoringHook

NAMES = [name for name in weightings.__all__ if not name.startswith("Abs")]
# SciPy's solver takes derivatives from differences, which make 1e-8 of a rounding.
BY_DIFFERENCES = ("CAGrad", "FairGrad")


pytestmark = pytest.mark.usefixtures("float64_on_the_cpu")


class Tables(nn.Module):
    def __init__(self, *, plain: bool) -> None:
        super().__init__()
        self.user = nn.Embedding(30, 3, sparse=not plain)
        self.item = nn.EmbeddingBag(30, 2, mode="mean", sparse=not plain)
        self.two = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        ids = (x.abs() * 8).long().clamp(max=29)
        return torch.tanh(self.two(torch.cat([self.user(ids).mean(1), self.item(ids)], dim=1)))


class Spectral(nn.Module):
    def __init__(self, *, plain: bool) -> None:
        super().__init__()
        self.one, self.scale = nn.Linear(5, 7), nn.Parameter(torch.ones(()))
        self.mix = nn.Module()
        for name, parts in (("weight", torch.randn(7, 4, 2)), ("bias", torch.randn(4, 2))):
            given = parts if plain else torch.view_as_complex(parts)
            self.mix.register_parameter(name, nn.Parameter(given))
        self.two, self.plain = nn.Linear(8, 6), plain

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.mix.weight, self.mix.bias
        if self.plain:
            weight, bias = torch.view_as_complex(weight), torch.view_as_complex(bias)
        hidden = torch.tanh(self.one(x)) * self.scale
        mixed = hidden.to(weight.dtype) @ weight + bias * 2
        return torch.tanh(self.two(torch.view_as_real(mixed).flatten(1)))


Trained = tuple[dict[str, Tensor], ConflictProfile | None]


def train(
    name: str, encoder: Callable[[], nn.Module], *, scored: bool = False, **changes: Any
) -> Trained:
    """Four steps of two micro-batches each: the parameters, complex ones in their parts."""
    hook = ScoringHook(None)
    with trainer_hooks(hook) if scored else nullcontext():
        runs = Runs(name, encoder_class=encoder, rep_grad=name == "GradDrop", **changes)
    optimizer = torch.optim.SGD(runs.model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(4):
        optimizer.zero_grad()
        runs.backward()
        runs.backward()
        optimizer.step()
    found = {n: p.detach() for n, p in runs.model.named_parameters()}
    parts = {n: torch.view_as_real(p) if p.is_complex() else p for n, p in found.items()}
    return parts, hook.profile() if scored else None


def check(name: str, encoder: type[nn.Module], **changes: Any) -> None:
    """Compare with the plain network: dense embeddings, real and imaginary parts."""
    # LibMTL calls what it is given without arguments.
    (found, profile), (wanted, plain) = (
        train(name, lambda plain=plain: encoder(plain=plain), **changes) for plain in (False, True)
    )
    assert found.keys() == wanted.keys()
    close = 1e-6 if name in BY_DIFFERENCES else 1e-12
    for parameter, value in wanted.items():
        torch.testing.assert_close(found[parameter], value, rtol=close, atol=close)
    if profile is not None:
        assert plain is not None
        assert profile.steps == 8
        assert (profile.counts == plain.counts).all()
        assert profile.architecture == plain.architecture


def split(layer: str) -> dict[str, Any]:
    by_name = detect(LibMTL).by_name
    return {
        "architecture": "Recon" if by_name else vars(architectures)["Recon"],
        "arch_args": {"recon_k": 1, "recon_s": -0.1, "recon_layers": layer},
    }


@pytest.mark.parametrize("encoder", [Tables, Spectral])
@pytest.mark.parametrize("name", NAMES)
def test_every_weighting(name: str, encoder: type[nn.Module]) -> None:
    check(name, encoder)


@pytest.mark.parametrize("encoder", [Tables, Spectral])
@pytest.mark.parametrize("name", ["EW", "GradOPS", "PCGrad", "RotoGrad", "GradDrop"])
def test_scored(name: str, encoder: type[nn.Module]) -> None:
    check(name, encoder, scored=True)


@pytest.mark.parametrize(
    ("encoder", "layer"), [(Tables, "user"), (Tables, "item"), (Spectral, "mix")]
)
@pytest.mark.parametrize("name", ["GradOPS", "PCGrad"])
def test_split(name: str, encoder: type[nn.Module], layer: str) -> None:
    check(name, encoder, **split(layer))


@pytest.mark.parametrize("encoder", [Tables, Spectral])
@pytest.mark.parametrize("group_type", [1, 2])
def test_gradvac_in_groups(group_type: int, encoder: type[nn.Module]) -> None:
    arguments = {"GradVac_beta": 0.5, "GradVac_group_type": group_type, "beta": 0.5}
    check("GradVac", encoder, weight_args=arguments)


@pytest.mark.parametrize("name", ["GradOPS", "PCGrad", "MGDA", "EW", "RotoGrad"])
def test_sparse_gradients_stay_sparse_for_the_optimisers_that_need_them(name: str) -> None:
    runs = Runs(name, encoder_class=lambda: Tables(plain=False))
    tables = [runs.model.encoder.user.weight, runs.model.encoder.item.weight]
    before = [table.detach().clone() for table in tables]
    for _ in range(2):
        runs.backward()
    touched = [table.grad.coalesce().indices()[0] for table in tables]
    torch.optim.SparseAdam(tables).step()
    for table, old, rows in zip(tables, before, touched, strict=True):
        moved = (table != old).any(dim=1).nonzero().flatten()
        assert 0 < len(moved) < 30
        assert set(moved.tolist()) <= set(rows.tolist())
