"""Lei 2020, samples (4.1, Table 1), and the readers' outlines on them.

32 × 32 pixels of a square of two equivalent diameters, with 1, 11 or 21 slices as channels, or one
slice at three scales. No augmentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import map_coordinates

from lesionlab.crops import Crop
from lesionlab.crops.resampling import Outside, volumes
from lesionlab.crops.sampling import Lesion, Samples, batch, in_chunks, locate, to_unit
from lesionlab.sources import lidc

IMAGE_SETS: Mapping[str, Mapping[str, Any]] = {
    "D1C": {"channels": 1},
    "D3C": {"channels": 1, "scale": (2.0, 3.0, 4.0)},
    "D11C": {"channels": 11},
    "D21C": {"channels": 21},
}
"""Options of `prepare` for the paper's four image sets (Table 1): slices 1 mm apart, or for D3C the
centre slice in squares of 2, 3 and 4 diameters. Four diameters reach beyond a crop of 128 pixels
from 20 mm or so."""

N_CHANNELS = {
    name: how["channels"] * len(how.get("scale", [2.0])) for name, how in IMAGE_SETS.items()
}
"""Channels of each set: slices, or for D3C scales of one slice."""

WINDOW = (-1024.0, 400.0)
"""HU that become 0 and 1."""


def prepare(
    crops: Iterable[Crop],
    *,
    channels: int = 11,
    size: int = 32,
    scale: float | Sequence[float] = 2.0,
    window: tuple[float, float] = WINDOW,
    outside: Outside = "edge",
    device: torch.device | str = "cpu",
) -> Samples:
    """Slices 1 mm apart around the nodule's centre, as channels (Table 1).

    The paper takes centre and diameter from the "nodule report"; here the centre is the centroid
    of the consensus mask, where the middle slice lies exactly, and the diameter that of the sphere
    with its volume. How the square is resized to 32 is not described: here bilinear, without a
    low-pass filter, so a nodule over some 16 pixels in diameter loses detail. Intensities are not
    given either: HU clipped to `window` and scaled to [0, 1].

    `scale` is the side of the square as a multiple of the diameter. Several scales give all slices
    at the first scale, then all at the second, and so on. `outside` is what lies beyond a crop: 21
    slices reach 10 mm up and down, beyond most nodules (see `Samples.report()`).

    Returns:
        `images` (nodule, scale × channel, size, size) in [0, 1].
    """
    scales = (scale,) if isinstance(scale, int | float) else tuple(scale)
    if channels < 1 or channels % 2 == 0:
        raise ValueError(f"channels={channels!r}: expected an odd number, 1, 11 or 21 in the paper")
    if not scales or not all(np.isfinite(s) and s > 0 for s in scales):
        raise ValueError(f"scale={scale!r}: expected numbers above 0")

    def chunk(lesions: list[Lesion]) -> Samples:
        diameter = np.array([lesion.equivalent_diameter for lesion in lesions])
        spacing = np.array([lesion.crop.spacing for lesion in lesions])
        centre = np.stack([lesion.centroid for lesion in lesions])
        read = [
            volumes(
                [lesion.crop.hu for lesion in lesions],
                [lesion.crop.slice_index for lesion in lesions],
                centre[:, :1] + (np.arange(channels) - channels // 2) / spacing[:, :1],
                centre[:, 1:],
                diameter[:, None] * multiple / spacing[:, 1:],
                size=size,
                outside=outside,
                device=device,
            )
            for multiple in scales
        ]
        images = to_unit(torch.cat([hu for hu, _, _ in read], dim=1), window)
        padded = np.mean([share for _, share, _ in read], axis=0)
        return batch(lesions, images, padded=padded, missing=read[0][2])

    return in_chunks(crops, chunk, level=0.5)


# --- the readers' outlines ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Outline:
    """The readers' masks of one lesion on the pixels of its sample's middle slice."""

    masks: npt.NDArray[np.bool_]  # (reader, y, x), without readers who did not mark that slice
    pixel: float  # side of a pixel, mm

    def consensus(self) -> npt.NDArray[np.bool_]:
        """(y, x), where at least half of these readers are."""
        found: npt.NDArray[np.bool_] = self.masks.mean(0) >= 0.5
        return found


def outlines(crops: Iterable[Crop]) -> dict[str, Outline]:
    """The readers' outlines where `prepare` reads its middle slice, by lesion.

    A map of these networks has no place along z; it is held against this slice, on which the paper
    draws it. Lesions that no reader marked in that slice are left out.
    """
    found = {}
    for crop in crops:
        masks = masks_of(crop, channels=1)[:, 0]
        masks = masks[masks.any(axis=(1, 2))]
        if len(masks):
            found[crop.lesion_id] = Outline(masks, pixel_of(crop))
    return found


def masks_of(crop: Crop, *, channels: int = 11) -> npt.NDArray[np.bool_]:
    """(reader, slice, y, x), the readers' masks on all slices of `prepare`, read as voxels are."""
    as_hu = [replace(crop, hu=mask.astype(np.int16) * 1000) for mask in crop.masks]
    images = prepare(as_hu, channels=channels, window=(0, 1000)).images
    found: npt.NDArray[np.bool_] = images.numpy() >= 0.5
    return found


def pixel_of(crop: Crop) -> float:
    """The side of a pixel of `prepare`, mm."""
    return 2 * locate(crop).equivalent_diameter / 32


def lidc_crops(lesion_ids: Iterable[str]) -> Iterator[Crop]:
    """Crops without voxels: the readers' masks of LIDC-IDRI nodules, for `outlines`."""
    for lesion_id in lesion_ids:
        # a rim of one: what lies beyond a crop is the same as its border
        found = lidc.masks(lesion_id, pad=1)
        z, y, x = found.origin
        depth = len(found.consensus)
        yield Crop(
            lesion_id=lesion_id,
            hu=np.zeros(found.consensus.shape, np.int16),
            masks=found.readers,
            spacing=found.spacing,
            slice_index=np.arange(z, z + depth),
            corner=(y, x),
            steps=np.zeros(depth, np.int64),
            tier="phantom",
        )


class Pasted(NamedTuple):
    """A map on the slice of a crop that is nearest to the middle of the lesion."""

    values: npt.NDArray[np.float64]  # (y, x), NaN beyond the square that the network saw
    hu: npt.NDArray[np.int16]  # (y, x), that slice


def pasted(values: npt.ArrayLike, crop: Crop) -> Pasted:
    """Put a map of the network's square, (y, x), back on the crop's slice (4.6, Fig. 9)."""
    found = np.asarray(values, dtype=float)
    lesion = locate(crop)
    spacing = np.array(crop.spacing[1:])
    side = 2 * lesion.equivalent_diameter / spacing  # of the square, in pixels of the crop
    corner = lesion.centroid[1:] + 0.5 - side / 2
    steps = side / found.shape
    at = [
        (np.arange(n) + 0.5 - first) / step - 0.5
        for n, first, step in zip(crop.hu.shape[1:], corner, steps, strict=True)
    ]
    inside = [(a >= -0.5) & (a <= n - 0.5) for a, n in zip(at, found.shape, strict=True)]
    read = map_coordinates(found, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")
    read[~np.logical_and.outer(*inside)] = np.nan
    k = int(np.abs(crop.slice_index - lesion.centroid[0]).argmin())
    return Pasted(values=read, hu=crop.hu[k])
