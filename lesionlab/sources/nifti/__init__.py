"""Cases as 3D Slicer leaves them, an image and a mask each: the data set of Wang 2021 (3.1).

    labels.csv                  case,patient,image,mask,pathology
    GGN-0001.nii.gz             the CT in HU, NIfTI or NRRD
    GGN-0001-label.nii.gz       the nodule in it, on the same voxels

    from lesionlab.sources.nifti import Nifti
    source = Nifti("my-cases")             # or LESIONLAB_NIFTI
    source.lesions()                       # a row for each case
    source.exclusions()                    # what was left out, with file, key and reason
    source.crop("GGN-0001")

The paper converts what was outlined in 3D Slicer to NIfTI, and gives each nodule one of the labels
AAH, AIS, MIA and IAC; it names no files. Here they lie anywhere in the folder, and the table says
which belong together. Several masks of one case, joined by `;`, are those of several readers. An
empty `pathology` is not known, and where there is no `patient` each case is one.

Axes of a file may run in any order and direction; crops have them as `(z, y, x)`, towards head,
back and left, and what is written of a case has its file's again. A scan that is rotated against
the patient is refused, as resampling it would change its HU.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage

from lesionlab import _files as files
from lesionlab.crops import Crop, Tier
from lesionlab.sources import _own, origins
from lesionlab.sources._own import Fault, Record
from lesionlab.sources.dicom._files import INT16
from lesionlab.sources.dicom._lidc import check_margin
from lesionlab.sources.nifti._files import BadVolumeError, check, read_volume
from lesionlab.sources.nifti._files import Grid as Grid
from lesionlab.sources.nifti._files import NiftiError as NiftiError
from lesionlab.sources.nifti._files import write_volume as write_volume
from lesionlab.sources.phantom.wang2021 import TYPES

LABELS = "labels.csv"
COLUMNS = ("case", "image", "mask", "pathology")
"""Columns of `labels.csv`, besides `patient`, which may be absent; further ones are passed over."""

CASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME = re.compile(r"(?:[\w-][\w .-]{0,59}/){0,8}[\w-][\w .-]{0,59}\.(?:nii|nii\.gz|nrrd)")
MISSING = (
    f"{origins.NIFTI} is not set: expected a folder of your own with images, masks and {LABELS}; "
    f"to see one: lesionlab data export nifti FOLDER, then export {origins.NIFTI}=FOLDER"
)

Cells = dict[str, str]  # of a line of the table


class Case(NamedTuple):
    """One case, read."""

    hu: npt.NDArray[np.int16]  # (z, y, x)
    masks: npt.NDArray[np.bool_]  # (reader, z, y, x)
    grid: Grid
    synthetic: bool


class Nifti:
    """A folder of cases, opened.

    Every file is read and checked once; what it said is kept in the cache folder, case by case, so
    that an interrupted reading goes on where it ended. An instance can be sent to other processes.

    Args:
        root: The folder with `labels.csv`; if None, what `LESIONLAB_NIFTI` names.
        processes: How many read files; follows from the number of cases if None.
        progress: Show a bar where there are many cases.

    Raises:
        FileNotFoundError: There is no such folder, or none is named.
        NiftiError: The table cannot be read.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        processes: int | None = None,
        progress: bool = True,
    ) -> None:
        self.root = _own.folder(origins.NIFTI, root, MISSING, LABELS)
        self._faults: list[Fault] = []
        self._cells = dict(_table(self.root / LABELS, self._faults))
        keys = {case: _key(self.root, cells) for case, cells in self._cells.items()}
        work = partial(read_case, self.root)
        self._records = _own.records(
            "nifti", self._cells, keys, work, processes=processes, progress=progress
        )
        self._rows: dict[str, dict[str, Any]] = {}
        for case, record in self._records.items():
            self._faults += [Fault(*fault) for fault in record["faults"]]
            if not record["faults"]:
                cells = self._cells[case]
                patient = cells.get("patient") or case
                row = {"patient": patient, "scan_id": case}
                self._rows[case] = row | {"pathology": cells["pathology"] or None} | record["row"]

    def lesions(self) -> pd.DataFrame:
        """One row per case that can be used, index `lesion_id`, the case's name.

        Returns:
            - `patient`, `scan_id` (the case's name again), `pathology` (missing where not known);
            - `n_readers`, how many masks there are, and of the voxels that half of them include:
              `diameter`, larger side in plane, and `equivalent_diameter`, of a ball of their
              volume, mm; `z`, `y`, `x`, voxel index of their centre of gravity; `n_slices`;
            - `slice_spacing`, `slice_thickness` (taken to be the same), `pixel_spacing`, mm.
        """
        if not self._rows:
            told = "; ".join(map(str, self._faults[:2]))
            raise NiftiError(
                f"{self.root}: no case can be used; {len(self._faults):,} faults: {told}"
            )
        index = pd.Index(list(self._rows), name="lesion_id")
        return pd.DataFrame(list(self._rows.values()), index=index)

    def exclusions(self) -> pd.DataFrame:
        """What was left out: `path` below the root, `key`, `reason`."""
        return pd.DataFrame(self._faults, columns=list(Fault._fields))

    @property
    def tier(self) -> Tier:
        """`phantom` where lesionlab wrote all cases that can be used, of phantoms; else `nifti`."""
        used = [self._records[case]["synthetic"] for case in self._rows]
        return "phantom" if used and all(used) else "nifti"

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of names, sizes and times of the files, and of the cases as they were read."""
        keys = sorted(record["key"] for record in self._records.values())
        return hashlib.sha256(repr((keys, self._rows)).encode()).hexdigest()

    def crop(self, lesion_id: str, *, size: int = 128, margin_mm: float = 20.0) -> Crop:
        """Cut one nodule out of its image, in HU, with a mask for each reader.

        Args:
            lesion_id: Which case.
            size: Rows and columns; more where the nodule is larger, fewer where the image ends:
                what lies beyond is not made up.
            margin_mm: Slices up to that far below and above the masks are taken along.

        Raises:
            LookupError: No case has that name, or it cannot be used.
            NiftiError: A file was changed, and cannot be read any more.
        """
        check_margin(size, margin_mm)
        if lesion_id not in self._rows:
            raise LookupError(f"no case that can be used is called {lesion_id!r}")
        faults: list[Fault] = []
        case = load(self.root, self._cells[lesion_id], faults)
        if case is None:
            raise NiftiError(f"{self.root}: {faults[0]}")
        drawn = np.argwhere(case.masks.any(axis=0))
        first, end = drawn.min(axis=0), drawn.max(axis=0) + 1
        around = np.maximum(size - (end - first), 0)
        around[0] = 2 * int((margin_mm + 1e-6) / case.grid.spacing[0])
        low = np.maximum(first - around // 2, 0)
        high = np.minimum(end + (around + 1) // 2, case.hu.shape)
        window = tuple(slice(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True))
        return Crop(
            lesion_id=lesion_id,
            hu=case.hu[window].copy(),
            masks=case.masks[:, *window].copy(),
            spacing=case.grid.spacing,
            slice_index=np.arange(low[0], high[0]),
            corner=(int(low[1]), int(low[2])),
            steps=np.zeros(high[0] - low[0], np.int64),
            tier="phantom" if case.synthetic else "nifti",
        )

    def grid(self, crop: Crop) -> Grid:
        """Where a crop of one of the cases lies in the patient."""
        return Grid(*self._records[crop.lesion_id]["grid"]).at(crop.origin)


def validate(root: str | Path, *, progress: bool = True) -> tuple[int, list[Fault]]:
    """Check a whole folder: how many cases can be used, and every fault."""
    opened = Nifti(root, progress=progress)
    return len(opened._rows), opened._faults


# --- One case -----------------------------------------------------------------------------------


def _table(path: Path, faults: list[Fault]) -> Iterator[tuple[str, Cells]]:
    """Name and cells of each case of the table."""
    seen: set[str] = set()
    for where, cells in _own.lines(path, COLUMNS, NiftiError):
        case = cells.get("case", "")
        if not cells:
            faults.append(Fault(path.name, where, "expected as many cells as in the first line"))
        elif not CASE.fullmatch(case):
            why = "expected letters, digits, dots, dashes and underscores, up to 64"
            faults.append(Fault(path.name, f"case ({where})", why))
        elif case in seen:
            faults.append(Fault(path.name, f"case ({where})", f"a second line of {case}"))
        else:
            seen.add(case)
            yield case, cells | {"where": where}


def _key(root: Path, cells: Cells) -> str:
    """SHA-256 of a line of the table, of sizes and times of its files, and of the code."""
    told = [files.sha256_code("sources/nifti"), repr(sorted(cells.items()))]
    for name in _file_names(cells):
        if NAME.fullmatch(name) and (root / name).is_file():
            status = (root / name).lstat()
            told.append(f"{status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _file_names(cells: Cells) -> list[str]:
    """The names of image and masks."""
    return [cells["image"], *map(str.strip, cells["mask"].split(";"))]


def read_case(root: Path, cells: Cells) -> Record:
    """Check a case: its `row` of the table, `grid` and `synthetic`, or its `faults`."""
    faults: list[Fault] = []
    if cells["pathology"] not in ("", *TYPES):
        why = f"{cells['pathology']!r:.40}: expected one of {', '.join(TYPES)}"
        faults.append(Fault(LABELS, f"pathology ({cells['where']})", why))
    case = load(root, cells, faults)
    record: Record = {"faults": faults}
    if case is None or faults:
        return record
    inside = np.argwhere(case.masks.mean(axis=0) >= 0.5)
    z, y, x = case.grid.spacing
    if not len(inside):
        faults.append(Fault(cells["mask"], "mask", "no voxel lies in half of the masks"))
        return record
    sides = (np.ptp(inside, axis=0) + 1) * case.grid.spacing
    centre = dict(zip("zyx", inside.mean(axis=0).tolist(), strict=True))
    row = {
        "n_readers": len(case.masks),
        "diameter": float(sides[1:].max()),
        "equivalent_diameter": float(np.cbrt(6 * len(inside) * z * y * x / np.pi)),
        "n_slices": len(np.unique(inside[:, 0])),
    }
    row |= centre | {"slice_spacing": z, "slice_thickness": z, "pixel_spacing": y}
    return record | {"row": row, "grid": case.grid, "synthetic": case.synthetic}


def load(root: Path, cells: Cells, faults: list[Fault]) -> Case | None:
    """Read a case; adds what is wrong with it, and gives None if anything is."""
    before, read = len(faults), []
    image, *masks = _file_names(cells)
    for name, key in ((image, "image"), *((mask, "mask") for mask in masks)):
        path, why = root / name, ""
        if not NAME.fullmatch(name):
            why = f"{name!r:.60}: expected a file .nii, .nii.gz or .nrrd inside the folder"
        elif path.resolve() != path or not path.is_file():
            why = f"{name}: there is no such file, or it is a link"
        if why:
            faults.append(Fault(LABELS, f"{key} ({cells['where']})", why))
            continue
        try:
            volume = read_volume(path)
            checked = (_hu if key == "image" else _mask)(path, volume.voxels)
            read.append((name, volume._replace(voxels=checked)))
        except BadVolumeError as error:
            faults.append(Fault(name, error.key, error.reason))
    if len(faults) > before:
        return None
    (_, first), *others = read
    for name, mask in others:
        if mask.voxels.shape != first.voxels.shape or not mask.grid.same_as(first.grid):
            why = "its voxels are not those of the image: export it with the image as reference"
            faults.append(Fault(name, "grid", why))
    if len(faults) > before:
        return None
    voxels = np.array([mask.voxels for _, mask in others])
    return Case(first.voxels, voxels, first.grid, first.synthetic)


def _hu(path: Path, voxels: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """Rounded to whole HU."""
    low, high = voxels.min(), voxels.max()
    fits = INT16[0] <= low <= high <= INT16[1]  # NaN is in no range
    check(path, (fits, "voxels", f"expected HU from {INT16[0]} to {INT16[1]}, got NaN or others"))
    hu: npt.NDArray[np.int16] = np.rint(voxels).astype(np.int16)
    return hu


def _mask(path: Path, voxels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where it is not 0, which has to be one place."""
    inside: npt.NDArray[np.bool_] = voxels != 0
    values = voxels[inside]
    check(path, (len(values), "voxels", "the mask has no voxel"))
    check(path, ((values == values[0]).all(), "voxels", "expected one segment, got several values"))
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    n_parts = ndimage.label(inside[box], np.ones((3, 3, 3)))[1]
    check(path, (n_parts == 1, "voxels", f"the mask has {n_parts} parts, expected one nodule"))
    return inside
