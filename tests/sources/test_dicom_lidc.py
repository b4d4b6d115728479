"""LIDC lesions cut out of whole scans, written as phantoms under the UIDs of real ones."""

from __future__ import annotations

import logging
import pickle
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from lesionlab.crops import Crop
from lesionlab.crops import stores as stores
from lesionlab.sources import lidc
from lesionlab.sources.dicom import BadFileError, Dicom, DicomError, _crops, write_series

DB = lidc.default().database
NODULES = lidc.nodules()
# short scans with a few lesions each
SCAN, OTHER = (
    NODULES["scan_id"]
    .value_counts()
    .loc[lambda n: n.between(2, 4)]
    .index.to_series()
    .sort_values(key=lambda ids: ids.map(lambda i: len(DB.slice_z[i])))
    .head(2)
    .tolist()
)


def lesions(scan_id: int) -> list[str]:
    return NODULES.index[NODULES["scan_id"] == scan_id].tolist()


def write(root: Path, scan_id: int, **changed: Any) -> Path:
    """A scan whose HU are 10 times the slice index, plus the row's last two digits."""
    about, z = DB.scans.loc[scan_id], DB.slice_z[scan_id]
    rows = np.arange(512)[:, None] % 100 * np.ones(512, int)
    hu = (10 * np.arange(len(z))[:, None, None] + rows).astype(np.int16)
    arguments: dict[str, Any] = {
        "spacing": (float(np.median(np.diff(z))), about.pixel_spacing, about.pixel_spacing),
        "slice_z": z.tolist(),
        "patient_id": about.patient,
        "series_uid": about.series_uid,
        "study_uid": about.study_uid,
    } | changed
    hu = arguments.pop("hu", hu)
    return write_series(hu, root / f"scan-{scan_id}", **arguments)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    for scan_id in (SCAN, OTHER):
        write(root, scan_id)
    return root


@pytest.fixture
def scans(written: Path) -> Dicom:
    return Dicom(written, progress=False)


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """One scan, to be damaged."""
    shutil.copytree(written / f"scan-{SCAN}", tmp_path / "copy")
    return tmp_path / "copy"


def test_scans_are_matched_by_their_series(scans: Dicom) -> None:
    assert sorted(scans.lesion_ids) == sorted(lesions(SCAN) + lesions(OTHER))
    report = scans.report()
    assert len(report) == 1018
    assert report["status"].value_counts().to_dict() == {"not found": 1016, "found": 2}
    row = report.loc[SCAN]
    assert (row["n_lesions"], row["n_slices"], row["path"], row["synthetic"]) == (
        len(lesions(SCAN)), len(DB.slice_z[SCAN]), f"scan-{SCAN}", True,
    )  # fmt: skip
    assert report["n_lesions"].sum() == len(NODULES)
    exclusions = scans.exclusions()
    assert len(exclusions) == len(NODULES) - len(scans.lesion_ids)
    assert exclusions["reason"].str.contains("is not under").all()


def test_a_crop_is_where_the_database_says(scans: Dicom) -> None:
    for lesion_id in scans.lesion_ids:
        crop = scans.crop(lesion_id)
        masks = lidc.masks(lesion_id)
        z, (y0, x0) = crop.slice_index, crop.corner
        assert crop.hu.shape[1:] == (128, 128)
        assert crop.tier == "phantom"
        assert crop.calibrated.all()
        assert crop.spacing == masks.spacing
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
        low, high = (
            f(np.argwhere(crop.masks.any(axis=0))[:, 1:], axis=0) for f in (np.min, np.max)
        )
        assert (np.abs(low + high - 127) <= 1).all()


def test_slices_reach_21_mm_around_the_centre_and_two_beyond_the_outlines(scans: Dicom) -> None:
    for lesion_id in scans.lesion_ids:
        crop, n = scans.crop(lesion_id), len(DB.slice_z[int(NODULES.loc[lesion_id, "scan_id"])])
        drawn = np.flatnonzero(crop.masks.any(axis=(0, 2, 3)))
        centre, dz = float(NODULES.loc[lesion_id, "z"]), crop.spacing[0]
        below, above = crop.slice_index[0], crop.slice_index[-1]
        assert below == 0 or (drawn[0] >= 2 and (centre - below) * dz >= 10.5)
        assert above == n - 1 or (
            len(crop.hu) - 1 - drawn[-1] >= 2 and (above - centre) * dz >= 10.5
        )
        np.testing.assert_array_equal(np.diff(crop.slice_index), 1)


@pytest.mark.parametrize("margin", [0, 12])
def test_a_margin_in_mm(scans: Dicom, margin: float) -> None:
    for lesion_id in scans.lesion_ids:
        crop = scans.crop(lesion_id, margin_mm=margin)
        planes = DB.slice_z[int(NODULES.loc[lesion_id, "scan_id"])]
        drawn = planes[crop.slice_index[crop.masks.any(axis=(0, 2, 3))]]
        wanted = (planes >= drawn.min() - margin) & (planes <= drawn.max() + margin)
        np.testing.assert_array_equal(crop.slice_index, np.flatnonzero(wanted))


def test_a_real_scan_is_of_the_dicom_tier(copy: Path) -> None:
    for file in copy.iterdir():
        one = pydicom.dcmread(file)
        one.SeriesDescription = ""
        one.save_as(file)
    scans = Dicom(copy, progress=False)
    assert scans.crop(lesions(SCAN)[0]).tier == "dicom"
    assert not scans.report().loc[SCAN, "synthetic"]


def test_the_crop_reaches_over_the_border_with_air(scans: Dicom) -> None:
    crop = scans.crop(lesions(SCAN)[0], size=512, margin_mm=0)
    y0, x0 = crop.corner
    assert (y0, x0) != (0, 0)
    outside = np.ones((512, 512), bool)
    outside[max(-y0, 0) : 512 - max(y0, 0), max(-x0, 0) : 512 - max(x0, 0)] = False
    assert (crop.hu[:, outside] == -1024).all()
    assert (crop.hu[:, ~outside] >= 0).all()


def test_crops_come_scan_by_scan_and_each_file_is_decoded_once(
    scans: Dicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    read = _crops.read_pixels

    def counted(path: Path) -> Any:
        decoded.append(path)
        return read(path)

    monkeypatch.setattr(_crops, "read_pixels", counted)
    mixed = [i for pair in zip(lesions(SCAN), lesions(OTHER), strict=False) for i in pair]
    crops = list(scans.crops(mixed, progress=False))
    assert len(decoded) == len(set(decoded)) > 0
    assert [c.lesion_id for c in crops] == sorted(mixed, key=lambda i: i not in lesions(SCAN))


def same(a: Crop, b: Crop) -> bool:
    return (a.lesion_id, a.corner) == (b.lesion_id, b.corner) and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("hu", "masks", "slice_index")
    )


@pytest.mark.slow
def test_two_processes_cut_the_same(scans: Dicom) -> None:
    one, two = (list(scans.crops(progress=False, processes=n)) for n in (1, 2))
    assert len(one) == len(scans.lesion_ids)
    assert all(same(a, b) for a, b in zip(one, two, strict=True))


def test_a_maker_can_be_sent_and_is_small(scans: Dicom) -> None:
    maker = scans.maker(size=64)
    crop = maker(scans.lesion_ids[0])
    sent = pickle.dumps(maker)
    assert len(sent) < 500_000
    assert same(pickle.loads(sent)(scans.lesion_ids[0]), crop)  # noqa: S301 - our own bytes


def test_a_store_is_built_from_a_maker(scans: Dicom, tmp_path: Path) -> None:
    store = stores.build(
        tmp_path / "store", scans.lesion_ids, scans.maker(), tier="phantom", progress=False
    )
    assert list(store) == scans.lesion_ids
    assert same(store[scans.lesion_ids[0]], scans.crop(scans.lesion_ids[0]))


def test_a_killed_build_goes_on(scans: Dicom, tmp_path: Path) -> None:
    ids, maker = scans.lesion_ids, scans.maker(size=64)
    made: list[str] = []

    def dies(lesion_id: str) -> Crop:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(lesion_id)
        return maker(lesion_id)

    arguments: dict[str, Any] = {"tier": "phantom", "progress": False}
    with pytest.raises(KeyboardInterrupt):
        stores.build(tmp_path / "store", ids, dies, **arguments)
    with pytest.raises(stores.IncompleteStoreError):
        stores.CropStore.open(tmp_path / "store")

    def rest(lesion_id: str) -> Crop:
        assert lesion_id not in made
        return maker(lesion_id)

    store = stores.build(tmp_path / "store", ids, rest, **arguments)
    assert list(store) == ids
    assert all(same(store[lesion_id], maker(lesion_id)) for lesion_id in ids)


def test_what_cannot_be_cut_is_excluded_from_a_store(copy: Path, tmp_path: Path) -> None:
    ids = lesions(SCAN)
    slice_file(copy, int(NODULES.loc[ids[0], "z"])).unlink()
    maker = Dicom(copy, progress=False).maker()
    store = stores.build(
        tmp_path / "store", ids, maker, tier="phantom", on_error="exclude", progress=False
    )
    assert f"DicomError: {ids[0]}: " in store.exclusions[ids[0]]
    assert "no slice at z = " in store.exclusions[ids[0]]
    assert set(store) | set(store.exclusions) == set(ids)


@pytest.mark.slow
def test_two_processes_build_the_same_store(scans: Dicom, tmp_path: Path) -> None:
    one, two = (
        stores.build(
            tmp_path / str(n), scans.lesion_ids, scans.maker(size=64),
            tier="phantom", processes=n, progress=False,
        )
        for n in (1, 2)
    )  # fmt: skip
    assert (list(two), two.checksum) == (list(one), one.checksum)


def test_an_altered_database_is_sent_as_such(written: Path, tmp_path: Path) -> None:
    database = Path(shutil.copy(lidc.default().path, tmp_path / "other.sqlite"))
    with closing(sqlite3.connect(database)) as db:  # one scan alone, so that it is read quickly
        db.execute("DELETE FROM scans WHERE id != ?", (SCAN,))
        db.execute("DELETE FROM zvals WHERE scan_id != ?", (SCAN,))
        db.execute("DELETE FROM annotations WHERE scan_id != ?", (SCAN,))
        db.execute("DELETE FROM contours WHERE annotation_id NOT IN (SELECT id FROM annotations)")
        db.commit()
    own = lidc.Lidc(database, use_cache=False, allow_altered=True)
    maker = Dicom(written, own, progress=False).maker()
    again = pickle.loads(pickle.dumps(maker))  # noqa: S301 - our own bytes
    assert again.lidc.path == database
    assert again(lesions(SCAN)[0]).hu.shape == maker(lesions(SCAN)[0]).hu.shape


# --- What goes wrong ------------------------------------------------------------------


def slice_file(folder: Path, index: int) -> Path:
    return folder / f"slice-{index:04d}.dcm"


def test_a_missing_slice_of_the_lesion_excludes_it(copy: Path) -> None:
    lesion_id = lesions(SCAN)[0]
    index = lidc.masks(lesion_id).origin[0]
    slice_file(copy, index).unlink()
    scans = Dicom(copy, progress=False)
    reason = rf"{lesion_id}: .*copy: no slice at z = {DB.slice_z[SCAN][index]:g} mm"
    with pytest.raises(DicomError, match=reason):
        scans.crop(lesion_id)
    assert scans.report().loc[SCAN, ["status", "n_excluded"]].tolist() == ["slices missing", 1]
    assert scans.exclusions().set_index("lesion_id").loc[lesion_id, "reason"].startswith(lesion_id)


def test_a_missing_slice_of_the_margin_is_left_out(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lesion_id = lesions(SCAN)[0]
    whole = Dicom(copy, progress=False).crop(lesion_id)
    index = lidc.masks(lesion_id).origin[0] - 1
    slice_file(copy, index).write_bytes(b"x" * 1000)
    with caplog.at_level(logging.WARNING, "lesionlab"):
        crop = Dicom(copy, progress=False).crop(lesion_id)
    assert index in whole.slice_index
    np.testing.assert_array_equal(crop.slice_index, whole.slice_index[whole.slice_index != index])
    assert crop.masks.sum() == whole.masks.sum()
    np.testing.assert_array_equal(crop.hu, whole.hu[whole.slice_index != index])
    assert f"{lesion_id}: a slice of its margin is left out" in caplog.text


def test_truncated_pixels_exclude_their_lesions_alone(copy: Path) -> None:
    lesion_id, *rest = lesions(SCAN)
    masks = lidc.masks(lesion_id)
    file = slice_file(copy, masks.origin[0])
    file.write_bytes(file.read_bytes()[:-100])
    scans = Dicom(copy, progress=False)
    crops = [crop.lesion_id for crop in scans.crops(progress=False)]
    excluded = scans.exclusions().set_index("lesion_id")["reason"]
    assert lesion_id not in crops
    assert file.name in excluded[lesion_id]
    assert "cannot be decoded" in excluded[lesion_id]
    assert set(crops) | set(excluded.index) >= set(rest)


def change_all(folder: Path, **attributes: Any) -> None:
    for file in folder.iterdir():
        one = pydicom.dcmread(file)
        for keyword, value in attributes.items():
            setattr(one, keyword, value)
        one.save_as(file)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"PixelSpacing": [0.9, 0.9]}, r"PixelSpacing is 0.9, 0.9 mm, expected 0\.\d+ as in"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, r"not axial|beside the other slices"),
    ],
)
def test_a_series_that_is_not_the_scan(copy: Path, change: dict[str, Any], reason: str) -> None:
    change_all(copy, **change)
    scans = Dicom(copy, progress=False)
    assert list(scans.crops(progress=False)) == []
    excluded = scans.exclusions().set_index("lesion_id")["reason"][lesions(SCAN)]
    assert excluded.str.contains(reason).all()


def test_slices_elsewhere_are_not_the_scan(tmp_path: Path) -> None:
    z = DB.slice_z[SCAN]
    write(tmp_path, SCAN, slice_z=(z + 0.3).tolist())
    with pytest.raises(DicomError, match="none where the database has one"):
        Dicom(tmp_path, progress=False).crop(lesions(SCAN)[0])


def test_an_oblique_scan_is_not_of_lidc(tmp_path: Path) -> None:
    axes = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    write(tmp_path, SCAN, direction=axes)
    with pytest.raises(DicomError, match="slices are not axial, and those of LIDC-IDRI are"):
        Dicom(tmp_path, progress=False).crop(lesions(SCAN)[0])


def test_small_slices_do_not_reach_the_lesion(tmp_path: Path) -> None:
    write(tmp_path, SCAN, hu=np.zeros((len(DB.slice_z[SCAN]), 20, 20)))
    with pytest.raises(DicomError, match=r"slices of 20 × 20 pixels do not reach"):
        Dicom(tmp_path, progress=False).crop(lesions(SCAN)[0])


def test_files_among_other_series_and_in_two_folders(copy: Path, tmp_path: Path) -> None:
    """A flat download: two series in one folder, half of one of them elsewhere."""
    whole = Dicom(copy, progress=False).crop(lesions(SCAN)[0])
    other = write(tmp_path / "other", OTHER)
    for file in other.iterdir():
        file.rename(copy / f"a-{file.name}")
    shutil.rmtree(tmp_path / "other")
    (tmp_path / "more").mkdir()
    for file in sorted(copy.glob("slice-*"))[::2]:
        file.rename(tmp_path / "more" / file.name)
    scans = Dicom(tmp_path, progress=False)
    assert scans.report().loc[SCAN, "n_files"] == len(DB.slice_z[SCAN])
    assert same(scans.crop(lesions(SCAN)[0]), whole)
    assert scans.crop(lesions(OTHER)[0]).lesion_id == lesions(OTHER)[0]


def test_a_value_that_is_not_in_hu_is_not_calibrated(copy: Path) -> None:
    change_all(copy, RescaleType="US")
    assert not Dicom(copy, progress=False).crop(lesions(SCAN)[0]).calibrated.any()


def test_arguments(scans: Dicom, tmp_path: Path) -> None:
    lesion_id = scans.lesion_ids[0]
    with pytest.raises(LookupError, match="no nodule has the lesion_id 'x'; ids look like LIDC"):
        scans.crop("x")
    with pytest.raises(LookupError, match="no nodule has the lesion_id 'x'"):
        scans.crops(["x"], progress=False)
    with pytest.raises(ValueError, match="size=0: expected a whole number of pixels"):
        scans.crop(lesion_id, size=0)
    with pytest.raises(ValueError, match="margin_mm=-1: expected mm from 0, or None"):
        scans.crop(lesion_id, margin_mm=-1)
    with pytest.raises(ValueError, match="processes=0: expected a whole number from 1"):
        scans.crops(processes=0)
    with pytest.raises(DicomError, match=r"outlines span \d+ × \d+ pixels, more than size=2"):
        scans.crop(lesion_id, size=2)
    with pytest.raises(NotADirectoryError, match=r"nowhere' is not a folder"):
        Dicom(tmp_path / "nowhere")
    missing = next(i for i in NODULES.index if i not in scans.lesion_ids)
    with pytest.raises(DicomError, match=rf"{missing}: its series 1\..* is not under"):
        scans.crop(missing)
    assert issubclass(BadFileError, DicomError)
