"""Networks that a script compiles by ``torch.compile`` train as they are written."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from small_problem import batches, make_trainer

# isort: split
import LibMTL
import LibMTL.architecture as architectures
import numpy as np
import pytest
import torch
from torch import nn

from libmtl_recon import ReconError, ScoringHook, split_layers
from libmtl_recon.conflicts.layers import layers_of
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks

# Those that go through the graph once per task, and one that does not.
OFFERED = ["EW", "GradNorm", "MGDA", "PCGrad", "GradVac", "CAGrad", "GradDrop", "IMTL", "GradOPS"]

pytestmark = [
    pytest.mark.skipif(
        detect(LibMTL).saves_models, reason="the arguments are those of LibMTL's PyPI release"
    ),
    # Of torch's compiler, not ours.
    pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning"),
    pytest.mark.filterwarnings("default:The .grad attribute of a Tensor:UserWarning"),
]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.two(torch.relu(self.norm(self.one(x)))))


def whole(backend: str = "aot_eager") -> nn.Module:
    return torch.compile(Encoder(), backend=backend)


def in_place() -> nn.Module:
    network = Encoder()
    network.compile(backend="aot_eager")
    return network


def in_parts() -> nn.Module:
    network = Encoder()
    network.two = torch.compile(network.two, backend="aot_eager")
    return network


@torch.compile(backend="aot_eager")
def activation(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x * 1)


class CallsCompiled(Encoder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return activation(self.two(activation(self.norm(self.one(x)))))


@pytest.fixture(autouse=True)
def _nothing_compiled_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")
    before = torch._functorch.config.donated_buffer
    torch._functorch.config.donated_buffer = True
    torch.compiler.reset()
    yield
    torch.compiler.reset()
    torch._functorch.config.donated_buffer = before


def trained(encoder_class: Callable[[], nn.Module], weighting: str, **changes: Any) -> Any:
    trainer = make_trainer(weighting, encoder_class=encoder_class, **changes)
    trainer.train(batches(2), batches(2), epochs=2)
    assert np.isfinite(trainer.model.train_loss_buffer).all()
    return trainer


def check_same(found: Any, expected: Any, **tolerances: float) -> None:
    pairs = zip(found.model.parameters(), expected.model.parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, **tolerances)


@pytest.mark.parametrize("weighting", OFFERED)
def test_a_weighting_gives_what_it_gives_without(weighting: str) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    found = trained(whole, weighting)
    torch.manual_seed(1)
    np.random.seed(1)
    check_same(found, trained(Encoder, weighting))


@pytest.mark.parametrize("encoder_class", [in_place, in_parts, CallsCompiled])
def test_other_ways_to_compile(encoder_class: Callable[[], nn.Module]) -> None:
    check_same(trained(encoder_class, "PCGrad"), trained(Encoder, "PCGrad"))


@pytest.mark.parametrize("weighting", ["MGDA", "IMTL"])
def test_gradients_of_the_representation(weighting: str) -> None:
    found = trained(whole, weighting, rep_grad=True)
    check_same(found, trained(Encoder, weighting, rep_grad=True))


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["EW", "PCGrad", "GradOPS"])
def test_the_default_compiler(weighting: str) -> None:
    # Not Adam, which makes a whole step of the rounding of a gradient that is zero in truth: that
    # of a bias before a batch norm.
    sgd = {"optim_param": {"optim": "sgd", "lr": 0.1}}
    found = trained(partial(whole, "inductor"), weighting, **sgd)
    check_same(found, trained(Encoder, weighting, **sgd), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("encoder_class", [whole, in_place, in_parts])
def test_layers_have_the_names_of_the_plain_network(
    encoder_class: Callable[[], nn.Module],
) -> None:
    assert layers_of(encoder_class()) == layers_of(Encoder())


@pytest.mark.parametrize("weighting", ["EW", "GradOPS"])
def test_a_compiled_network_is_scored_as_the_plain_one(weighting: str) -> None:
    profiles = []
    for encoder_class in (whole, Encoder):
        with trainer_hooks(scoring := ScoringHook()):
            trained(encoder_class, weighting)
        profiles.append(scoring.profile())
    found, expected = profiles
    assert found.architecture == expected.architecture
    assert found.scores(-0.1) == expected.scores(-0.1)
    assert found.provenance["encoder"] == "Encoder"


@pytest.mark.parametrize("encoder_class", [whole, in_place, in_parts, CallsCompiled, Encoder])
@pytest.mark.parametrize("layer", ["one", "two"])
def test_recon_leaves_compilation_out_and_says_so(
    encoder_class: Callable[[], nn.Module],
    layer: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "layers.json"
    file.write_text(f'{{"{layer}": 1}}', encoding="utf-8")
    arguments = {"recon_k": 1, "recon_s": -0.1, "recon_layers": str(file)}
    recon = {"architecture": architectures.Recon, "arch_args": arguments}
    found = trained(encoder_class, "GradOPS", **recon)
    said = "runs without torch.compile" in capsys.readouterr().out
    assert said == (encoder_class in (whole, in_place, in_parts))
    expected = trained(Encoder, "GradOPS", **recon)
    check_same(found, expected)
    assert list(found.model.state_dict()) == list(expected.model.state_dict())
    twin = copy.deepcopy(found.model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin(torch.ones(2, 5))["t0"].any(), "a copy runs itself"


def test_what_is_compiled_after_its_split_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "layers.json"
    file.write_text('{"two": 1}', encoding="utf-8")
    arguments = {"recon_k": 1, "recon_s": -0.1, "recon_layers": str(file)}
    trainer = make_trainer(
        "EW", encoder_class=Encoder, architecture=architectures.Recon, arch_args=arguments
    )
    trainer.model.encoder = torch.compile(trainer.model.encoder, backend="eager")
    with pytest.raises(ReconError, match=r"encoder was compiled with torch\.compile after"):
        trainer.train(batches(2), batches(2), epochs=1)


@pytest.mark.parametrize("encoder_class", [whole, in_place, in_parts])
def test_the_library_splits_plain_networks_only(encoder_class: Callable[[], nn.Module]) -> None:
    with pytest.raises(ReconError, match=r"compiled by torch\.compile"):
        split_layers(encoder_class(), ["one"], ["a", "b"])
