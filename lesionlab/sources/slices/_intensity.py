"""Which table puts a slices set back into HU: the user's, or the one that comes with lesionlab."""

from __future__ import annotations

import contextlib
import zlib
from functools import cache
from pathlib import Path

import pandas as pd

from lesionlab.sources.slices._archive import IMAGES, Archive, Key, PictureError, existing_path
from lesionlab.sources.slices._tables import Calibration, read_intensity

ENVIRONMENT_INTENSITY = "LESIONLAB_LIDC_SLICES_INTENSITY"
INTENSITY_NAME = "lidc-idri-slices-intensity.csv"

TABLE = Path(__file__).parents[1] / "tables" / f"{INTENSITY_NAME}.gz"
"""The table that comes with lesionlab, for the public set; README.md beside it explains it."""

SAMPLE = 16
"""So many pictures are looked at, at most, to tell the public set from others."""


def find_intensity(
    archive: Archive, given: str | Path | None = None
) -> tuple[Path | None, Calibration, str]:
    """The table for a set: its path, what it holds, and what a user should know of it or ""."""
    own = existing_path("intensity", given, ENVIRONMENT_INTENSITY, f"a table like {INTENSITY_NAME}")
    path = archive.path
    if own is None:
        beside = [folder / INTENSITY_NAME for folder in (path, path.parent)]
        own = next((file for file in beside if file.is_file()), None)
    shipped = read_intensity(TABLE) if _is_public(archive) else {}
    if own is None:
        remark = (
            f"there is no {INTENSITY_NAME} beside {path}, and its pictures are not those that the "
            "table of lesionlab is for: no slice has values in HU, and Crop.calibrated is False"
        )
        return (TABLE, shipped, "") if shipped else (None, {}, remark)
    table = read_intensity(own)
    n = sum(table.get(key) != shipped.get(key) for key in table.keys() | shipped.keys())
    remark = f"{own} is used; on {n:,} slices it differs from the table that comes with lesionlab"
    return own, table, remark if shipped and n else ""


def _is_public(archive: Archive) -> bool:
    """Whether a sample of its pictures is what the table of lesionlab was measured on.

    Other sets in the same folders may be scaled in another way and would get wrong HU.
    """
    known = _checksums(TABLE)
    common = [key for key in known if key in archive.names]
    equal = []
    for key in common[:: 1 + len(common) // SAMPLE]:
        with contextlib.suppress(PictureError):  # a broken picture says nothing
            equal.append(zlib.crc32(archive.read(key).tobytes()) == known[key])
    return bool(equal) and all(equal)


@cache
def _checksums(path: Path) -> dict[Key, int]:
    """CRC-32 of the pictures for which the table has one."""
    table = pd.read_csv(path, dtype={"crc32": "str"}).dropna(subset="crc32")
    rows = zip(table["patient"], table["nodule"], table["slice"], table["crc32"], strict=True)
    return {Key(p, int(k), IMAGES, int(s)): int(crc, 16) for p, k, s, crc in rows}
