"""What is measured of crops: the same voxels of two sources, histograms, edges, noise, features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage, stats

from lesionlab.crops import Crop

Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

RING_MM = 5.0
"""Thickness of the ring around a lesion that counts as its surroundings, mm."""

REGIONS = ("inside", "ring", "crop")

BINS = np.arange(-1024.0, 3122.0, 50.0)
"""Edges of the bins of a histogram over all that 12 bits hold, HU."""

REACH_MM = 5.0
"""How far outside the outline HU are read for the width of an edge, mm."""

PATCH, N_BINS, HIGHEST = 16, 12, 0.7
"""Side of a patch of noise in pixels, bins, and the frequency (1/mm) at which the last one ends."""

FEATURES = (
    *(f"{region}_{n}" for region in ("inside", "ring") for n in ("mean", "sd", "p10", "p90")),
    "edge_gradient",
    *("lung_median", "lung_sd", "lung_skewness"),
    *("grain_lung", "grain_soft", "grain_correlation"),
    *("share_air", "share_lung", "share_fat", "share_soft", "share_bone", "share_vessel"),
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


@dataclass(frozen=True)
class View:
    """A crop with what several measures need of it, worked out once."""

    crop: Crop

    @cached_property
    def hu(self) -> Array:
        """(z, y, x) HU."""
        return self.crop.hu.astype(float)

    @cached_property
    def consensus(self) -> BoolArray:
        """(z, y, x) what at least half of the readers marked."""
        return self.crop.consensus()

    @cached_property
    def distance(self) -> Array:
        """(z, y, x) in-plane signed distance to the consensus outline, mm; inf where there is none.

        In plane, because the slices at hand are those with an outline and not the ones between.
        """
        out = np.full(self.hu.shape, np.inf)
        spacing = self.crop.spacing
        for k, mask in enumerate(self.consensus):
            if mask.any():
                outside = ndimage.distance_transform_edt(~mask, sampling=spacing[1:])
                inside = ndimage.distance_transform_edt(mask, sampling=spacing[1:])
                half = spacing[2] / 2  # the outline runs between two voxel centres
                out[k] = np.where(mask, half - inside, outside - half)
        return out

    @cached_property
    def regions(self) -> dict[str, Array]:
        """HU of the voxels of each of `REGIONS`; the last is the whole crop."""
        ring = (self.distance > 0) & (self.distance <= RING_MM)
        return {
            "inside": self.hu[self.distance < 0],
            "ring": self.hu[ring],
            "crop": self.hu.ravel(),
        }


def views(crops: Sequence[Crop]) -> tuple[str, list[View]]:
    """The one tier of some crops, and a view of each.

    Raises:
        ValueError: No crops, or of several tiers.
    """
    tiers = sorted({crop.tier for crop in crops})
    if len(tiers) != 1:
        raise ValueError(f"crops are of the tiers {tiers}; expected at least one crop, of one tier")
    return tiers[0], [View(crop) for crop in crops]


# --- How often each HU occurs -------------------------------------------------------------------


def histograms(crops: Sequence[Crop]) -> pd.DataFrame:
    """Shares of voxels by HU, inside the consensus, in a ring of 5 mm around it, in the crop.

    Every lesion counts alike: its histogram is normalised before they are averaged.

    Args:
        crops: Crops of one tier.

    Returns:
        One row per region and bin of 50 HU: `tier`, `region`, `low`, `high` (HU), `share`.

    Raises:
        ValueError: No crops, or of several tiers.
    """
    tier, seen = views(crops)
    return histogram_table(tier, [shares(view) for view in seen])


def shares(view: View) -> Array:
    """(region, bin) share of each region's voxels that lie in each bin; NaN without a voxel."""
    with np.errstate(invalid="ignore"):
        regions = [view.regions[name] for name in REGIONS]
        return np.array([np.histogram(values, BINS)[0] / len(values) for values in regions])


def medians(view: View) -> dict[str, float]:
    """Median HU of each region; NaN without a voxel."""
    found = view.regions
    return {name: float(np.median(found[name])) if len(found[name]) else np.nan for name in REGIONS}


def histogram_table(tier: str, each: Iterable[Array]) -> pd.DataFrame:
    """The mean over lesions of `shares`, as the table of `histograms`."""
    mean = np.nan_to_num(np.nanmean(list(each), axis=0))
    region = np.repeat(REGIONS, len(BINS) - 1)
    low, high = np.tile(BINS[:-1], len(REGIONS)), np.tile(BINS[1:], len(REGIONS))
    return pd.DataFrame(
        {"tier": tier, "region": region, "low": low, "high": high, "share": mean.ravel()}
    )


def histogram_distances(phantoms: Sequence[Crop], real: Sequence[Crop]) -> pd.DataFrame:
    """Distance of the two histograms of each region.

    Args:
        phantoms: Crops of one tier, paired with `real` (see `pair`).
        real: Crops of the other.

    Returns:
        One row per region: `wasserstein` (HU: how far, on average, a voxel's value would have to
        move), `overlap` (share of the histograms, in bins of 50 HU, that is common),
        `phantom_median` and `real_median` (medians over lesions of each lesion's median, HU).

    Raises:
        ValueError: No crops, or of several tiers.
    """
    seen = [views(crops)[1] for crops in (phantoms, real)]
    middles = [pd.DataFrame([medians(view) for view in of_tier]) for of_tier in seen]
    return distances(histograms(phantoms), histograms(real), *middles)


def distances(
    ours: pd.DataFrame, theirs: pd.DataFrame, our_medians: pd.DataFrame, their_medians: pd.DataFrame
) -> pd.DataFrame:
    """`histogram_distances` of two tables of `histograms` and two of `medians`."""
    centre = (BINS[:-1] + BINS[1:]) / 2
    rows = []
    for region in REGIONS:
        a, b = (t.loc[t["region"] == region, "share"].to_numpy() for t in (ours, theirs))
        rows.append(
            {
                "region": region,
                "wasserstein": stats.wasserstein_distance(centre, centre, a, b),
                "overlap": float(np.minimum(a, b).sum()),
                "phantom_median": float(our_medians[region].median()),
                "real_median": float(their_medians[region].median()),
            }
        )
    return pd.DataFrame(rows)


# --- How sharp the edge is ----------------------------------------------------------------------


def edge_widths(crops: Sequence[Crop]) -> pd.DataFrame:
    """Width of each lesion's edge: from 10 % to 90 % of the step from outside to inside.

    On the slice with the largest consensus, HU are read along the outward normals of the outline,
    at every border pixel, up to 5 mm to both sides. A normal that ends outside lung (above -500 HU)
    is left out, as is the lesion when fewer than eight remain or the step is under 150 HU. The
    step's ends are the medians over normals of the innermost 1 mm read and the outermost 2 mm; the
    mean profile is smoothed over 0.5 mm.

    Args:
        crops: Crops of one tier.

    Returns:
        One row per lesion that could be measured: `lesion_id`, `tier`, `width` (mm), `inside` and
        `outside` (HU at the step's ends).

    Raises:
        ValueError: No crops, or of several tiers.
    """
    tier, seen = views(crops)
    rows = []
    for view in seen:
        measured = edge(view)
        if measured is not None:
            rows.append({"lesion_id": view.crop.lesion_id, "tier": tier} | measured)
    return pd.DataFrame(rows, columns=["lesion_id", "tier", "width", "inside", "outside"])


def edge(view: View) -> dict[str, float] | None:
    """One lesion's row of `edge_widths`, or None if it cannot be measured."""
    crop, consensus = view.crop, view.consensus
    k = int(consensus.sum(axis=(1, 2)).argmax())
    distance = ndimage.gaussian_filter(view.distance[k], 1.0)
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


# --- How strong the noise is at each spatial frequency ------------------------------------------


@dataclass(frozen=True)
class Spectrum:
    """Sums over the flat patches of a crop."""

    total: Array  # (bin,) sum of the power over patches and frequencies, HU² mm²
    weight: Array  # (bin,) number of frequencies in it
    n_patches: int


def noise_power(crops: Sequence[Crop]) -> pd.DataFrame:
    """Radial noise power spectrum of flat lung.

    Square patches of 16 pixels of lung whose values, smoothed over two pixels, stay within 120 HU;
    from each a plane is subtracted. NPS(f) = |DFT|^2 * pixel area / number of pixels, averaged over
    patches, slices and directions (International Commission on Radiation Units, report 87, section
    5).

    Args:
        crops: Crops of one tier.

    Returns:
        One row per bin: `tier`, `frequency` (1/mm, centre of the bin), `power` (HU² mm²),
        `share` (of the sum over bins, to compare the form), `n_patches`. Without a flat patch all
        values are NaN.

    Raises:
        ValueError: No crops, or of several tiers.
    """
    tier, seen = views(crops)
    return noise_table(tier, [spectrum(view) for view in seen])


def spectrum(view: View) -> Spectrum:
    """One crop's part in `noise_power`."""
    pixel = view.crop.spacing[2]
    f = np.fft.fftfreq(PATCH, pixel)
    which = np.digitize(np.hypot(f[:, None], f[None]), np.linspace(0, HIGHEST, N_BINS + 1)) - 1
    which[0, 0] = -1  # the plane took it
    ok = (which >= 0) & (which < N_BINS)
    total, n = np.zeros(N_BINS), 0
    for image in view.hu:
        for tile in _flat_patches(image):
            power = np.abs(np.fft.fft2(tile)) ** 2 * pixel**2 / tile.size
            total += np.bincount(which[ok], power[ok], minlength=N_BINS)
            n += 1
    return Spectrum(total, n * np.bincount(which[ok], minlength=N_BINS).astype(float), n)


def noise_table(tier: str, each: Sequence[Spectrum]) -> pd.DataFrame:
    """Several crops' spectra as the table of `noise_power`."""
    edges = np.linspace(0, HIGHEST, N_BINS + 1)
    with np.errstate(invalid="ignore"):
        power = sum(part.total for part in each) / sum(part.weight for part in each)
        share = power / np.nansum(power)
    return pd.DataFrame(
        {
            "tier": tier,
            "frequency": (edges[:-1] + edges[1:]) / 2,
            "power": power,
            "share": share,
            "n_patches": sum(part.n_patches for part in each),
        }
    )


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


# --- Simple numbers of a crop -------------------------------------------------------------------


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
