"""Simple numbers of a crop, by which phantoms may be told from real slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from lesionlab.crops import Crop
from lesionlab.realism._pairs import Array, View, views

FEATURES = (
    "inside_mean",
    "inside_sd",
    "inside_p10",
    "inside_p90",
    "ring_mean",
    "ring_sd",
    "ring_p10",
    "ring_p90",
    "edge_gradient",
    "lung_median",
    "lung_sd",
    "lung_skewness",
    "grain_lung",
    "grain_soft",
    "grain_correlation",
    "share_air",
    "share_lung",
    "share_fat",
    "share_soft",
    "share_bone",
    "share_vessel",
)
"""What the two-sample classifier sees of a lesion: see `features`."""

CORE = np.ones((1, 7, 7), bool)
"""How far a voxel must lie inside a tissue to count as that tissue."""

LEAST_VOXELS = 100

SHARES = {
    "air": (-1100, -960),
    "lung": (-960, -600),
    "fat": (-160, -40),
    "soft": (-40, 130),
    "bone": (250, 4000),
}
"""HU of the tissues, after smoothing over two pixels."""


def features(crops: Sequence[Crop]) -> pd.DataFrame:
    """Simple numbers of each crop, of which a classifier may tell phantoms from real.

    Inside the consensus and in the ring of 5 mm: mean, standard deviation, 10th and 90th
    percentile. At the outline: mean gradient (HU/mm). In the lung of the crop (below -600 HU after
    smoothing, away from its border): median, standard deviation, skewness. Grain, which is what a
    smoothing over two pixels takes away: its robust standard deviation in lung and in soft tissue,
    and its correlation between neighbouring pixels. Shares of the crop: outside air, lung, fat,
    soft tissue, bone; and of the lung: vessels.

    Args:
        crops: Crops of one tier.

    Returns:
        One row per crop: `lesion_id`, `tier` and `FEATURES`; NaN where a crop has none of what is
        measured.

    Raises:
        ValueError: No crops, or of several tiers.
    """
    tier, seen = views(crops)
    rows = [{"lesion_id": v.crop.lesion_id, "tier": tier} | describe(v) for v in seen]
    return pd.DataFrame(rows, columns=["lesion_id", "tier", *FEATURES])


def describe(view: View) -> dict[str, float]:
    """One crop's values of `FEATURES`; what cannot be measured is left out."""
    smooth = ndimage.gaussian_filter(view.hu, (0, 2, 2))
    found = _lesion(view)
    found |= _lung(view, smooth)
    soft = ndimage.binary_erosion((smooth > -160) & (smooth < 130), CORE)
    if soft.sum() > LEAST_VOXELS:
        found["grain_soft"] = _spread((view.hu - smooth)[soft])
    for name, (low, high) in SHARES.items():
        found[f"share_{name}"] = float(((smooth > low) & (smooth <= high)).mean())
    return found


def _lesion(view: View) -> dict[str, float]:
    found = {}
    for name in ("inside", "ring"):
        values = view.regions[name]
        if len(values):
            found[f"{name}_mean"], found[f"{name}_sd"] = float(values.mean()), float(values.std())
            p10, p90 = np.percentile(values, [10, 90])
            found[f"{name}_p10"], found[f"{name}_p90"] = float(p10), float(p90)
    border = np.abs(view.distance) < view.crop.spacing[2]
    if border.any():
        # within the slices: those of a crop need not be neighbours
        slopes = np.gradient(view.hu, view.crop.spacing[2], axis=(1, 2))
        found["edge_gradient"] = float(np.hypot(*slopes)[border].mean())
    return found


def _lung(view: View, smooth: Array) -> dict[str, float]:
    hu, grain = view.hu, view.hu - smooth
    lung = ndimage.binary_erosion((smooth < -600) & (smooth > -990), CORE)
    if lung.sum() <= LEAST_VOXELS:
        return {}
    values = hu[lung]
    median = float(np.median(values))
    found = {
        "lung_median": median,
        "lung_sd": float(values.std()),
        "lung_skewness": float(stats.skew(values)) if np.ptp(values) > 0 else 0.0,
        "grain_lung": _spread(grain[lung]),
        "share_vessel": float((values > median + 200).mean()),
    }
    pairs = lung[:, :, 1:] & lung[:, :, :-1]
    left, right = (np.clip(g[pairs], -150, 150) for g in (grain[:, :, :-1], grain[:, :, 1:]))
    if len(left) > 1 and left.std() > 0 and right.std() > 0:
        found["grain_correlation"] = float(np.corrcoef(left, right)[0, 1])
    return found


def _spread(values: Array) -> float:
    """Robust standard deviation: 1.4826 times the median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
