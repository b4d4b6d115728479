"""Phantom scans under the UIDs of real ones: what stands in for a download of LIDC-IDRI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lesionlab.crops import Crop
from lesionlab.sources.dicom._frame import overlap
from lesionlab.sources.dicom._pixels import AIR
from lesionlab.sources.dicom._write import write_series
from lesionlab.sources.lidc import default

SIDE = 512
"""Rows and columns of every scan of LIDC-IDRI."""


def write_phantom_scan(
    lesion_id: str,
    root: str | Path,
    *,
    seed: int = 0,
    size: int = 128,
    overwrite: bool = False,
) -> Path:
    """Render a lesion, put it in its place in a scan of air, and write that scan as DICOM.

    The scan has the patient, the UIDs, the slice positions, the spacing and the 512 × 512 pixels
    of the real one in LIDC-IDRI, and its files lie as those of a download do, so `Dicom(root)` and
    pylidc take it for that scan. It says in every file that it is synthetic, as `write_series`
    does. Around the lesion stands what `lesionlab.sources.phantom.phantom` rendered, elsewhere air
    (−1024 HU). The same arguments give the same bytes.

    `Dicom(root).crop(lesion_id, size=size)` gives back the phantom's crop, voxel for voxel, except
    where that reaches over the border of the scan, which files cannot hold: there it has air.

    Args:
        lesion_id: As in `lesionlab.sources.lidc.nodules`.
        root: Folder above all patients.
        seed: As in `phantom`.
        size: Rows and columns that are rendered.
        overwrite: Replace the phantom scan that lies there, e.g. one with another lesion.

    Returns:
        The folder of the files, `root/PATIENT/STUDY_UID/SERIES_UID`; 0.5 MB for each slice, of
        which scans have 65 to 764.

    Raises:
        LookupError: No nodule has that id.
        FileExistsError: The folder is there and not empty, and `overwrite` is False; or it holds
            something else than slices of a phantom.
        ValueError: As in `phantom`.
    """
    from lesionlab.sources.phantom import phantom  # only who renders loads the renderer

    crop = phantom(lesion_id, seed=seed, size=size)
    lidc = default()
    scan_id: Any = lidc.nodules().at[lesion_id, "scan_id"]
    about: dict[Any, Any] = lidc.database.scans.loc[scan_id].to_dict()
    z = lidc.database.slice_z[int(scan_id)]
    return write_series(
        _embed(crop, len(z)),
        Path(root) / about["patient"] / about["study_uid"] / about["series_uid"],
        patient_id=about["patient"],
        study_uid=about["study_uid"],
        series_uid=about["series_uid"],
        spacing=crop.spacing,
        slice_z=z.tolist(),
        thickness=about["slice_thickness"],
        overwrite=overwrite,
    )


def _embed(crop: Crop, n_slices: int) -> npt.NDArray[np.int16]:
    """A scan (z, y, x) of air with the crop in its place, as far as it lies within."""
    scan = np.full((n_slices, SIDE, SIDE), AIR, dtype=np.int16)
    (y, x), (rows, columns) = overlap(crop.corner, crop.hu.shape[1], (SIDE, SIDE))
    scan[crop.slice_index, rows, columns] = crop.hu[:, y, x]
    return scan
