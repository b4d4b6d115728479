"""Copies of CT slices that keep named header fields only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydicom import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)

from lesionlab.sources.dicom._files import CT_IMAGE, PHANTOM, BadFileError, Header, Slice, quiet

NUMBERS = (
    "PatientWeight", "SliceThickness", "KVP", "SpacingBetweenSlices", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "SamplesPerPixel",
    "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "WindowCenter",
    "WindowWidth", "RescaleIntercept", "RescaleSlope",
)  # fmt: skip
"""Fields that are kept where they hold numbers."""

CODES = ("ImageType", "Modality", "PatientPosition", "PhotometricInterpretation", "RescaleType",
         "LossyImageCompression")  # fmt: skip
WORDS = {"ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL", "CT", "HFS", "HFP", "FFS", "FFP",
         "MONOCHROME2", "HU", "00", "01"}  # fmt: skip
"""Of the fields `CODES` these words are kept, as any other could be a name."""


@quiet()
def copy_series(slices: Iterable[Slice], folder: str | Path, *, patient_id: str) -> Path:
    """Write the slices of a series anew, with `NUMBERS`, the `WORDS` of `CODES` and the pixels.

    All else is gone: names, dates, private fields, texts. UIDs are new ones that nothing links to
    the old. The folder appears when all files are in it, or not at all.

    Raises:
        BadFileError: A slice cannot be read.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    study, series, frame = (generate_uid() for _ in range(3))
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as parent:
        new = Path(parent, "new")
        new.mkdir()
        for k, one in enumerate(slices):
            made = _copied(one.path)
            made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            made.StudyInstanceUID, made.SeriesInstanceUID = study, series
            made.FrameOfReferenceUID = frame
            made.PatientID, made.PatientIdentityRemoved = patient_id, "YES"
            made.DeidentificationMethod = "lesionlab: only named fields kept"
            little = made.file_meta.TransferSyntaxUID != ExplicitVRBigEndian
            try:
                made.save_as(
                    new / f"slice-{k:04d}.dcm",
                    implicit_vr=False,
                    little_endian=little,
                    enforce_file_format=True,
                )
            except OSError:
                raise
            except Exception:
                raise BadFileError(one.path, "cannot be written anew: damaged") from None
        os.replace(new, folder)
    return folder


def _copied(path: Path) -> Any:
    header = Header(path, [*NUMBERS, *CODES, "SeriesDescription", "PixelData"])
    syntax = UID(getattr(getattr(header.dataset, "file_meta", None), "TransferSyntaxUID", ""))
    if not syntax.is_transfer_syntax:
        raise header.error("lacks TransferSyntaxUID")
    keep = syntax.is_compressed or syntax == ExplicitVRBigEndian
    if syntax == DeflatedExplicitVRLittleEndian or not keep:  # it is read inflated
        syntax = ExplicitVRLittleEndian
    kept = [name for name in NUMBERS if _numeric(header.values(name))]
    chosen = {*kept, "PixelData"}
    made: Any = Dataset({e.tag: e for e in header.dataset if e.keyword in chosen})
    for name in CODES:
        if words := [word for word in header.words(name) if word in WORDS]:
            setattr(made, name, words)
    made.SOPClassUID = CT_IMAGE
    if header.synthetic:
        made.SeriesDescription = PHANTOM
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = CT_IMAGE
    return made


def _numeric(values: list[Any]) -> bool:
    try:
        return all(-1e12 < float(value) < 1e12 for value in values)
    except (TypeError, ValueError):
        return False
