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
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lesionlab import _files as files
from lesionlab.crops import Crop, Tier
from lesionlab.crops.cutting import cut
from lesionlab.sources import _own, origins
from lesionlab.sources._own import Fault, Record
from lesionlab.sources.dicom._files import INT16
from lesionlab.sources.dicom._lidc import check_margin
from lesionlab.sources.nifti._files import SAME, BadVolumeError, Volume, check, read_volume
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

Cells = dict[str, str]
"""A line of the table, and in `where` its number."""


class Nifti(_own.Lesions):
    """A folder of cases, opened.

    Every file is read and checked once; what it said is kept in the cache folder, case by case, so
    that an interrupted reading goes on where it ended. An instance can be sent to other processes.

    `lesions()` has a row for each case that can be used, its name being the `lesion_id`:

    - `patient`, `scan_id` (the case's name again), `pathology` (missing where not known);
    - `n_readers`, how many masks there are, and of the voxels that half of them include:
      `diameter`, larger side in plane, and `equivalent_diameter`, of a ball of their volume, mm;
      `z`, `y`, `x`, voxel index of their centre of gravity; `n_slices`;
    - `slice_spacing`, `slice_thickness` (taken to be the same), `pixel_spacing`, mm.

    Args:
        root: The folder with `labels.csv`; if None, what `LESIONLAB_NIFTI` names.
        processes: How many read files; follows from the number of cases if None.
        progress: Show a bar where there are many cases.

    Raises:
        FileNotFoundError: There is no such folder, or none is named.
        NiftiError: The table cannot be read.
    """

    error, own = NiftiError, "nifti"

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        processes: int | None = None,
        progress: bool = True,
    ) -> None:
        self.root = _own.folder(origins.NIFTI, root, MISSING, LABELS)
        self._faults = []
        self._cells = cells = dict(_table(self.root / LABELS, self._faults))
        keys = {case: _key(self.root, of_case) for case, of_case in cells.items()}
        read = partial(read_case, self.root)
        self._records = _own.records(
            "nifti", cells, keys, read, processes=processes, progress=progress
        )
        self._rows = {}
        for case, record in self._records.items():
            self._faults += [Fault(*fault) for fault in record["faults"]]
            if not record["faults"]:
                who = {"patient": cells[case].get("patient") or case, "scan_id": case}
                self._rows[case] = who | record["row"]

    def crop(self, lesion_id: str, *, size: int = 128, margin_mm: float = 20.0) -> Crop:
        """Cut one nodule out of its image, in HU, with a mask for each reader.

        Args:
            lesion_id: Which case.
            size: Rows and columns; more where the nodule is larger, fewer where the image ends:
                what lies beyond is not made up.
            margin_mm: Slices up to that far below and above the masks are taken along.

        Raises:
            LookupError: No case that can be used has that name.
            NiftiError: A file was changed, and cannot be used any more.
        """
        check_margin(size, margin_mm)
        if lesion_id not in self._rows:
            raise LookupError(f"no case that can be used is called {lesion_id!r}")
        faults: list[Fault] = []
        volumes = load(self.root, self._cells[lesion_id], faults)
        if faults:
            raise NiftiError(f"{self.root}: {faults[0]}")
        image, *masks = volumes
        readers = np.array([mask.voxels for mask in masks])
        tier: Tier = "phantom" if image.synthetic else "nifti"
        how: Any = {"size": size, "margin_mm": margin_mm, "tier": tier}
        return cut(lesion_id, image.voxels, readers, (0, 0, 0), image.grid.spacing, **how)

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
        elif case in seen or not CASE.fullmatch(case):
            why = "expected a new name of letters, digits, dots, dashes, underscores, up to 64"
            faults.append(Fault(path.name, f"case ({where})", why))
        else:
            seen.add(case)
            yield case, cells | {"where": where}


def _names(cells: Cells) -> list[str]:
    """The names of the image and of each mask."""
    return [cells["image"], *map(str.strip, cells["mask"].split(";"))]


def _key(root: Path, cells: Cells) -> str:
    """SHA-256 of a line of the table, of sizes and times of its files, and of the code."""
    told = [files.sha256_code("sources/nifti"), repr(sorted(cells.items()))]
    for path in (root / name for name in _names(cells) if NAME.fullmatch(name)):
        if path.is_file():
            status, readable = path.lstat(), os.access(path, os.R_OK)
            told.append(f"{status.st_size} {status.st_mtime_ns} {readable}")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def read_case(root: Path, cells: Cells) -> Record:
    """Check a case: its `row` of the table and its `grid`, or its `faults`."""
    faults: list[Fault] = []
    record: Record = {"faults": faults, "spacing": [], "synthetic": False}
    pathology, where = cells["pathology"], cells["where"]
    if pathology not in ("", *TYPES):
        why = f"{pathology!r:.40}: expected one of {', '.join(TYPES)}"
        faults.append(Fault(LABELS, f"pathology ({where})", why))
    volumes = load(root, cells, faults)
    if faults:
        return record
    image, *masks = volumes
    inside = np.argwhere(np.mean([mask.voxels for mask in masks], axis=0) >= 0.5)
    if not len(inside):
        faults.append(Fault(LABELS, f"mask ({where})", "no voxel lies in half of the masks"))
        return record
    z, y, x = image.grid.spacing
    row = {
        "pathology": pathology or None,
        "n_readers": len(masks),
        "diameter": float(((np.ptp(inside, axis=0) + 1) * (z, y, x))[1:].max()),
        "equivalent_diameter": float(np.cbrt(6 * len(inside) * z * y * x / np.pi)),
        **dict(zip("zyx", inside.mean(axis=0).tolist(), strict=True)),
        "n_slices": len(np.unique(inside[:, 0])),
        "slice_spacing": z,
        "slice_thickness": z,
        "pixel_spacing": y,
    }
    found = {"spacing": [z, y, x], "synthetic": image.synthetic, "grid": image.grid, "row": row}
    return record | found


def load(root: Path, cells: Cells, faults: list[Fault]) -> list[Volume]:
    """Read a case's image and masks that can be used; adds what is wrong with the others."""
    read: list[Volume] = []
    for k, name in enumerate(_names(cells)):
        path, where = root / name, f"{'mask' if k else 'image'} ({cells['where']})"
        if not NAME.fullmatch(name):
            why = f"{name!r:.60}: expected a file .nii, .nii.gz or .nrrd inside the folder"
            faults.append(Fault(LABELS, where, why))
        elif path.resolve() != path or not path.is_file():
            faults.append(Fault(LABELS, where, f"{name}: there is no such file, or it is a link"))
        else:
            try:
                volume = read_volume(path)
                volume = volume._replace(voxels=(_mask if k else whole_hu)(path, volume.voxels))
                if k and read and not _on_same_voxels(read[0], volume):
                    why = "is not that of the image: export the mask with it as reference"
                    raise BadVolumeError(path, "grid", why)
                read.append(volume)
            except BadVolumeError as error:
                faults.append(Fault(name, error.key, error.reason))
    return read


def _on_same_voxels(one: Volume, other: Volume) -> bool:
    same = (
        np.allclose(a, b, rtol=0, atol=SAME)
        for a, b in zip(one.grid[:3], other.grid[:3], strict=True)
    )
    return one.voxels.shape == other.voxels.shape and all(same)


def whole_hu(path: Path, voxels: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """Rounded to whole HU."""
    (low, high), least, most = INT16, voxels.min(), voxels.max()  # NaN is in no range
    check(path, (low <= least <= most <= high, "voxels", f"expected HU from {low} to {high}"))
    hu: npt.NDArray[np.int16] = np.rint(voxels).astype(np.int16)
    return hu


def _mask(path: Path, voxels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where it is not 0, which has to be one place."""
    inside: npt.NDArray[np.bool_] = voxels != 0
    check(path, (inside.any(), "voxels", "the mask has no voxel"))
    values = voxels[inside]
    check(path, ((values == values[0]).all(), "voxels", "expected one segment, got several values"))
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    n_parts = ndimage.label(inside[box], np.ones((3, 3, 3)))[1]
    check(path, (n_parts == 1, "voxels", f"the mask has {n_parts} parts, expected one nodule"))
    return inside
