"""Liu 2020, sample preparation (III.A): every slice of a nodule is a sample of its own, 256 × 256.

For training a random 224 × 224 of it, for testing the middle; it has the label of its nodule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from lesionlab.attributes import RATING_NAMES
from lesionlab.crops import Crop, augmentation
from lesionlab.crops.resampling import Outside
from lesionlab.crops.sampling import Box, Samples, to_unit
from lesionlab.papers import fu2021

ATTRIBUTES = RATING_NAMES[:-1]
"""The eight scores, in the paper's order (III.A.3)."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)


def prepare(
    crops: Iterable[Crop],
    *,
    size: int = 256,
    scale: float = 1.25,
    window: tuple[float, float] = (-1024.0, 400.0),
    box: Box = "outlines",
    outside: Outside = "edge",
    device: torch.device | str = "cpu",
) -> Samples:
    """Cut out an "adaptive patch" of every slice with nodule pixels, bilinear to 256 (III.A.3).

    The patch follows "the diameter and position of the nodule"; by how much it is larger is not
    given. Here its side is `scale` times the larger side of the nodule's box, 1.25, which is the
    window of Fu 2021, whose box fills 80 %. Intensities are not given either: HU clipped to
    `window` and scaled to [0, 1]. 9,520 slices of 256 × 256 are 2.5 GB, so prepare them in parts;
    the three channels are made last, by `to_rgb`. Other options are those of `fu2021.prepare`.

    Returns:
        `images` (sum of slices, 1, size, size) in [0, 1], with `nodule`: whose slice each is.
    """
    if not scale >= 1:
        raise ValueError(f"scale={scale!r}: expected 1 or more")
    samples = fu2021.prepare(
        crops, size=size, share=1 / scale, box=box, outside=outside, device=device
    )
    return replace(samples, images=to_unit(samples.images, window))


def balanced(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Positions of all samples, those of the rarer label again and again until both are as many.

    "We perform more data augmentations on malignant nodules than benign ones to balance the total
    number" (III.A.3): repeats differ by their random crop and flips. The generator draws which of
    the (sample,) `labels`, 0 or 1, are repeated once more than others, and the order.
    """
    groups = [(labels == label).nonzero().squeeze(1).cpu() for label in (0, 1)]
    most = max(map(len, groups))
    if 0 in map(len, groups):
        raise ValueError(f"labels: {len(groups[0])} of label 0 and {len(groups[1])} of label 1")
    parts = []
    for group in groups:
        whole, rest = divmod(most, len(group))
        extra = torch.randperm(len(group), generator=augmentation.on_cpu(generator))[:rest]
        parts += [group.repeat(whole), group[extra]]
    rows = torch.cat(parts)
    return rows[torch.randperm(len(rows), generator=generator)]


@dataclass(frozen=True)
class Augmentation:
    """One draw per slice; each part is (slice,)."""

    top: torch.Tensor  # first row of the crop
    left: torch.Tensor  # first column of the crop
    flip_x: torch.Tensor  # bool, mirror horizontally
    flip_y: torch.Tensor  # bool, mirror vertically
    size: int  # side of the crop


def draw(n: int, generator: torch.Generator, *, size: int = 224, of: int = 256) -> Augmentation:
    """Draw for `n` slices: where the crop lies, and each flip with probability 1/2 (III.A.3)."""
    if not 1 <= size <= of:
        raise ValueError(f"size={size!r}: expected 1 to {of}, the side of the image")
    top, left = (augmentation.choose(n, of - size + 1, generator) for _ in range(2))
    flip_x, flip_y = (augmentation.happens(n, 0.5, generator) for _ in range(2))
    return Augmentation(top, left, flip_x, flip_y, size)


def apply(images: torch.Tensor, drawn: Augmentation) -> torch.Tensor:
    """Crop images of `prepare`, (slice, 1, y, x), and then flip them, as drawn."""
    along = torch.arange(drawn.size)
    back = along.flip(0)
    y, x = (
        (first[:, None] + torch.where(flip[:, None], back, along)).to(images.device)
        for first, flip in ((drawn.top, drawn.flip_y), (drawn.left, drawn.flip_x))
    )
    which = torch.arange(len(images), device=images.device)[:, None, None]
    return images[which, 0, y[:, :, None], x[:, None, :]][:, None]


def centre_crop(images: torch.Tensor, *, size: int = 224) -> torch.Tensor:
    """The middle of each image, for testing."""
    top, left = ((side - size) // 2 for side in images.shape[-2:])
    if min(top, left) < 0:
        raise ValueError(f"size={size!r}: images are {tuple(images.shape[-2:])}")
    return images[..., top : top + size, left : left + size]


def to_rgb(images: torch.Tensor, *, imagenet: bool = True) -> torch.Tensor:
    """Repeat one channel in [0, 1] three times, as a network from ImageNet takes it.

    `imagenet` subtracts ImageNet's mean and divides by its standard deviation, per channel; the
    paper does not say.
    """
    rgb = images.expand(-1, 3, -1, -1)
    if not imagenet:
        return rgb.contiguous()
    mean, sd = (rgb.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_SD))
    return (rgb - mean) / sd
