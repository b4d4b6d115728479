"""How sharp a lesion's edge is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from lesionlab.crops import Crop
from lesionlab.realism._pairs import View, views

REACH_MM = 5.0
"""How far outside the outline HU are read, mm."""


def edge_widths(crops: Sequence[Crop], *, reach: float = REACH_MM) -> pd.DataFrame:
    """Width of each lesion's edge: from 10 % to 90 % of the step from outside to inside.

    On the slice with the largest consensus, HU are read along the outward normals of the outline,
    at every border pixel. A normal that ends outside lung (above -500 HU) is left out, as is the
    lesion when fewer than eight remain or the step is under 150 HU. The step's ends are the
    medians over normals of the innermost 1 mm read and the outermost 2 mm; the mean profile is
    smoothed over 0.5 mm.

    Args:
        crops: Crops of one tier.
        reach: How far outside the outline HU are read, mm. Inside it is the smaller of that and
            the lesion's depth.

    Returns:
        One row per lesion that could be measured: `lesion_id`, `tier`, `width` (mm), `inside` and
        `outside` (HU at the step's ends).

    Raises:
        ValueError: No crops, or of several tiers.
    """
    tier, seen = views(crops)
    rows = []
    for view in seen:
        measured = edge(view, reach)
        if measured is not None:
            rows.append({"lesion_id": view.crop.lesion_id, "tier": tier} | measured)
    return pd.DataFrame(rows, columns=["lesion_id", "tier", "width", "inside", "outside"])


def edge(view: View, reach: float = REACH_MM) -> dict[str, float] | None:
    """One lesion's row of `edge_widths`, or None if it cannot be measured."""
    crop, consensus = view.crop, view.consensus
    k = int(consensus.sum(axis=(1, 2)).argmax())
    distance = ndimage.gaussian_filter(view.distance[k], 1.0)
    border = np.argwhere(consensus[k] & ~ndimage.binary_erosion(consensus[k]))
    slope = np.stack(np.gradient(distance), axis=-1)[tuple(border.T)]
    length = np.hypot(*slope.T)
    keep = length > 1e-6
    normal = slope[keep] / length[keep, None] / crop.spacing[2]  # pixels per mm
    depth = min(reach, float(-distance.min()))
    step = 0.1
    at = np.arange(-depth, reach + step / 2, step)
    start = border[keep] - distance[tuple(border[keep].T)][:, None] * normal
    where = start[:, None] + at[None, :, None] * normal[:, None]  # (normals, positions, 2)
    hu = ndimage.map_coordinates(
        crop.hu[k].astype(float), np.moveaxis(where, -1, 0), order=1, mode="nearest"
    )
    hu = hu[np.median(hu[:, at > reach - 2.0], axis=1) < -500]
    if len(hu) < 8:
        return None
    outside = float(np.median(hu[:, at > reach - 2.0]))
    inside = float(np.median(hu[:, at < -depth + 1.0]))
    if inside - outside < 150:
        return None
    profile = ndimage.uniform_filter1d(hu.mean(axis=0), 5, mode="nearest")
    share = (profile - outside) / (inside - outside)
    high = at[np.flatnonzero(share >= 0.9)[-1]] if (share >= 0.9).any() else at[0]
    after = np.flatnonzero((share <= 0.1) & (at > high))
    low = at[after[0]] if len(after) else at[-1]
    return {"width": float(low - high), "inside": inside, "outside": outside}
