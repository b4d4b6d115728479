"""Series as they are found: in subfolders, mixed, incomplete, aslant, in phases, in one file."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEGLosslessSV1, RLELossless
from scipy import ndimage
from typer.testing import CliRunner

from lesionlab import doctor
from lesionlab.cli import app
from lesionlab.sources import lidc, origins
from lesionlab.sources.dicom import (
    BadFileError,
    Dicom,
    DicomError,
    _files,
    find_series,
    identity,
    read_series,
    write_series,
)

SECRET = "ZZSECRETZZ"  # noqa: S105 - stands for what must not be shown
SPACING = (2.5, 0.7, 0.8)
HU = np.random.default_rng(3).integers(-1023, 3000, (6, 12, 10)).astype(np.int16)
NEW = {"SOPInstanceUID": "1.2.3", "InstanceNumber": 7}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good series of six slices, from z = 0."""
    return write_series(HU, tmp_path / "scan", spacing=SPACING, patient_id="P")


def edit(file: Path, **attributes: Any) -> None:
    one = pydicom.dcmread(file)
    for keyword, value in attributes.items():
        setattr(one, keyword, value)
    one.save_as(file)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))


def read_loosely(folder: Path, **options: Any) -> tuple[npt.NDArray[Any], str]:
    volume = read_series(folder, strict=False, **options)
    told = " | ".join(volume.warnings)
    assert SECRET not in told
    return volume.hu, told


# -- which files ---------------------------------------------------------------------------------


def test_subfolders_are_told_of_and_searched_when_asked(folder, tmp_path):
    (folder / "sub" / "deeper").mkdir(parents=True)
    for file in files(folder)[4:]:
        file.rename(folder / "sub" / "deeper" / file.name)
    volume = read_series(folder)
    assert len(volume.hu) == 4
    assert "2 files in subfolders were not read; recursive=True" in volume.warnings[0]
    with pytest.raises(DicomError, match=r"no CT slices among 0 files; 6 files in subfolders"):
        read_series(tmp_path)
    for volume in (
        read_series(tmp_path, recursive=True),
        read_series(find_series(tmp_path, progress=False)["places"][0]),
    ):
        np.testing.assert_array_equal(volume.hu, HU)
        assert volume.warnings == ()


@pytest.mark.parametrize("with_meta", [True, False])
def test_files_without_a_preamble_are_read(folder, with_meta):
    for file in files(folder):
        raw = file.read_bytes()
        assert raw[128:132] == b"DICM"
        start = 132 if with_meta else 144 + int.from_bytes(raw[140:144], "little")
        file.write_bytes(raw[start:])
    np.testing.assert_array_equal(read_series(folder).hu, HU)
    assert find_series(folder, progress=False)["n_files"].tolist() == [6]


def test_an_excluded_file_is_named_in_the_error_that_follows(folder, lidc_sources, tmp_path):
    for file in files(folder)[1:]:
        file.write_bytes(b"\x08\0\x05\0damaged" * 9)
    edit(files(folder)[0], SliceThickness=None)
    with pytest.raises(DicomError, match=r"single slice.*; excluded .*-0001.dcm: .*, and 4 more"):
        read_series(folder, strict=False)
    lesion_id = lidc.nodules().query("scan_id == 698").index[0]
    scan = lidc_sources.write_scan(tmp_path, 698)
    bad = files(scan)[lidc.masks(lesion_id).origin[0]]
    bad.write_bytes(b"x" * 900)
    with pytest.raises(DicomError, match=rf"no slice at z = .*; excluded .*{bad.name}: not"):
        Dicom(scan, progress=False).crop(lesion_id)


def test_missing_slices_of_a_margin_are_one_line_of_log(lidc_sources, tmp_path, caplog):
    lesion_id = lidc.nodules().query("scan_id == 698").index[0]
    scan = lidc_sources.write_scan(tmp_path, 698)
    first = lidc.masks(lesion_id).origin[0]
    for file in files(scan)[first - 2 : first]:
        file.unlink()
    with caplog.at_level(logging.WARNING, "lesionlab"):
        crop = Dicom(scan, progress=False).crop(lesion_id)
    (record,) = [r.getMessage() for r in caplog.records if lesion_id in r.getMessage()]
    assert f"2 of {len(crop.hu) + 2} slices are left out, all of the margin; the first: " in record


def test_a_folder_without_lidc_scans_is_not_ok(folder, lidc_sources, tmp_path, monkeypatch):
    def found() -> doctor.Finding:
        return next(f for f in doctor.data() if f.what == origins.DICOM.title)

    monkeypatch.setenv(origins.DICOM.variable, str(tmp_path))
    assert (found().ok, "no scan of LIDC-IDRI" in found().found) == (False, True)
    shutil.copytree(lidc_sources.write_scan(tmp_path / "deep", 698), tmp_path / "more" / "scan")
    assert found().ok


SCRIPT = """
from lesionlab.crops import datasets
of = datasets.get("phantom")
print(len(datasets.build(of, of.ids(None)[:2], processes=2, patience=900, progress=False)[0]))
"""


def test_a_script_without_a_guard_is_told_so_at_once(cache, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(  # it waited for its own lock as long as patience lasts
        [sys.executable, script], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 1
    assert "by the process that started this one and waits for it: a script" in done.stderr
    assert "a script calls it under `if __name__ == '__main__':`" in done.stderr


# -- what headers say ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "refused", "told"),
    [
        (
            {"PatientID": SECRET},
            True,
            "2 patients in one series: 4 slices as .*0000.dcm, 2",
        ),
        ({"PatientName": SECRET}, True, "2 patients in one series"),
        ({"FrameOfReferenceUID": "1.2.3"}, True, "2 frames of reference in one series: 4 slices"),
        ({"ConvolutionKernel": SECRET}, False, "2 reconstruction kernels in one series: 4 slices"),
        (
            {"SliceThickness": 5},
            False,
            "2 slice thicknesses in one series: 4 slices as",
        ),
        ({"SOPInstanceUID": "1.2.3"}, False, "2 files share .*, the first .*slice-0004.dcm"),
    ],
)
def test_a_series_that_mixes_or_repeats(folder, changes, refused, told):
    for file in files(folder)[4:]:
        edit(file, **changes)
    hu, warned = read_loosely(folder)
    np.testing.assert_array_equal(hu, HU)
    (note,) = warned.split(" | ")
    assert re.search(told, note)
    if refused:
        with pytest.raises(DicomError, match=f"scan: {told}.*strict=False") as raised:
            read_series(folder)
        assert SECRET not in str(raised.value)
    else:
        assert read_series(folder).warnings == (note,)


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        (
            [2, 3, 4, 5],
            "slices before .*2.dcm may be missing: InstanceNumbers begin with its 3",
        ),
        ([0, 2, 4], "every second slice may be missing: InstanceNumbers rise by 2"),
        (
            [0, 1, 3, 4, 5],
            "between others: InstanceNumbers lack 1 .*about 1 slices missing",
        ),
        ([0, 1, 2, 3], None),  # no number shows how many there were
    ],
)
def test_slices_that_are_missing_by_their_numbers(folder, kept, told):
    for k, file in enumerate(files(folder)):
        if k not in kept:
            file.unlink()
    hu, warned = read_loosely(folder)
    np.testing.assert_array_equal(hu, HU[kept])
    assert re.search(told, warned) if told else warned == ""


def test_a_localizer_can_have_the_first_number(folder):
    edit(files(folder)[0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert read_series(folder).warnings == ("skipped, not CT slices: 1 × localizer",)


@pytest.mark.parametrize(
    "labels",
    [
        {"AcquisitionNumber": lambda p, k: 9 + p},  # 9 comes before 10
        {"ConvolutionKernel": lambda p, k: "AB"[p]},
        {"InstanceNumber": lambda p, k: 2 * k + p + 1},
    ],
)
def test_two_phases_in_one_series_are_one_warning_and_a_choice(folder, labels):
    (folder / "more").mkdir()
    for k, file in enumerate(files(folder)):
        other = Path(shutil.copy(file, folder / f"other-{k}.dcm"))
        one = pydicom.dcmread(other)
        one.PixelData = (HU[k] // 2 + 1024).astype(np.int16).tobytes()
        one.SOPInstanceUID, one.InstanceNumber = f"1.2.{k}", 7 + k
        one.save_as(other)
        for p, path in enumerate((file, other)):
            edit(path, **{keyword: value(p, k) for keyword, value in labels.items()})
    volume = read_series(folder)
    np.testing.assert_array_equal(volume.hu, HU)
    (told,) = (w for w in volume.warnings if "stands at the position" in w)
    assert "as were 5 more such slices; phase=1 to 2 reads one phase alone" in told
    for phase, expected in ((1, HU), (2, HU // 2)):
        volume = read_series(folder, phase=phase)
        np.testing.assert_array_equal(volume.hu, expected)
        assert "position" not in " ".join(volume.warnings)
    with pytest.raises(ValueError, match="phase=3: expected a whole number from 1 to 2"):
        read_series(folder, phase=3)


@pytest.mark.parametrize("written", ["HU", "Houndsfield Unit", "Hounsfield Units", "US", "HUGE"])
def test_hounsfield_units_by_other_names(folder, written):
    for file in files(folder):
        edit(file, RescaleType=written)
    told = "RescaleType is not HU" in " ".join(read_series(folder).warnings)
    assert told == (written in ("US", "HUGE"))


# -- geometry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("oblique", [False, True])
def test_a_tilted_gantry_is_put_right(tmp_path, oblique):
    """HU rise evenly along axes of the patient, so that interpolation is exact."""
    angle = np.radians(20)
    down = np.array([0, np.cos(angle), -np.sin(angle)]) if oblique else np.array([0, 1.0, 0])
    table = np.array([0, 0, 3.0]) if oblique else np.array([0.1, -1.1, 3.0])
    rise = np.array([3.0, 20.0, 7.0])
    grid = np.mgrid[:8, :14, :10]
    at = [grid[0][..., None] * table + 0.7 * grid[1][..., None] * down]
    at[0][..., 0] += 0.8 * grid[2]
    hu = np.rint(at[0] @ rise)
    folder = write_series(hu, tmp_path / "s", spacing=SPACING, patient_id="P")
    for k, file in enumerate(files(folder)):
        where = {"ImageOrientationPatient": [1, 0, 0, *down.round(9).tolist()]}
        edit(file, ImagePositionPatient=(k * table).round(9).tolist(), **where)
    volume = read_series(folder)
    degrees = 20.0 if oblique else np.degrees(np.arctan2(np.hypot(0.1, 1.1), 3))
    assert f"the gantry was tilted by {degrees:.1f}°: slices were moved" in volume.warnings[0]
    expected = volume.patient_mm(np.moveaxis(np.indices(volume.hu.shape), 0, -1)) @ rise
    # but for the pixels at an edge, which are mixed with air
    inside = ndimage.binary_erosion(volume.hu > -1024, np.ones((1, 3, 3)))
    assert inside.sum() > 8 * 11 * 7
    np.testing.assert_allclose(volume.hu[inside], expected[inside], atol=1.1)
    np.testing.assert_allclose(volume.direction[:, 2] @ table, volume.spacing[0], atol=1e-6)
    assert volume.files == ()


def enhanced(folder: Path, **attributes: Any) -> Path:
    """The series as one file, made by highdicom."""
    parts = [pydicom.dcmread(file) for file in files(folder)]
    for part in parts:
        part.AccessionNumber, part.StudyID, part.KVP = "1", "1", "120"
        part.SeriesDate = part.StudyDate = "20200101"
        part.SeriesTime = part.StudyTime = "120000"
    whole = hd.legacy.LegacyConvertedEnhancedCTImage(parts, "1.2.3", 1, "1.2.4", 1)
    for keyword, value in attributes.items():
        setattr(whole, keyword, value)
    made = folder.with_name("enhanced")
    made.mkdir(exist_ok=True)
    whole.save_as(made / "whole.dcm")
    return made / "whole.dcm"


def in_jpeg(plane: npt.NDArray[Any], scratch: Path) -> bytes:
    """A stream of lossless JPEG, as GDCM makes it."""
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(scratch))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.Execute(sitk.GetImageFromArray(plane[None]))
    stored = pydicom.dcmread(scratch).PixelData
    scratch.unlink()
    return next(generate_frames(stored, number_of_frames=1))


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLosslessSV1])
def test_enhanced_ct_is_the_same_volume(folder, syntax):
    file = enhanced(folder, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1")
    whole = pydicom.dcmread(file)
    if syntax == RLELossless:
        whole.compress(syntax)
    elif syntax:
        planes = whole.pixel_array
        whole.PixelData = encapsulate(
            [in_jpeg(plane, file.with_suffix(".tmp")) for plane in planes]
        )
        whole["PixelData"].is_undefined_length = True
        whole.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(file, whole, implicit_vr=not syntax, little_endian=True)
    ours, classic = read_series(file.parent), read_series(folder)
    np.testing.assert_array_equal(ours.hu, classic.hu)
    np.testing.assert_allclose(ours.slice_z, classic.slice_z)
    np.testing.assert_allclose(ours.origin_mm, classic.origin_mm)
    assert (ours.spacing, ours.thickness, ours.warnings) == (classic.spacing, 2.5, ())
    assert (len(ours.files), len(classic.files)) == (0, len(classic.hu))
    assert find_series(file.parent, progress=False)["n_files"].tolist() == [1]


def drop_position(whole: Any) -> None:
    del whole.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence


def long_group(whole: Any) -> None:
    many = [pydicom.Dataset() for _ in range(2_000)]
    whole.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = many


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: setattr(w, "NumberOfFrames", 9), "has not an item for each frame"),
        (lambda w: setattr(w, "NumberOfFrames", 10**8), "NumberOfFrames is not a number from 1 to"),
        (lambda w: setattr(w, "PixelData", w.PixelData[:-200]), "pixels are"),
        (lambda w: w.PerFrameFunctionalGroupsSequence.pop(), "has not an item for each frame"),
        (drop_position, "ImagePositionPatient is not 3 numbers"),
        (long_group, "a sequence is damaged, or holds more elements than can be"),
    ],
)
def test_damaged_enhanced_ct_is_named(folder, change: Callable[[Any], Any], told, monkeypatch):
    monkeypatch.setattr(_files, "MAX_NESTED", 1_500)
    file = enhanced(folder)
    whole = pydicom.dcmread(file)
    change(whole)
    whole.save_as(file)
    with pytest.raises(BadFileError, match=rf"whole.dcm: .*{told}"):
        read_series(file)
    if told == "pixels are":
        assert len(read_series(file, strict=False).hu) == 5  # the others are whole
    else:
        with pytest.raises(DicomError, match=told):
            read_series(file, strict=False)


# -- the command line ----------------------------------------------------------------------------


def test_the_commands_name_fields_and_files_and_no_value(folder, tmp_path):
    """Values are planted in every field that can hold a text, a name, a date or a UID."""
    planted = {"PN": SECRET, "LO": SECRET, "SH": SECRET, "ST": SECRET, "LT": SECRET, "AS": "099Y"}
    planted |= {"DA": "19770304", "TM": "070809", "UI": "1.9.7.7"}
    words = [
        "PatientName", "PatientID", "PatientBirthDate", "PatientAge", "OtherPatientNames",
        "ReferringPhysicianName", "OperatorsName", "InstitutionName", "StationName", "StudyDate",
        "AcquisitionTime", "StudyID", "AccessionNumber", "ProtocolName", "StudyDescription",
        "SeriesDescription", "ImageComments", "PatientComments", "InstitutionAddress",
        "FrameOfReferenceUID", "DeviceSerialNumber",
    ]  # fmt: skip
    for file in files(folder):
        one = pydicom.dcmread(file)
        for word in words:
            setattr(one, word, planted[pydicom.datadict.dictionary_VR(word)])
        one.RequestAttributesSequence = [pydicom.Dataset()]
        one.RequestAttributesSequence[0].ScheduledProcedureStepID = SECRET
        one.private_block(0x0011, SECRET, create=True).add_new(1, "LO", SECRET)
        one.ConvolutionKernel = SECRET if file.name.endswith("1.dcm") else "B30f"
        one.save_as(file)
    (tmp_path / "bad.dcm").write_bytes(SECRET.encode() * 50)
    shown = {}
    for command in ("list", "check", "identity"):
        done = CliRunner().invoke(app, ["dicom", command, str(tmp_path)])
        assert done.exit_code == (command == "check"), done.output
        shown[command] = done.output
        for secret in (SECRET, "19770304", "070809", "099Y", "1.9.7.7", "1.2.826"):
            assert secret not in done.output
    assert [line.split() for line in shown["list"].splitlines()][-1] == ["1", "CT", "6", "scan"]
    assert "series 1, scan: 6 slices\n    2 reconstruction kernels" in shown["check"]
    assert "something is odd about 1 series" in shown["check"]
    table = identity(tmp_path)
    assert {*words, "ScheduledProcedureStepID", "private fields"} <= set(table.index)
    assert table.loc["PatientAge"].tolist() == ["patient", 6]
    assert table.loc["OperatorsName", "kind"] == "name"
    assert not {"SOPClassUID", "ConvolutionKernel", "Manufacturer", "Rows"} & set(table.index)
    assert len(table.attrs["excluded"]) == 1
    assert all(field in shown["identity"] for field in table.index)


def test_what_is_wrong_use_and_what_is_fine(folder, tmp_path):
    done = CliRunner().invoke(app, ["dicom", "check", str(folder)])
    assert (done.exit_code, done.output) == (0, "series 1, .: 6 slices, nothing is odd\n")
    for command in ("list", "check", "identity"):
        done = CliRunner().invoke(app, ["dicom", command, str(tmp_path / "nowhere")])
        assert (done.exit_code, "is not a folder" in done.output) == (1, True)
