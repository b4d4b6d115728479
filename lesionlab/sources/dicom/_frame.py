"""Which voxels of a scan the crop of a lesion shows: the same ones as on a phantom of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lesionlab.sources.dicom._files import DicomError
from lesionlab.sources.dicom._pixels import AIR
from lesionlab.sources.lidc import LesionMasks
from lesionlab.sources.lidc._database import FloatArray, IntArray
from lesionlab.sources.lidc._geometry import BoolArray

# both as in `phantom.render`, which is not imported for them: a test holds the two together
CONTEXT = 2
"""Slices taken along below and above the outlines."""

REACH_MM = 10.5
"""Slices reach at least so far from the lesion's centre: 21 slices at 1 mm can be cut out."""


@dataclass(frozen=True)
class Frame:
    """A box of voxels in a scan.

    Attributes:
        slices: (slice,) indices in the scan, ascending.
        lesion: The indices that lie between the lowest and the highest voxel of the lesion.
        corner: `(y, x)` index in the scan of the first row and column.
        size: Rows and columns.
    """

    slices: IntArray
    lesion: range
    corner: tuple[int, int]
    size: int

    def window(self, plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The frame's part of a slice, `(size, size)`; air where it reaches over the border."""
        out = np.full((self.size, self.size), AIR, dtype=plane.dtype)
        inside, there = overlap(self.corner, self.size, plane.shape)
        out[inside] = plane[there]
        return out

    def place(self, masks: LesionMasks, slices: IntArray) -> BoolArray:
        """The readers' masks `(reader, slice, y, x)` on those slices of the frame."""
        placed = np.zeros((len(masks.readers), len(slices), self.size, self.size), dtype=np.bool_)
        reader, z, y, x = np.nonzero(masks.readers)
        at = np.searchsorted(slices, z + masks.origin[0])
        y, x = y + masks.origin[1] - self.corner[0], x + masks.origin[2] - self.corner[1]
        placed[reader, at, y, x] = True
        return placed


def overlap(
    corner: tuple[int, int], size: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Rows and columns that a frame shares with a slice: in the frame, and in the slice."""
    spans = [(max(c, 0), max(min(c + size, n), 0)) for c, n in zip(corner, shape, strict=True)]
    inside = tuple(slice(a - c, b - c) for (a, b), c in zip(spans, corner, strict=True))
    return inside, tuple(slice(a, b) for a, b in spans)


def frame(
    masks: LesionMasks, centre: float, z: FloatArray, *, size: int, margin_mm: float | None
) -> Frame:
    """Where to cut a lesion out of its scan.

    Args:
        masks: The lesion's.
        centre: Slice index of its centre, with a fraction: `z` of `lidc.nodules`.
        z: (slice,) positions of the scan's slices, mm.
        size: As in `Dicom.crop`.
        margin_mm: As in `Dicom.crop`.

    Raises:
        DicomError: The outlines hold no voxel, or are larger than `size`.
    """
    where = np.argwhere(masks.readers.any(axis=0)) + masks.origin
    if not len(where):
        raise DicomError(f"{masks.lesion_id}: no voxel lies inside its readers' outlines")
    low, end = where.min(axis=0), where.max(axis=0) + 1
    height, width = end[1:] - low[1:]
    if max(height, width) > size:
        raise DicomError(
            f"{masks.lesion_id}: its readers' outlines span {height} × {width} pixels, more than "
            f"size={size}"
        )
    if margin_mm is None:
        reach = math.ceil(REACH_MM / masks.spacing[0])
        first = max(min(low[0] - CONTEXT, math.floor(centre) - reach), 0)
        stop = min(max(end[0] + CONTEXT, math.ceil(centre) + reach + 1), len(z))
        slices = np.arange(first, stop, dtype=np.int64)
    else:
        near = (z >= z[low[0]] - margin_mm - 1e-6) & (z <= z[end[0] - 1] + margin_mm + 1e-6)
        slices = np.flatnonzero(near).astype(np.int64)
    y, x = ((low + end) // 2 - size // 2)[1:].tolist()
    return Frame(slices, range(int(low[0]), int(end[0])), (y, x), size)
