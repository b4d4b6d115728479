"""Cases of 3D Slicer read, and lesions of any source written as NIfTI and DICOM-SEG."""

from __future__ import annotations

import gzip
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from typer.testing import CliRunner

from lesionlab import exporting
from lesionlab.cli import app
from lesionlab.crops import datasets
from lesionlab.sources import lidc
from lesionlab.sources.nifti import Nifti, NiftiError, _files, validate
from lesionlab.sources.phantom import wang2021

pytestmark = pytest.mark.usefixtures("cache")

IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)
SPACING, ORIGIN = (0.7, 0.8, 2.0), (-30.0, 12.5, -200.0)  # (x, y, z)


def image(array: Any, direction: Any = IDENTITY, origin: Any = ORIGIN) -> Any:
    made: Any = sitk.GetImageFromArray(array)
    made.SetSpacing(SPACING)
    made.SetOrigin(origin)
    made.SetDirection(direction)
    return made


def voxels() -> tuple[Any, Any]:
    """HU that are all different, and a mask that is not its own mirror image."""
    hu = np.arange(10 * 14 * 12, dtype=np.int16).reshape(10, 14, 12) - 900
    mask = np.zeros(hu.shape, np.uint8)
    mask[3:6, 4:8, 5:10] = 1
    mask[5, 8, 5] = 1
    return hu, mask


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Two cases; the first is damaged in tests."""
    root = tmp_path / "cases"
    root.mkdir()
    hu, mask = voxels()
    for case in "ab":
        sitk.WriteImage(image(hu), root / f"{case}.nii.gz")
        sitk.WriteImage(image(mask), root / f"{case}-label.nrrd", useCompression=True)
    table(root)
    return root


def table(root: Path, **cells: str) -> None:
    """The table, with other cells for the case `a`."""
    rows = [{"case": c, "image": f"{c}.nii.gz", "mask": f"{c}-label.nrrd", "pathology": "MIA"}
            for c in "ab"]  # fmt: skip
    pd.DataFrame([rows[0] | cells, rows[1]]).to_csv(root / "labels.csv", index=False)


def export(form: Any, out: Path, name: str, ids: Any, **more: Any) -> Path:
    options = {key: more.pop(key) for key in ("seed", "source") if key in more}
    root, left_out = exporting.export(
        form, out, datasets.get(name, **options), ids, progress=False, **more
    )
    assert left_out == {}
    return root


def same_place(found: Any, expected: Any) -> None:
    """The same voxels at the same mm, whatever the order of the axes in the files."""
    found, expected = (sitk.DICOMOrient(one, "LPS") for one in (found, expected))
    assert found.GetSize() == expected.GetSize()
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(found, get)(), getattr(expected, get)(), atol=1e-4)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))


def segment(path: Path) -> Any:
    """A segmentation as SimpleITK reads it; highdicom has to read the same."""
    read: Any = sitk.Cast(sitk.ReadImage(path) > 0, sitk.sitkUInt8)
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    by_highdicom: Any = sitk.GetImageFromArray(volume.array.astype(np.uint8))
    by_highdicom.SetSpacing(volume.spacing[::-1])
    by_highdicom.SetOrigin(volume.position)
    by_highdicom.SetDirection(np.array(volume.direction)[:, ::-1].ravel())
    same_place(by_highdicom, read)
    return read


# -- there and back --


def test_phantoms_come_back_as_they_were_written(tmp_path, monkeypatch):
    expected = wang2021.nodules().iloc[:3]
    root = export("nifti", tmp_path / "out", "phantom-wang2021", expected.index)
    source = Nifti(root)
    found = source.lesions()
    assert (validate(root), source.tier, len(source.exclusions())) == ((3, []), "phantom", 0)
    columns = ["patient", "pathology", "slice_thickness", "pixel_spacing"]
    pd.testing.assert_frame_equal(found[columns], expected[columns], check_dtype=False, atol=1e-6)
    made = {str(i): wang2021.phantom(str(i)) for i in expected.index}
    for lesion_id, crop in made.items():
        read = source.crop(lesion_id)
        np.testing.assert_array_equal(read.hu, crop.hu)
        np.testing.assert_array_equal(read.masks, crop.masks)
        row = found.loc[lesion_id]
        volume = crop.masks.sum() * np.prod(crop.spacing)
        assert row["equivalent_diameter"] == pytest.approx((6 * volume / np.pi) ** (1 / 3))
        at = np.argwhere(crop.masks[0])
        assert row["diameter"] == pytest.approx((np.ptp(at[:, 1:], 0).max() + 1) * crop.spacing[1])
        assert row[["z", "y", "x"]].tolist() == pytest.approx(at.mean(axis=0).tolist())
    with pytest.raises(FileNotFoundError, match=r"LESIONLAB_NIFTI is not set: .*export nifti"):
        datasets.crops("nifti", progress=False)
    monkeypatch.setenv("LESIONLAB_NIFTI", str(root))
    store = datasets.crops("nifti", progress=False)
    assert (list(store), store.tier) == (list(made), "phantom")
    assert datasets.validate(store) == {}
    assert [basis.tier for basis in datasets.get("nifti").rests_on()] == ["phantom"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR", "SAL"])
def test_axes_are_put_in_order_and_back(tmp_path, code, suffix):
    """Independent of the reader: where a voxel lies is asked of SimpleITK's own image."""
    (hu, mask), root = voxels(), tmp_path / "cases"
    root.mkdir()
    files = sitk.DICOMOrient(image(hu), code), sitk.DICOMOrient(image(mask), code)
    for name, made in zip(("a", "m"), files, strict=True):
        sitk.WriteImage(made, root / f"{name}{suffix}")
    (root / "labels.csv").write_text(f"case,image,mask,pathology\na,a{suffix},m{suffix},\n")
    source = Nifti(root)
    assert source.tier == "nifti"
    assert source.lesions()["pathology"].isna().all()
    crop = source.crop("a", size=9, margin_mm=2.0)
    assert (crop.origin, crop.hu.shape) == ((2, 2, 3), (5, 9, 9))
    grid = source.grid(crop)
    for index in ((0, 0, 0), (4, 8, 8), (1, 5, 3)):
        index_xyz = files[0].TransformPhysicalPointToIndex(grid.at(index).origin)
        assert files[0][index_xyz] == crop.hu[index]
        assert files[1][index_xyz] == crop.masks[0][index]
    out = export("nifti", tmp_path / "out", "nifti", None, source=root)
    for name, original in zip(("a", "a-label-1"), files, strict=True):
        written = sitk.ReadImage(out / f"{name}.nii.gz")
        assert written.GetDirection() == pytest.approx(original.GetDirection())
        same_place(written, original)
    assert Nifti(out).tier == "nifti"


def test_a_segmentation_with_a_series_written_for_it(cases, tmp_path):
    out = export("dicom-seg", tmp_path / "out", "nifti", ["b"], source=cases) / "b"
    same_place(segment(out / "label-1.dcm"), image(voxels()[1]))
    names = sorted(map(str, (out / "ct").iterdir()))
    same_place(sitk.Cast(sitk.ReadImage(names), sitk.sitkInt16), image(voxels()[0]))
    of, seg = pydicom.dcmread(names[0]), pydicom.dcmread(out / "label-1.dcm")
    assert of.SeriesDescription == seg.SeriesDescription == "lesionlab crop"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == of.SeriesInstanceUID
    assert (of.PatientID, seg.StudyInstanceUID) == ("b", of.StudyInstanceUID)


def test_lidc_lesions_beside_their_own_series_and_as_cases(tmp_path, lidc_sources):
    scan = lidc_sources.write_scan(tmp_path / "scans", 698, synthetic=False)
    nodules = lidc.nodules()
    lesion_id = str(nodules.index[nodules["scan_id"] == 698][0])
    options = {"source": tmp_path / "scans"}
    seg = export("dicom-seg", tmp_path / "seg", "dicom", [lesion_id], **options) / lesion_id
    cases = export("nifti", tmp_path / "cases", "dicom", [lesion_id], **options)
    crop, masks = Nifti(cases).crop(lesion_id), lidc.masks(lesion_id)
    assert len(crop.masks) == len(list(seg.iterdir())) == len(masks.readers) > 1
    whole = [pydicom.dcmread(file) for file in sorted(scan.iterdir())]
    for reader, mask in enumerate(masks.readers, 1):
        read = segment(seg / f"label-{reader}.dcm")
        one = pydicom.dcmread(seg / f"label-{reader}.dcm")
        assert one.PatientID == whole[0].PatientID
        assert read.GetSize()[:2] == (512, 512)
        ones = np.argwhere(sitk.GetArrayFromImage(read))
        mm = [read.TransformIndexToPhysicalPoint(at[::-1].tolist()) for at in ones]
        drawn = np.argwhere(mask) + masks.origin
        steps = drawn[:, ::-1] * masks.spacing[::-1] * [1, 1, 0]
        expected = steps + [np.array(whole[k].ImagePositionPatient, float) for k in drawn[:, 0]]
        np.testing.assert_allclose(sorted(map(tuple, mm)), sorted(map(tuple, expected)), atol=0.01)
        # and the case: the same voxels at the same mm
        case = sitk.ReadImage(cases / f"{lesion_id}-label-{reader}.nii.gz")
        there = {case.TransformPhysicalPointToIndex(point) for point in map(list, mm)}
        assert there == {
            tuple(at[::-1].tolist()) for at in np.argwhere(sitk.GetArrayFromImage(case))
        }


def test_predictions_are_written_as_masks_and_as_maps_with_signs(cases, tmp_path):
    hu, mask = voxels()
    signed = np.random.default_rng(0).normal(size=hu.shape).astype(np.float32)
    np.savez(tmp_path / "p.npz", **{"a": mask > 0, "a/cam": signed})
    arrays = exporting.read_predictions(tmp_path / "p.npz")
    for form in ("nifti", "dicom-seg"):
        root = export(form, tmp_path / form, "nifti", None, source=cases, predictions=arrays)
        place = root / "a" if form == "dicom-seg" else root
        stem = "" if form == "dicom-seg" else "a-"
        same_place(sitk.ReadImage(place / f"{stem}prediction-cam.nii.gz"), image(signed))
        assert not list(root.glob("b*"))  # lesions without one are not asked for
    same_place(sitk.ReadImage(tmp_path / "nifti" / "a-prediction.nii.gz"), image(mask))
    path = tmp_path / "dicom-seg/a/prediction.dcm"
    same_place(segment(path), image(mask))
    assert pydicom.dcmread(path).SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    for bad, told in (
        ({"a": mask}, r"prediction 'a': expected \(10, 14, 12\) booleans or finite floats, got"),
        ({"a": signed[1:]}, "prediction 'a': expected"),
        ({"a": signed * np.nan}, "prediction 'a': expected"),
        ({"a/../x": signed}, "prediction 'a/../x': expected lesion_id or lesion_id/name"),
        ({"z": signed}, "lesion_ids: expected ids of nifti such as a, got z"),
    ):
        with pytest.raises(ValueError, match=told):
            export("nifti", tmp_path / "bad", "nifti", None, source=cases, predictions=bad)
    assert not (tmp_path / "bad").exists()
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"is no NumPy archive \.npz"):
        exporting.read_predictions(tmp_path / "o.npy")


# -- bad input: each is named with its file and key, and the other case is read --


def faults(root: Path) -> list[tuple[str, str, str]]:
    """What is wrong with the first case; the second one is whole."""
    source = Nifti(root)
    assert source.lesions().index.tolist() == ["b"]
    assert source.crop("b").masks.any()
    with pytest.raises(LookupError, match="no case that can be used is called 'a'"):
        source.crop("a")
    return [tuple(row) for row in source.exclusions().itertuples(index=False)]


def header(offset: int, kind: str, *values: float) -> Callable[[Path], None]:
    """Change numbers of the image's header (nifti1.h has the offsets)."""

    def change(root: Path) -> None:
        plain = bytearray(gzip.decompress((root / "a.nii.gz").read_bytes()))
        struct.pack_into(f"<{kind}", plain, offset, *values)
        (root / "a.nii.gz").write_bytes(gzip.compress(plain))

    return change


def written(name: str, change: Callable[[Any], Any], **place: Any) -> Callable[[Path], None]:
    """Other voxels in the image or the mask."""

    def change_file(root: Path) -> None:
        array = change(voxels()[name == "a-label.nrrd"])
        made: Any = (
            image(array, **place)
            if array.ndim == 3
            else sitk.GetImageFromArray(array, isVector=False)
        )
        sitk.WriteImage(made, root / name)

    return change_file


def put(array: Any, at: Any, value: Any) -> Any:
    array = array.astype(np.float32 if value != 1 and value != 2 else array.dtype)
    array[at] = value
    return array


def text(old: bytes, new: bytes) -> Callable[[Path], None]:
    """Change the mask's NRRD header."""

    def change(root: Path) -> None:
        raw = (root / "a-label.nrrd").read_bytes()
        assert old in raw
        (root / "a-label.nrrd").write_bytes(raw.replace(old, new))

    return change


TURN = (np.cos(0.02), -np.sin(0.02), 0, np.sin(0.02), np.cos(0.02), 0, 0, 0, 1)
IMAGE, MASK = "a.nii.gz", "a-label.nrrd"
BAD: dict[str, tuple[Callable[[Path], Any], str, str, str]] = {
    "grids": (written(MASK, lambda m: m[1:]), MASK, "grid", "is not that of the image"),
    "places": (written(MASK, lambda m: m, origin=(0, 0, 0)), MASK, "grid", "is not that of"),
    "empty": (written(MASK, lambda m: m * 0), MASK, "voxels", "the mask has no voxel"),
    "parts": (written(MASK, lambda m: put(m, (0, 0, 0), 1)), MASK, "voxels", "has 2 parts"),
    "values": (written(MASK, lambda m: put(m, (3, 4, 5), 2)), MASK, "voxels", "one segment"),
    "rotated": (written(IMAGE, lambda h: h, direction=TURN), IMAGE, "direction", "is rotated"),
    "sheared": (header(284, "f", 0.2), IMAGE, "direction", "its axes are sheared"),
    "sheared NRRD": (text(b"(0,0.80000000000000004,0)", b"(0.3,0.8,0)"), MASK, "direction",
                     "its axes are sheared"),
    "spacing": (header(84, "f", 0.9), IMAGE, "direction", "its axes contradict its spacing"),
    "NaN": (written(IMAGE, lambda h: put(h, (0, 0, 0), np.nan)), IMAGE, "voxels", "are NaN"),
    "no HU": (written(IMAGE, lambda h: put(h, (0, 0, 0), 99999)), IMAGE, "voxels", "expected HU"),
    "4D": (written(IMAGE, lambda h: np.stack([h, h])), IMAGE, "dim", "expected 3 axes, got 4"),
    "4D NRRD": (text(b"dimension: 3", b"dimension: 4"), MASK, "dimension", "expected 3 axes"),
    "2 GB": (header(40, "4h", 3, 1290, 1290, 645), IMAGE, "size",
             "says 2,146,689,000 bytes of voxels, expected at most"),
    "2 GB NRRD": (text(b"sizes: 12 14 10", b"sizes: 1290 1290 1290"), MASK, "size", "says 2,1"),
    "more": (header(46, "h", 11), IMAGE, "size", "and 336 of them are missing"),
    "no axis": (header(42, "h", 0), IMAGE, "dim", "1 or more voxels"),
    "type": (header(70, "h", 128), IMAGE, "datatype", "128: expected numbers"),
    "offset": (header(108, "f", 1e9), IMAGE, "vox_offset", "expected 352 to 65,536"),
    "metres": (header(123, "b", 1), IMAGE, "xyzt_units", "expected mm"),
    "nowhere": (header(252, "2h", 0, 0), IMAGE, "sform_code", "does not say where"),
    "infinite": (header(280, "f", np.inf), IMAGE, "pixdim, srow", "expected numbers up to"),
    "no NIfTI": (lambda root: (root / IMAGE).write_bytes(b"x" * 400), IMAGE, "", "is no NIfTI-1"),
    "cut": (lambda root: (root / IMAGE).write_bytes((root / IMAGE).read_bytes()[:-30]), IMAGE, "",
            "cannot be read: cut off or damaged"),
    "another file": (text(b"encoding: gzip", b"encoding: raw\ndata file: /etc/passwd"), MASK,
                     "data file", "expected the voxels in here"),
    "skip": (text(b"encoding: gzip", b"encoding: raw\nbyte skip: -1"), MASK, "byte skip", "none"),
    "encoding": (text(b"encoding: gzip", b"encoding: bzip2"), MASK, "encoding", "raw or gzip"),
    "no NRRD": (text(b"NRRD0004", b"NRRD9999"), MASK, "", "is no NRRD file"),
    "label": (lambda root: table(root, pathology="SCC"), "labels.csv", "pathology (line 2)",
              "'SCC': expected one of AAH, AIS, MIA, IAC"),
    "no mask": (lambda root: table(root, mask=""), "labels.csv", "mask (line 2)", "'': expected a"),
    "mask gone": (lambda root: (root / MASK).unlink(), "labels.csv", "mask (line 2)", "no such"),
    "name": (lambda root: table(root, case="../a"), "labels.csv", "case (line 2)", "a new name of"),
    "outside": (lambda root: table(root, image="../a.nii.gz"), "labels.csv", "image (line 2)",
                "'../a.nii.gz': expected a file .nii, .nii.gz or .nrrd inside the folder"),
    "absolute": (lambda root: table(root, image="/etc/a.nii"), "labels.csv", "image (line 2)",
                 "inside the folder"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_case_is_left_out_and_named(cases, what):
    damage, file, key, reason = BAD[what]
    damage(cases)
    found = faults(cases)
    assert [fault[:2] for fault in found] == [(file, key)]
    assert reason in found[0][2]


def test_links_are_not_followed_and_every_fault_is_listed(cases, tmp_path):
    shutil.move(cases / IMAGE, tmp_path / "elsewhere.nii.gz")
    (cases / IMAGE).symlink_to(tmp_path / "elsewhere.nii.gz")
    (cases / MASK).write_bytes(b"")
    table(cases, pathology="?")
    found = faults(cases)
    assert [key for _, key, _ in found] == ["pathology (line 2)", "image (line 2)", ""]
    assert found[1][2] == "a.nii.gz: there is no such file, or it is a link"


def test_nothing_large_is_unpacked(cases, monkeypatch):
    """A bomb: 64 MB of voxels in 64 kB, as a header says that agrees with them."""
    plain = bytearray(gzip.decompress((cases / IMAGE).read_bytes())[:352])
    struct.pack_into("<4h", plain, 40, 3, 320, 320, 320)
    (cases / IMAGE).write_bytes(gzip.compress(bytes(plain) + bytes(2 * 320**3)))
    monkeypatch.setattr(_files, "MAX_BYTES", 1 << 24)
    assert "expected at most 16,777,216" in str(Nifti(cases)._faults[0])


def test_a_table_that_cannot_be_read(cases):
    (cases / "labels.csv").write_text("case,image,pathology\na,b,MIA\n")
    with pytest.raises(NiftiError, match=r"labels\.csv: expected one column 'mask'"):
        Nifti(cases)
    (cases / "labels.csv").write_text("case,image,mask,pathology\na,a.nii.gz\n")
    with pytest.raises(NiftiError, match="no lesion can be used; 1 faults: labels"):
        Nifti(cases).lesions()
    with pytest.raises(FileNotFoundError, match=r"x is no folder; expected one with labels\.csv"):
        Nifti(cases / "x")


def test_the_commands(tmp_path):
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, ["data", *map(str, arguments)])

    out = tmp_path / "out"
    done = run("export", "nifti", out, "--limit", 2)
    assert done.stdout == (
        f"{out}: written, 0 lesions left out\nRun: export LESIONLAB_NIFTI={out}\n"
    ), done.output
    done = run("validate", out)
    assert (done.exit_code, done.stdout) == (0, f"{out}: 2 lesions, nothing is wrong\n")
    first = sorted(out.glob("*-label-1.nii.gz"))[0]
    first.write_bytes(b"")
    done = run("validate", out)
    assert (done.exit_code, done.stdout) == (1, f"{first.name}: is no NIfTI-1 file\n")
    assert done.stderr == f"lesionlab: {out}: 1 faults, 1 lesions can be used\n"
    done = run("export", "dicom-seg", tmp_path / "seg", "--source", "nifti", "--scans", out)
    assert done.stdout == f"{tmp_path / 'seg'}: written, 0 lesions left out\n"
    assert len(list((tmp_path / "seg").rglob("label-1.dcm"))) == 1
    done = run("export", "nifti", out)
    assert (done.exit_code, "is there already" in done.stderr) == (1, True)
