"""Crops of LIDC lesions out of whole scans: slices matched by z, masks put in their place."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lesionlab import _names
from lesionlab.crops import Crop, Tier
from lesionlab.sources import lidc
from lesionlab.sources.dicom._files import (
    AIR,
    INT16,
    BadFileError,
    DicomError,
    Header,
    Pixels,
    Slice,
    quiet,
    read_pixels,
)
from lesionlab.sources.dicom._series import (
    arrange,
    files_below,
    find_series,
    following,
    select,
)
from lesionlab.sources.lidc import LesionMasks

logger = logging.getLogger(__name__)

SIZE = 512  # rows and columns of all scans of LIDC-IDRI
SEARCHED = 200
MAX_OFF = 0.1  # mm that a slice may lie off the database's z; also at most a fifth of the step


@dataclass
class Scan:
    """A scan that is open: its slices beside their files."""

    series_uid: str
    z: npt.NDArray[np.float64]  # (slice,) positions, mm; for LIDC those in the database
    files: dict[int, Slice]  # by index of the slice
    folder: Path
    notes: tuple[str, ...] = ()  # files that were excluded, and what else was odd

    def __post_init__(self) -> None:
        self.read = cache(read_pixels)  # several lesions show a slice, and it is decoded once

    def plane(self, k: int) -> Pixels:
        """The pixels of slice `k`."""
        if k not in self.files:
            told = f"{self.folder}: no slice at z = {self.z[k]:g} mm"
            raise DicomError(following(told, self.notes))
        return self.read(self.files[k].path)


def check_margin(size: int, margin_mm: float) -> None:
    """Refuse a size or margin of a crop that cannot be."""
    _names.whole(1, size=size)
    if not 0 <= margin_mm < np.inf:
        raise ValueError(f"margin_mm={margin_mm!r}: expected mm from 0")


def cut_out(
    lesion_id: str, masks: LesionMasks, scan: Scan, *, size: int, margin_mm: float, tier: Tier
) -> Crop:
    """The crop of a lesion of a scan that is open, as `Dicom.crop`; `tier` that of real scans."""
    drawn = np.argwhere(masks.readers.any(axis=0)) + masks.origin
    if not len(drawn):
        raise ValueError(f"{lesion_id}: no voxel lies inside its readers' outlines")
    first, end = drawn.min(axis=0), drawn.max(axis=0) + 1
    if (widest := (end - first)[1:].max()) > size:
        raise ValueError(f"size={size}: the outlines of {lesion_id} are {widest} pixels wide")
    y, x = ((first + end) // 2 - size // 2)[1:].tolist()
    low, high = scan.z[first[0]] - margin_mm - 1e-6, scan.z[end[0] - 1] + margin_mm + 1e-6
    planes: dict[int, Pixels] = {}
    missing: list[DicomError] = []
    for k in np.flatnonzero((scan.z >= low) & (scan.z <= high)).tolist():
        try:
            planes[k] = scan.plane(k)
        except DicomError as error:
            if first[0] <= k < end[0]:
                raise
            missing.append(error)
    if missing:
        n, of = len(missing), len(missing) + len(planes)
        told = "%s: %d of %d slices are left out, all of the margin; the first: %s"
        logger.warning(told, lesion_id, n, of, missing[0])
    slices = np.array(list(planes), dtype=np.int64)
    rows, columns = (slice(size + c, 2 * size + c) for c in (y, x))  # with a border of air
    wide = [np.pad(pixels.hu, size, constant_values=AIR) for pixels in planes.values()]
    hu = np.rint([plane[rows, columns] for plane in wide]).clip(*INT16)
    return Crop(
        lesion_id=lesion_id,
        hu=hu.astype(np.int16),
        masks=masks.window(slices, (y, x), size),
        spacing=masks.spacing,
        slice_index=slices,
        corner=(y, x),
        steps=np.array([0 if pixels.is_hu else -1 for pixels in planes.values()]),
        tier="phantom" if all(s.synthetic for s in scan.files.values()) else tier,
    )


def holds_lidc(root: Path) -> bool:
    """Whether one of the first `SEARCHED` folders with files has a scan of LIDC-IDRI."""
    known = set(lidc.scans()["series_uid"])
    for _, files in islice(files_below(root), SEARCHED):
        with suppress(BadFileError), quiet():
            if Header(files[0], ["SeriesInstanceUID"]).uid("SeriesInstanceUID") in known:
                return True
    return False


class Dicom:
    """The scans of LIDC-IDRI that lie in a tree of folders.

    An instance can be sent to other processes, so that `lesionlab.crops.stores.build` can cut many
    lesions with `crop`. It keeps the scan of the last lesion: ask for lesions scan by scan.

    Args:
        root: Any folder above the scans, in whatever layout they were downloaded; searched by
            `find_series`, which reads the headers of few files.
        progress: Show a bar while searching.
    """

    def __init__(self, root: str | Path, *, progress: bool = True) -> None:
        self.root = Path(root)
        self.series = find_series(root, progress=progress)  # all, of LIDC-IDRI or not
        self._last: Scan | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}

    def report(self) -> pd.DataFrame:
        """What matched and what did not, one row per scan of the database.

        Returns:
            Index `scan_id`; `patient`, `series_uid`, `n_lesions`, `n_slices` in the database,
            `n_files` found, `path` under the root, `synthetic` (a phantom under the scan's UIDs),
            and `status`: "found", "slices missing" (fewer files than slices) or "not found".
        """
        report = lidc.scans()[["patient", "series_uid"]]
        n_slices = {scan_id: len(z) for scan_id, z in lidc.default().database.slice_z.items()}
        report["n_lesions"] = lidc.nodules()["scan_id"].value_counts()
        report["n_slices"] = pd.Series(n_slices)
        found = self.series.set_index("series_uid")[["n_files", "path", "synthetic"]]
        report = report.join(found, on="series_uid").fillna({"path": ""})
        report["synthetic"] = report["synthetic"].eq(True)
        counts = ["n_lesions", "n_slices", "n_files"]
        report[counts] = report[counts].fillna(0).astype(int)
        some = np.where(report["n_files"] < report["n_slices"], "slices missing", "found")
        report["status"] = np.where(report["n_files"] == 0, "not found", some)
        return report

    def crop(self, lesion_id: str, *, size: int = 128, margin_mm: float = 12.0) -> Crop:
        """Cut one lesion out of its scan, in HU, with its readers' masks in place.

        Slices are those of the database, matched to files by z to within 0.1 mm. The crop's `tier`
        is "phantom" where `write_series` wrote the scan.

        Args:
            lesion_id: Which nodule.
            size: Rows and columns, around the middle of the readers' outlines. Outside the scan
                there is air, −1024 HU.
            margin_mm: Slices up to that far below and above the outlines are taken along, as far
                as the scan reaches. One that is missing there is left out, with a logged warning,
                and shows as a step in `Crop.slice_index`.

        Raises:
            LookupError: No nodule has that id.
            ValueError: The lesion is larger than `size`, or has no voxel.
            DicomError: The lesion's series was not found or is not the scan of the database, or
                one of its own slices is missing or bad.
        """
        check_margin(size, margin_mm)
        scan = self.scan(lesion_id)
        masks = lidc.masks(lesion_id)
        return cut_out(lesion_id, masks, scan, size=size, margin_mm=margin_mm, tier="dicom")

    def scan(self, lesion_id: str) -> Scan:
        """The scan of a lesion, open; errors as of `crop`."""
        nodule = lidc.default().nodule(lesion_id)
        return self.open_scan(int(nodule["scan_id"]), nodule["series_uid"])

    def open_scan(self, scan_id: int, series_uid: str) -> Scan:
        """Match the files of a series to a scan of the database by z; the last one is kept."""
        if self._last and self._last.series_uid == series_uid:
            return self._last
        self._last = None  # it goes first, so that two scans are never held
        places = self.series["places"][self.series["series_uid"] == series_uid]
        if places.empty:
            told = f"its series {series_uid} is not under {self.root}"
            raise DicomError(following(told, self._excluded()))
        slices, notes = select(places.iloc[0], series_uid, strict=False)
        slices, direction, positions, _, _ = arrange(slices, strict=False)
        first = slices[0]
        folder, database = first.path.parent, lidc.default().database
        expected = database.scans["pixel_spacing"][scan_id]
        if abs(direction[2, 2]) <= math.cos(math.radians(0.1)):
            raise DicomError(f"{folder}: slices are not axial, and those of LIDC-IDRI are")
        if first.shape != (SIZE, SIZE):
            raise DicomError(f"{folder}: slices are {first.shape} pixels, expected {SIZE} × {SIZE}")
        if max(abs(s - expected) for s in first.pixel_spacing) > 1e-3:
            raise DicomError(
                f"{folder}: PixelSpacing is {first.pixel_spacing} mm, expected {expected:g} as in "
                "the database"
            )
        z = database.slice_z[scan_id]
        step = np.median(np.diff(z)) if len(z) > 1 else np.inf
        away = np.abs(positions - z[:, None])  # (slice of the database, file)
        matched = np.flatnonzero(away.min(axis=1) <= min(MAX_OFF, step / 5))
        if not len(matched):
            raise DicomError(
                f"{folder}: slices from z = {positions[0]:g} to {positions[-1]:g} mm, none where "
                f"the database has one ({z[0]:g} to {z[-1]:g} mm)"
            )
        files = {k: slices[away[k].argmin()] for k in matched.tolist()}
        folders = {str(s.path.parent) for s in slices}
        notes += self._excluded(folders)
        self._last = Scan(series_uid, z, files, folder, tuple(notes))
        return self._last

    def _excluded(self, folders: Container[str] | None = None) -> list[str]:
        """The files, of these folders or of all, that were no DICOM files when searching."""
        excluded = self.series.attrs["excluded"]
        inside = (e for e in excluded if folders is None or os.path.dirname(e[0]) in folders)
        return [f"excluded {path}: {why}" for path, why in inside]
