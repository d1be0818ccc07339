"""Networks as programs of `torch.export`, for batches of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from libmtl_recon import ReconError, StopRun
from libmtl_recon.integrations.libmtl.architectures.extract import EncoderAndDecoder
from libmtl_recon.integrations.libmtl.extracting import ExtractingHook, export_program
from libmtl_recon.splitting.checkpoint import Checkpoint


class Message(nn.Module):
    """Takes a dict with a tuple in it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, message: dict[str, Any]) -> Tensor:
        return self.layer(message["first"]) + message["more"][0]


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(3, 4).flatten()


class Silent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def message(count: int) -> dict[str, Any]:
    return {"first": torch.randn(count, 4), "more": (torch.randn(count, 2),)}


@pytest.mark.parametrize("count", [1, 3])
def test_inputs_may_be_nested(count: int, tmp_path: Path) -> None:
    network = Message().eval()
    export_program(network, message(count), tmp_path / "net.pt2")
    program, given = torch.export.load(tmp_path / "net.pt2").module(), message(5)
    assert torch.equal(program(given), network(given))


@pytest.mark.parametrize(
    ("network", "said"),
    [(Fixed(), "batches of any size"), (Silent(), ": NotImplementedError")],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_exported_says_why(network: nn.Module, said: str, tmp_path: Path) -> None:
    with pytest.raises(ReconError, match=said):
        export_program(network, torch.randn(3, 4), tmp_path / "net.pt2")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match=r"Cannot write .*none/net\.pt2: .*[^.]\.$"):
        export_program(nn.Linear(4, 2), torch.randn(3, 4), tmp_path / "none" / "net.pt2")


def test_a_program_that_cannot_be_written_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one with a reentrant checkpoint in it, which torch.export makes, but does not write."""

    def save(*_: Any) -> None:
        raise LookupError("val is missing")

    monkeypatch.setattr(torch.export, "save", save)
    with pytest.raises(ReconError, match=r"torch\.export cannot .*: val is missing"):
        export_program(nn.Linear(4, 2), torch.randn(3, 4), tmp_path / "net.pt2")


class Lists(nn.Module):
    """An encoder of one representation per task."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.own = nn.Linear(4, 3), nn.ModuleList([nn.Linear(3, 3) for _ in "ab"])

    def forward(self, x: Tensor) -> list[Tensor]:
        x = torch.tanh(self.one(x))
        return [layer(x) for layer in self.own]


class Model(nn.Module):
    """What LibMTL makes of it."""

    task_name = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Lists()
        self.decoders = nn.ModuleDict({task: nn.Linear(3, 2) for task in self.task_name})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.encoder(x)
        return {t: self.decoders[t](found[i]) for i, t in enumerate(self.task_name)}


def test_an_encoders_list_gives_each_decoder_its_own(tmp_path: Path) -> None:
    model, x = Model().eval(), torch.randn(3, 4)
    parts = EncoderAndDecoder()
    parts.add_module("encoder", model.encoder)
    parts.add_module("decoder", model.decoders["b"])
    parts.place = 1
    hook = ExtractingHook("b", Checkpoint("FILE", {}, None))
    with pytest.raises(StopRun):
        hook._compare(model, parts, (x,))
    network = hook.network
    assert network is not None
    assert list(network.state_dict()) == list(parts.state_dict())
    export_program(network, x, tmp_path / "net.pt2")
    program, given = torch.export.load(tmp_path / "net.pt2").module(), torch.randn(5, 4)
    torch.testing.assert_close(program(given), model(given)["b"])
