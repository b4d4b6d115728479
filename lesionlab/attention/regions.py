"""Does a map lie in the lesion, on its margin, or around it? In mm, by the readers' outlines.

Lei et al. 2020 say of their maps that they "attach attention to margins of nodules rather than
nodule bodies" (section 2, 4.3), and show pictures. Here it is a share of the map, beside the share
that a map without preference would have: a margin band of 2 mm is most of a small nodule.

A voxel is in the *margin band* if the nearest voxel on the other side of the outline is within
`band` mm, centre to centre; else it is *inside* or *outside*. So a band as wide as a voxel is the
voxels on both sides of the outline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt

REGIONS = ("inside", "margin", "outside")


def outline_distance(mask: ArrayLike, spacing: Sequence[float]) -> NDArray[np.float64]:
    """From each voxel to the nearest one on the other side of the outline, mm.

    `mask`, (y, x) or (z, y, x), is true in the lesion, where distances are negative; `spacing` is
    the size of a voxel along each axis, mm. Infinite if all voxels are on one side.

    >>> outline_distance([[False, True, True, True]], (1.0, 0.5))
    array([[ 0.5, -0.5, -1. , -1.5]])
    """
    inside = np.asarray(mask, bool)
    steps = np.asarray(spacing, float)
    if steps.shape != (inside.ndim,) or not np.all(np.isfinite(steps) & (steps > 0)):
        raise ValueError(
            f"spacing={spacing!r}: expected a length in mm above 0 for each of {inside.ndim} axes"
        )
    if inside.all() or not inside.any():
        return np.full(inside.shape, -np.inf if inside.all() else np.inf)
    out: NDArray[np.float64] = distance_transform_edt(~inside, sampling=steps)
    within: NDArray[np.float64] = distance_transform_edt(inside, sampling=steps)
    return out - within


def region_shares(
    values: ArrayLike, masks: ArrayLike, spacing: Sequence[float], *, band: float = 2.0
) -> dict[str, float]:
    """How a map is divided among lesion, margin band and surroundings, and where it is greatest.

    Args:
        values: (y, x) or (z, y, x), one map, on the mask's grid (`activation_map` does that).
        masks: (reader, y, x) or (reader, z, y, x) of bool, or one mask without the axis of readers.
        spacing: Size of the voxels along each axis, mm.
        band: How far the margin band reaches on either side of the outline, mm.

    Returns:
        Means over readers.

        - inside, margin, outside: the share of the map's positive values that lies in the lesion
          and not in the band, in the band, and beyond. Negative values speak against the score and
          count as 0. NaN for a map without a positive value.
        - uniform_inside and so on: the same for a map that is the same everywhere, the share of
          the voxels.
        - points_inside, points_margin: the share of readers in whose outline, or in whose band, the
          greatest value lies. The first is the pointing game (Zhang et al. 2018).
        - points_mm: from there to the nearest voxel on the other side of the outline, mm; negative
          within the lesion.
        - chance_inside, chance_margin: the two for a blind guess. Where several voxels share the
          greatest value, each counts alike: a constant map has these chances.
    """
    found, readers = np.asarray(values, float), np.asarray(masks)
    if not np.isfinite(found).all() or not band > 0:
        raise ValueError(f"values, band={band!r}: expected finite values, and a band above 0 mm")
    if readers.shape == found.shape:
        readers = readers[None]
    if readers.dtype != bool or readers.shape[1:] != found.shape or not len(readers):
        raise ValueError(
            f"masks: expected bool, (reader, …) of the map's shape {found.shape}, "
            f"got {readers.dtype} {readers.shape}"
        )
    if not readers.reshape(len(readers), -1).any(axis=1).all():
        raise ValueError("masks: expected a lesion in each, one is empty")
    weights = found.clip(min=0)
    total = weights.sum() or math.nan  # without positive values nothing can be shared out
    top = found == found.max()
    rows = []
    for mask in readers:
        d = outline_distance(mask, spacing)
        in_lesion, in_band = d < 0, np.abs(d) <= band
        parts = dict(zip(REGIONS, (d < -band, in_band, d > band), strict=True))
        row = {region: weights[part].sum() / total for region, part in parts.items()}
        row |= {f"uniform_{region}": part.mean() for region, part in parts.items()}
        row |= {"points_inside": in_lesion[top].mean(), "points_margin": in_band[top].mean()}
        row |= {"points_mm": d[top].mean()}
        row |= {"chance_inside": in_lesion.mean(), "chance_margin": in_band.mean()}
        rows.append(row)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
