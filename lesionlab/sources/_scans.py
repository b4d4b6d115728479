"""A scan of your own, DICOM or a file, and where its voxels lie in the patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lesionlab import _names
from lesionlab.sources.dicom._files import DicomError
from lesionlab.sources.dicom._series import Volume, find_series, read_series
from lesionlab.sources.nifti._files import Grid, read_volume

VOLUMES = (".nii", ".nii.gz", ".nrrd")


def read_scan(
    source: str | Path, *, series: int | None = None, strict: bool = True, progress: bool = False
) -> Volume:
    """Read a scan: the CT series in a folder, its subfolders included, or a NIfTI or NRRD file.

    Args:
        source: The folder or file.
        series: Which series, counted from 1 in the order of the error's list, if there are several.
        strict: As in `dicom.read_series`.
        progress: Show a bar while a folder is searched.

    Raises:
        FileNotFoundError: There is nothing.
        DicomError: There is no CT series, several and no choice, or one that cannot be read.
        BadVolumeError: The file cannot be read.
    """
    source = Path(source)
    if source.is_file() and source.name.endswith(VOLUMES):
        return _of_file(source)
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder of DICOM files and no {', '.join(VOLUMES)}")
    found = find_series(source, progress=progress)
    ct = found[found["modality"] == "CT"].reset_index(drop=True)
    if ct.empty:
        raise DicomError(f"{source}: none of the {len(found)} DICOM series in it is CT")
    if series is None and len(ct) > 1:
        # not by their UIDs, which are of a person
        rows = zip(ct["n_files"], ct["path"], strict=True)
        told = [f"{k}: {n} files in {path!r}" for k, (n, path) in enumerate(rows, 1)]
        listed = _names.listed(told)
        raise DicomError(f"{source}: {len(ct)} CT series, choose one by its number: {listed}")
    if series is not None and not 1 <= series <= len(ct):
        raise DicomError(f"series={series}: expected 1 to {len(ct)}, as many as {source} has")
    row = ct.iloc[(series or 1) - 1]
    return read_series(row["places"], series_uid=row["series_uid"], strict=strict)


def _of_file(path: Path) -> Volume:
    from lesionlab.sources.nifti import whole_hu

    voxels, grid, synthetic = read_volume(path)
    axes = np.reshape(grid.direction, (3, 3))
    start = float(np.asarray(grid.origin) @ axes[:, 2])
    return Volume(
        hu=whole_hu(path, voxels),
        spacing=grid.spacing,
        origin_mm=grid.origin,
        direction=axes,
        slice_z=np.asarray(start + grid.spacing[0] * np.arange(len(voxels)), np.float64),
        series_uid="",
        thickness=np.nan,
        synthetic=synthetic,
        warnings=("the file does not say how thick its slices are",),
    )


def index_of(scan: Volume, mm: Any) -> npt.NDArray[np.float64]:
    """(..., 3) indices `(z, y, x)` in a scan, not rounded, of positions `(x, y, z)` in mm."""
    along = (np.asarray(mm, np.float64) - scan.origin_mm) @ scan.direction
    z = scan.slice_z - scan.slice_z[0]
    inside = along[..., 2].clip(0, z[-1])
    at = np.interp(inside, z, np.arange(len(z))) + (along[..., 2] - inside) / scan.spacing[0]
    return np.stack((at, along[..., 1] / scan.spacing[1], along[..., 0] / scan.spacing[2]), axis=-1)


def grid_of(scan: Volume, index: tuple[int, int, int] = (0, 0, 0)) -> Grid:
    """The grid of the scan's voxels that begins at one of them."""
    origin = tuple(scan.patient_mm(index).tolist())
    return Grid(scan.spacing, origin, tuple(scan.direction.ravel().tolist()))
