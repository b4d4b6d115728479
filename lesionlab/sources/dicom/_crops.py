"""Crops of LIDC lesions out of whole scans: slices matched by z, masks put in their place."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lesionlab.crops import Crop
from lesionlab.sources.dicom._files import BadFileError, DicomError
from lesionlab.sources.dicom._frame import Frame, frame
from lesionlab.sources.dicom._order import Series
from lesionlab.sources.dicom._pixels import read_pixels
from lesionlab.sources.dicom._series import index_series, list_files
from lesionlab.sources.dicom._tree import Located
from lesionlab.sources.lidc import LesionMasks, Lidc, default
from lesionlab.sources.lidc._database import FloatArray, IntArray

logger = logging.getLogger(__name__)

MAX_OFF = 0.1
"""mm that a slice may lie off the database's z; also at most a fifth of the step."""

Plane = tuple[npt.NDArray[np.int16], bool]
"""One slice in HU, and whether the values are known to be HU."""


@dataclass
class Scan:
    """One scan of the database beside its files.

    Attributes:
        scan_id: In the database.
        z: (slice,) positions in the database, mm.
        series: The files' headers in order.
        file_of: (slice,) position in `series.slices`, -1 where no file lies there.
        planes: Slices that were decoded, or why they cannot be.
    """

    scan_id: int
    z: FloatArray
    series: Series
    file_of: IntArray
    planes: dict[int, Plane | BadFileError] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Folder of the files, for messages."""
        return str(self.series.slices[0].path.parent)

    def plane(self, k: int) -> Plane:
        """Decode slice `k` of the database, once.

        Raises:
            DicomError: There is no such file, or it is bad.
        """
        if self.file_of[k] < 0:
            raise DicomError(f"{self.where}: no slice at z = {self.z[k]:g} mm")
        if k not in self.planes:
            try:
                pixels = read_pixels(self.series.slices[self.file_of[k]].path)
            except BadFileError as error:
                self.planes[k] = error
            else:
                limits = np.iinfo(np.int16)
                hu = np.rint(pixels.hu).clip(limits.min, limits.max).astype(np.int16)
                self.planes[k] = hu, pixels.is_hu
        found = self.planes[k]
        if isinstance(found, BadFileError):
            raise found
        return found


def open_scan(lidc: Lidc, scan_id: int, located: Located) -> Scan:
    """Match the files of a series to a scan of the database, slice by slice.

    Raises:
        DicomError: The series cannot be read, is not axial, or is not the scan: its pixel
            spacing differs, or none of its slices lies where the database has one.
    """
    about: dict[Any, Any] = lidc.database.scans.loc[scan_id].to_dict()
    files = list(located.files)
    for folder in located.folders:
        files += list_files(folder)[0]
    series = index_series(
        files, series_uid=about["series_uid"], on_gap="warn", on_bad_file="exclude"
    )
    where = series.slices[0].path.parent
    if not series.is_axial:
        raise DicomError(f"{where}: slices are not axial, and those of LIDC-IDRI are")
    if max(abs(s - about["pixel_spacing"]) for s in series.spacing[1:]) > 1e-3:
        raise DicomError(
            f"{where}: PixelSpacing is {series.spacing[1]:g}, {series.spacing[2]:g} mm, "
            f"expected {about['pixel_spacing']:g} as in the database"
        )
    z = lidc.database.slice_z[scan_id]
    file_of = _match(z, series.positions)
    if (file_of < 0).all():
        raise DicomError(
            f"{where}: slices from z = {series.positions[0]:g} to {series.positions[-1]:g} mm, "
            f"none where the database has one ({z[0]:g} to {z[-1]:g} mm)"
        )
    return Scan(scan_id, z, series, file_of)


def _match(wanted: FloatArray, found: FloatArray) -> IntArray:
    """Index of the position found at each one wanted, or -1."""
    step = np.median(np.diff(wanted)) if len(wanted) > 1 else np.inf
    above = np.searchsorted(found, wanted).clip(1, max(len(found) - 1, 1)).clip(max=len(found) - 1)
    below = (above - 1).clip(0)
    nearest = np.where(np.abs(found[above] - wanted) < np.abs(found[below] - wanted), above, below)
    near = np.abs(found[nearest] - wanted) <= min(MAX_OFF, step / 5)
    return np.where(near, nearest, -1).astype(np.int64)


def cut(scan: Scan, masks: LesionMasks, wanted: Frame) -> Crop:
    """Cut one lesion out of its scan; see `Dicom.crop`.

    Raises:
        DicomError: A slice of the lesion is missing or bad, or slices do not reach it.
    """
    lesion_id = masks.lesion_id
    rows, columns = scan.series.slices[0].shape
    _, y, x = np.argwhere(masks.readers.any(axis=0)).max(axis=0) + masks.origin
    if y >= rows or x >= columns:
        raise DicomError(
            f"{scan.where}: slices of {rows} × {columns} pixels do not reach {lesion_id}, "
            f"whose outlines end at row {y}, column {x}"
        )
    planes: dict[int, Plane] = {}
    for k in wanted.slices.tolist():
        try:
            planes[k] = scan.plane(k)
        except DicomError as error:
            if k in wanted.lesion:
                raise DicomError(f"{lesion_id}: {error}") from None
            logger.warning("%s: a slice of its margin is left out: %s", lesion_id, error)
    index = np.array(list(planes), dtype=np.int64)
    return Crop(
        lesion_id=lesion_id,
        hu=np.stack([wanted.window(plane) for plane, _ in planes.values()]),
        masks=wanted.place(masks, index),
        spacing=masks.spacing,
        slice_index=index,
        corner=wanted.corner,
        calibrated=np.array([is_hu for _, is_hu in planes.values()]),
        tier="phantom" if all(s.synthetic for s in scan.series.slices) else "dicom",
    )


class CropMaker:
    """`lesion_id` to `Crop`, in this process or another one: what `Dicom.maker` gives.

    Keeps the scan of the lesion before, so lesions are best asked for scan by scan.
    """

    def __init__(
        self,
        lidc: Lidc,
        located: dict[str, Located],
        root: Path,
        *,
        size: int = 128,
        margin_mm: float | None = None,
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 512:
            raise ValueError(f"size={size!r}: expected a whole number of pixels, 1 to 512")
        if margin_mm is not None and not 0 <= margin_mm < np.inf:
            raise ValueError(f"margin_mm={margin_mm!r}: expected mm from 0, or None")
        self.size, self.margin_mm, self.root = size, margin_mm, root
        nodules = lidc.nodules()
        scans = zip(nodules["scan_id"].tolist(), nodules["series_uid"].tolist(), strict=True)
        self._scan_of: dict[str, tuple[int, str]] = dict(zip(nodules.index, scans, strict=True))
        self._centre: dict[str, float] = dict(zip(nodules.index, nodules["z"], strict=True))
        wanted = set(nodules["series_uid"])
        self._located = {uid: place for uid, place in located.items() if uid in wanted}
        self._database = (lidc.path, lidc._cache)
        self._lidc: Lidc | None = lidc
        self._scan: Scan | DicomError | None = None
        self._scan_id = -1

    def __getstate__(self) -> dict[str, Any]:
        # the database is opened again where this arrives: 28 MB for each task would be slower
        return self.__dict__ | {"_lidc": None, "_scan": None, "_scan_id": -1}

    @property
    def lidc(self) -> Lidc:
        """The database, opened once per process."""
        if self._lidc is None:
            path, cache = self._database
            usual = default()
            self._lidc = (
                usual
                if path == usual.path
                else Lidc(path, cache_folder=cache, use_cache=cache is not None, allow_altered=True)
            )
        return self._lidc

    def scan_id(self, lesion_id: str) -> int:
        """The scan of a lesion.

        Raises:
            LookupError: No nodule has that id.
        """
        if lesion_id not in self._scan_of:
            example = next(iter(self._scan_of), "none")
            raise LookupError(f"no nodule has the lesion_id {lesion_id!r}; ids look like {example}")
        return self._scan_of[lesion_id][0]

    def __call__(self, lesion_id: str) -> Crop:
        """Cut one lesion; see `Dicom.crop`."""
        scan_id = self.scan_id(lesion_id)
        uid = self._scan_of[lesion_id][1]
        if uid not in self._located:
            raise DicomError(f"{lesion_id}: its series {uid} is not under {self.root}")
        if scan_id != self._scan_id:
            self._scan = None  # the scan before goes first, so that two are never held
            try:
                self._scan = open_scan(self.lidc, scan_id, self._located[uid])
            except DicomError as error:
                self._scan = error
            self._scan_id = scan_id
        if isinstance(self._scan, DicomError):
            raise DicomError(f"{lesion_id}: {self._scan}")
        assert self._scan is not None  # noqa: S101 - for mypy
        masks = self.lidc.masks(lesion_id)
        wanted = frame(
            masks,
            self._centre[lesion_id],
            self._scan.z,
            size=self.size,
            margin_mm=self.margin_mm,
        )
        return cut(self._scan, masks, wanted)

    def try_all(self, lesion_ids: list[str]) -> list[Crop | tuple[str, str]]:
        """Cut several lesions; the id and the reason in place of one that cannot be cut."""
        made: list[Crop | tuple[str, str]] = []
        for lesion_id in lesion_ids:
            try:
                made.append(self(lesion_id))
            except DicomError as error:
                made.append((lesion_id, str(error)))
        return made


_maker: CropMaker


def start(maker: CropMaker) -> None:
    """Keep a maker in this process, so that it is sent once and not with every task."""
    global _maker
    _maker = maker


def try_all_here(lesion_ids: list[str]) -> list[Crop | tuple[str, str]]:
    """`CropMaker.try_all` of the maker that `start` was given."""
    return _maker.try_all(lesion_ids)
