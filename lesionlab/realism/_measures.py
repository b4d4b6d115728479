"""What is measured of crops: histograms, width of the edge, power of the noise, simple numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage, stats

from lesionlab.crops import Crop

Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

RING_MM = 5.0  # thickness of the ring around a lesion that counts as its surroundings
REGIONS = ("inside", "ring", "crop")
BINS = np.arange(-1024.0, 3122.0, 50.0)  # HU, over all that 12 bits hold
REACH_MM = 5.0  # how far outside the outline HU are read for the width of an edge
PATCH = 16  # side of a patch of noise, pixels
FREQUENCIES = np.linspace(0, 0.7, 13)  # edges of the bins of the noise power, 1/mm

FEATURES = (
    *(f"{region}_{n}" for region in ("inside", "ring") for n in ("mean", "sd", "p10", "p90")),
    "edge_gradient",
    *("lung_median", "lung_sd", "lung_skewness"),
    *("grain_lung", "grain_soft", "grain_correlation"),
    *("share_air", "share_lung", "share_fat", "share_soft", "share_bone", "share_vessel"),
)
"""What the two-sample classifier sees of a lesion: see `features`."""

CORE = np.ones((1, 7, 7), bool)  # how far inside a tissue a voxel must lie to count as that tissue
LEAST_VOXELS = 100
# HU of the tissues, after smoothing over two pixels
SHARES = {
    "air": (-1100, -960),
    "lung": (-960, -600),
    "fat": (-160, -40),
    "soft": (-40, 130),
    "bone": (250, 4000),
}


@dataclass(frozen=True)
class Facts:
    """All that is measured of one crop, without its voxels."""

    lesion_id: str
    tier: str
    n_slices: int
    shares: Array  # (region, bin) share of a region's voxels in each of `BINS`, NaN without a voxel
    medians: dict[str, float]  # HU by region, NaN without a voxel
    edge: dict[str, float] | None  # a row of `edge_widths`; None if it cannot be measured
    power: Array  # (frequency,) sum over flat patches, HU² mm²
    weight: Array  # (frequency,) how many values were added up
    n_patches: int
    features: dict[str, float]  # those of `FEATURES` that can be measured


def facts(crop: Crop) -> Facts:
    """Measure one crop."""
    hu, consensus = crop.hu.astype(float), crop.consensus()
    distance = _distance(consensus, crop.spacing)
    ring = (distance > 0) & (distance <= RING_MM)
    regions = {"inside": hu[distance < 0], "ring": hu[ring], "crop": hu.ravel()}
    with np.errstate(invalid="ignore"):
        shares = [np.histogram(values, BINS)[0] / len(values) for values in regions.values()]
    return Facts(
        lesion_id=crop.lesion_id,
        tier=crop.tier,
        n_slices=len(hu),
        shares=np.array(shares),
        medians={k: float(np.median(v)) if len(v) else np.nan for k, v in regions.items()},
        edge=_edge(crop, consensus, distance) if consensus.any() else None,
        features=_features(hu, distance, regions, crop.spacing[2]),
        **_spectrum(hu, crop.spacing[2]),
    )


def _distance(consensus: BoolArray, spacing: tuple[float, float, float]) -> Array:
    """(z, y, x) signed distance to the consensus outline, mm; inf on slices without one.

    In plane, because the slices at hand are those with an outline and not the ones between.
    """
    out = np.full(consensus.shape, np.inf)
    for k, mask in enumerate(consensus):
        if mask.any():
            outside = ndimage.distance_transform_edt(~mask, sampling=spacing[1:])
            inside = ndimage.distance_transform_edt(mask, sampling=spacing[1:])
            half = spacing[2] / 2  # the outline runs between two voxel centres
            out[k] = np.where(mask, half - inside, outside - half)
    return out


def _all(crops: Sequence[Crop | Facts]) -> list[Facts]:
    tiers = sorted({crop.tier for crop in crops})
    if len(tiers) != 1:
        raise ValueError(f"crops are of the tiers {tiers}; expected at least one crop, of one tier")
    return [crop if isinstance(crop, Facts) else facts(crop) for crop in crops]


# Each of these functions takes crops of one tier, or what `facts` found of them, and raises a
# ValueError if there are none, or of several tiers.


def histograms(crops: Sequence[Crop | Facts]) -> pd.DataFrame:
    """Shares of voxels by HU, inside the consensus, in a ring of 5 mm around it, in the crop.

    Every lesion counts alike: its histogram is normalised before they are averaged.

    Returns:
        One row per region and bin of 50 HU: `tier`, `region`, `low`, `high` (HU), `share`.
    """
    found = _all(crops)
    mean = np.nan_to_num(np.nanmean([f.shares for f in found], axis=0))
    region = np.repeat(REGIONS, len(BINS) - 1)
    low, high = np.tile(BINS[:-1], len(REGIONS)), np.tile(BINS[1:], len(REGIONS))
    table = {"tier": found[0].tier, "region": region, "low": low, "high": high}
    return pd.DataFrame(table | {"share": mean.ravel()})


def histogram_distances(
    phantoms: Sequence[Crop | Facts], real: Sequence[Crop | Facts]
) -> pd.DataFrame:
    """Distance of the two histograms of each region, for crops that are paired (see `pair`).

    Returns:
        One row per region: `wasserstein` (HU: how far, on average, a voxel's value would have to
        move), `overlap` (share of the histograms, in bins of 50 HU, that is common),
        `phantom_median` and `real_median` (medians over lesions of each lesion's median, HU).
    """
    sides = [_all(phantoms), _all(real)]
    shares = [
        histograms(side).pivot(index="region", columns="low", values="share") for side in sides
    ]
    medians = [pd.DataFrame([f.medians for f in side]).median() for side in sides]
    centre = (BINS[:-1] + BINS[1:]) / 2
    rows = []
    for region in REGIONS:
        a, b = (table.loc[region].to_numpy() for table in shares)
        rows.append(
            {
                "region": region,
                "wasserstein": stats.wasserstein_distance(centre, centre, a, b),
                "overlap": float(np.minimum(a, b).sum()),
                "phantom_median": float(medians[0][region]),
                "real_median": float(medians[1][region]),
            }
        )
    return pd.DataFrame(rows)


def edge_widths(crops: Sequence[Crop | Facts]) -> pd.DataFrame:
    """Width of each lesion's edge: from 10 % to 90 % of the step from outside to inside.

    On the slice with the largest consensus, HU are read along the outward normals of the outline,
    at every border pixel, up to 5 mm to both sides. A normal that ends outside lung (above -500 HU)
    is left out, as is the lesion when fewer than eight remain or the step is under 150 HU. The
    step's ends are the medians over normals of the innermost 1 mm read and the outermost 2 mm; the
    mean profile is smoothed over 0.5 mm.

    Returns:
        One row per lesion that could be measured: `lesion_id`, `tier`, `width` (mm), `inside` and
        `outside` (HU at the step's ends).
    """
    found = [f for f in _all(crops) if f.edge is not None]
    rows = [{"lesion_id": f.lesion_id, "tier": f.tier} | (f.edge or {}) for f in found]
    return pd.DataFrame(rows, columns=["lesion_id", "tier", "width", "inside", "outside"])


def _edge(crop: Crop, consensus: BoolArray, distances: Array) -> dict[str, float] | None:
    k = int(consensus.sum(axis=(1, 2)).argmax())
    distance = ndimage.gaussian_filter(distances[k], 1.0)
    border = np.argwhere(consensus[k] & ~ndimage.binary_erosion(consensus[k]))
    slope = np.stack(np.gradient(distance), axis=-1)[tuple(border.T)]
    length = np.hypot(*slope.T)
    keep = length > 1e-6
    normal = slope[keep] / length[keep, None] / crop.spacing[2]  # pixels per mm
    depth = min(REACH_MM, float(-distance.min()))
    step = 0.1
    at = np.arange(-depth, REACH_MM + step / 2, step)
    start = border[keep] - distance[tuple(border[keep].T)][:, None] * normal
    where = start[:, None] + at[None, :, None] * normal[:, None]  # (normals, positions, 2)
    hu = ndimage.map_coordinates(
        crop.hu[k].astype(float), np.moveaxis(where, -1, 0), order=1, mode="nearest"
    )
    hu = hu[np.median(hu[:, at > REACH_MM - 2.0], axis=1) < -500]
    if len(hu) < 8:
        return None
    outside = float(np.median(hu[:, at > REACH_MM - 2.0]))
    inside = float(np.median(hu[:, at < -depth + 1.0]))
    if inside - outside < 150:
        return None
    profile = ndimage.uniform_filter1d(hu.mean(axis=0), 5, mode="nearest")
    share = (profile - outside) / (inside - outside)
    high = at[np.flatnonzero(share >= 0.9)[-1]] if (share >= 0.9).any() else at[0]
    after = np.flatnonzero((share <= 0.1) & (at > high))
    low = at[after[0]] if len(after) else at[-1]
    return {"width": float(low - high), "inside": inside, "outside": outside}


def noise_power(crops: Sequence[Crop | Facts]) -> pd.DataFrame:
    """Radial noise power spectrum of flat lung.

    Square patches of 16 pixels of lung whose values, smoothed over two pixels, stay within 120 HU;
    from each a plane is subtracted. NPS(f) = |DFT|^2 * pixel area / number of pixels, averaged over
    patches, slices and directions (International Commission on Radiation Units, report 87, section
    5).

    Returns:
        One row per bin: `tier`, `frequency` (1/mm, centre of the bin), `power` (HU² mm²),
        `share` (of the sum over bins, to compare the form), `n_patches`. Without a flat patch all
        values are NaN.
    """
    found = _all(crops)
    with np.errstate(invalid="ignore"):
        power = sum(f.power for f in found) / sum(f.weight for f in found)
        share = power / np.nansum(power)
    return pd.DataFrame(
        {
            "tier": found[0].tier,
            "frequency": (FREQUENCIES[:-1] + FREQUENCIES[1:]) / 2,
            "power": power,
            "share": share,
            "n_patches": sum(f.n_patches for f in found),
        }
    )


def _spectrum(hu: Array, pixel: float) -> dict[str, Any]:
    f, n_bins = np.fft.fftfreq(PATCH, pixel), len(FREQUENCIES) - 1
    which = np.digitize(np.hypot(f[:, None], f[None]), FREQUENCIES) - 1
    which[0, 0] = -1  # the plane took it
    ok = (which >= 0) & (which < n_bins)
    total, n = np.zeros(n_bins), 0
    for tile in (tile for image in hu for tile in _flat_patches(image)):
        power = np.abs(np.fft.fft2(tile)) ** 2 * pixel**2 / tile.size
        total += np.bincount(which[ok], power[ok], minlength=n_bins)
        n += 1
    weight = n * np.bincount(which[ok], minlength=n_bins).astype(float)
    return {"power": total, "weight": weight, "n_patches": n}


def _flat_patches(image: Array) -> list[Array]:
    smooth = ndimage.gaussian_filter(image, 2.0)
    found = []
    rows, columns = np.mgrid[:PATCH, :PATCH] - (PATCH - 1) / 2
    for i in range(0, image.shape[0] - PATCH + 1, PATCH):
        for j in range(0, image.shape[1] - PATCH + 1, PATCH):
            s = smooth[i : i + PATCH, j : j + PATCH]
            if s.min() > -980 and s.max() < -650 and np.ptp(s) < 120:
                tile = image[i : i + PATCH, j : j + PATCH]
                tile = tile - tile.mean()
                for ramp in (rows, columns):
                    tile = tile - ramp * (tile * ramp).sum() / (ramp**2).sum()
                found.append(tile)
    return found


def features(crops: Sequence[Crop | Facts]) -> pd.DataFrame:
    """Simple numbers of each crop, of which a classifier may tell phantoms from real.

    Inside the consensus and in the ring of 5 mm: mean, standard deviation, 10th and 90th
    percentile. At the outline: mean gradient (HU/mm). In the lung of the crop (below -600 HU after
    smoothing, away from its border): median, standard deviation, skewness. Grain, which is what a
    smoothing over two pixels takes away: its robust standard deviation in lung and in soft tissue,
    and its correlation between neighbouring pixels. Shares of the crop: outside air, lung, fat,
    soft tissue, bone; and of the lung: vessels.

    Returns:
        One row per crop: `lesion_id`, `tier` and `FEATURES`; NaN where a crop has none of what is
        measured.
    """
    rows = [{"lesion_id": f.lesion_id, "tier": f.tier} | f.features for f in _all(crops)]
    return pd.DataFrame(rows, columns=["lesion_id", "tier", *FEATURES])


def _features(
    hu: Array, distance: Array, regions: dict[str, Array], pixel: float
) -> dict[str, float]:
    found = {}
    for name in ("inside", "ring"):
        values = regions[name]
        if len(values):
            found[f"{name}_mean"], found[f"{name}_sd"] = float(values.mean()), float(values.std())
            p10, p90 = np.percentile(values, [10, 90])
            found[f"{name}_p10"], found[f"{name}_p90"] = float(p10), float(p90)
    border = np.abs(distance) < pixel
    if border.any():
        # within the slices: those of a crop need not be neighbours
        slopes = np.gradient(hu, pixel, axis=(1, 2))
        found["edge_gradient"] = float(np.hypot(*slopes)[border].mean())
    smooth = ndimage.gaussian_filter(hu, (0, 2, 2))
    grain = hu - smooth
    found |= _lung(hu, smooth, grain)
    soft = ndimage.binary_erosion((smooth > -160) & (smooth < 130), CORE)
    if soft.sum() > LEAST_VOXELS:
        found["grain_soft"] = _spread(grain[soft])
    for name, (low, high) in SHARES.items():
        found[f"share_{name}"] = float(((smooth > low) & (smooth <= high)).mean())
    return found


def _lung(hu: Array, smooth: Array, grain: Array) -> dict[str, float]:
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
