"""How often each HU occurs in and around the lesions of two sources."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from lesionlab.crops import Crop
from lesionlab.realism._pairs import REGIONS, Array, View, views

WIDTH = 50.0
"""Width of a bin, HU."""


def shares(view: View, edges: Array) -> Array:
    """(region, bin) share of each region's voxels that lie in each bin; NaN without a voxel."""
    rows = []
    for region in REGIONS:
        values = view.regions[region]
        counts = np.histogram(values, edges)[0]
        rows.append(counts / len(values) if len(values) else np.full(len(counts), np.nan))
    return np.array(rows)


def medians(view: View) -> dict[str, float]:
    """Median HU of each region; NaN without a voxel."""
    found = view.regions
    return {name: float(np.median(found[name])) if len(found[name]) else np.nan for name in REGIONS}


def bins(width: float = WIDTH) -> Array:
    """Edges of the bins over all that 12 bits hold, HU.

    Raises:
        ValueError: `width` is not above 0.
    """
    if not width > 0:
        raise ValueError(f"width={width!r}: expected HU above 0")
    return np.arange(-1024.0, 3072.0 + width, width)


def table(tier: str, each: Iterable[Array], edges: Array) -> pd.DataFrame:
    """The mean over lesions of `shares`, one row per region and bin; see `histograms`."""
    mean = np.nan_to_num(np.nanmean(list(each), axis=0))
    return pd.DataFrame(
        {
            "tier": tier,
            "region": np.repeat(REGIONS, len(edges) - 1),
            "low": np.tile(edges[:-1], len(REGIONS)),
            "high": np.tile(edges[1:], len(REGIONS)),
            "share": mean.ravel(),
        }
    )


def distances(
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    our_medians: pd.DataFrame,
    their_medians: pd.DataFrame,
) -> pd.DataFrame:
    """`histogram_distances` of two tables of `histograms` and two of `medians`."""
    rows = []
    for region in REGIONS:
        a = ours.loc[ours["region"] == region]
        b = theirs.loc[theirs["region"] == region]
        centre = (a["low"] + a["high"]).to_numpy() / 2
        pa, pb = a["share"].to_numpy(), b["share"].to_numpy()
        rows.append(
            {
                "region": region,
                "wasserstein": stats.wasserstein_distance(centre, centre, pa, pb),
                "overlap": float(np.minimum(pa, pb).sum()),
                "phantom_median": float(our_medians[region].median()),
                "real_median": float(their_medians[region].median()),
            }
        )
    return pd.DataFrame(rows)


def histograms(crops: Sequence[Crop], *, width: float = WIDTH) -> pd.DataFrame:
    """Shares of voxels by HU, inside the consensus, in a ring of 5 mm around it, in the crop.

    Every lesion counts alike: its histogram is normalised before they are averaged.

    Args:
        crops: Crops of one tier.
        width: Width of a bin, HU.

    Returns:
        One row per region and bin: `tier`, `region`, `low`, `high` (HU), `share`.

    Raises:
        ValueError: No crops, or of several tiers; `width` is not above 0.
    """
    tier, seen = views(crops)
    edges = bins(width)
    return table(tier, [shares(view, edges) for view in seen], edges)


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
        ValueError: As in `histograms`.
    """
    edges = bins()
    tables, middles = [], []
    for crops in (phantoms, real):
        tier, seen = views(crops)
        tables.append(table(tier, [shares(view, edges) for view in seen], edges))
        middles.append(pd.DataFrame([medians(view) for view in seen]))
    return distances(*tables, *middles)
