"""How far rendered crops are from real ones of the same lesions, in numbers.

`pair` cuts a phantom and the real slices of a lesion to what both show, so that place and size give
nothing away. `measure` compares histograms of HU, width of the edge, power of the noise, and how
well a classifier tells phantoms from real crops; an area under its curve of 0.5 means not at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage, stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from tqdm.auto import tqdm

from lesionlab import results
from lesionlab._files import write_json
from lesionlab._processes import in_order
from lesionlab.crops import Crop
from lesionlab.sources import lidc, phantom
from lesionlab.sources.slices import Slices
from lesionlab.statistics.intervals import Estimate, Resampling
from lesionlab.statistics.scoring import score_binary

Array = npt.NDArray[np.float64]
Crops = Iterable[Crop] | pd.DataFrame
"""Crops of one tier, or what `facts` found of them; a ValueError for none, or for several tiers."""

AROUND_MM = 5.0  # how far around an outline HU are read, in the ring and for the width of the edge
REGIONS = ("inside", "ring", "crop")
BINS = np.arange(-1024.0, 3122.0, 50.0)  # HU, over all that 12 bits hold
PATCH = 16  # side of a patch of noise, pixels
FREQUENCIES = np.linspace(0, 0.7, 13)  # edges of the bins of the noise power, 1/mm
CORE = np.ones((1, 7, 7), bool)  # how far inside a tissue a voxel must lie to count as that tissue
LEAST_VOXELS = 100  # of a tissue, to be measured
SHARES = {  # HU of the tissues, after smoothing over two pixels
    "air": (-1100, -960),
    "lung": (-960, -600),
    "fat": (-160, -40),
    "soft": (-40, 130),
    "bone": (250, 4000),
}
FEATURES = (
    *(f"{region}_{n}" for region in ("inside", "ring") for n in ("mean", "sd", "p10", "p90")),
    *("edge_gradient", "lung_median", "lung_sd", "lung_skewness"),
    *("grain_lung", "grain_soft", "grain_correlation"),
    *(f"share_{tissue}" for tissue in (*SHARES, "vessel")),
)
"""What the two-sample classifier sees of a lesion: see `features`."""

RATINGS = ("texture", "margin", "subtlety", "calcification", "spiculation", "lobulation")
EFFECTS = ("inside_mean", "inside_sd", "edge_gradient")  # what is told of each rating
COUNTS = ("n_lesions", "n_patients", "n_slices", "n_left_out")
TABLES = ("histograms", "distances", "edges", "noise", "features", "ratings")


def facts(crops: Crops) -> pd.DataFrame:
    """All that is measured of crops, without their voxels: one row per crop."""
    found = crops if isinstance(crops, pd.DataFrame) else pd.DataFrame(map(_facts, crops))
    tiers = sorted(set(found.get("tier", ())))
    if len(tiers) != 1:
        raise ValueError(f"crops are of the tiers {tiers}; expected at least one crop, of one tier")
    return found


def _facts(crop: Crop) -> dict[str, Any]:
    hu, consensus, pixel = crop.hu.astype(float), crop.consensus(), crop.spacing[2]
    # Signed distance to the outline, mm; inf on slices without one. In plane, because the slices
    # at hand are those with an outline and not the ones between.
    distance = np.full(hu.shape, np.inf)
    for k in np.flatnonzero(consensus.any(axis=(1, 2))):
        inside, outside = (
            ndimage.distance_transform_edt(mask, sampling=crop.spacing[1:]) - pixel / 2
            for mask in (consensus[k], ~consensus[k])
        )  # the outline runs between two voxel centres
        distance[k] = np.where(consensus[k], -inside, outside)
    ring = (distance > 0) & (distance <= AROUND_MM)
    regions = {"inside": hu[distance < 0], "ring": hu[ring], "crop": hu.ravel()}
    found: dict[str, Any] = {"lesion_id": crop.lesion_id, "tier": crop.tier, "n_slices": len(hu)}
    with np.errstate(invalid="ignore"):  # NaN where a region has no voxel
        shares = [np.histogram(values, BINS)[0] / len(values) for values in regions.values()]
    medians = [np.median(values) if len(values) else np.nan for values in regions.values()]
    found |= {"shares": np.array(shares), "medians": np.array(medians)}
    for name in ("inside", "ring"):
        if len(values := regions[name]):
            found[f"{name}_mean"], found[f"{name}_sd"] = values.mean(), values.std()
            found[f"{name}_p10"], found[f"{name}_p90"] = np.percentile(values, [10, 90])
    if (border := np.abs(distance) < pixel).any():
        # within the slices: those of a crop need not be neighbours
        found["edge_gradient"] = np.hypot(*np.gradient(hu, pixel, axis=(1, 2)))[border].mean()
        largest = int(consensus.sum(axis=(1, 2)).argmax())
        found |= _edge(hu[largest], consensus[largest], distance[largest], pixel)
    smooth = ndimage.gaussian_filter(hu, (0, 2, 2))
    return found | _tissues(hu, smooth) | _spectrum(hu, smooth, pixel)


def histograms(crops: Crops) -> pd.DataFrame:
    """Shares of voxels by HU, inside the consensus, in a ring of 5 mm around it, in the crop.

    Every lesion counts alike: its histogram is normalised before they are averaged. One row per
    region and bin of 50 HU: `tier`, `region`, `low`, `high` (HU), `share`.
    """
    found = facts(crops)
    mean = np.nan_to_num(np.nanmean([*found["shares"]], axis=0))
    region = np.repeat(REGIONS, len(BINS) - 1)
    low, high = np.tile(BINS[:-1], len(REGIONS)), np.tile(BINS[1:], len(REGIONS))
    table = {"tier": found["tier"].iloc[0], "region": region, "low": low, "high": high}
    return pd.DataFrame(table | {"share": mean.ravel()})


def histogram_distances(phantoms: Crops, real: Crops) -> pd.DataFrame:
    """Distance of the two histograms of each region, for crops that are paired (see `pair`).

    Returns:
        One row per region: `wasserstein` (HU: how far, on average, a voxel's value would have to
        move), `overlap` (share of the histograms, in bins of 50 HU, that is common),
        `phantom_median` and `real_median` (medians over lesions of each lesion's median, HU).
    """
    sides = [facts(phantoms), facts(real)]
    a, b = (histograms(side)["share"].to_numpy().reshape(len(REGIONS), -1) for side in sides)
    medians = (np.nanmedian([*side["medians"]], axis=0) for side in sides)
    table = pd.DataFrame({"region": REGIONS})
    table["wasserstein"] = np.abs(np.cumsum(a - b, axis=1)).sum(axis=1) * (BINS[1] - BINS[0])
    table["overlap"] = np.minimum(a, b).sum(axis=1)
    table["phantom_median"], table["real_median"] = medians
    return table


def edge_widths(crops: Crops) -> pd.DataFrame:
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
    columns = ["lesion_id", "tier", "width", "inside", "outside"]
    return facts(crops).reindex(columns=columns).dropna(ignore_index=True)


def _edge(hu: Array, mask: Any, distance: Array, pixel: float) -> dict[str, float]:
    smooth = ndimage.gaussian_filter(distance, 1.0)
    border = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    slope = np.stack(np.gradient(smooth), axis=-1)[tuple(border.T)]
    length = np.hypot(*slope.T)
    keep = length > 1e-6
    normal = slope[keep] / length[keep, None] / pixel  # pixels per mm
    depth = min(AROUND_MM, float(-smooth.min()))
    at = np.arange(-depth, AROUND_MM + 0.05, 0.1)
    start = border[keep] - smooth[tuple(border[keep].T)][:, None] * normal
    where = start[:, None] + at[None, :, None] * normal[:, None]  # (normals, positions, 2)
    read = ndimage.map_coordinates(hu, np.moveaxis(where, -1, 0), order=1, mode="nearest")
    read = read[np.median(read[:, at > AROUND_MM - 2.0], axis=1) < -500]
    if len(read) < 8:
        return {}
    outside = float(np.median(read[:, at > AROUND_MM - 2.0]))
    inside = float(np.median(read[:, at < -depth + 1.0]))
    if inside - outside < 150:
        return {}
    profile = ndimage.uniform_filter1d(read.mean(axis=0), 5, mode="nearest")
    share = (profile - outside) / (inside - outside)
    high = max(at[share >= 0.9], default=at[0])
    low = min(at[(share <= 0.1) & (at > high)], default=at[-1])
    return {"width": float(low - high), "inside": inside, "outside": outside}


def noise_power(crops: Crops) -> pd.DataFrame:
    """Radial noise power spectrum of flat lung.

    Square patches of 16 pixels of lung whose values, smoothed over two pixels, stay within 120 HU;
    from each a plane is subtracted. NPS(f) = |DFT|^2 * pixel area / number of pixels, averaged over
    patches, slices and directions (ICRU report 87, section 5).

    Returns:
        One row per bin: `tier`, `frequency` (1/mm, centre of the bin), `power` (HU² mm²),
        `share` (of the sum over bins, to compare the form), `n_patches`. Without a flat patch all
        values are NaN.
    """
    found = facts(crops)
    with np.errstate(invalid="ignore"):
        power = found["power"].sum() / found["weight"].sum()
        share = power / np.nansum(power)
    table = {"tier": found["tier"].iloc[0], "frequency": (FREQUENCIES[:-1] + FREQUENCIES[1:]) / 2}
    table |= {"power": power, "share": share, "n_patches": found["n_patches"].sum()}
    return pd.DataFrame(table)


def _spectrum(hu: Array, smooth: Array, pixel: float) -> dict[str, Any]:
    height, width = (n - n % PATCH for n in hu.shape[1:])
    tiles = (len(hu), height // PATCH, PATCH, width // PATCH, PATCH)
    patches, smooth = (
        values[:, :height, :width].reshape(tiles).swapaxes(2, 3).reshape(-1, PATCH, PATCH)
        for values in (hu, smooth)
    )
    low, high = smooth.min(axis=(1, 2)), smooth.max(axis=(1, 2))
    patches = patches[(low > -980) & (high < -650) & (high - low < 120)]
    patches = patches - patches.mean(axis=(1, 2), keepdims=True)
    for ramp in np.mgrid[:PATCH, :PATCH] - (PATCH - 1) / 2:
        slope = (patches * ramp).sum(axis=(1, 2), keepdims=True) / (ramp**2).sum()
        patches = patches - ramp * slope
    power = (np.abs(np.fft.fft2(patches)) ** 2).sum(axis=0) * pixel**2 / PATCH**2
    f = np.fft.fftfreq(PATCH, pixel)
    radius = np.hypot(f[:, None], f[None])
    radius[0, 0] = np.nan  # the plane took it
    weight = len(patches) * np.histogram(radius, FREQUENCIES)[0].astype(float)
    total = np.histogram(radius, FREQUENCIES, weights=power)[0]
    return {"power": total, "weight": weight, "n_patches": len(patches)}


def features(crops: Crops) -> pd.DataFrame:
    """Simple numbers of each crop, of which a classifier may tell phantoms from real.

    One row per crop: `lesion_id`, `tier` and `FEATURES`, NaN where a crop has none of what is
    measured. Inside the consensus and in the ring of 5 mm: mean, standard deviation, 10th and 90th
    percentile. At the outline: mean gradient (HU/mm). In the lung of the crop (below -600 HU after
    smoothing, away from its border): median, standard deviation, skewness. Grain, which is what a
    smoothing over two pixels takes away: its robust standard deviation in lung and in soft tissue,
    and its correlation between neighbouring pixels. Shares of the crop: outside air, lung, fat,
    soft tissue, bone; and of the lung: vessels.
    """
    return facts(crops).reindex(columns=["lesion_id", "tier", *FEATURES])


def _tissues(hu: Array, smooth: Array) -> dict[str, Any]:
    """Those of `FEATURES` that tell of lung, grain, and shares of the crop."""
    found: dict[str, Any] = {}
    grain = hu - smooth
    for name, (low, high) in SHARES.items():
        found[f"share_{name}"] = ((smooth > low) & (smooth <= high)).mean()
    soft = ndimage.binary_erosion((smooth > -160) & (smooth < 130), CORE)
    if soft.sum() > LEAST_VOXELS:
        found["grain_soft"] = 1.4826 * stats.median_abs_deviation(grain[soft])
    lung = ndimage.binary_erosion((smooth < -600) & (smooth > -990), CORE)
    if lung.sum() > LEAST_VOXELS:
        values = hu[lung]
        found["lung_median"], found["lung_sd"] = np.median(values), values.std()
        found["lung_skewness"] = stats.skew(values) if np.ptp(values) > 0 else 0.0
        found["share_vessel"] = (values > found["lung_median"] + 200).mean()
        found["grain_lung"] = 1.4826 * stats.median_abs_deviation(grain[lung])
        beside = lung[:, :, 1:] & lung[:, :, :-1]
        left, right = (np.clip(g[beside], -150, 150) for g in (grain[:, :, :-1], grain[:, :, 1:]))
        if len(left) > 1 and left.std() > 0 and right.std() > 0:
            found["grain_correlation"] = np.corrcoef(left, right)[0, 1]
    return found


def classifier_auc(
    phantoms: pd.DataFrame, real: pd.DataFrame, patients: pd.Series[str], **how: Unpack[Resampling]
) -> tuple[dict[str, Estimate], pd.DataFrame]:
    """How well classifiers tell phantoms from real crops: the areas under their curves.

    Cross-validated in five folds, all crops of a patient, phantom and real, in one of them, with
    the folds' probabilities pooled. The interval is from resampling patients, predictions fixed.
    `phantoms` and `real` are `features` of the same lesions in the same order, `patients` is
    lesion_id -> patient.

    Returns:
        The AUC (1.0: told apart without fault, 0.5: not at all) of `boosting`, which sees
        interactions, and of `logistic` regression; and a table of the AUC that each feature reaches
        alone (`feature`, `auc`, at least 0.5), largest first.
    """
    if phantoms["lesion_id"].tolist() != real["lesion_id"].tolist():
        raise ValueError("phantoms and real are not the same lesions in the same order")
    table = pd.concat([phantoms, real], ignore_index=True)
    table["truth"] = np.repeat([1, 0], len(real))  # 1 is the phantom
    table["patient"] = patients.loc[table["lesion_id"]].to_numpy()
    models = {
        "boosting": HistGradientBoostingClassifier(max_iter=150, random_state=0),
        "logistic": make_pipeline(
            SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression(max_iter=2000)
        ),
    }
    X, y = table[list(FEATURES)].to_numpy(float), table["truth"].to_numpy()
    together, alone = {}, dict.fromkeys(FEATURES, 0.5)
    for name, model in models.items():
        # one thread: sums in another order would be other numbers
        with threadpool_limits(1, user_api="openmp"):
            for train, test in GroupKFold(5).split(X, y, table["patient"]):
                known = ~np.isnan(X[train]).all(axis=0)  # no model places a column without a value
                model.fit(X[train][:, known], y[train])
                table.loc[test, "score"] = model.predict_proba(X[test][:, known])[:, 1]
        together[name] = score_binary(table, **how)["auc"]
    for name in FEATURES:
        known = table[["truth", name]].dropna()
        if known["truth"].nunique() == 2:
            alone[name] = 0.5 + abs(roc_auc_score(known["truth"], known[name]) - 0.5)
    single = pd.Series(alone, name="auc").sort_values(ascending=False, kind="stable")
    return together, single.rename_axis("feature").reset_index()


def pair(ours: Crop, theirs: Crop) -> tuple[Crop, Crop] | None:
    """Cut two crops of one lesion to the calibrated slices, rows and columns that both have.

    None if they have no slice, row or column in common, or no consensus voxel on these. A
    ValueError if the lesions, the masks or the spacing differ.
    """
    name, cut = theirs.lesion_id, []
    if ours.lesion_id != name or not np.allclose(ours.spacing, theirs.spacing):
        raise ValueError(
            f"{ours.lesion_id} and {name}: expected one lesion, of one spacing, got "
            f"{ours.spacing} and {theirs.spacing} mm"
        )
    known, shown = (crop.slice_index[crop.calibrated] for crop in (ours, theirs))
    slices = np.intersect1d(known, shown)
    low = np.maximum(ours.corner, theirs.corner)
    high = np.min([np.add(c.corner, c.hu.shape[1:]) for c in (ours, theirs)], axis=0)
    if not len(slices) or (high <= low).any():
        return None
    for crop in (ours, theirs):
        at = np.searchsorted(crop.slice_index, slices)
        rows, columns = map(slice, low - crop.corner, high - crop.corner)
        seen: dict[str, Any] = {"slice_index": slices, "steps": crop.steps[at]}
        seen |= {"hu": crop.hu[at, rows, columns], "masks": crop.masks[:, at, rows, columns]}
        cut.append(replace(crop, corner=tuple(low.tolist()), **seen))
    a, b = cut
    if not np.array_equal(a.masks, b.masks):
        raise ValueError(f"masks of {name} differ between phantom and real")
    return (a, b) if a.consensus().any() else None


def through_eight_bits(crop: Crop) -> Crop:
    """The crop as it would be after being saved like the real slices, and put back into HU.

    Each slice is scaled so that its smallest value is 0 and its largest 255, and rounded. What
    remains different is the error of the table that puts the real ones back (`Crop.hu_error`).
    """
    hu = crop.hu.astype(float)
    low = hu.min(axis=(1, 2), keepdims=True)
    step = np.maximum(hu.max(axis=(1, 2), keepdims=True) - low, 1e-9) / 255
    return replace(crop, hu=np.rint(np.rint((hu - low) / step) * step + low).astype(np.int16))


@dataclass(frozen=True)
class Realism:
    """How far the phantoms are from the real slices of the same lesions.

    `features` has one row per feature, the most telling first: `feature`, `auc` (of the feature
    alone, at least 0.5), and for each tier the quartiles over lesions, `phantom_low`,
    `phantom_median`, `phantom_high`, `slices_low`, `slices_median`, `slices_high`.

    `ratings` says what the readers' ratings do to the pixels: one row per `rating` and `value` (the
    readers' mean, rounded) with `lesions` and, for each tier, the median over lesions of
    `inside_mean` (HU), `inside_sd` (HU) and `edge_gradient` (HU/mm), e.g. `phantom_inside_mean`.
    """

    n_lesions: int
    n_patients: int
    n_slices: int  # of each of the two tiers
    n_left_out: int  # lesions without a calibrated slice, or without consensus on one
    seed: int  # of the phantoms, the choice of lesions and the resamples
    checksum: str  # SHA-256 of the slices set
    seconds: float
    histograms: pd.DataFrame  # `lesionlab.realism.histograms` of both tiers
    distances: pd.DataFrame  # `histogram_distances`
    edges: pd.DataFrame  # `tier` and `width` (mm), a row per lesion measured
    noise: pd.DataFrame  # `noise_power` of both tiers
    features: pd.DataFrame
    ratings: pd.DataFrame
    together: Mapping[str, Estimate]  # area under the curve of each model


def write(found: Realism, path: str | Path, *, root: str | Path = ".") -> Path:
    """Keep what was measured as JSON, for `read`, with the commit of the checkout `root`."""
    edges = found.edges.groupby(["tier", "width"]).size().reset_index(name="lesions")
    kept = vars(found) | {"edges": edges}
    told = {name: kept[name] for name in COUNTS} | {"classifiers": found.together}
    for name in TABLES:
        short = kept[name].map(lambda v: float(f"{v:.5g}") if isinstance(v, float) else v)
        told[name] = short.to_dict("list")
    data = [
        {"name": "LIDC-IDRI slices", "tier": "real", "checksum": found.checksum},
        {"name": "Phantoms around LIDC-IDRI contours", "tier": "phantom", "checksum": None},
    ]
    head = {"notebook": None, "set": "paper", "parameters": {"seed": found.seed}}
    origin = {"seconds": round(found.seconds, 1), **results.provenance(root)}
    return write_json(path, head | origin | {"data": data, "results": results.jsonable(told)})


def read(path: str | Path) -> Realism:
    """What `write` kept; numbers have 5 digits. A ValueError for any other results file."""
    kept = results.read(path)
    told = kept["results"]
    try:
        tables: dict[str, Any] = {name: pd.DataFrame(told[name]) for name in TABLES}
        widths = tables["edges"]
        repeated = widths.loc[widths.index.repeat(widths["lesions"]), ["tier", "width"]]
        return Realism(
            **{name: told[name] for name in COUNTS},
            seed=kept["parameters"]["seed"],
            checksum=kept["data"][0]["checksum"],
            seconds=kept["seconds"],
            **tables | {"edges": repeated.reset_index(drop=True)},
            together={name: Estimate(**each) for name, each in told["classifiers"].items()},
        )
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} holds no measure of realism: {error!r}") from error


def measure(
    slices: Slices,
    *,
    seed: int = 0,
    n: int | None = None,
    processes: int = 1,
    n_resamples: int = 1000,
    progress: bool = False,
) -> Realism:
    """Compare phantoms with the real slices of the same lesions.

    Both are cut to the slices and pixels that they share, and phantoms pass through the same 8
    bits as the real slices (`through_eight_bits`).

    With `n`, only so many lesions are compared, drawn at random. `seed` is that of phantoms, draw
    and resamples, `n_resamples` the number of resamples of patients behind the intervals. The
    numbers do not depend on `processes`.
    """
    start, ids = time.monotonic(), slices.lesion_ids
    if n is not None:
        if not 1 <= n <= len(ids):
            raise ValueError(f"n={n!r}: expected 1 to {len(ids)}, the lesions that have slices")
        ids = sorted(np.random.default_rng(seed).choice(ids, n, replace=False).tolist())
    each = in_order(partial(_compare, slices, seed), ids, processes, "compared a lesion")
    with closing(each):
        bar = tqdm(each, "realism", len(ids), disable=not progress, unit="lesion")
        compared = [both for both in bar if both]
    if not compared:
        raise ValueError("slices: no lesion has a calibrated slice with a consensus")
    ours, theirs = sides = [pd.DataFrame(side) for side in zip(*compared, strict=True)]
    phantoms, real = map(features, sides)
    nodules = lidc.nodules().loc[ours["lesion_id"]]
    patients = nodules["patient"]
    together, single = classifier_auc(phantoms, real, patients, n_resamples=n_resamples, seed=seed)
    both_sides = phantoms.add_prefix("phantom_").join(real.add_prefix("slices_"))
    for tier in ("phantom_", "slices_"):
        quartiles = both_sides[tier + single["feature"]].quantile([0.25, 0.5, 0.75])
        single[[f"{tier}low", f"{tier}median", f"{tier}high"]] = quartiles.T.to_numpy()
    shown = [tier + name for tier in ("phantom_", "slices_") for name in EFFECTS]
    effects = {}
    for rating in RATINGS:
        grouped = both_sides.groupby(nodules[rating].round().to_numpy())
        effects[rating] = grouped[shown].median()
        effects[rating].insert(0, "lesions", grouped.size())
    return Realism(
        n_lesions=len(compared),
        n_patients=patients.nunique(),
        n_slices=int(theirs["n_slices"].sum()),
        n_left_out=len(ids) - len(compared),
        seed=seed,
        checksum=slices.checksum,
        seconds=time.monotonic() - start,
        histograms=pd.concat(map(histograms, sides), ignore_index=True),
        distances=histogram_distances(ours, theirs),
        edges=pd.concat(map(edge_widths, sides), ignore_index=True)[["tier", "width"]].round(1),
        noise=pd.concat(map(noise_power, sides), ignore_index=True),
        features=single,
        ratings=pd.concat(effects, names=["rating", "value"]).reset_index(),
        together=together,
    )


def _compare(slices: Slices, seed: int, lesion_id: str) -> list[dict[str, Any]]:
    """The facts of a lesion's phantom and of its real slices; none if they share nothing."""
    both = pair(phantom.phantom(lesion_id, seed=seed), slices.crop(lesion_id))
    return [_facts(through_eight_bits(both[0])), _facts(both[1])] if both else []
