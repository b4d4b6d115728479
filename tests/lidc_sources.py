"""A slices set and a DICOM scan of a few lesions, made here from the real contours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from PIL import Image

from lesionlab.sources import lidc
from lesionlab.sources.dicom import write_series
from lesionlab.sources.slices import read_index

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
