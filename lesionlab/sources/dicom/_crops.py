"""Crops of LIDC lesions out of whole scans: slices matched by z, masks put in their place."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lesionlab.crops import Crop
from lesionlab.sources.dicom._files import AIR, BadFileError, DicomError, read_pixels
from lesionlab.sources.dicom._series import FloatArray, Series, arrange, list_files, select
from lesionlab.sources.dicom._tree import Located
from lesionlab.sources.lidc import LesionMasks, Lidc
from lesionlab.sources.lidc._windows import overlap, place, slices_around

logger = logging.getLogger(__name__)

IntArray = npt.NDArray[np.int64]
Plane = tuple[npt.NDArray[np.int16], bool]
"""One slice in HU, and whether the values are known to be HU."""

MAX_OFF = 0.1
"""mm that a slice may lie off the database's z; also at most a fifth of the step."""


@dataclass
class Scan:
    """One scan of the database beside its files."""

    z: FloatArray  # (slice,) positions in the database, mm
    series: Series  # the files' headers in order
    file_of: IntArray  # (slice,) position in `series.slices`, -1 where no file lies there
    planes: dict[int, Plane | BadFileError] = field(default_factory=dict)  # decoded so far

    @property
    def where(self) -> Path:
        """Folder of the files, for messages."""
        return self.series.slices[0].path.parent

    def plane(self, k: int) -> Plane:
        """Decode slice `k` of the database, once; DicomError if there is none or it is bad."""
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
    """Match the files of a series to a scan of the database, slice by slice."""
    about: dict[Any, Any] = lidc.database.scans.loc[scan_id].to_dict()
    files = [file for folder_or_file in located.places for file in list_files(folder_or_file)]
    series = arrange(select(files, about["series_uid"], strict=False)[0], strict=False)
    where = series.slices[0].path.parent
    if abs(series.direction[2, 2]) <= math.cos(math.radians(0.1)):  # a tenth of a degree
        raise DicomError(f"{where}: slices are not axial, and those of LIDC-IDRI are")
    if max(abs(s - about["pixel_spacing"]) for s in series.spacing[1:]) > 1e-3:
        raise DicomError(
            f"{where}: PixelSpacing is {series.spacing[1]:g}, {series.spacing[2]:g} mm, "
            f"expected {about['pixel_spacing']:g} as in the database"
        )
    z, found = lidc.database.slice_z[scan_id], series.positions
    step = np.median(np.diff(z)) if len(z) > 1 else np.inf
    nearest = np.abs(found - z[:, None]).argmin(axis=1)
    near = np.abs(found[nearest] - z) <= min(MAX_OFF, step / 5)
    if not near.any():
        raise DicomError(
            f"{where}: slices from z = {found[0]:g} to {found[-1]:g} mm, none where the database "
            f"has one ({z[0]:g} to {z[-1]:g} mm)"
        )
    return Scan(z, series, np.where(near, nearest, -1))


@dataclass(frozen=True)
class Frame:
    """A box of voxels in a scan."""

    slices: IntArray  # (slice,) indices in the scan, ascending
    lesion: range  # the indices from the lowest to the highest voxel of the lesion
    corner: tuple[int, int]  # (y, x) index in the scan of the first row and column


def frame(
    masks: LesionMasks, centre: float, z: FloatArray, *, size: int, margin_mm: float | None
) -> Frame:
    """Where `Dicom.crop` cuts a lesion out of its scan, whose slices lie at `z`, mm.

    `centre` is the slice index of the lesion's centre, with a fraction: `z` of `lidc.nodules`.
    """
    where = np.argwhere(masks.readers.any(axis=0)) + masks.origin
    if not len(where):
        raise DicomError(f"{masks.lesion_id}: no voxel lies inside its readers' outlines")
    low, end = where.min(axis=0), where.max(axis=0) + 1
    height, width = end[1:] - low[1:]
    if max(height, width) > size:
        raise DicomError(
            f"{masks.lesion_id}: its readers' outlines span {height} × {width} pixels, more than "
            f"size={size}"
        )
    if margin_mm is None:
        slices = slices_around(int(low[0]), int(end[0]), centre, masks.spacing[0], len(z))
    else:
        near = (z >= z[low[0]] - margin_mm - 1e-6) & (z <= z[end[0] - 1] + margin_mm + 1e-6)
        slices = np.flatnonzero(near).astype(np.int64)
    y, x = ((low + end) // 2 - size // 2)[1:].tolist()
    return Frame(slices, range(int(low[0]), int(end[0])), (y, x))


def cut(scan: Scan, masks: LesionMasks, wanted: Frame, size: int) -> Crop:
    """Cut one lesion out of its scan; see `Dicom.crop`."""
    lesion_id = masks.lesion_id
    shape = scan.series.slices[0].shape
    _, y, x = np.argwhere(masks.readers.any(axis=0)).max(axis=0) + masks.origin
    if y >= shape[0] or x >= shape[1]:
        raise DicomError(
            f"{scan.where}: slices of {shape[0]} × {shape[1]} pixels do not reach {lesion_id}, "
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
    inside, there = overlap(wanted.corner, size, shape)
    hu = np.full((len(index), size, size), AIR, dtype=np.int16)
    hu[:, *inside] = [plane[there] for plane, _ in planes.values()]
    return Crop(
        lesion_id=lesion_id,
        hu=hu,
        masks=place(masks, index, wanted.corner, size),
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
        self, lidc: Lidc, found: dict[str, Located], root: Path, size: int, margin_mm: float | None
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 512:
            raise ValueError(f"size={size!r}: expected a whole number of pixels, 1 to 512")
        if margin_mm is not None and not 0 <= margin_mm < np.inf:
            raise ValueError(f"margin_mm={margin_mm!r}: expected mm from 0, or None")
        self.size, self.margin_mm, self.root, self.lidc = size, margin_mm, root, lidc
        self._nodules = lidc.nodules()[["scan_id", "series_uid", "z"]]
        wanted = set(self._nodules["series_uid"])
        self._located = {uid: place for uid, place in found.items() if uid in wanted}
        self._scan: tuple[int, Scan | DicomError] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_scan": None}

    def __call__(self, lesion_id: str) -> Crop:
        """Cut one lesion; see `Dicom.crop`."""
        if lesion_id not in self._nodules.index:
            example = next(iter(self._nodules.index), "none")
            raise LookupError(f"no nodule has the lesion_id {lesion_id!r}; ids look like {example}")
        nodule: Any = self._nodules.loc[lesion_id]
        scan_id, uid = int(nodule["scan_id"]), nodule["series_uid"]
        if uid not in self._located:
            raise DicomError(f"{lesion_id}: its series {uid} is not under {self.root}")
        scan = self._open(scan_id, self._located[uid])
        if isinstance(scan, DicomError):
            raise DicomError(f"{lesion_id}: {scan}")
        masks = self.lidc.masks(lesion_id)
        wanted = frame(masks, nodule["z"], scan.z, size=self.size, margin_mm=self.margin_mm)
        return cut(scan, masks, wanted, self.size)

    def _open(self, scan_id: int, located: Located) -> Scan | DicomError:
        if self._scan is None or self._scan[0] != scan_id:
            self._scan = None  # the scan before goes first, so that two are never held
            try:
                self._scan = scan_id, open_scan(self.lidc, scan_id, located)
            except DicomError as error:
                self._scan = scan_id, error
        return self._scan[1]
