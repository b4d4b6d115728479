"""A lesion cut out of a volume that is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lesionlab.crops import Crop, Tier


def cut(
    lesion_id: str,
    hu: npt.NDArray[np.int16],
    masks: npt.NDArray[np.bool_],
    origin: Sequence[int],
    spacing: tuple[float, float, float],
    *,
    size: int,
    margin_mm: float,
    tier: Tier,
    calibrated: bool = True,
) -> Crop:
    """The crop around all readers' masks; what lies beyond the volume is not made up.

    Args:
        lesion_id: What the lesion is called.
        hu: (z, y, x) the whole volume, HU.
        masks: (reader, z, y, x) in a box of it, with at least one voxel.
        origin: `(z, y, x)` index of the box's first voxel in the volume.
        spacing: `(z, y, x)` mm.
        size: Rows and columns; more where the lesion is larger, fewer where the volume ends.
        margin_mm: Slices up to that far below and above the masks are taken along.
        tier: Where the voxels come from.
        calibrated: Whether the values are known to be HU.
    """
    drawn = np.argwhere(masks.any(axis=0)) + np.asarray(origin)
    first, end = drawn.min(axis=0), drawn.max(axis=0) + 1
    around = np.maximum(size - (end - first), 0)
    around[0] = 2 * int((margin_mm + 1e-6) / spacing[0])
    low = np.maximum(first - around // 2, 0)
    high = np.minimum(end + (around + 1) // 2, hu.shape)
    window: Any = tuple(map(slice, low.tolist(), high.tolist()))
    placed = np.zeros((len(masks), *(high - low)), np.bool_)
    reader, *at = np.nonzero(masks)
    places = (a + o - first_of for a, o, first_of in zip(at, origin, low, strict=True))
    placed[reader, *places] = True
    steps = np.full(len(placed[0]), 0 if calibrated else -1, np.int64)
    return Crop(
        lesion_id=lesion_id,
        hu=hu[window].copy(),
        masks=placed,
        spacing=spacing,
        slice_index=np.arange(low[0], high[0]),
        corner=(int(low[1]), int(low[2])),
        steps=steps,
        tier=tier,
    )
