"""Pairs of images: what is laid where, and that the same seeds give the same pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from libmtl_recon import Masked
from libmtl_recon.problems.pairs import Items, Pairs, make_loader

HEIGHT, WIDTH = 3, 2


def items(count: int, seed: int) -> Items:
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 256, size=(count, HEIGHT, WIDTH), dtype=np.uint8)
    return Items(torch.from_numpy(images), torch.from_numpy(rng.integers(10, size=count)))


def pairs(
    *,
    count: int = 20,
    canvas: int = 6,
    jitter: int = 1,
    missing: float = 0.0,
    seed: tuple[int, ...] = (0,),
) -> Pairs:
    return Pairs(
        items(5, 1),
        items(7, 2),
        ("a", "b"),
        count=count,
        canvas=canvas,
        jitter=jitter,
        missing=missing,
        seed=seed,
    )


def by_hand(data: Pairs, place: int) -> Tensor:
    """One image, put together pixel by pixel."""
    image = torch.zeros(data.canvas, data.canvas)
    for task, source in data.items.items():
        patch = source.images[data.chosen[task][place]]
        top, left = data.corners[task][place].tolist()
        for row in range(HEIGHT):
            for column in range(WIDTH):
                y, x = top + row, left + column
                image[y, x] = max(image[y, x].item(), patch[row, column].item() / data.brightest)
    return image


@settings(max_examples=30, deadline=None)
@given(canvas=st.integers(4, 8), jitter=st.integers(0, 1), seed=st.integers(0, 1000))
def test_images_hold_the_brighter_of_two_items(canvas: int, jitter: int, seed: int):
    data = pairs(canvas=canvas, jitter=jitter, seed=(seed,))
    images, labels = data[[3, 0, 11]]
    assert images.dtype == torch.float32
    assert images.shape == (3, 1, canvas, canvas)
    for image, place in zip(images, (3, 0, 11), strict=True):
        torch.testing.assert_close(image[0], by_hand(data, place))
    for task, source in data.items.items():
        assert labels[task].tolist() == source.labels[data.chosen[task][[3, 0, 11]]].tolist()


def test_items_stay_near_their_corners():
    data = pairs(count=500, canvas=10, jitter=2)
    first, second = data.corners["a"], data.corners["b"]
    assert set(first.flatten().tolist()) == {0, 1, 2}
    assert set(second[:, 0].tolist()) == {10 - HEIGHT - away for away in (0, 1, 2)}
    assert set(second[:, 1].tolist()) == {10 - WIDTH - away for away in (0, 1, 2)}


def test_seeds_decide_the_pairs():
    once, again, other = pairs(seed=(4, 0)), pairs(seed=(4, 0)), pairs(seed=(4, 1))
    everything = range(len(once))
    torch.testing.assert_close(once[everything], again[everything], rtol=0, atol=0)
    assert not torch.equal(once[everything][0], other[everything][0])


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_pass_shows_each_pair_once(shuffle: bool):
    data = pairs(count=23, canvas=8)
    loader = make_loader(data, 5, shuffle=shuffle)
    torch.manual_seed(0)
    batches = [images for images, _ in loader]
    assert len(loader) == len(batches) == 5
    assert [len(images) for images in batches] == [5, 5, 5, 5, 3]
    seen = torch.cat(batches).flatten(1)
    expected = data[range(23)][0].flatten(1)
    assert torch.equal(seen, expected) is not shuffle
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, expected.tolist()))


def test_a_share_of_the_labels_can_be_taken_away():
    whole, part = pairs(count=2000, seed=(4,)), pairs(count=2000, missing=0.3, seed=(4,))
    (images, labels), (same, masked) = whole[range(2000)], part[range(2000)]
    assert torch.equal(images, same)
    away = {}
    for task, label in masked.items():
        assert isinstance(label, Masked)
        assert torch.equal(label.label, labels[task].where(label.present, 0))
        away[task] = ~label.present
        assert away[task].double().mean().item() == pytest.approx(0.3, abs=0.03)
    # Each task's by itself.
    assert (away["a"] & away["b"]).double().mean().item() == pytest.approx(0.09, abs=0.02)
    again = pairs(count=2000, missing=0.3, seed=(4,))[range(2000)][1]
    assert torch.equal(again["a"].present, masked["a"].present)
