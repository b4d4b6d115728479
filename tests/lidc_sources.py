"""A slices set and a DICOM scan of a few lesions, made here from the real contours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from PIL import Image

from lesionlab.sources import lidc
from lesionlab.sources.dicom import write_series

SIZE = 128


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_slices(root: Path, lesion_ids: list[str], *, calibrated: bool = True) -> Path:
    """One patient's folders, `nodule-0` and so on; grey value g is 8 g - 1000 HU."""
    patient = str(lidc.nodules().loc[lesion_ids[0], "patient"])
    rows = []
    for k, lesion_id in enumerate(lesion_ids):
        found = lidc.masks(lesion_id)
        corner = [o + n // 2 - SIZE // 2 for o, n in zip(
            found.origin[1:], found.readers.shape[2:], strict=True)]  # fmt: skip
        y0, x0 = found.origin[1] - corner[0], found.origin[2] - corner[1]
        readers = np.zeros((4, found.readers.shape[1], SIZE, SIZE), bool)
        n, _, height, width = found.readers.shape
        readers[:n, :, y0 : y0 + height, x0 : x0 + width] = found.readers[:4]
        drawn = np.flatnonzero(readers.any(axis=(0, 2, 3)))
        for s, z in enumerate(drawn):
            folder = root / "LIDC-IDRI-slices" / patient / f"nodule-{k}"
            ramp = np.tile(np.arange(1, SIZE + 1, dtype=np.uint8), (SIZE, 1))
            _save(folder / "images" / f"slice-{s}.png", ramp)
            for r in range(4):
                _save(folder / f"mask-{r}" / f"slice-{s}.png", readers[r, z].astype(np.uint8) * 255)
            rows.append(f"{patient},{k},{s},8,-1000,anchor")
    if calibrated:
        table = ["patient,nodule,slice,slope,intercept,source", *rows]
        (root / "lidc-idri-slices-intensity.csv").write_text("\n".join(table), encoding="utf-8")
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
        for file in sorted(folder.iterdir()):
            one = pydicom.dcmread(file)
            one.SeriesDescription = ""
            one.save_as(file)
    return folder
