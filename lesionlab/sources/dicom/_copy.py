"""Copies of CT slices that keep named header fields only."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from lesionlab._files import replacing_folder
from lesionlab.sources.dicom._files import CT_IMAGE, INT16, PHANTOM, Header, quiet, read_pixels

NUMBERS = (
    "PatientWeight", "SliceThickness", "KVP", "SpacingBetweenSlices", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "PixelSpacing",
    "WindowCenter", "WindowWidth",
)  # fmt: skip
"""Fields that are kept where they hold numbers."""

CODES = ("ImageType", "Modality", "PatientPosition", "LossyImageCompression")
WORDS = {"ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL", "CT", "HFS", "HFP", "FFS", "FFP",
         "00", "01"}  # fmt: skip
"""Of the fields `CODES` these words are kept, as any other could be a name."""


@quiet()
def copy_series(slices: Iterable[Path], folder: str | Path, *, patient_id: str) -> Path:
    """Write slices of a series anew, with `NUMBERS`, the `WORDS` of `CODES` and whole HU.

    All else is gone: names, dates, private fields, texts. UIDs are new ones that nothing links to
    the old. The folder appears when all files are in it, or not at all.

    Raises:
        BadFileError: A slice cannot be read.
    """
    study, series, frame = (generate_uid() for _ in range(3))
    with replacing_folder(folder) as new:
        for k, path in enumerate(slices):
            pixels = read_pixels(path)
            header = Header(path, [*NUMBERS, *CODES, "SeriesDescription"])
            made: Any = Dataset()
            for name in NUMBERS:
                with suppress(TypeError, ValueError, OverflowError):
                    numbers = [format_number_as_ds(float(v)) for v in header.values(name)]
                    setattr(made, name, [number.removesuffix(".0") for number in numbers])
            for name in CODES:
                setattr(made, name, [word for word in header.words(name) if word in WORDS])
            made.SeriesDescription = PHANTOM if header.synthetic else ""
            made.PatientID, made.PatientIdentityRemoved = patient_id, "YES"
            made.DeidentificationMethod = "lesionlab: only named fields kept"
            made.SOPClassUID, made.SOPInstanceUID = CT_IMAGE, generate_uid()
            made.StudyInstanceUID, made.SeriesInstanceUID = study, series
            made.FrameOfReferenceUID = frame
            made.Rows, made.Columns = pixels.hu.shape
            made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
            made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
            made.PixelRepresentation, made.RescaleSlope, made.RescaleIntercept = 1, 1, 0
            made.RescaleType = "HU" if pixels.is_hu else "US"  # unspecified
            made.PixelData = np.rint(pixels.hu).clip(*INT16).astype("<i2").tobytes()
            made.file_meta = FileMetaDataset()
            made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            made.save_as(new / f"slice-{k:04d}.dcm", enforce_file_format=True)
    return Path(folder)
