"""Series found in a tree, and LIDC lesions cut out of scans written under the UIDs of real ones."""

from __future__ import annotations

import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from lesionlab.crops import Crop, stores
from lesionlab.sources import lidc
from lesionlab.sources.dicom import Dicom, DicomError, _lidc, find_series, read_series, write_series

DB = lidc.default().database
NODULES = lidc.nodules()
SCAN, OTHER = 698, 1  # short scans with two and four lesions


def lesions(scan_id: int) -> list[str]:
    return NODULES.index[NODULES["scan_id"] == scan_id].tolist()


IDS = lesions(SCAN) + lesions(OTHER)


@pytest.fixture(scope="module")
def written(lidc_sources: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    for scan_id in (SCAN, OTHER):
        lidc_sources.write_scan(root, scan_id)
    return root


@pytest.fixture
def scans(written: Path) -> Dicom:
    return Dicom(written, progress=False)


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """One scan, to be damaged."""
    shutil.copytree(written / f"scan-{SCAN}", tmp_path / "copy")
    return tmp_path / "copy"


def test_series_of_a_tree(tmp_path):
    """Three series: one alone in a folder, two mixed in another, one of them also elsewhere."""
    tree = tmp_path / "root"
    for name, uid, n in (("p1/a", "1.1", 3), ("p2/b", "1.2", 4), ("p2/c", "1.3", 2)):
        about = {"patient_id": name[:2], "series_uid": uid, "study_uid": "1.9"}
        write_series(np.zeros((n, 4, 5)), tree / name, spacing=(2, 0.5, 0.6), **about)
    for file in sorted((tree / "p2/c").iterdir()):
        shutil.copy(file, tree / "p2/b" / f"c-{file.name}")
    (tree / "p1/a/notes.txt").write_text("x", encoding="utf-8")
    (tree / ".hidden").mkdir()
    shutil.copy(tree / "p1/a/slice-0000.dcm", tree / ".hidden/x.dcm")
    (tree / "p1/a/broken.dcm").write_bytes(b"broken" * 100)
    table = find_series(tree, progress=False)
    assert table.drop(columns="places").values.tolist() == [
        ["1.1", "CT", True, 3, "p1/a"],
        ["1.3", "CT", True, 4, "p2"],
        ["1.2", "CT", True, 4, "p2/b"],
    ]
    assert len(read_series(table["places"][2]).hu) == 4
    ((path, reason),) = table.attrs["excluded"]
    assert path.endswith("broken.dcm")
    assert "not a DICOM file" in reason


def test_scans_are_matched_by_their_series(scans):
    report = scans.report()
    assert report["status"].value_counts().to_dict() == {"not found": 1016, "found": 2}
    row = report.loc[SCAN]
    assert (row["n_lesions"], row["n_slices"], row["path"], row["synthetic"]) == (
        len(lesions(SCAN)), len(DB.slice_z[SCAN]), f"scan-{SCAN}", True,
    )  # fmt: skip
    assert report["n_lesions"].sum() == len(NODULES)


def test_a_crop_is_where_the_database_says(scans):
    for lesion_id in IDS:
        crop = scans.crop(lesion_id)
        masks = lidc.masks(lesion_id)
        z, (y0, x0) = crop.slice_index, crop.corner
        assert crop.hu.shape[1:] == (128, 128)
        assert (crop.tier, crop.calibrated.all(), crop.spacing) == ("phantom", True, masks.spacing)
        inside = (y0 + np.arange(128) >= 0) & (y0 + np.arange(128) < 512)
        expected = 10 * z[:, None] + (y0 + np.arange(128)[inside]) % 100
        column = int(np.clip(64, -x0, 511 - x0))
        np.testing.assert_array_equal(crop.hu[:, inside, column], expected)
        # masks: the same voxels of the scan as the database's
        for placed, original in zip(crop.masks, masks.readers, strict=True):
            here = np.argwhere(placed) + np.array([0, *crop.corner])
            here[:, 0] = z[here[:, 0]]
            np.testing.assert_array_equal(here, np.argwhere(original) + masks.origin)
        # in the middle, to half a pixel
        where = np.argwhere(crop.masks.any(axis=0))[:, 1:]
        assert (np.abs(where.min(axis=0) + where.max(axis=0) - 127) <= 1).all()
        for margin in (0, 12):
            crop = scans.crop(lesion_id, margin_mm=margin)
            planes = DB.slice_z[int(NODULES.loc[lesion_id, "scan_id"])]
            drawn = planes[crop.slice_index[crop.masks.any(axis=(0, 2, 3))]]
            wanted = (planes >= drawn.min() - margin) & (planes <= drawn.max() + margin)
            np.testing.assert_array_equal(crop.slice_index, np.flatnonzero(wanted))


def test_the_crop_reaches_over_the_border_with_air(scans):
    crop = scans.crop(IDS[0], size=512, margin_mm=0)
    y0, x0 = crop.corner
    assert (y0, x0) != (0, 0)
    outside = np.ones((512, 512), bool)
    outside[max(-y0, 0) : 512 - max(y0, 0), max(-x0, 0) : 512 - max(x0, 0)] = False
    assert (crop.hu[:, outside] == -1024).all()
    assert (crop.hu[:, ~outside] >= 0).all()


def same(a: Crop, b: Crop) -> bool:
    return a.corner == b.corner and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("hu", "masks", "slice_index")
    )


def test_a_source_is_small_can_be_sent_and_decodes_each_file_once(scans, monkeypatch):
    decoded: list[Path] = []
    read = _lidc.read_pixels
    monkeypatch.setattr(_lidc, "read_pixels", lambda path: decoded.append(path) or read(path))
    crops = [scans.crop(lesion_id, size=64) for lesion_id in IDS]
    assert len(decoded) == len(set(decoded)) > 0
    sent = pickle.dumps(scans.crop)
    assert len(sent) < 500_000
    again = pickle.loads(sent)  # noqa: S301 - our own bytes
    assert all(same(again(crop.lesion_id, size=64), crop) for crop in crops)


def change_all(folder: Path, moved_up: float = 0, **attributes: Any) -> None:
    for file in folder.iterdir():
        one = pydicom.dcmread(file)
        one.ImagePositionPatient[2] += moved_up
        for keyword, value in attributes.items():
            setattr(one, keyword, value)
        one.save_as(file)


def test_a_missing_slice_of_the_lesion_excludes_it(copy, tmp_path):
    lesion_id, *rest = lesions(SCAN)
    index = lidc.masks(lesion_id).origin[0]
    (copy / f"slice-{index:04d}.dcm").unlink()
    scans = Dicom(copy, progress=False)
    reason = rf"copy: no slice at z = {DB.slice_z[SCAN][index]:g} mm"
    with pytest.raises(DicomError, match=reason):
        scans.crop(lesion_id)
    assert scans.report().loc[SCAN, "status"] == "slices missing"
    store = stores.build(
        tmp_path / "store", lesions(SCAN), scans.crop, tier="phantom", on_error="exclude",
        progress=False,
    )  # fmt: skip
    assert "DicomError: " in store.exclusions[lesion_id]
    assert set(store) | set(store.exclusions) == {lesion_id, *rest}


def test_a_bad_slice_of_the_margin_is_left_out(copy, caplog):
    lesion_id = lesions(SCAN)[0]
    whole = Dicom(copy, progress=False).crop(lesion_id)
    index = lidc.masks(lesion_id).origin[0] - 1
    (copy / f"slice-{index:04d}.dcm").write_bytes(b"x" * 1000)
    with caplog.at_level(logging.WARNING, "lesionlab"):
        crop = Dicom(copy, progress=False).crop(lesion_id)
    assert index in whole.slice_index
    np.testing.assert_array_equal(crop.slice_index, whole.slice_index[whole.slice_index != index])
    assert crop.masks.sum() == whole.masks.sum()
    np.testing.assert_array_equal(crop.hu, whole.hu[whole.slice_index != index])
    assert f"{lesion_id}: 1 of 6 slices are left out, all of the margin" in caplog.text


SAGITTAL = {"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"PixelSpacing": [0.9, 0.9]}, r"PixelSpacing is \(0.9, 0.9\) mm, expected 0\.\d+ as in"),
        (SAGITTAL, "beside the other slices|not axial"),
        ({"Rows": 20, "Columns": 20, "PixelData": bytes(800)}, "slices are .20, 20. pixels"),
        ({"moved_up": 0.3}, "none where the database has one"),
    ],
)
def test_a_series_that_is_not_the_scan(copy, change, reason):
    change_all(copy, **change)
    with pytest.raises(DicomError, match=reason):
        Dicom(copy, progress=False).crop(lesions(SCAN)[0])


def test_files_among_other_series_and_in_two_folders(copy, written, tmp_path):
    """A flat download: two series in one folder, half of one of them elsewhere."""
    whole = Dicom(copy, progress=False).crop(lesions(SCAN)[0])
    for file in (written / f"scan-{OTHER}").iterdir():
        shutil.copy(file, copy / f"a-{file.name}")
    (tmp_path / "more").mkdir()
    for file in sorted(copy.glob("slice-*"))[::2]:
        file.rename(tmp_path / "more" / file.name)
    scans = Dicom(tmp_path, progress=False)
    assert scans.report().loc[SCAN, "n_files"] == len(DB.slice_z[SCAN])
    assert same(scans.crop(lesions(SCAN)[0]), whole)
    assert scans.crop(lesions(OTHER)[0]).lesion_id == lesions(OTHER)[0]


def test_a_real_scan_is_of_the_dicom_tier_and_another_unit_is_not_calibrated(copy):
    change_all(copy, SeriesDescription="", RescaleType="US")
    crop = Dicom(copy, progress=False).crop(lesions(SCAN)[0])
    assert (crop.tier, crop.calibrated.any()) == ("dicom", False)


@pytest.mark.parametrize(
    ("lesion_id", "options", "error", "told"),
    [
        ("x", {}, LookupError, "no nodule has the lesion_id 'x'"),
        (IDS[0], {"margin_mm": -1}, ValueError, "margin_mm=-1"),
        (IDS[0], {"size": 2}, ValueError, "size=2"),
        (NODULES.index.difference(IDS)[0], {}, DicomError, "its series 1.* not under"),
    ],
)
def test_what_cannot_be_cut(lesion_id, options, error, told, scans, monkeypatch):
    if error is DicomError:  # no mask is rasterised for a scan that is not there
        monkeypatch.delattr(lidc, "masks")
    with pytest.raises(error, match=told):
        scans.crop(lesion_id, **options)
