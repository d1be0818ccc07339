"""Random scale, crop and mirror image of an image and its label maps, as MTAN's authors train.

One of three scales, a crop at a random place, resized to the size of the image, and a horizontal
mirror image half of the time. Nearer things are larger: the depth is divided by the scale. (The
inverse depth of CityScapes as well, in the authors' code, which would have to be multiplied.) In a
mirror image the first entry of a normal has the other sign.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

SCALES = (1.0, 1.2, 1.5)


def augmented(image: Tensor, labels: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return an image and its labels as one of many that could be made of them, by torch's seed.

    Args:
        image: float ``[3, h, w]``.
        labels: float ``[C, H, W]`` per task; of ``depth`` and ``normal`` the values change, too.

    Returns:
        Both, of the same shapes.
    """
    scale = SCALES[int(torch.randint(len(SCALES), ()))]
    top, left = torch.rand(2).tolist()
    mirror = bool(torch.rand(()) < 0.5)
    image = zoomed(image, scale, top, left, smooth=True)
    found = {
        task: zoomed(label, scale, top, left, smooth=task == "normal")
        for task, label in labels.items()
    }
    if "depth" in found:
        found["depth"] = found["depth"] / scale
    if mirror:
        image = image.flip(-1)
        found = {task: label.flip(-1) for task, label in found.items()}
        if "normal" in found:
            found["normal"] = found["normal"] * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)
    return image, found


def zoomed(values: Tensor, scale: float, top: float, left: float, *, smooth: bool) -> Tensor:
    """Return a part of a map, resized to the size of the whole.

    Args:
        values: float ``[C, H, W]``.
        scale: How much larger the part becomes, at least 1.
        top: The part's place, from 0 (at the top) to below 1 (at the bottom).
        left: The same from left to right.
        smooth: Whether values are interpolated, bilinearly; otherwise the nearest is taken.
    """
    if scale == 1:
        return values
    size = values.shape[-2:]
    height, width = (int(length / scale) for length in size)
    y, x = (
        int(place * (length - part + 1))
        for place, length, part in zip((top, left), size, (height, width), strict=True)
    )
    part = values[None, :, y : y + height, x : x + width]
    if smooth:
        return functional.interpolate(part, size, mode="bilinear", align_corners=True)[0]
    return functional.interpolate(part, size, mode="nearest")[0]
