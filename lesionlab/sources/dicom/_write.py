"""Phantom scans as DICOM files that other programs read."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import format_number_as_ds

from lesionlab.sources.dicom._files import AIR, CT_IMAGE, PHANTOM

# what all phantoms say; the empty ones are attributes that the CT Image IOD (PS3.3, A.3) asks for
# and that may be empty. SimpleITK adds size, spacing, position, orientation and pixels.
_SAID = {
    "0008|0005": "ISO_IR 192",
    "0008|0008": "DERIVED\\SECONDARY\\AXIAL",  # ImageType
    "0008|0016": CT_IMAGE,
    "0008|0060": "CT",
    "0008|0070": "lesionlab",  # Manufacturer
    "0008|103e": PHANTOM,  # SeriesDescription
    "0008|2111": "rendered by lesionlab, not a scan of a person",
    "0012|0062": "YES",  # PatientIdentityRemoved
    "0012|0063": "synthetic, no patient",
    "0018|5100": "HFS",  # PatientPosition
    "0020|0011": "1",  # SeriesNumber
    "0028|0301": "NO",  # BurnedInAnnotation
    "0028|1050": "-600",  # WindowCenter
    "0028|1051": "1500",
    "0028|1052": str(AIR),  # RescaleIntercept
    "0028|1053": "1",
    "0028|1054": "HU",
    "0028|2110": "00",  # LossyImageCompression
} | dict.fromkeys(
    # dates and times, names, KVP, acquisition number and position reference
    ("0008|0020", "0008|0030", "0008|0050", "0008|0090", "0010|0010", "0010|0030", "0010|0040",
     "0018|0060", "0020|0010", "0020|0012", "0020|1040"), ""
)  # fmt: skip


def write_series(
    hu: npt.ArrayLike,
    folder: str | Path,
    *,
    patient_id: str,
    spacing: Sequence[float],
    slice_z: Sequence[float] | None = None,
    thickness: float | None = None,
    study_uid: str | None = None,
    series_uid: str | None = None,
) -> Path:
    r"""Write a phantom scan as one CT Image Storage file per slice, axial and centred at x = y = 0.

    Every file says that it is no scan: SeriesDescription "lesionlab phantom", ImageType
    DERIVED\SECONDARY\AXIAL, Manufacturer "lesionlab". No date is written, and the same arguments
    give the same bytes. The folder appears when all files are in it, or not at all.

    Args:
        hu: (z, y, x), rounded to whole HU, from −32768 to 31743.
        folder: A new or empty folder; its name and place are free.
        patient_id: PatientID, up to 64 characters.
        spacing: `(z, y, x)` mm.
        slice_z: (z,) position of every slice, ascending, mm; even steps from 0 if None.
        thickness: SliceThickness, mm; the spacing along z if None.
        study_uid: StudyInstanceUID; made from the other arguments if None.
        series_uid: SeriesInstanceUID; likewise. With the UIDs of a real LIDC scan, pylidc takes
            the phantom for that scan.

    Returns:
        The folder, with `slice-0000.dcm`, `slice-0001.dcm` … by ascending z.
    """
    import SimpleITK as sitk  # noqa: N813 - its users' own name for it

    volume: npt.NDArray[Any] = np.asarray(hu)
    if volume.ndim != 3 or 0 in volume.shape or volume.dtype.kind not in "iuf":
        raise ValueError(f"hu: expected numbers (z, y, x), got {volume.dtype} {volume.shape}")
    if not (volume.min() >= -32768 and volume.max() <= 31743):  # stored + 1024; NaN is neither
        raise ValueError("hu: expected -32768 to 31743, which 16 bits hold")
    dz, dy, dx = map(float, spacing)
    # rounded, or 0.1 + 0.2 makes seventeen digits where a file holds sixteen
    z = np.round(dz * np.arange(len(volume)), 9) if slice_z is None else np.asarray(slice_z, float)
    if z.shape != volume.shape[:1] or not (np.isfinite(z).all() and (np.diff(z) > 0).all()):
        raise ValueError(f"slice_z: expected {len(volume)} ascending positions in mm")
    thickness = dz if thickness is None else float(thickness)
    if not all(0 < mm < np.inf for mm in (dz, dy, dx, thickness)):
        raise ValueError(f"spacing={spacing!r}, thickness={thickness!r}: expected mm above 0")
    if not re.fullmatch(r"[^\\\x00-\x1f]{1,64}", patient_id):  # not shown: could be a person's
        raise ValueError("patient_id: expected 1 to 64 characters, none a backslash or control one")
    digest = hashlib.sha256(repr((patient_id, dz, dy, dx, z.tolist())).encode() + volume.tobytes())
    study_uid = study_uid or generate_uid(entropy_srcs=["study", digest.hexdigest()])
    series_uid = series_uid or generate_uid(entropy_srcs=["series", digest.hexdigest()])
    for name, uid in (("study_uid", study_uid), ("series_uid", series_uid)):
        if not UID(uid, validation_mode=pydicom.config.IGNORE).is_valid:
            raise ValueError(f"{name}={uid!r}: expected a DICOM UID, digits and dots, up to 64")
    said = _SAID | {
        "0010|0020": patient_id,
        "0018|0050": format_number_as_ds(thickness),
        "0018|0088": format_number_as_ds(dz),  # SpacingBetweenSlices
        "0020|000d": study_uid,
        "0020|000e": series_uid,
        "0020|0052": generate_uid(entropy_srcs=["frame", series_uid]),
    }
    writer: Any = sitk.ImageFileWriter()  # type: ignore[no-untyped-call]
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    folder = Path(folder)
    if folder.is_symlink() or (folder.exists() and (folder.is_file() or any(folder.iterdir()))):
        raise FileExistsError(f"{str(folder)!r} is there already; expected a new or empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as parent:
        temporary = Path(parent, "new")
        temporary.mkdir()
        for k, plane in enumerate(volume):
            image: Any = sitk.GetImageFromArray(np.rint(plane)[None].astype(np.int16))
            image.SetSpacing((dx, dy, dz))
            rows, columns = plane.shape
            image.SetOrigin((-dx * (columns - 1) / 2, -dy * (rows - 1) / 2, float(z[k])))
            said["0008|0018"] = generate_uid(entropy_srcs=[series_uid, str(k)])
            said["0020|0013"] = str(k + 1)  # InstanceNumber
            said["0020|1041"] = format_number_as_ds(float(z[k]))  # SliceLocation
            for tag, text in said.items():
                image.SetMetaData(tag, text)
            writer.SetFileName(str(temporary / f"slice-{k:04d}.dcm"))
            writer.Execute(image)
        os.replace(temporary, folder)
    return folder
