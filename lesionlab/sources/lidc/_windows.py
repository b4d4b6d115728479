"""Windows of a scan, as crops show them: which slices, and squares of them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lesionlab.sources.lidc import LesionMasks

CONTEXT = 2  # slices taken along below and above the outlines
REACH_MM = 10.5  # slices reach so far from the lesion's centre: 21 at 1 mm can be cut out


def slices_around(
    first: int, end: int, centre: float, spacing: float, n_slices: int | None
) -> npt.NDArray[np.int64]:
    """Indices of the slices around outlines on `first` up to and without `end`, within the scan.

    `centre` is the slice index of the lesion's centre, with a fraction; `spacing` is in mm.
    """
    reach = math.ceil(REACH_MM / spacing)
    low = max(min(first - CONTEXT, math.floor(centre) - reach), 0)
    high = max(end + CONTEXT, math.ceil(centre) + reach + 1)
    return np.arange(low, high if n_slices is None else min(high, n_slices), dtype=np.int64)


def overlap(
    corner: tuple[int, int], size: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Rows and columns that a window shares with a slice: in the window, and in the slice."""
    spans = [(max(c, 0), max(min(c + size, n), 0)) for c, n in zip(corner, shape, strict=True)]
    inside = tuple(slice(a - c, b - c) for (a, b), c in zip(spans, corner, strict=True))
    return inside, tuple(slice(a, b) for a, b in spans)


def place(
    masks: LesionMasks, slices: npt.NDArray[np.int64], corner: tuple[int, int], size: int
) -> npt.NDArray[np.bool_]:
    """The readers' masks in a window.

    Args:
        masks: The masks of one lesion.
        slices: (slice,) indices in the scan, ascending; masks on other slices are left out.
        corner: `(y, x)` index in the scan of the window's first row and column.
        size: Rows and columns.

    Returns:
        (reader, slice, y, x); what lies outside the window is cut off.
    """
    placed = np.zeros((len(masks.readers), len(slices), size, size), dtype=np.bool_)
    reader, z, y, x = np.nonzero(masks.readers)
    z, y, x = z + masks.origin[0], y + masks.origin[1] - corner[0], x + masks.origin[2] - corner[1]
    at = np.searchsorted(slices, z).clip(max=len(slices) - 1)
    there = (slices[at] == z) & (y >= 0) & (y < size) & (x >= 0) & (x < size)
    placed[reader[there], at[there], y[there], x[there]] = True
    return placed
