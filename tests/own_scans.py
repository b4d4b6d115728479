"""A scan of one's own: small, with a lesion, and with headers that say who it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from lesionlab.sources.dicom import write_series

SPACING = (2.5, 0.7, 0.7)
SHAPE = (20, 96, 80)
TEXTS = (
    "PatientName", "PatientID", "OtherPatientIDs", "PatientMotherBirthName", "PatientAddress",
    "PatientTelephoneNumbers", "PatientComments", "InstitutionName", "InstitutionAddress",
    "InstitutionalDepartmentName", "ReferringPhysicianName", "PerformingPhysicianName",
    "OperatorsName", "PhysiciansOfRecord", "RequestingPhysician", "StationName", "StudyID",
    "AccessionNumber", "StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments",
    "DeviceSerialNumber", "ManufacturerModelName", "Occupation", "AdditionalPatientHistory",
    "EthnicGroup", "PatientReligiousPreference",
)  # fmt: skip
DATES = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
TIMES = ("StudyTime", "SeriesTime", "ContentTime")
UIDS = (
    "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID",
)  # fmt: skip


def lesion(shape: tuple[int, int, int] = SHAPE, hole: bool = False) -> Any:
    """(z, y, x) an ellipsoid; with a hole in one slice if asked for."""
    z, y, x = np.ogrid[tuple(map(slice, shape))]
    mask = ((z - 9) / 3.1) ** 2 + ((y - 50) / 7.3) ** 2 + ((x - 30) / 6.2) ** 2 <= 1
    return mask & ~((z == 9) & ((y - 50) ** 2 + (x - 30) ** 2 < 5)) if hole else mask


def write(folder: Path, *, mask: Any = None, seed: int = 0, **options: Any) -> Path:
    """Lung with a lesion of 50 HU, as DICOM, in a subfolder."""
    mask = lesion() if mask is None else mask
    hu = np.random.default_rng(seed).integers(-900, -700, mask.shape)
    how: dict[str, Any] = {"spacing": SPACING, "patient_id": "P-1"} | options
    return write_series(np.where(mask, 50, hu), folder / "ct", **how)


def name_person(folder: Path) -> list[str]:
    """Plant 40 names, numbers, dates and UIDs in all headers; gives them."""
    planted = {name: f"PLANTED{k:02d}X" for k, name in enumerate(TEXTS)}
    planted |= {name: f"19{31 + k}0{1 + k}1{k}" for k, name in enumerate(DATES)}
    planted |= {name: f"1{k}3{k}5{k + 1}.98765{k}" for k, name in enumerate(TIMES)}
    planted |= {name: generate_uid(entropy_srcs=[name])[:50] for name in UIDS}
    assert len(planted) == 40
    for k, file in enumerate(sorted(folder.iterdir())):
        one = pydicom.dcmread(file)
        for name, value in planted.items():
            setattr(one, name, f"{value}.{k}" if name == "SOPInstanceUID" else value)
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.save_as(file)
    return list(planted.values())
