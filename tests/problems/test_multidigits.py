"""The embedded problem: its parts do not meet, its seeds decide, and it can be learned."""

from __future__ import annotations

import os
import subprocess

import pytest
import torch
from forks import python

from libmtl_recon import split_layers
from libmtl_recon.conflicts.layers import layers_of
from libmtl_recon.problems import multidigits

SHORT = ("--epochs", "2", "--train_size", "2000", "--val_size", "300", "--test_size", "300")


def test_no_source_digit_is_in_two_parts():
    parts = multidigits.split_digits(0)
    contents = {
        part: {image.numpy().tobytes() for image in digits.images} for part, digits in parts.items()
    }
    assert sum(map(len, parts.values())) == 1797
    assert sum(map(len, contents.values())) == len(set().union(*contents.values())) == 1797


def test_pairs_come_from_their_own_part_s_digits(parse):
    loaders = multidigits.make_loaders(parse(multidigits, *SHORT, "--data_seed", "3"))
    parts = multidigits.split_digits(3)
    for part, loader in loaders.items():
        for task in multidigits.TASKS:
            assert torch.equal(loader.dataset.items[task].images, parts[part].images)


def test_batches_are_images_with_a_label_for_each_task(parse):
    params = parse(multidigits, *SHORT, "--bs", "16", "--shift", "5")
    images, labels = next(iter(multidigits.make_loaders(params)["train"]))
    assert images.shape == (16, 1, 13, 13)
    assert images.max() == 1
    assert list(labels) == list(multidigits.TASKS)
    assert all(y.shape == (16,) and y.dtype == torch.int64 for y in labels.values())


def test_without_shift_the_digits_lie_upon_each_other(parse):
    loaders = multidigits.make_loaders(parse(multidigits, *SHORT, "--shift", "0"))
    pairs = loaders["test"].dataset
    both = [pairs.items[task].images[pairs.chosen[task]] for task in multidigits.TASKS]
    images, _ = pairs[range(len(pairs))]
    torch.testing.assert_close(images[:, 0], torch.maximum(*both) / 16)


def test_data_seed_decides_the_data_and_seed_does_not(parse):
    def images(*flags: str) -> torch.Tensor:
        pairs = multidigits.make_loaders(parse(multidigits, *SHORT, *flags))["val"].dataset
        return pairs[range(len(pairs))][0]

    assert torch.equal(images("--seed", "1"), images("--seed", "2"))
    assert not torch.equal(images("--data_seed", "1"), images("--data_seed", "2"))


def test_the_network_has_thirteen_layers_of_the_width_asked_for():
    encoder = multidigits.SmallResNet(width=5)
    layers = layers_of(encoder)
    assert len(layers) == 13
    assert layers[0].name == "conv1"
    assert layers[-1].name == "fc"
    assert encoder(torch.zeros(2, 1, 11, 11)).shape == (2, 20)


def test_all_layers_can_be_split():
    encoder = multidigits.SmallResNet(width=2)
    names = [layer.name for layer in layers_of(encoder)]
    both = split_layers(encoder, names, multidigits.TASKS)(torch.rand(4, 1, 11, 11))
    assert [part.shape for part in both.parts] == [(4, 8), (4, 8)]


def test_training_learns_and_is_the_same_for_the_same_seed(run):
    flags = ("--width", "6", "--bs", "64", *SHORT)
    once, again = run(multidigits, *flags), run(multidigits, *flags)
    assert [(m.losses, m.metrics) for m in once.measurements] == [
        (m.losses, m.metrics) for m in again.measurements
    ]
    accuracies = once.accuracies("test")
    assert set(accuracies) == set(multidigits.TASKS)
    assert min(accuracies.values()) > 0.4  # chance is 0.1
    other = run(multidigits, *flags, "--seed", "1")
    assert other.measurements[0].losses != once.measurements[0].losses


@pytest.mark.parametrize("weighting", ["EW", "GradOPS"])
def test_learns_from_a_part_of_the_labels(run, weighting: str):
    flags = ("--width", "6", "--bs", "64", "--missing", "0.5", "--weighting", weighting)
    found = run(multidigits, *flags, *SHORT)
    assert min(found.accuracies("test").values()) > 0.4  # chance is 0.1
    whole = run(multidigits, "--width", "6", "--bs", "64", "--weighting", weighting, *SHORT)
    assert found.measurements[0].losses != whole.measurements[0].losses


@pytest.mark.parametrize("value", ["1", "-0.1", "some", "nan"])
def test_a_share_is_below_one(parse, capsys, value: str):
    with pytest.raises(SystemExit):
        parse(multidigits, f"--missing={value}")
    assert "--missing: must be a number from 0 to below 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "rule"),
    [
        ("--width", "0", "from 1 up"),
        ("--epochs", "two", "from 1 up"),
        ("--bs", "-4", "from 2 up"),
        ("--shift", "9", "from 0 to 8"),
        ("--train_size", "1.5", "from 2 up"),
    ],
)
def test_bad_flags_are_explained(parse, capsys, flag: str, value: str, rule: str):
    with pytest.raises(SystemExit) as stop:
        parse(multidigits, f"{flag}={value}")
    assert stop.value.code == 2
    assert (
        f"argument {flag}: must be a whole number {rule} (got '{value}')" in capsys.readouterr().err
    )


def test_it_runs_as_a_module():
    done = subprocess.run(
        [*python(), "-m", multidigits.__name__, *SHORT, "--epochs", "1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Epoch: 0000 | TRAIN:" in done.stdout
    assert done.stderr == ""
