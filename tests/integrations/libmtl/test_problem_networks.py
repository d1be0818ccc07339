"""LibMTL's Trainer trains each of the papers' networks, plainly and split by Recon.

For both LibMTLs: the installed one, and the checkout of its main branch that LIBMTL_MAIN names.
"""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import copy
from pathlib import Path
from typing import Any

import LibMTL
import LibMTL.architecture as architectures
import LibMTL.weighting as weightings
import pytest
import torch
from LibMTL import Trainer
from main_checkout import MAIN, on_main, said_with_main
from torch import nn
from trainer_arguments import classifications

from libmtl_recon import UsageError
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.problems.networks import NETWORKS, build

TASKS = ("a", "b", "c")
# Of each network a norm and a convolution that the tasks share, within it.
LAYERS = {
    "segnet": ("conv_block_enc.3.0.bn1", "decoder_block.1.conv1"),
    "segnet_mtan": ("conv_block_enc.3.0.bn1", "decoder_block_att.1.conv1"),
    "resnet18": ("layer2.0.bn1", "layer3.0.conv1"),
    "mobilenetv2_raspp": ("features.5.conv.1.1", "raspp.local.0"),
    "resnet50_dilated": ("layer2.0.bn1", "layer3.0.conv2"),
}


def pooled(decoder: nn.Module) -> nn.Module:
    """A classifier of the whole image, as LibMTL has a loss and a metric for these."""
    return nn.Sequential(decoder, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def trainer(name: str, arch: str, **more: Any) -> Trainer:
    torch.manual_seed(0)
    network = build(name, dict.fromkeys(TASKS, 2), width=0.08)
    decoders = dict(network.decoders.items())
    if name != "resnet18":
        decoders = {task: pooled(decoder) for task, decoder in decoders.items()}
    named = detect(LibMTL).by_name
    layers = {"recon_k": 2, "recon_s": 0.0, "recon_layers": ",".join(LAYERS[name])}
    return Trainer(
        task_dict=classifications(TASKS),
        weighting="EW" if named else weightings.EW,
        architecture=arch if named else vars(architectures)[arch],
        encoder_class=network.encoder_class,
        decoders=nn.ModuleDict(decoders),
        rep_grad=False,
        multi_input=False,
        optim_param={"optim": "sgd", "lr": 0.5},
        scheduler_param=None,
        weight_args={},
        arch_args=(layers if arch == "Recon" else {}) | more,
    )


@pytest.mark.parametrize("arch", ["HPS", "Recon"])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_step(name: str, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")
    given: Any = trainer(name, arch)
    parameters = dict(given.model.named_parameters())
    before = {n: p.detach().clone() for n, p in parameters.items()}
    x = torch.rand(4, 3, 32, 32)
    batch = [(x, {t: torch.tensor([0, 1, 1, 0]) for t in TASKS})]
    given.train(batch, batch, epochs=1)
    for n, p in parameters.items():
        assert p.isfinite().all(), n
        assert p.grad.any(), n
    moved = {n for n, p in parameters.items() if not torch.equal(p, before[n])}
    # A step may be smaller than what float32 can add to 1, as behind MobileNetV2's small logits.
    assert {n for n in parameters if parameters[n].dim() > 1} <= moved
    split = {n: p for n, p in parameters.items() if ".tasks." in n}
    found = {n.partition(".tasks.")[0].removeprefix("encoder.") for n in split}
    assert found == (set(LAYERS[name]) if arch == "Recon" else set())
    for layer in found:
        own = [parameters[f"encoder.{layer}.tasks.{task}.weight"] for task in TASKS]
        assert not torch.equal(own[0], own[1]), layer
        assert not torch.equal(own[1], own[2]), layer


def hooks_of(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


MIXING = {"img_size": [3, 32, 32], "num_experts": [2, 1, 1, 1], "num_nonzeros": 1, "kgamma": 1.0}


@pytest.mark.parametrize("recon", [False, True])
@pytest.mark.parametrize("arch", ["CGC", "DSelect_k", "MMoE"])
def test_an_architecture_that_cannot_mix_lists_is_refused(
    arch: str, recon: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")
    layers = {
        "recon_base": arch,
        "recon_layers": ",".join(f"experts_shared.0.{name}" for name in LAYERS["segnet_mtan"]),
    }
    given: Any = trainer(
        "segnet_mtan", "Recon" if recon else arch, **MIXING, **(layers if recon else {})
    )
    before, hooks = copy.deepcopy(dict(given.model.named_parameters())), hooks_of(given.model)
    batch = [(torch.rand(2, 3, 32, 32), {t: torch.tensor([0, 1]) for t in TASKS})]
    said = rf"must return one tensor for --arch {arch}, .*\(got 'SegNetMTAN, .* a list'\)\. HPS"
    with pytest.raises(UsageError, match=said):
        given.train(batch, batch, epochs=1)
    after = given.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert hooks_of(given.model) == hooks


def test_an_encoder_of_one_tensor_is_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")
    given: Any = trainer("segnet", "MMoE", **MIXING)
    found = given.model(torch.rand(2, 3, 32, 32))
    assert [tuple(part.shape) for part in found.values()] == [(2, 2)] * 3
    assert hooks_of(given.model) == 0


@on_main
def test_mtan_is_that_of_libmtl_s_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(MAIN, "examples", "nyu")))
    from segnet_mtan import SegNet_MTAN_encoder

    torch.manual_seed(0)
    theirs, ours = SegNet_MTAN_encoder(), build("segnet_mtan", dict.fromkeys(TASKS, 2))
    encoder, values = ours.encoder_class(), theirs.state_dict()
    encoder.load_state_dict({name: values[of_example(name)] for name in encoder.state_dict()})
    assert len(values) == len(encoder.state_dict())
    images = torch.randn(2, 3, 32, 64)
    for own, other in zip(encoder(images), theirs(images), strict=True):
        assert torch.equal(own, other)


def of_example(name: str) -> str:
    """The name there: layers have numbers in a sequence, tasks in a list."""
    attention = name.split(".")[0] in ("encoder_att", "decoder_att")
    numbers = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}
    tasks = {task: str(place) for place, task in enumerate(TASKS)} if attention else {}
    return ".".join({**numbers, **tasks}.get(part, part) for part in name.split("."))


@on_main
@pytest.mark.slow
def test_with_the_main_branch() -> None:
    assert "17 passed" in said_with_main(__file__)
