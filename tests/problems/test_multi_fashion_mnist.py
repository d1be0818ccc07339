"""Multi-Fashion+MNIST: its network is torchvision's ResNet18; its data are found or asked for."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from noise_images import write_noise_images
from torchvision.models import resnet18

from libmtl_recon import ProfileCache, select_layers
from libmtl_recon.conflicts.layers import layers_of
from libmtl_recon.problems import multi_fashion_mnist as problem

PARTS = ("train", "val", "test")


@pytest.fixture
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both data sets, in torchvision's files, with few images, each of its own."""
    write_noise_images(tmp_path)
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(tmp_path))
    monkeypatch.setattr(problem, "HELD_OUT", 15)
    return tmp_path


def contents(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_at_full_width_it_is_torchvision_s_network():
    theirs = resnet18(num_classes=100)
    theirs.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    ours = problem.ResNet18()
    ours.load_state_dict(theirs.state_dict())
    assert [layer.name for layer in layers_of(ours)] == [layer.name for layer in layers_of(theirs)]
    images = torch.rand(3, 1, 36, 36)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_a_narrow_network_keeps_the_41_layers():
    narrow = problem.ResNet18(width=4)
    names = [layer.name for layer in layers_of(narrow)]
    assert names == [layer.name for layer in layers_of(problem.ResNet18())]
    assert len(names) == 41
    assert not any(p.is_meta for p in (*narrow.parameters(), *narrow.buffers()))
    assert narrow(torch.rand(2, 1, 36, 36)).shape == (2, 100)
    assert narrow.layer4[1].conv2.weight.shape == (32, 32, 3, 3)


def test_its_layers_are_built_in(tmp_path: Path):
    empty, name = ProfileCache(tmp_path), "resnet18-multi_fashion_mnist"
    profile = empty.load(name).profile
    assert profile.tasks == ("digit", "article")
    whole = select_layers(layers_of(problem.ResNet18()), 25, -0.1, None, empty)
    assert whole.names == tuple(profile.layers(-0.1, 25))
    assert f"layers from the built-in profile {name} (multi_fashion_mnist, EW" in whole.note
    assert whole.note.endswith("), because no profile in the cache fits")
    assert whole.doubt == ""
    narrow = select_layers(layers_of(problem.ResNet18(width=4)), 25, -0.1, None, empty)
    assert narrow.names == whole.names
    assert "other shapes (conv1 (64x1x7x7, here 4x1x7x7)" in narrow.note


def test_heads_leave_the_shared_representation_alone():
    representation = torch.randn(2, 100)
    before = representation.clone()
    for layers, parameters in (("two", 100 * 101 + 101 * 10), ("one", 101 * 10)):
        head = problem.make_head(layers)
        assert head(representation).shape == (2, 10)
        assert sum(p.numel() for p in head.parameters()) == parameters
    assert torch.equal(representation, before)


def test_parts_share_no_source_image(small_data: Path, parse):
    loaders = problem.make_loaders(parse(problem))
    for task, source in problem.ITEMS.items():
        parts = [contents(loaders[part].dataset.items[task].images) for part in PARTS]
        assert [len(part) for part in parts] == [45, 15, 20]
        assert len(set().union(*parts)) == 80
        official = contents(source(small_data, train=False).data)
        assert parts[2] == official


def test_two_items_of_one_kind_share_no_source_image_between_parts(small_data: Path, parse):
    loaders = problem.make_loaders(parse(problem, "--pair", "digit+digit"))
    left, right = (
        [contents(loaders[part].dataset.items[task].images) for part in PARTS]
        for task in ("left", "right")
    )
    assert left == right
    assert not left[0] & left[1]


def test_digits_are_top_left_and_articles_bottom_right(small_data: Path, parse):
    pairs = problem.make_loaders(parse(problem, "--train_size", "300"))["train"].dataset
    assert pairs.corners["digit"].min() == 0
    assert pairs.corners["digit"].max() == 4
    assert pairs.corners["article"].min() == 4
    assert pairs.corners["article"].max() == 8
    images, labels = pairs[[0, 1, 2]]
    assert images.shape == (3, 1, 36, 36)
    assert list(labels) == ["digit", "article"]


def test_a_short_training_runs_with_the_data_found(small_data: Path, run):
    flags = ("--width", "2", "--bs", "16", "--epochs", "1", "--train_size", "64", "--head", "one")
    recorder = run(problem, *flags, "--val_size", "20", "--test_size", "20")
    assert [m.mode for m in recorder.measurements] == ["train", "val", "test"]
    assert set(recorder.accuracies("test")) == {"digit", "article"}


def test_another_pair_has_other_tasks(small_data: Path, run):
    flags = ("--width", "2", "--bs", "16", "--epochs", "1", "--train_size", "64")
    recorder = run(
        problem, *flags, "--val_size", "20", "--test_size", "20", "--pair", "digit+digit"
    )
    assert set(recorder.accuracies("test")) == {"left", "right"}


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_missing_data_are_asked_for(small_data: Path, parse, damage: str):
    file = small_data / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(SystemExit) as stop:
        problem.make_loaders(parse(problem))
    message = str(stop.value)
    assert "FashionMNIST" in message
    assert "LIBMTL_RECON_DATA" in message
    assert str(small_data) in message
    assert "\n" not in message


def test_bad_flags_are_explained(parse, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(problem, "--width", "0")
    assert stop.value.code == 2
    assert "--width: must be a whole number from 1 up (got '0')" in capsys.readouterr().err


@pytest.mark.data
def test_real_data_are_learned(real_data: Path, run):
    flags = ("--width", "8", "--bs", "64", "--epochs", "2", "--train_size", "6000", "--lr", "0.003")
    recorder = run(problem, *flags, "--head", "one", "--val_size", "200", "--test_size", "1000")
    accuracies = recorder.accuracies("test")
    assert accuracies["digit"] > 0.25  # chance is 0.1
    assert accuracies["article"] > 0.4


@pytest.mark.data
def test_real_parts_are_disjoint(real_data: Path, parse):
    loaders = problem.make_loaders(parse(problem))
    digits = {part: loaders[part].dataset.items["digit"] for part in PARTS}
    assert [len(digits[part]) for part in PARTS] == [54_000, 6_000, 10_000]
    assert [len(loaders[part].dataset) for part in PARTS] == [120_000, 10_000, 20_000]
    train, val = contents(digits["train"].images), contents(digits["val"].images)
    assert not train & val
