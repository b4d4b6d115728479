"""Damaged at random: a volume or a plain error that names where, never anything else."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ImplicitVRLittleEndian, JPEGLosslessSV1, RLELossless

from lesionlab.sources.dicom import DicomError, find_series, read_series, write_series

SECRET = "ZZSECRETZZ"  # noqa: S105 - stands for a name that must not be shown
EXAMPLES = settings(
    max_examples=int(os.environ.get("LESIONLAB_FUZZ", "200")),
    suppress_health_check=list(HealthCheck),
)


def in_one_file(one: Any) -> Any:
    """A slice as an Enhanced CT of two frames, 1 mm apart."""
    one.SOPClassUID, one.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.2.1", 2
    one.PixelData = one.PixelData * 2
    groups = {
        "PixelMeasuresSequence": ["PixelSpacing", "SliceThickness"],
        "PlaneOrientationSequence": ["ImageOrientationPatient"],
        "PixelValueTransformationSequence": ["RescaleSlope", "RescaleIntercept", "RescaleType"],
        "PlanePositionSequence": ["ImagePositionPatient"],
    }
    frames = [pydicom.Dataset(), pydicom.Dataset()]
    for k, frame in enumerate(frames):
        for group, names in groups.items():
            item = pydicom.Dataset()
            for name in names:
                setattr(item, name, getattr(one, name))
            setattr(frame, group, [item])
        x, y, z = one.ImagePositionPatient
        frame.PlanePositionSequence[0].ImagePositionPatient = [x, y, z + k]
    for names in groups.values():
        for name in names:
            delattr(one, name)
    one.PerFrameFunctionalGroupsSequence = frames
    return one


@pytest.fixture(scope="module", params=["explicit", "implicit", "rle", "jpeg", "enhanced"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slices that bear a name, in one transfer syntax; the second is damaged in every test."""
    hu = np.random.default_rng(1).integers(-1000, 1000, (2, 8, 8)).astype(np.int16)
    folder = tmp_path_factory.mktemp("fuzz") / "scan"
    for file in write_series(hu, folder, spacing=(1, 1, 1), patient_id="P").iterdir():
        one = pydicom.dcmread(file)
        one.PatientName = one.PatientID = one.StudyDescription = one.InstitutionName = SECRET
        one.RequestAttributesSequence = [pydicom.Dataset()]
        one.RequestAttributesSequence[0].RequestedProcedureID = SECRET
        one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        if request.param == "rle":
            one.compress(RLELossless)
        if request.param == "jpeg":
            scratch = folder.parent / "jpeg.dcm"
            image = sitk.GetImageFromArray(one.pixel_array[None])
            sitk.WriteImage(image, scratch, useCompression=True, compressor="JPEG")
            packed = pydicom.dcmread(scratch)
            one.PixelData, one.file_meta.TransferSyntaxUID = packed.PixelData, JPEGLosslessSV1
            one["PixelData"].is_undefined_length = True
        if request.param == "enhanced" and one.InstanceNumber == 2:
            one = in_one_file(one)
        if request.param == "implicit":
            one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            pydicom.dcmwrite(file, one, implicit_vr=True, little_endian=True)
        else:
            pydicom.dcmwrite(file, one, implicit_vr=False, little_endian=True)
    shutil.copy(folder / "slice-0001.dcm", folder.parent / "whole")
    return folder


def check(folder: Path, raw: bytes) -> None:
    """Every reader on a folder with a damaged file; pydicom never has a word."""
    (folder / "slice-0001.dcm").write_bytes(raw)
    heard: list[str] = []
    named: list[bool] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(f"{record.name}: {record.getMessage()}")  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for strict in (True, False):
                try:
                    volume = read_series(folder, strict=strict)
                except DicomError as error:
                    named.append(str(folder) in str(error))
                    heard.append(str(error))
                else:
                    assert np.isfinite(volume.hu).all()
                    assert (np.diff(volume.slice_z) > 0).all()
                    assert all(s > 0 for s in volume.spacing)
                    heard.extend(volume.warnings)
            table = find_series(folder, progress=False)
    finally:
        logging.getLogger().removeHandler(handler)
    heard += [table.to_string(), str(table.attrs["excluded"])]
    assert all(named)
    assert [str(w.message) for w in warned] == []
    assert [text for text in heard if text.startswith("pydicom") or SECRET in text] == []


@EXAMPLES
@given(data=st.data())
def test_bytes_changed_added_lost_or_cut(folder, data):
    raw = bytearray((folder.parent / "whole").read_bytes())
    where = st.one_of(st.integers(128, len(raw) - 128), st.integers(0, len(raw) - 1))
    for at, byte in data.draw(
        st.lists(st.tuples(where, st.integers(0, 255)), min_size=1, max_size=8)
    ):
        raw[at] = byte
    at = data.draw(st.integers(0, len(raw)))
    rest = data.draw(st.sampled_from([raw[at:], raw[at:], raw[at + 40 :], b""]))
    check(folder, bytes(raw[:at]) + data.draw(st.binary(max_size=30)) + bytes(rest))
