"""Wang 2021, sample preparation (2.3 and 3.1): see `lesionlab.papers.wang2021`, which offers it.

A patch of 32³ voxels of 0.7 × 0.7 × 1.0 mm around the nodule's mask, normalised, and multiplied by
the mask. Voxels beyond a crop are missing: air in the image, NaN in the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch.nn import functional

from lesionlab import _names
from lesionlab.crops import Crop, augmentation
from lesionlab.crops.resampling import AIR, Outside, volumes
from lesionlab.crops.sampling import Lesion, Samples, batch, in_chunks, to_unit

SPACING = (1.0, 0.7, 0.7)
"""`(z, y, x)` mm of a voxel; the paper prints x × y × z, 0.7 × 0.7 × 1.0."""

WINDOW = (-1024.0, 400.0)
"""HU that become -1 and 1 (eq. 5)."""

MISSING = -1.0  # what a mask is beyond a crop, until it becomes NaN

MaskFill = Literal["zero", "air"]


def prepare(
    crops: Iterable[Crop],
    *,
    size: int = 32,
    spacing: tuple[float, float, float] = SPACING,
    outside: Outside = AIR,
    device: torch.device | str = "cpu",
) -> Samples:
    """Resample to `spacing`, cut `size`³ voxels around the mask, and normalise by eq. 5 (3.1).

    Images are resampled linearly along each axis, masks to the nearest voxel. The patch is cubic
    in voxels, not in mm: 32.0 × 22.4 × 22.4 mm `(z, y, x)`. Its middle is the centroid of the
    mask exactly; the paper resamples first and then cuts at whole voxels. The mask is the readers'
    consensus. Beyond a crop lies air, as beyond a scan, and what the mask is there is not known.

    Returns:
        `images` (nodule, 1, z, y, x) in [-1, 1], not yet masked, and `masks` of 0 and 1, NaN where
        voxels are missing.
    """
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing={spacing!r}: expected (z, y, x) mm above 0")

    def some(lesions: list[Lesion]) -> Samples:
        step = np.array(spacing) / np.array([lesion.crop.spacing for lesion in lesions])  # voxels
        centre = np.stack([lesion.centroid for lesion in lesions])
        where = (
            [lesion.crop.slice_index for lesion in lesions],
            centre[:, :1] + step[:, :1] * (np.arange(size) - (size - 1) / 2),
            centre[:, 1:],
            step[:, 1:] * size,
        )
        voxels = [lesion.crop.hu for lesion in lesions]
        hu, padded, missing = volumes(voxels, *where, size=size, outside=outside, device=device)
        inside = [lesion.inside for lesion in lesions]
        masks, _, _ = volumes(
            inside, *where, size=size, mode="nearest", outside=MISSING, device=device
        )
        masks = masks.masked_fill_(masks == MISSING, torch.nan)
        images = normalise(hu[:, None])
        return batch(lesions, images, padded=padded, missing=missing, masks=masks[:, None])

    return in_chunks(crops, some, level=0.5)


def normalise(hu: torch.Tensor) -> torch.Tensor:
    """Eq. 5: clip HU to [-1024, 400] and scale them to [-1, 1]."""
    return to_unit(hu, WINDOW) * 2 - 1  # eq. 5


def apply_mask(
    images: torch.Tensor, masks: torch.Tensor, *, mask_fill: MaskFill = "zero"
) -> torch.Tensor:
    """Keep what is inside the mask, eq. 3, after normalisation.

    Masks are 0 and 1, or a segmentation's probabilities in between; missing voxels, NaN, are
    background. That becomes with `"zero"` the product as printed, 0, which after eq. 5 stands for
    -312 HU, about what ground glass itself has; with `"air"` -1, which is -1024 HU.
    """
    if images.shape != masks.shape:
        raise ValueError(f"masks: shape {tuple(masks.shape)}, images {tuple(images.shape)}")
    _names.one_of("mask_fill", mask_fill, get_args(MaskFill))
    masks = masks.nan_to_num(0.0)
    masked = images * masks  # eq. 3
    return masked if mask_fill == "zero" else masked + masks - 1


EDITS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "grown by a voxel": lambda masks: functional.max_pool3d(masks, 3, 1, 1),
    "shrunk by a voxel": lambda masks: -functional.max_pool3d(-masks, 3, 1, 1),
    "shifted by 3 voxels": lambda masks: masks.roll(3, dims=-2),
    "all of the patch": torch.ones_like,
    "none": torch.zeros_like,
}
"""Changes of masks (nodule, 1, z, y, x), to see how much a class depends on its mask."""


@dataclass(frozen=True)
class Augmentation:
    """One draw per nodule."""

    flips: torch.Tensor  # (nodule, 3) bool, mirror along (z, y, x); at most one
    axis: torch.Tensor  # (nodule,) 0, 1, 2: rotate around z, y, x
    turns: torch.Tensor  # (nodule,) quarter turns
    noise: torch.Tensor  # (nodule, 1, z, y, x) to add to the images


def draw(
    n: int, generator: torch.Generator, *, noise_hu: float = 20.0, size: int = 32
) -> Augmentation:
    """Draw for `n` nodules: a flip, a rotation, noise (3.2).

    A flip along a random axis with probability 1/2; 0 to 3 quarter turns around a random axis,
    which as printed may lay the 1.0 mm axis on a 0.7 mm one; Gaussian noise, whose standard
    deviation `noise_hu` the paper does not give.
    """
    if not noise_hu >= 0:
        raise ValueError(f"noise_hu={noise_hu!r}: expected HU, 0 or more")
    along = augmentation.choose(n, 3, generator)[:, None]
    flips = (along == torch.arange(3)) & augmentation.happens((n, 1), 0.5, generator)
    axis, turns = (augmentation.choose(n, k, generator) for k in (3, 4))
    noise = torch.randn((n, 1, size, size, size), generator=generator)
    return Augmentation(flips, axis, turns, noise * (noise_hu * 2 / (WINDOW[1] - WINDOW[0])))


def apply(samples: Samples, drawn: Augmentation) -> Samples:
    """Flip and rotate images and masks alike, then add the noise to the images.

    Before `apply_mask`, so that the background stays what `mask_fill` makes it. Missing voxels have
    no noise: they stay what they are in a test.
    """
    if drawn.noise.shape != samples.images.shape:
        shapes = f"{tuple(drawn.noise.shape)}, the batch {tuple(samples.images.shape)}"
        raise ValueError(f"the draw is for a batch of shape {shapes}")

    def moved(batch: torch.Tensor) -> torch.Tensor:
        flips = {axis: drawn.flips[:, axis] for axis in (-3, -2, -1)}
        batch = augmentation.move(batch, flips=flips)
        for axis, plane in enumerate(((-2, -1), (-3, -1), (-3, -2))):
            batch = augmentation.move(batch, turns=drawn.turns * (drawn.axis == axis), axes=plane)
        return batch

    images = moved(samples.images)
    noise = drawn.noise.to(images.device)
    if samples.masks is None:
        return replace(samples, images=images + noise)
    masks = moved(samples.masks)
    return replace(samples, images=images + noise * masks.isfinite(), masks=masks)
