"""The papers' networks for images: layers, shapes, widths, gradients, starting values."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import math
from typing import Any

import pytest
import torch
import torchvision
from LibMTL.model import resnet_dilated
from torch import Tensor, nn

from libmtl_recon import ReconError, UsageError
from libmtl_recon.conflicts.layers import layers_of
from libmtl_recon.problems.networks import NETWORKS, Network, build
from libmtl_recon.problems.networks.resnet18 import ResNet18
from libmtl_recon.problems.networks.resnet50_dilated import ResNet50Dilated
from libmtl_recon.problems.networks.segnet import SegNet

TASKS = {"a": 3, "b": 2}
IMAGES = (2, 3, 64, 48)
# The size of a prediction for these images.
SIZES = {
    "segnet": (64, 48),
    "segnet_mtan": (64, 48),
    "resnet18": (),
    "mobilenetv2_raspp": (16, 12),
    "resnet50_dilated": (8, 6),
}


def predicted(network: Network, encoder: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """As LibMTL's architectures call it: a list has an entry for each task."""
    features = encoder(images)
    return {
        task: decoder(features[place] if isinstance(features, list) else features)
        for place, (task, decoder) in enumerate(network.decoders.items())
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_which_task_reaches_what(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, TASKS, width=0.04)
    encoder = network.encoder_class()
    outputs = predicted(network, encoder, torch.rand(IMAGES))
    assert {task: tuple(out.shape) for task, out in outputs.items()} == {
        task: (2, count, *SIZES[name]) for task, count in TASKS.items()
    }
    whole = nn.ModuleDict({"encoder": encoder, "decoders": network.decoders})
    names, parameters = zip(*whole.named_parameters(), strict=True)
    reached = {}
    for task, out in outputs.items():
        found = torch.autograd.grad(out.sum(), parameters, retain_graph=True, allow_unused=True)
        reached[task] = {n for n, g in zip(names, found, strict=True) if g is not None}
    for task, own in reached.items():
        decoder = {n for n in names if n.startswith(f"decoders.{task}.")}
        attention = {n for n in names if n.split(".")[1:3] in _attention(task)}
        assert bool(attention) is (name == "segnet_mtan")
        (other,) = reached.keys() - {task}
        assert own - reached[other] == decoder | attention
    assert set().union(*reached.values()) == set(names)


def _attention(task: str) -> tuple[list[str], list[str]]:
    return ["encoder_att", task], ["decoder_att", task]


@pytest.mark.parametrize(("name", "size"), [("segnet", (33, 70)), ("segnet_mtan", (50, 35))])
def test_sizes_that_no_pooling_halves_evenly(name: str, size: tuple[int, int]) -> None:
    network = build(name, TASKS, width=0.02)
    outputs = predicted(network, network.encoder_class(), torch.rand(2, 3, *size))
    assert {out.shape[-2:] for out in outputs.values()} == {size}


@pytest.mark.parametrize("name", ["segnet", "segnet_mtan"])
def test_images_that_are_too_small_are_refused(name: str) -> None:
    encoder = build(name, TASKS, width=0.02).encoder_class()
    with pytest.raises(ReconError, match=r"31×64 pixels are too few: .* at least 32×32"):
        encoder(torch.rand(2, 3, 31, 64))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_width_that_no_memory_holds_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"width must be a number above 0, and at most 16"):
        build(name, TASKS, width=1e9)


@pytest.mark.parametrize("name", NETWORKS)
def test_width_scales_all_channels(name: str) -> None:
    with torch.device("meta"):
        widths = {width: _channels(build(name, TASKS, width=width)) for width in (0.5, 1.0)}
    assert widths[0.5].keys() == widths[1.0].keys()
    for layer, channels in widths[1.0].items():
        assert widths[0.5][layer] == [count if count in (1, 3) else count / 2 for count in channels]


def _channels(network: Network) -> dict[str, list[int]]:
    """Of all convolutions, but not of images, which have 3, and predictions."""
    both = nn.ModuleDict({"encoder": network.encoder_class(), "decoders": network.decoders})
    found = {
        name: [module.in_channels // module.groups, module.out_channels]
        for name, module in both.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    return {name: channels for name, channels in found.items() if channels[1] not in (2, 3)}


def test_the_narrowest_network_has_a_channel_per_layer() -> None:
    encoder = build("segnet", TASKS, width=1e-9).encoder_class()
    assert {m.out_channels for m in encoder.modules() if isinstance(m, nn.Conv2d)} == {1}


def test_each_encoder_is_new() -> None:
    create = build("segnet", TASKS, width=0.04).encoder_class
    one, other = create(), create()
    assert not torch.equal(one.encoder_block[0].conv1.weight, other.encoder_block[0].conv1.weight)


def test_the_layers_that_mtan_s_tasks_share_come_in_the_authors_order() -> None:
    with torch.device("meta"):
        names = [layer.name for layer in layers_of(build("segnet_mtan", TASKS).encoder_class())]
    shared = [name for name in names if not name.startswith(("encoder_att.", "decoder_att."))]
    assert len(shared) == 72
    parts = list(dict.fromkeys(name.split(".")[0] for name in shared))
    assert parts == [
        *("encoder_block", "decoder_block", "conv_block_enc", "conv_block_dec"),
        *("encoder_block_att", "decoder_block_att"),
    ]
    with torch.device("meta"):
        plain = [layer.name for layer in layers_of(build("segnet", TASKS).encoder_class())]
    assert shared[:52] == plain


def test_resnet18_for_faces_is_torchvision_s_without_its_classifier() -> None:
    theirs = torchvision.models.resnet18()
    ours = ResNet18(channels=3, features=None)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k[:3] != "fc."})
    images = torch.rand(2, 3, 64, 64)
    theirs.avgpool, theirs.fc = nn.Identity(), nn.Identity()
    assert torch.equal(ours.eval()(images), theirs.eval()(images))
    assert ours(images).shape == (2, 2048)
    assert ours(torch.rand(2, 3, 178, 218)).shape == (2, 2048)


def test_dilated_resnet50_is_libmtl_s() -> None:
    torch.manual_seed(0)
    theirs, ours = resnet_dilated("resnet50", pretrained=False), ResNet50Dilated()
    ours.load_state_dict(theirs.state_dict())
    assert ours.feature_dim == theirs.feature_dim == 2048
    images = torch.rand(1, 3, 32, 40)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_mobilenetv2_is_torchvision_s_at_twice_the_resolution() -> None:
    # Where a stride was replaced by a dilation, every second pixel is what it was.
    torch.manual_seed(0)
    theirs = torchvision.models.MobileNetV2(width_mult=0.25, round_nearest=1).double().features[:-1]
    ours = build("mobilenetv2_raspp", TASKS, width=0.25).encoder_class().double().features
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(0.1)  # features that do not fade
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, 96, 128, dtype=torch.float64)
    fine, coarse = ours.eval()(images), theirs.eval()(images)
    assert fine.shape[-2:] == (6, 8)
    assert coarse.abs().max() > 1e-3
    torch.testing.assert_close(fine[..., ::2, ::2], coarse, rtol=1e-12, atol=1e-12)


def test_mobilenetv2_s_decoders_see_the_last_layer_at_a_quarter_of_the_size() -> None:
    encoder = build("mobilenetv2_raspp", TASKS, width=0.25).encoder_class().eval()
    images = torch.rand(IMAGES)
    features = encoder(images)
    assert features.shape == (2, 6 + 32, 16, 12)
    assert torch.equal(features[:, :6], encoder.features[:4](images))


@pytest.mark.parametrize(("bias", "kept"), [(1e4, 1.0), (-1e4, 0.0)])
def test_a_task_s_last_mask_multiplies_segnet_s_features(bias: float, kept: float) -> None:
    encoder = build("segnet_mtan", TASKS, width=0.05).encoder_class()
    nn.init.constant_(encoder.decoder_att["b"][0].bn2.bias, bias)
    images = torch.rand(IMAGES)
    plain = SegNet.forward(encoder, images)
    assert plain.abs().max() > 1e-3
    masked, all_of_it = encoder(images)
    assert torch.equal(all_of_it, kept * plain)
    assert not torch.equal(masked, kept * plain)


@pytest.mark.parametrize(("bias", "kept"), [(1e4, 1.0), (-1e4, 0.0)])
def test_a_task_s_masks_of_the_encoder_multiply_segnet_s_features(bias: float, kept: float) -> None:
    encoder = build("segnet_mtan", TASKS, width=0.05).encoder_class()
    nn.init.constant_(encoder.encoder_att["b"][3].bn2.bias, bias)
    images, entered = torch.rand(IMAGES), []
    encoder.encoder_block_att[3].register_forward_pre_hook(lambda _, given: entered.extend(given))
    encoder(images)
    encoded = encoder.stages(images).encoded[3]
    _, masked = entered
    assert torch.equal(masked, kept * encoded)
    assert encoded.any()


def deviations(network: nn.Module) -> dict[str, tuple[float, float, float]]:
    """Of convolutions of many numbers: how far they spread, and their fans."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            assert module.bias is None or not module.bias.any()
            size = module.weight[0, 0].numel()
            fans = (module.in_channels * size, module.out_channels * size)
            found[name] = (float(module.weight.detach().std()), *fans)
    return found


@pytest.mark.parametrize("name", ["segnet", "segnet_mtan"])
def test_segnet_starts_as_xavier_s(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, TASKS, width=0.5)
    found = deviations(nn.ModuleDict({"e": network.encoder_class(), "d": network.decoders}))
    assert len(found) >= 24
    for deviation, inputs, outputs in found.values():
        assert deviation == pytest.approx(math.sqrt(2 / (inputs + outputs)), rel=0.05)


def test_mobilenetv2_starts_as_he_s_and_its_predictions_small() -> None:
    torch.manual_seed(0)
    network = build("mobilenetv2_raspp", {"a": 40})
    found = deviations(nn.ModuleDict({"e": network.encoder_class(), "d": network.decoders}))
    assert found.pop("d.a.logits")[0] == pytest.approx(0.01, rel=0.05)
    assert {"e.raspp.local.0", "e.raspp.project.0", "d.a.fuse.1.0"} < found.keys()
    for deviation, _, outputs in found.values():
        assert deviation == pytest.approx(math.sqrt(2 / outputs), rel=0.05)


def test_resnet18_starts_as_torchvision_s() -> None:
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18(num_classes=100).state_dict()
    torch.manual_seed(3)
    ours = ResNet18(channels=3).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"network": "vgg"}, r"network must be one of segnet, .*resnet50_dilated \(got 'vgg'\)"),
        ({"outputs": {}}, "outputs must have a whole number of at least 1 for each task"),
        ({"outputs": {"a": 0}}, "outputs must have a whole number of at least 1 for each task"),
        ({"outputs": {"a": True}}, "outputs must have a whole number of at least 1 for each task"),
        ({"width": 0.0}, r"width must be a number above 0, and at most 16 \(got 0\.0\)"),
        ({"width": math.nan}, r"width must be a number above 0, and at most 16 \(got nan\)"),
        ({"width": math.inf}, r"width must be a number above 0, and at most 16 \(got inf\)"),
        ({"width": True}, r"width must be a number above 0, and at most 16 \(got True\)"),
        ({"pretrained": True, "width": 0.5}, r"width must be 1 with `pretrained`.*\(got 0\.5\)"),
        ({"pretrained": True}, r"pretrained cannot be combined with segnet\. .*random weights"),
        (
            {"network": "segnet_mtan", "pretrained": True},
            r"pretrained cannot be combined with segnet_mtan\. .*random weights",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(changed: dict[str, Any], said: str) -> None:
    arguments = {"network": "segnet", "outputs": TASKS, **changed}
    with pytest.raises(UsageError, match=said):
        build(arguments.pop("network"), arguments.pop("outputs"), **arguments)
