"""Torchvision's ImageNet weights in the papers' networks: loaded, asked for, or refused."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from libmtl_recon import ReconError
from libmtl_recon.problems.networks import build

TASKS = {"a": 3, "b": 2}
PRETRAINED = {
    "resnet18": ("resnet18", "resnet18-f37072fd.pth"),
    "mobilenetv2_raspp": ("mobilenet_v2", "mobilenet_v2-b0353104.pth"),
    "resnet50_dilated": ("resnet50", "resnet50-0676ba61.pth"),
}


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder, with nothing in it and nothing to be had."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))

    def download(url: str, *_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


def some_values(model: str) -> dict[str, Tensor]:
    """A state dict of one of torchvision's networks, quickly made, each tensor of its own value."""
    with torch.device("meta"):
        shapes = getattr(torchvision.models, model)().state_dict()
    return {
        key: torch.full(value.shape, place, dtype=value.dtype)
        for place, (key, value) in enumerate(shapes.items())
    }


@pytest.mark.parametrize("name", PRETRAINED)
def test_torchvision_s_weights_are_loaded(name: str, checkpoints: Path) -> None:
    model, file = PRETRAINED[name]
    values = some_values(model)
    torch.save(values, checkpoints / file)
    network = build(name, TASKS, pretrained=True)
    encoder = network.encoder_class()
    loaded = [key for key, value in encoder.state_dict().items() if key in values]
    for key in loaded:
        assert torch.equal(encoder.state_dict()[key], values[key]), key
    unused = {"fc.weight", "fc.bias", "classifier.1.weight", "classifier.1.bias"}
    unused |= {key for key in values if key.startswith("features.18.")}
    assert set(loaded) == values.keys() - unused
    others = {key.split(".")[0] for key in encoder.state_dict().keys() - values.keys()}
    assert others == ({"raspp"} if name == "mobilenetv2_raspp" else set())


@pytest.mark.parametrize("name", PRETRAINED)
def test_weights_that_cannot_be_downloaded_are_asked_for(name: str, checkpoints: Path) -> None:
    with pytest.raises(ReconError) as error:
        build(name, TASKS, pretrained=True)
    file = PRETRAINED[name][1]
    assert f"https://download.pytorch.org/models/{file} (" in str(error.value)
    assert "Name or service not known" in str(error.value)
    assert f"save it as {checkpoints / file}," in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_refused(checkpoints: Path) -> None:
    values = some_values("mobilenet_v2")
    file = checkpoints / PRETRAINED["mobilenetv2_raspp"][1]

    def refused(text: str) -> None:
        with pytest.raises(ReconError, match=text):
            build("mobilenetv2_raspp", TASKS, pretrained=True).encoder_class()

    torch.save({key: v for key, v in values.items() if key != "features.3.conv.2.weight"}, file)
    refused(r"do not fit the network: of features\.3\.conv\.2\.weight only one")
    torch.save({**values, "features.2.conv.9.weight": torch.ones(1)}, file)
    refused(r"do not fit the network: of features\.2\.conv\.9\.weight only one")
    torch.save({**values, "features.0.0.weight": torch.ones(16, 3, 3, 3)}, file)
    refused("do not fit the network: their shapes differ")
    file.write_bytes(b"<html>")
    refused(r"The file of the ImageNet weights, .*b0353104\.pth, is damaged")
    # Files of before 2018 count no batches.
    torch.save({k: v for k, v in values.items() if not k.endswith("num_batches_tracked")}, file)
    build("mobilenetv2_raspp", TASKS, pretrained=True).encoder_class()
