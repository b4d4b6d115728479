"""Sets and a DICOM scan of a few lesions, made from the real contours; real volumes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pydicom
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from lesionlab.sources import lidc
from lesionlab.sources.dicom import write_series
from lesionlab.sources.slices import TABLES, Folder, read_index

SIZE = 128


def write_slices(root: Path, lesion_ids: list[str]) -> Path:
    """A part of the slices set, its folders and masks as in the public one.

    Every picture is a ramp from 1 to 128; grey value g is 8 g - 1000 HU.
    """
    rows = ["patient,nodule,slice,slope,intercept,source,steps"]
    ramp = np.tile(np.arange(1, SIZE + 1, dtype=np.uint8), (SIZE, 1))
    for lesion_id in lesion_ids:
        shown = read_index()[lesion_id]
        folder = root / "LIDC-IDRI-slices" / shown.patient / f"nodule-{shown.nodule}"
        masks = np.zeros((4, len(shown.slices), SIZE, SIZE), np.uint8)
        in_scan = np.array(shown.slice_index)
        ours = lidc.masks(lesion_id).window(in_scan, shown.corner, SIZE)[:4]
        masks[: len(ours)] = 255 * ours
        for s, number in enumerate(shown.slices):
            planes = {"images": ramp} | {f"mask-{r}": masks[r, s] for r in range(4)}
            for part, plane in planes.items():
                (folder / part).mkdir(parents=True, exist_ok=True)
                Image.fromarray(plane).save(folder / part / f"slice-{number}.png")
            rows.append(f"{shown.patient},{shown.nodule},{number},8,-1000,anchor,0")
    (root / "lidc-idri-slices-intensity.csv").write_text("\n".join(rows), encoding="utf-8")
    return root


def write_volumes(root: Path, lesion_ids: list[str]) -> Path:
    """A part of the volumes set: 10 HU times the slice of the scan, and the row of the scan."""
    database, scans = lidc.default().database, lidc.nodules()["scan_id"]
    root.mkdir()
    for lesion_id in lesion_ids:
        masks = lidc.masks(lesion_id)
        drawn = np.argwhere(masks.readers.any(axis=0)) + masks.origin
        low, high = drawn.min(axis=0) - (0, 6, 7), drawn.max(axis=0) + 1 + (0, 6, 7)
        z, y, _ = np.mgrid[tuple(map(slice, low, high))]
        image: Any = sitk.GetImageFromArray((10 * z + y).astype(np.int16))
        image.SetSpacing(masks.spacing[::-1])
        image.SetOrigin((0.0, 0.0, float(database.slice_z[scans[lesion_id]][low[0]])))
        patient, number = lesion_id[:14], int(lesion_id.rpartition("-N")[2])
        sitk.WriteImage(image, root / f"{patient}_R_{number}.nii.gz")
    return root


def write_scan(root: Path, scan_id: int, *, synthetic: bool = True) -> Path:
    """A scan under its real UIDs, 10 HU times the slice index and the row's last two digits."""
    database = lidc.default().database
    about, z = database.scans.loc[scan_id], database.slice_z[scan_id]
    rows = np.arange(512)[:, None] % 100 * np.ones(512, int)
    hu = (10 * np.arange(len(z))[:, None, None] + rows).astype(np.int16)
    folder = write_series(
        hu,
        root / f"scan-{scan_id}",
        spacing=(float(np.median(np.diff(z))), about.pixel_spacing, about.pixel_spacing),
        slice_z=z.tolist(),
        patient_id=about.patient,
        series_uid=about.series_uid,
        study_uid=about.study_uid,
    )
    if not synthetic:
        for file in folder.iterdir():
            one = pydicom.dcmread(file)
            one.SeriesDescription = ""
            one.save_as(file)
    return folder


Volume = tuple[Folder, npt.NDArray[np.int16], tuple[int, int, int]]


def link() -> pd.DataFrame:
    """The volumes that fit the slices set, a row each."""
    table = pd.read_csv(TABLES / "lidc-idri-volumes-link.csv.gz")
    return table[table["r"] > 0.99]


def volumes(archive: Path, rows: pd.DataFrame, scratch: Path) -> Iterator[Volume]:
    """Rows of the link, in their order: (z, y, x) HU, and where in the scan its first voxel is."""
    folders = {(f.patient, f.nodule): f for f in read_index().values()}
    with zipfile.ZipFile(archive) as files:
        names = {Path(name).name: name for name in files.namelist()}
        at: Any
        for at in rows.itertuples():
            folder = folders.get((at.patient, at.nodule))
            if folder is None or at.slice not in folder.slices:
                continue
            image = sitk.ReadImage(files.extract(names[at.voi], scratch))
            first = folder.slice_index[folder.slices.index(at.slice)] - at.z
            y, x = folder.corner
            yield folder, sitk.GetArrayFromImage(image), (first, y + at.y, x + at.x)
