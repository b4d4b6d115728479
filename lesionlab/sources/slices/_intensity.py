"""Which table puts a slices set back into HU: the user's, or the one that comes with lesionlab."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionlab.sources.slices._archive import IMAGES, Archive, Key, SlicesError

logger = logging.getLogger(__name__)

INTENSITY_NAME = "lidc-idri-slices-intensity.csv"

TABLE = Path(__file__).parents[1] / "tables" / f"{INTENSITY_NAME}.gz"
"""The table that comes with lesionlab, for the public set; README.md beside it explains it."""

SAMPLE = 16
"""So many pictures are looked at, at most, to tell the public set from others."""

Calibration = dict[Key, tuple[float, float]]
_COLUMNS: Any = {"patient": "str", "nodule": int, "slice": int, "source": "str"}
_COLUMNS |= {"slope": float, "intercept": float}


def find_intensity(archive: Archive) -> tuple[Path | None, Calibration]:
    """The table for a set: its path and what it holds; a warning says what a user should know."""
    path = archive.path
    beside = [folder / INTENSITY_NAME for folder in (path, path.parent)]
    own = next((file for file in beside if file.is_file()), None)
    shipped = read_intensity(TABLE) if _is_public(archive) else {}
    if own is None:
        if not shipped:
            logger.warning(
                "there is no %s beside %s, and its pictures are not those that the table of "
                "lesionlab is for: no slice has values in HU, and Crop.calibrated is False",
                INTENSITY_NAME,
                path,
            )
        return TABLE if shipped else None, shipped
    table = read_intensity(own)
    if table.keys().isdisjoint(archive.names):
        raise SlicesError(f"{own} has HU for no slice of {path}: expected the table of this set")
    n = sum(table.get(key) != shipped.get(key) for key in table.keys() | shipped.keys())
    if shipped and n:
        logger.warning("%s is used; on %d slices it differs from lesionlab's own table", own, n)
    return own, table


def read_intensity(path: Path) -> Calibration:
    """Slope and intercept of every slice that has them; rows of source `none` are passed over."""
    try:
        table = pd.read_csv(path, usecols=list(_COLUMNS), dtype=_COLUMNS)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise SlicesError(f"{path} cannot be read as a CSV table: {error}") from error
    table = table[table["source"].fillna("none") != "none"]
    good = (table["slope"] > 0) & np.isfinite(table["slope"]) & np.isfinite(table["intercept"])
    good &= ~table.duplicated(["patient", "nodule", "slice"])
    if not good.all():
        raise SlicesError(
            f"{path}, line {int(good.idxmin()) + 2}: expected a slice that stands in one row only, "
            "and a slope above 0 with a finite intercept, or source none"
        )
    columns = ["patient", "nodule", "slice", "slope", "intercept"]
    return {
        Key(patient, nodule, IMAGES, number): (slope, intercept)
        for patient, nodule, number, slope, intercept in table[columns].itertuples(index=False)
    }


def _is_public(archive: Archive) -> bool:
    """Whether a sample of the pictures is what the table of lesionlab was measured on.

    Another set in the same folders, scaled in another way, would get wrong HU from it.
    """
    table = pd.read_csv(TABLE, dtype={"crc32": "str"}).dropna(subset="crc32")
    crc32 = {
        Key(p, int(k), IMAGES, int(s)): int(crc, 16)
        for p, k, s, crc in table[["patient", "nodule", "slice", "crc32"]].itertuples(index=False)
    }
    common = [key for key in crc32 if key in archive.names]
    equal = []
    for key in common[:: 1 + len(common) // SAMPLE]:
        try:
            equal.append(zlib.crc32(archive.read(key).tobytes()) == crc32[key])
        except SlicesError:
            continue  # a broken picture says nothing
    return bool(equal) and all(equal)


def is_offset(slope: float, intercept: float, floor: int) -> bool:
    """Whether a row of the table gives stored values, 1024 above HU, instead of HU.

    Scanners store HU + 1024 and a lower number outside the field of view. Where such padding is
    in the picture, some rows take it for air. Padding then stands apart: it is below −800 and the
    next denser pixel, `floor` (0 if there is none), above −350, denser than any lung, though lung
    surrounds the nodule. In the public set this holds for 662 of 15,229 slices; on the others that
    pixel is below −685 and on these above −70, so the limit does not matter.
    """
    return floor > 0 and intercept <= -800 and slope * floor + intercept >= -350
