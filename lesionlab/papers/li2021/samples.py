"""Li 2021, sample preparation (5.1 and 6): see `lesionlab.papers.li2021`, which offers it.

The lesion's square as one slice (2D), as neighbouring slices in channels (2.5D), or its cube (3D),
each resized to 64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch

from lesionlab import _names
from lesionlab.crops import Crop, augmentation
from lesionlab.crops.resampling import Outside, volumes
from lesionlab.crops.sampling import Box, Lesion, Samples, batch, in_chunks, to_unit

InputMode = Literal["2d", "2.5d", "3d"]


def prepare(
    crops: Iterable[Crop],
    *,
    mode: InputMode = "2d",
    n_slices: int = 5,
    size: int = 64,
    window: tuple[float, float] = (-1024.0, 400.0),
    box: Box = "consensus",
    outside: Outside = "edge",
    device: torch.device | str = "cpu",
) -> Samples:
    """Cut the lesion out with a side of its diameter d, and resize it to `size` (5.1).

    d is the larger in-plane side of the lesion's box in mm, and the cube of the 3D mode is d mm
    along z as well (the paper gives no unit). A lesion higher than d is cut, as printed.

    Where the paper is silent or contradicts itself: the slice of the 2D mode is the one where the
    lesion is largest. 2.5D has "the five images above and below" and 5 channels, so 2 + 1 + 2 by
    default and `n_slices=11` for 5 + 1 + 5, the scan's own slices. Sizes and intensities are not
    given: 64 pixels, bilinear, and HU clipped to `window` and scaled to [0, 1]. `box` is as in
    `lesionlab.crops.sampling.locate`, `outside` what lies beyond a crop.

    Returns:
        `images` in [0, 1]: (lesion, 1, size, size), (lesion, n_slices, size, size) or
        (lesion, 1, size, size, size).
    """
    _names.one_of("mode", mode, get_args(InputMode))
    if n_slices < 1 or n_slices % 2 == 0:
        raise ValueError(f"n_slices={n_slices!r}: expected an odd number, 5 or 11 in the paper")

    def some(lesions: list[Lesion]) -> Samples:
        spacing = np.array([lesion.crop.spacing for lesion in lesions])
        low, high = (np.stack([getattr(i, end) for i in lesions]) for end in ("low", "high"))
        d = ((high - low) * spacing)[:, 1:].max(axis=1, keepdims=True)  # mm
        if mode == "3d":
            ends = [i.crop.slice_index[[i.low[0], i.high[0] - 1]] for i in lesions]
            cells = (np.arange(size) + 0.5) / size - 0.5
            z = np.mean(ends, axis=1, keepdims=True) + d / spacing[:, :1] * cells
        else:
            half = (n_slices if mode == "2.5d" else 1) // 2
            largest = np.array([_largest(lesion) for lesion in lesions])[:, None]
            z = largest + np.arange(-half, half + 1)
        images, padded, missing = volumes(
            [lesion.crop.hu for lesion in lesions],
            [lesion.crop.slice_index for lesion in lesions],
            z,
            ((low + high - 1) / 2)[:, 1:],
            d / spacing[:, 1:],
            size=size,
            outside=outside,
            device=device,
        )
        images = to_unit(images[:, None] if mode == "3d" else images, window)
        return batch(lesions, images, padded=padded, missing=missing)

    return in_chunks(crops, some, level=0.5, box=box)


def _largest(lesion: Lesion) -> int:
    """Slice index of the scan where the lesion's area is largest."""
    index = lesion.crop.slice_index
    best = np.flatnonzero(lesion.area == lesion.area.max())
    return int(index[best[np.abs(index[best] - lesion.centroid[0]).argmin()]])


@dataclass(frozen=True)
class Augmentation:
    """One draw per lesion: which of the eight ways to lay a square on itself."""

    flip_x: torch.Tensor  # (lesion,) bool, mirror horizontally before the turns
    turns: torch.Tensor  # (lesion,) quarter turns


def draw(n: int, generator: torch.Generator, *, p: float = 0.3) -> Augmentation:
    """Draw for `n` lesions: with probability `p` one of the seven moves that change a square (6).

    "We randomly select 30% of the data for data augmentation i.e., random flip and rotation": the
    angle is not given. By quarter turns nothing is interpolated, and with the move that changes
    nothing left out, it is the 30 % that change.
    """
    kind = (augmentation.choose(n, 7, generator) + 1) * augmentation.happens(n, p, generator)
    return Augmentation(kind >= 4, kind % 4)


def apply(samples: Samples, drawn: Augmentation) -> Samples:
    """Flip and rotate in plane, as drawn; all channels or slices of a lesion alike."""
    images = augmentation.move(samples.images, flips={-1: drawn.flip_x}, turns=drawn.turns)
    return replace(samples, images=images)
