"""What a network is shown: whole images in squares of void, and random parts, labels and all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libmtl_recon.problems import pascal_context_views as views


def scene(height: int, width: int) -> tuple[torch.Tensor, views.Labels]:
    """An image whose every pixel is known in the labels, too; its normals lean to the right."""
    place = torch.arange(height * width, dtype=torch.float32).view(1, height, width) % 200
    image = (place + 1).expand(3, -1, -1)
    normals = torch.tensor([0.6, 0.0, 0.8]).view(3, 1, 1).expand(3, height, width)
    return image, {"semseg": place, "normals": normals, "sal": (place > 5).float()}


def test_an_image_stands_in_the_middle_between_void_pixels() -> None:
    image, labels = scene(3, 4)
    square, found = views.PaddedView(8)(image, labels)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:5, 2:6] = True
    assert torch.equal(square[:, 2:5, 2:6], image)
    assert not square[:, ~inside].any()
    for task, void in (("semseg", 255.0), ("sal", 255.0), ("normals", 0.0)):
        assert torch.equal(found[task][:, 2:5, 2:6], labels[task])
        assert (found[task][:, ~inside] == void).all()


def test_an_image_of_the_square_s_size_is_left_alone() -> None:
    image, labels = scene(6, 6)
    square, found = views.PaddedView(6)(image, labels)
    assert torch.equal(square, image)
    assert all(torch.equal(found[task], labels[task]) for task in labels)


def test_a_larger_image_is_shrunk_and_no_class_is_invented() -> None:
    image = torch.full((3, 10, 20), 0.25)
    classes = torch.full((1, 10, 20), 3.0)
    classes[:, :, 10:] = 7.0
    square, found = views.PaddedView(8)(image, {"semseg": classes})
    assert square.shape == (3, 8, 8)
    torch.testing.assert_close(square[:, 2:6], torch.full((3, 4, 8), 0.25))
    assert found["semseg"][0, 2:6].tolist() == [[3.0] * 4 + [7.0] * 4] * 4
    assert (found["semseg"][0, [0, 1, 6, 7]] == 255).all()


def test_a_mirrored_scene_leans_to_the_other_side() -> None:
    image, labels = scene(3, 4)
    turned, found = views.mirrored(image, labels)
    assert torch.equal(turned, image.flip(2))
    assert torch.equal(found["semseg"], labels["semseg"].flip(2))
    assert found["normals"][:, 0, 0].tolist() == pytest.approx([-0.6, 0.0, 0.8])
    again, labels_again = views.mirrored(turned, found)
    assert torch.equal(again, image)
    assert all(torch.equal(labels_again[task], labels[task]) for task in labels)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40))
def test_a_random_view_keeps_labels_at_their_pixels(seed: int, height: int, width: int) -> None:
    torch.manual_seed(seed)
    size = 16
    # Bands of four columns, each a class lighter than the one before.
    classes = (torch.arange(width) // 4).float().expand(1, height, width)
    image, found = views.RandomView(size)((classes + 1).expand(3, -1, -1), {"semseg": classes})
    assert image.shape == (3, size, size)
    assert found["semseg"].shape == (1, size, size)
    void = found["semseg"] == 255
    assert not image[:, void[0]].any()
    assert (image[:, ~void[0]] > 0).all()
    # A pixel may be a mixture of neighbouring bands, and is of one of them.
    assert (image[:1] - 1 - found["semseg"])[~void].abs().max() < 2


def test_every_scale_and_both_sides_are_drawn() -> None:
    torch.manual_seed(0)
    image, labels = scene(8, 8)
    # 4 to 16 pixels of 8: a square of 32 shows all of the image, at its size.
    counts, sides = set(), set()
    for _ in range(200):
        _, found = views.RandomView(32)(image, labels)
        there = found["normals"].abs().sum(0) > 0
        counts.add(int(there.sum()))
        sides.add(round(float(found["normals"][0][there].mean()), 3))
    assert counts == {int(8 * scale) ** 2 for scale in views.SCALES}
    assert sides == {-0.6, 0.6}
