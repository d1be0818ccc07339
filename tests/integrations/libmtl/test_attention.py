"""Transformers in LibMTL: plain sharing and Recon are evaluated by one function, as trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from small_problem import make_trainer

# isort: split
import LibMTL
import LibMTL.architecture as architectures
import pytest
import torch
from torch import Tensor, nn

from libmtl_recon import StopRun
from libmtl_recon.integrations.libmtl.extracting import ExtractingHook, export_program
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.patches import PATCHES
from libmtl_recon.integrations.libmtl.patches.architectures import attention_in_evaluation
from libmtl_recon.splitting.checkpoint import Checkpoint


@pytest.fixture(autouse=True)
def _fast_path_as_torch_starts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


class Padded(nn.Module):
    """Sentences of other lengths, averaged over all positions; a layer far behind."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.inner = nn.TransformerEncoder(layer, 2)
        self.far = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        pad = torch.zeros(x.shape[:2], dtype=torch.bool)
        pad[:, 3:], pad[1] = True, True
        return self.far(self.inner(x, src_key_padding_mask=pad).mean(1))


def model(arch: str, *layers: str) -> Any:
    given = {"recon_k": len(layers), "recon_s": -0.1, "recon_layers": ",".join(layers)}
    return make_trainer(
        "EW",
        architecture=arch if detect(LibMTL).by_name else vars(architectures)[arch],
        arch_args=given if layers else {},
        encoder_class=Padded,
    ).model.eval()


def outputs(network: Any, x: Tensor, *, gradients: bool) -> Tensor:
    with torch.set_grad_enabled(gradients):
        return torch.stack(list(network(x).values())).detach()


def test_the_patch_is_needed_by_every_libmtl() -> None:
    assert attention_in_evaluation in PATCHES
    assert attention_in_evaluation.needs(LibMTL)
    attention_in_evaluation.apply(LibMTL)
    assert not attention_in_evaluation.needs(LibMTL)


@pytest.mark.parametrize("layer", ["far", "inner.layers.1.self_attn", "inner.layers.0.norm1"])
def test_hps_and_recon_are_compared_by_one_function(layer: str) -> None:
    plain, x = model("HPS"), torch.randn(4, 5, 8)
    trained = outputs(plain, x, gradients=True)
    attention_in_evaluation.apply(LibMTL)  # as when LibMTL is imported
    assert torch.equal(outputs(plain, x, gradients=False), trained)
    split = model("Recon", layer)
    split.load_state_dict(plain.state_dict())
    for gradients in (True, False):
        torch.testing.assert_close(outputs(split, x, gradients=gradients), trained)


@pytest.mark.parametrize("arch", [("HPS",), ("Recon", "far"), ("Recon", "inner.layers.1.linear1")])
def test_a_network_is_taken_out_and_exported(arch: tuple[str, ...], tmp_path: Any) -> None:
    built, x = model(*arch), torch.randn(4, 5, 8)
    expected = built(x)["t1"].detach()
    hook = ExtractingHook("t1", Checkpoint("CHECKPOINT best.pt", built.state_dict(), None))
    trainer = type("Trainer", (), {"model": built, "task_name": ["t0", "t1"]})()
    hook.built(trainer)
    with pytest.raises(StopRun):
        built(x)
    assert hook.network is not None
    export_program(hook.network, hook.inputs, tmp_path / "t1.pt2")
    program = torch.export.load(tmp_path / "t1.pt2").module()
    with torch.no_grad():
        torch.testing.assert_close(hook.network(x), expected)
        torch.testing.assert_close(program(x), expected)
