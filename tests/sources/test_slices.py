"""The slices set: small sets made here from real contours, and the public one where it is."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import shutil
import zipfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lesionlab.sources import lidc, origins, slices
from lesionlab.sources.slices import Slices, SlicesError, _tables
from lesionlab.sources.slices._matching import Folder, Lesion, match_patient

NEIGHBOURS = [f"LIDC-IDRI-0003-S0014-N0{i}" for i in range(1, 5)]
"""Four nodules of one scan; the first two lie beside each other, the first has one reader."""

OVERWRITING, OVERWRITTEN = "LIDC-IDRI-0484-S0490-N01", "LIDC-IDRI-0484-S0489-N01"
"""The first nodules of two scans of one patient, of 6 and of 9 slices."""

FIVE_READERS = "LIDC-IDRI-0332-S0334-N01"


# --- Making a set -------------------------------------------------------------------------------


@dataclass
class Shown:
    """One nodule as the set shows it: `pixels` (slice, y, x), `masks` (4, slice, y, x)."""

    lesion_id: str
    corner: tuple[int, int]
    index: list[int]
    pixels: np.ndarray
    masks: np.ndarray
    maps: list[tuple[float, float] | None]

    def hu(self) -> np.ndarray:
        """What the table says, slice by slice, by the formula."""
        used = [known or slices.UNCALIBRATED for known in self.maps]
        planes = [np.rint(a * plane + b) for plane, (a, b) in zip(self.pixels, used, strict=True)]
        return np.clip(planes, -1024, 3071)


def show(lesion_id: str, shift: tuple[int, int] = (0, 0)) -> Shown:
    """Every slice that has a contour, with pixels of noise; the nodule `shift` off the middle."""
    masks = lidc.masks(lesion_id)
    index = sorted({c.slice_index for c in lidc.contours(lesion_id)})
    z, y, x = masks.origin
    _, _, height, width = masks.readers.shape
    corner = (y + height // 2 - 64 + shift[0], x + width // 2 - 64 + shift[1])
    drawn = np.zeros((4, len(index), 128, 128), bool)
    for reader, k, i, j in np.argwhere(masks.readers[:4]):
        row, column = i + y - corner[0], j + x - corner[1]
        if 0 <= row < 128 and 0 <= column < 128 and z + k in index:
            drawn[reader, index.index(z + k), row, column] = True
    rng = np.random.default_rng(len(index))
    pixels = rng.integers(0, 256, (len(index), 128, 128)).astype(np.uint8)
    maps = [(8.1234 + i, -1000.5 - i) for i in range(len(index))]
    return Shown(lesion_id, corner, index, pixels, drawn, list(maps))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@dataclass
class Set:
    """What stands in the set and in the table beside it, before it is written."""

    files: dict[str, bytes] = field(default_factory=dict)
    table: dict[tuple[str, int, int], dict[str, Any]] = field(default_factory=dict)

    def add(self, nodule: int, shown: Shown, patient: str | None = None) -> Set:
        patient = patient or shown.lesion_id[:14]
        folder = f"LIDC-IDRI-slices/{patient}/nodule-{nodule}"
        for s, known in enumerate(shown.maps):
            self.files[f"{folder}/images/slice-{s}.png"] = png(shown.pixels[s])
            for r in range(4):
                mask = shown.masks[r, s].astype(np.uint8) * 255
                self.files[f"{folder}/mask-{r}/slice-{s}.png"] = png(mask)
            slope, intercept = known or (np.nan, np.nan)
            row = {"patient": patient, "nodule": nodule, "slice": s, "slope": slope}
            source = "anchor" if known else "none"
            row |= {"intercept": intercept, "source": source}
            self.table[patient, nodule, s] = row
        return self

    def write(self, path: Path, *, as_zip: bool = False, table: bool = True) -> Path:
        path.mkdir(parents=True)
        if table:
            pd.DataFrame(list(self.table.values())).to_csv(
                path / slices.INTENSITY_NAME, index=False
            )
        if as_zip:
            with zipfile.ZipFile(path / "set.zip", "w") as archive:
                for name, data in self.files.items():
                    archive.writestr(name, data)
            return path / "set.zip"
        for name, data in self.files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path / "LIDC-IDRI-slices"


def opened(made: Set, path: Path, **options: Any) -> Slices:
    """Written as a folder and opened, without a cache."""
    return Slices(made.write(path / "set"), lidc=uncached(), **options)


def uncached() -> lidc.Lidc:
    """The database without a cache of matches, but with the tables that are there already."""
    lidc.nodules()
    source = copy.copy(lidc.default())
    source._cache = None
    return source


def row_of(source: Slices, lesion_id: str) -> pd.Series:
    table = source.report()
    (row,) = table[table["lesion_id"] == lesion_id].to_dict("records")
    return row


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(slices.ENVIRONMENT_INTENSITY, raising=False)


@pytest.fixture(scope="module")
def planted() -> list[Shown]:
    lidc.nodules()
    return [
        show(lesion_id, (3 * i - 4, 20 - 9 * i))
        for i, lesion_id in enumerate([*NEIGHBOURS, FIVE_READERS])
    ]


@pytest.fixture(scope="module")
def made(planted: list[Shown]) -> Set:
    out = Set()
    for nodule, shown in zip([2, 0, 1, 3, 0], planted, strict=True):  # not in our order
        out.add(nodule, shown)
    return out


@pytest.fixture(scope="module", params=["folder", "zip"])
def source(
    request: pytest.FixtureRequest, made: Set, tmp_path_factory: pytest.TempPathFactory
) -> Slices:
    path = tmp_path_factory.mktemp("slices") / "here"
    return Slices(made.write(path, as_zip=request.param == "zip"), lidc=uncached())


# --- Matching -----------------------------------------------------------------------------------


def test_every_folder_is_matched_and_placed(source: Slices, planted: list[Shown]) -> None:
    assert sorted(source.lesion_ids) == sorted(shown.lesion_id for shown in planted)
    for shown in planted:
        row = row_of(source, shown.lesion_id)
        assert row["matched"]
        assert (row["reason"], row["method"]) == ("", "exact")
        assert (row["corner_y"], row["corner_x"]) == shown.corner
        assert row["slice_index"] == shown.index
        assert row["slices"] == list(range(len(shown.index)))
        assert (row["iou"], row["n_slices"]) == (1.0, len(shown.index))
        assert row["n_calibrated"] == len(shown.index)
        assert (row["cut_voxels"], row["n_offset"], row["excluded"]) == (0, 0, 0)
    assert source.exclusions().empty


def test_every_nodule_of_the_database_is_in_the_report(source: Slices) -> None:
    table = source.report()
    assert set(table["lesion_id"]) == set(lidc.nodules().index)
    assert table["lesion_id"].is_unique
    absent = table[~table["matched"]]
    assert (absent["reason"] == "no folder of the set shows it").all()
    assert absent["nodule"].isna().all()


def test_a_crop_holds_the_pixels_in_hu_and_our_masks(source: Slices, planted: list[Shown]) -> None:
    for shown in planted:
        crop = source.crop(shown.lesion_id)
        np.testing.assert_array_equal(crop.hu, shown.hu())
        np.testing.assert_array_equal(crop.masks[:4], shown.masks[: len(crop.masks)])
        about = lidc.nodules().loc[shown.lesion_id]
        assert len(crop.masks) == about["n_readers"]
        assert crop.slice_index.tolist() == shown.index
        assert (crop.corner, crop.tier, crop.calibrated.all()) == (shown.corner, "slices", True)
        assert crop.spacing == pytest.approx(
            (about["slice_spacing"], about["pixel_spacing"], about["pixel_spacing"])
        )
        # in the scan the consensus lies where the database has it
        inside = np.argwhere(crop.consensus()) + crop.origin
        assert inside.mean(axis=0) == pytest.approx(about[["z", "y", "x"]].to_numpy(float))


def test_crops_come_in_the_order_of_the_ids(source: Slices) -> None:
    assert [crop.lesion_id for crop in source.crops()] == source.lesion_ids
    np.testing.assert_array_equal(
        source.make(source.lesion_ids[0]).hu, source.crop(source.lesion_ids[0]).hu
    )


def test_a_nodule_without_a_crop_says_why(source: Slices) -> None:
    with pytest.raises(LookupError, match=f"{OVERWRITTEN}: no folder of the set shows it"):
        source.crop(OVERWRITTEN)
    with pytest.raises(LookupError, match=r"lesion_id 'N-1'; ids look like LIDC-IDRI-0003"):
        source.crop("N-1")


def test_slices_that_stayed_from_an_overwritten_nodule_are_left_out(tmp_path: Path) -> None:
    over, under = show(OVERWRITING), show(OVERWRITTEN)
    made = Set().add(0, under).add(0, over)
    source = opened(made, tmp_path)
    assert source.lesion_ids == [OVERWRITING]
    assert row_of(source, OVERWRITING)["slice_index"] == over.index
    left = source.exclusions()
    n_left = len(under.index) - len(over.index)
    assert n_left > 0
    assert left["reason"].tolist() == [f"shows another nodule, {OVERWRITTEN}"] * n_left
    assert left["name"].str.endswith(f"nodule-0/images/slice-{len(under.index) - 1}.png").any()
    assert row_of(source, OVERWRITTEN)["reason"].endswith(
        f"slices of it in LIDC-IDRI-0484/nodule-0: {n_left}"
    )


def test_wrong_masks_of_one_reader_neither_move_slices_nor_reach_the_crop(tmp_path: Path) -> None:
    shown = show(NEIGHBOURS[1])
    truth = shown.masks.copy()
    shown.masks[1] = False  # as where a reader begins earlier: empty
    shown.masks[2] = np.roll(shown.masks[2], 1, axis=0)  # and on wrong slices
    source = opened(Set().add(0, shown), tmp_path)
    row = row_of(source, NEIGHBOURS[1])
    assert (row["matched"], row["slice_index"]) == (True, shown.index)
    assert row["reader_iou"][0] == row["reader_iou"][3] == 1
    assert row["reader_iou"][1] == 0
    assert 0 < row["reader_iou"][2] < 1
    np.testing.assert_array_equal(source.crop(NEIGHBOURS[1]).masks, truth)


def test_slices_that_are_not_shown_are_named(tmp_path: Path) -> None:
    shown = show(NEIGHBOURS[1])
    keep = [i for i in range(len(shown.index)) if i not in (1, 3)]
    gap = Shown(
        shown.lesion_id,
        shown.corner,
        [shown.index[i] for i in keep],
        shown.pixels[keep],
        shown.masks[:, keep],
        [shown.maps[i] for i in keep],
    )
    source = opened(Set().add(0, gap), tmp_path)
    row = row_of(source, NEIGHBOURS[1])
    assert row["missing_slices"] == [shown.index[1], shown.index[3]]
    crop = source.crop(NEIGHBOURS[1])
    assert crop.slice_index.tolist() == gap.index
    np.testing.assert_array_equal(crop.hu, gap.hu())


def test_masks_that_nearly_equal_ours_are_matched_by_overlap(tmp_path: Path) -> None:
    shown = show(NEIGHBOURS[1], (5, -7))
    for plane in shown.masks.reshape(-1, 128, 128):
        plane[tuple(np.argwhere(plane)[:1].T)] = False  # one pixel of each
    row = row_of(opened(Set().add(0, shown), tmp_path), NEIGHBOURS[1])
    assert (row["matched"], row["method"]) == (True, "overlap")
    assert (row["corner_y"], row["corner_x"]) == shown.corner
    assert row["slice_index"] == shown.index
    assert 0.9 < row["iou"] < 1


def test_round_nodules_are_not_taken_for_each_other(tmp_path: Path) -> None:
    # what shows one nodule must not be called another of the same patient, for all its roundness
    shown = [show(lesion_id) for lesion_id in NEIGHBOURS]
    made = Set()
    for nodule, one in enumerate(shown):
        made.add(nodule, one, patient="LIDC-IDRI-0006")
    table = opened(made, tmp_path).report().dropna(subset="nodule")
    assert not table["matched"].any()
    assert (table["reason"].str.startswith("its masks fit")).all()


def test_what_leaves_the_window_is_cut_and_counted(tmp_path: Path) -> None:
    shown = show(NEIGHBOURS[1], (0, 45))
    source = opened(Set().add(0, shown), tmp_path)
    row = row_of(source, NEIGHBOURS[1])
    whole = lidc.masks(NEIGHBOURS[1]).readers.sum()
    assert row["matched"]
    assert row["cut_voxels"] == whole - shown.masks.sum() > 0
    np.testing.assert_array_equal(source.crop(NEIGHBOURS[1]).masks, shown.masks)


def test_folders_that_match_nothing_say_why(tmp_path: Path) -> None:
    blank, noise, stranger, twin = (show(NEIGHBOURS[2]) for _ in range(4))
    blank.masks[:] = False
    noise.masks = np.random.default_rng(0).random(noise.masks.shape) < 0.5
    made = Set().add(0, twin).add(1, twin).add(2, blank).add(3, noise)
    made.add(0, stranger, patient="LIDC-IDRI-9999")
    source = opened(made, tmp_path)
    table = source.report().dropna(subset="nodule")
    reasons = {(r.patient[-4:], r.nodule): r.reason for r in table.itertuples()}
    assert reasons == {
        ("0003", 0): "",
        ("0003", 1): f"its masks fit {NEIGHBOURS[2]}, and those of another folder fit it better",
        ("0003", 2): "no mask has a pixel",
        ("0003", 3): "its masks fit no nodule of this patient",
        ("9999", 0): "the database has no nodule of this patient",
    }
    assert source.lesion_ids == [NEIGHBOURS[2]]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_and_any_window_give_the_same_nodules(
    planted: list[Shown], data: st.DataObject
) -> None:
    neighbours = planted[:4]
    lesions = []
    for rank, shown in enumerate(neighbours):
        masks = lidc.masks(shown.lesion_id)
        lesions.append(Lesion(shown.lesion_id, rank, masks.readers, masks.origin))
    order = data.draw(st.permutations(range(4)))
    folders, corners = [], {}
    for nodule, i in enumerate(order):
        shift = data.draw(st.tuples(st.integers(-12, 12), st.integers(-12, 12)))
        moved = np.roll(neighbours[i].masks, shift, axis=(2, 3))
        folders.append(Folder(nodule, np.arange(moved.shape[1]), moved))
        y, x = neighbours[i].corner
        corners[neighbours[i].lesion_id] = (y - shift[0], x - shift[1])
    for i, match in zip(order, match_patient(folders, lesions), strict=True):
        assert match.lesion_id == neighbours[i].lesion_id
        assert match.slice_index == neighbours[i].index
        assert (match.corner, match.iou) == (corners[match.lesion_id], 1)


def discs(*radii: float) -> np.ndarray:
    """A mask of one reader (1, slice, 61, 61), discs around the middle."""
    y, x = np.mgrid[-30:31, -30:31]
    return np.stack([y**2 + x**2 <= r**2 for r in radii])[None]


def framed(masks: np.ndarray) -> Folder:
    """The folder that shows it, the first pixel at (30, 40)."""
    shown = np.zeros((4, masks.shape[1], 128, 128), bool)
    shown[:1, :, 30:91, 40:101] = masks
    return Folder(0, np.arange(masks.shape[1]), shown)


def test_a_second_folder_of_one_nodule_is_not_given_to_its_double() -> None:
    masks = discs(18, 20, 19)
    double = masks.copy()
    double[:, :, 30, 30] = False  # no plane is equal, all resemble
    lesions = [Lesion("A", 0, masks, (0, 0, 0)), Lesion("B", 1, double, (9, 0, 0))]
    first, second = match_patient([framed(masks)] * 2, lesions)
    assert (first.lesion_id, first.corner) == ("A", (-30, -40))
    assert (second.lesion_id, second.reason) == (
        None,
        "its masks fit A, and those of another folder fit it better",
    )


def test_a_slice_of_another_nodule_is_not_taken_for_one_that_it_resembles() -> None:
    lesions = [Lesion("A", 0, discs(15, 16, 17, 18), (0, 0, 0)),
               Lesion("B", 0, discs(18.5, 12), (7, 0, 0))]  # fmt: skip
    (match,) = match_patient([framed(discs(15, 16, 17, 18.5))], lesions)
    assert (match.lesion_id, match.slice_index, match.iou) == ("A", [0, 1, 2], 1)
    assert match.excluded == {3: "shows another nodule, B"}
    assert match.missing == [3]


# --- HU -----------------------------------------------------------------------------------------


def test_slices_without_hu_are_marked(tmp_path: Path) -> None:
    shown = show(NEIGHBOURS[2])
    shown.maps[1] = None  # a row with source none
    made = Set().add(0, shown)
    del made.table[NEIGHBOURS[2][:14], 0, 0]  # and no row at all
    shown.maps[0] = None
    source = opened(made, tmp_path)
    crop = source.crop(NEIGHBOURS[2])
    assert crop.calibrated.tolist() == [False, False] + [True] * (len(shown.index) - 2)
    np.testing.assert_array_equal(crop.hu, shown.hu())
    assert row_of(source, NEIGHBOURS[2])["n_calibrated"] == len(shown.index) - 2


def test_without_a_table_nothing_is_calibrated_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown = show(NEIGHBOURS[2])
    path = Set().add(0, shown).write(tmp_path / "set", table=False)
    with caplog.at_level(logging.WARNING):
        source = Slices(path, lidc=uncached())
    assert "no slice has values in HU" in caplog.text
    crop = source.crop(NEIGHBOURS[2])
    assert not crop.calibrated.any()
    assert crop.hu.min() == round(slices.UNCALIBRATED[1])
    assert source.report()["n_calibrated"].sum() == 0


def test_the_table_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Set().add(0, show(NEIGHBOURS[2])).write(tmp_path / "set")
    table = (tmp_path / "set" / slices.INTENSITY_NAME).rename(tmp_path / "table.csv")
    assert Slices(path, table, uncached()).intensity_path == table
    monkeypatch.setenv(slices.ENVIRONMENT_INTENSITY, str(table))
    assert Slices(path, lidc=uncached()).crop(NEIGHBOURS[2]).calibrated.all()


def test_stored_values_are_put_back_to_hu(tmp_path: Path) -> None:
    shown = show(NEIGHBOURS[2])
    shown.pixels = np.where(shown.pixels < 150, 0, shown.pixels)  # padding stands apart
    # padding −2000; grey value 150 at 100, that is −924 HU + 1024
    shown.maps = [(14.0, -2000.0)] * len(shown.index)
    path = Set().add(0, shown).write(tmp_path / "set")
    source = Slices(path, lidc=uncached())
    assert row_of(source, NEIGHBOURS[2])["n_offset"] == len(shown.index)
    crop = source.crop(NEIGHBOURS[2])
    assert crop.calibrated.all()
    assert set(crop.hu[shown.pixels == 0]) == {-1024}
    assert set(crop.hu[shown.pixels == 150]) == {100 - 1024}
    as_given = Slices(path, lidc=uncached(), undo_offset=False).crop(NEIGHBOURS[2])
    assert set(as_given.hu[shown.pixels == 150]) == {100}


@pytest.mark.parametrize(
    ("slope", "intercept", "floor", "expected"),
    [
        (14.0, -2000.0, 150, True),  # padding −2000, then +100
        (8.0, -1000.0, 1, False),  # air −1000, then −992: a slice without padding
        (14.0, -3000.0, 150, False),  # padding −3000, then −900: lung where it belongs
        (8.0, -700.0, 150, False),  # nothing is as low as padding
        (8.0, -1000.0, 0, False),  # a picture of one value
    ],
)
def test_offset_is_seen_from_what_follows_the_padding(
    slope: float, intercept: float, floor: int, expected: bool
) -> None:
    assert _tables.is_offset(slope, intercept, floor) is expected


GOOD = "patient,nodule,slice,slope,intercept,source\nLIDC-IDRI-0003,0,0,8.5,-1000,anchor\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read as a CSV table"),
        ("\0\xff\n".encode("latin1"), "the columns|cannot be read"),
        (GOOD.replace("slope", "gain"), r"the columns \['slope'\] are missing"),
        (GOOD + 'LIDC-IDRI-0003,0,1,"8.5', "cannot be read as a CSV table"),
        (GOOD + "LIDC-IDRI-0003,0,1,,-1000,anchor\n", r"line 3 .*slope is above 0"),
        (GOOD + "LIDC-IDRI-0003,0,1,8.5,NaN,chained\n", r"line 3 .*both are finite"),
        (GOOD + "LIDC-IDRI-0003,0,1,inf,-1000,anchor\n", r"line 3 .*both are finite"),
        (GOOD + "LIDC-IDRI-0003,0,1,0,-1000,anchor\n", r"line 3 .*slope is above 0"),
        (GOOD + "LIDC-IDRI-0003,0,1,-8.5,-1000,anchor\n", r"line 3 .*slope is above 0"),
        (GOOD + "LIDC-IDRI-0003,0,1,much,-1000,anchor\n", r"line 3 .*slope is above 0"),
        (GOOD + "LIDC-IDRI-0003,0,0,8.5,-1000,anchor\n", r"line 3 .*a slice has one row"),
        (GOOD + "LIDC-IDRI-0003,0,0,,,none\n", r"line 3 .*a slice has one row"),
        (GOOD + "LIDC-IDRI-0003,0,-1,8.5,-1000,anchor\n", r"line 3 .*whole numbers from 0"),
        (GOOD + "LIDC-IDRI-0003,0.5,1,8.5,-1000,anchor\n", r"line 3 .*whole numbers from 0"),
        (GOOD + "LIDC-IDRI-0003,,1,8.5,-1000,anchor\n", r"line 3 .*whole numbers from 0"),
        (GOOD + ",0,1,8.5,-1000,anchor\n", r"line 3 .*patient is a name"),
        (GOOD.replace("0003", "0004"), "has HU for no slice of"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(
    text: str | bytes, says: str, tmp_path: Path
) -> None:
    path = Set().add(0, show(NEIGHBOURS[2])).write(tmp_path / "set")
    table = tmp_path / "table.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SlicesError, match=says) as told:
        Slices(path, table, uncached())
    assert str(table) in str(told.value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=6))
def test_a_damaged_table_is_refused_or_still_a_map(
    at: list[tuple[int, int]], tmp_path: Path
) -> None:
    rows = "".join(f"LIDC-IDRI-0003,0,{i},8.{i},-1000.5,anchor\n" for i in range(1, 9))
    data = bytearray((GOOD + rows).encode())
    for place, value in at:
        data[place % len(data)] = value
    (tmp_path / "table.csv").write_bytes(data)
    try:
        found = _tables.read_intensity(tmp_path / "table.csv")
    except SlicesError:
        return
    assert all(slope > 0 and np.isfinite((slope, b)).all() for slope, b in found.values())


# --- Files that cannot be used ------------------------------------------------------------------


def broken(made: Set, **changes: bytes | None) -> Set:
    """Files of nodule-0, named as `images_2`, replaced or (None) taken away."""
    files = dict(made.files)
    for name, data in changes.items():
        part, number = name.rsplit("_", 1)
        path = f"LIDC-IDRI-slices/LIDC-IDRI-0003/nodule-0/{part.replace('_', '-')}/"
        path += f"slice-{number}.png"
        if data is None:
            del files[path]
        else:
            files[path] = data
    return Set(files, made.table)


SMALL = png(np.zeros((64, 64), np.uint8))
COLOUR = png(np.zeros((128, 128, 3), np.uint8))
CUT = png(np.random.default_rng(0).integers(0, 256, (128, 128)).astype(np.uint8))[:3000]


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize(
    ("changes", "excluded", "left_out"),
    [
        ({"images_2": SMALL}, [("images", 2, "64 × 64 pixels; expected 128 × 128")], [2]),
        ({"images_2": COLOUR}, [("images", 2, "expected 8-bit grey")], [2]),
        ({"images_0": CUT, "images_4": b""}, [("images", 0, "a broken"), ("images", 4, "empty")],
         [0, 4]),
        ({"images_2": None}, [(f"mask-{r}", 2, "a mask without its picture") for r in range(4)],
         [2]),
        ({f"mask_{r}_2": None for r in range(4)},
         [("images", 2, "a picture without a readable mask")], [2]),
        ({"mask_1_2": CUT}, [("mask-1", 2, "a broken PNG")], []),
        ({"mask_1_2": None}, [], []),
        ({"mask_1_2": png(np.arange(128 * 128).reshape(128, 128).astype(np.uint8))},
         [("mask-1", 2, "several grey values")], []),
    ],
)  # fmt: skip
def test_bad_files_are_left_out_and_named(
    made: Set,
    planted: list[Shown],
    changes: dict[str, bytes | None],
    excluded: list[tuple[str, int, str]],
    left_out: list[int],
    as_zip: bool,
    tmp_path: Path,
) -> None:
    path = broken(made, **changes).write(tmp_path / "set", as_zip=as_zip)
    source = Slices(path, lidc=uncached())
    assert len(source.lesion_ids) == len(planted)
    shown = planted[1]  # stands in nodule-0
    kept = [i for i in range(len(shown.index)) if i not in left_out]
    crop = source.crop(shown.lesion_id)
    assert crop.slice_index.tolist() == [shown.index[i] for i in kept]
    np.testing.assert_array_equal(crop.hu, shown.hu()[kept])
    np.testing.assert_array_equal(crop.masks, shown.masks[:, kept])
    told = source.exclusions()
    assert row_of(source, shown.lesion_id)["excluded"] == len(told) == len(excluded)
    for (part, number, reason), row in zip(excluded, told.itertuples(), strict=True):
        assert row.name.endswith(f"LIDC-IDRI-0003/nodule-0/{part}/slice-{number}.png")
        assert reason in row.reason


def test_a_folder_without_a_usable_slice_is_not_matched(made: Set, tmp_path: Path) -> None:
    n = len(show(NEIGHBOURS[1]).index)
    source = opened(broken(made, **{f"images_{i}": SMALL for i in range(n)}), tmp_path)
    table = source.report()
    (row,) = table[(table["patient"] == "LIDC-IDRI-0003") & (table["nodule"] == 0)].itertuples()
    assert (row.matched, row.reason) == (False, "no slice can be used, see exclusions()")
    assert row.excluded == n
    with pytest.raises(LookupError, match="no folder of the set shows it"):
        source.crop(NEIGHBOURS[1])


def test_a_file_that_breaks_after_matching_is_named(tmp_path: Path) -> None:
    path = Set().add(0, show(NEIGHBOURS[2])).write(tmp_path / "set")
    source = Slices(path, lidc=uncached())
    assert source.lesion_ids
    (path / "LIDC-IDRI-0003/nodule-0/images/slice-1.png").write_bytes(CUT)
    with pytest.raises(SlicesError, match=r"nodule-0/images/slice-1.png: a broken PNG"):
        source.crop(NEIGHBOURS[2])


def test_no_set_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(slices.ENVIRONMENT, raising=False)
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path / "data")
    assert not slices.available()
    with pytest.raises(
        FileNotFoundError, match=r"LESIONLAB_LIDC_SLICES is not set\. .*fetch slices"
    ):
        Slices()
    monkeypatch.setenv(slices.ENVIRONMENT, "/no/such/set.zip")
    assert slices.available()
    with pytest.raises(FileNotFoundError, match=r"LESIONLAB_LIDC_SLICES='/no/such/set.zip' does"):
        Slices()
    monkeypatch.setenv(slices.ENVIRONMENT, str(tmp_path))
    with pytest.raises(SlicesError, match="holds 0 files but none of the slices set"):
        Slices()
    path = Set().add(0, show(NEIGHBOURS[2])).write(tmp_path / "set")
    monkeypatch.setenv(slices.ENVIRONMENT, str(path))
    assert Slices().path == path


# --- Cache and processes ------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path: Path) -> lidc.Lidc:
    """A cache of its own, in which the tables of the database stand already."""
    source = lidc.default()
    (tmp_path / "cache").mkdir()
    for name in ("readings", "nodules"):
        for table in source._cache.glob(f"lidc-{name}-*.parquet"):
            shutil.copy(table, tmp_path / "cache")
    return lidc.Lidc(cache_folder=tmp_path / "cache")


def test_matches_are_kept_until_something_changes(
    made: Set,
    planted: list[Shown],
    cached: lidc.Lidc,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    real = _tables.match_all
    monkeypatch.setattr(_tables, "match_all", lambda *a, **k: calls.append(1) or real(*a, **k))
    path = made.write(tmp_path / "set")
    first = Slices(path, lidc=cached)
    again = Slices(path, lidc=cached)
    pd.testing.assert_frame_equal(first.report(), again.report())
    np.testing.assert_array_equal(again.crop(NEIGHBOURS[0]).hu, first.crop(NEIGHBOURS[0]).hu)
    assert len(calls) == 1
    (kept,) = (tmp_path / "cache").glob("lidc-slices-*")
    kept.write_bytes(b"PAR1 cut")
    pd.testing.assert_frame_equal(first.report(), Slices(path, lidc=cached).report())
    assert len(calls) == 2
    (path / "LIDC-IDRI-0003/nodule-0/images/slice-1.png").write_bytes(SMALL)
    assert len(Slices(path, lidc=cached).exclusions()) == 1
    assert len(calls) == 3
    # nothing was written beside the set
    assert {p.name for p in path.parent.iterdir()} == {path.name, slices.INTENSITY_NAME}


def test_it_goes_to_other_processes(
    made: Set, planted: list[Shown], cached: lidc.Lidc, tmp_path: Path
) -> None:
    source = Slices(made.write(tmp_path / "set", as_zip=True), lidc=cached)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for shown in planted:
            crop = pool.submit(source.make, shown.lesion_id).result()
            np.testing.assert_array_equal(crop.hu, shown.hu())


def test_a_copy_needs_no_second_matching(
    made: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(made, tmp_path)
    sent = pickle.dumps(source.make)
    monkeypatch.setattr(slices, "_opened", {})  # as in a process that starts
    monkeypatch.setattr(_tables, "match_all", None)
    monkeypatch.setattr(slices, "Lidc", lambda *a, **k: uncached())
    one, two = pickle.loads(sent), pickle.loads(sent)  # noqa: S301
    assert one.__self__ is two.__self__ is not source
    pd.testing.assert_frame_equal(one.__self__.report(), source.report())
    np.testing.assert_array_equal(one(FIVE_READERS).hu, source.crop(FIVE_READERS).hu)


def test_a_copy_with_another_table_is_refused(
    made: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(made, tmp_path)
    sent = pickle.dumps(source)
    pd.DataFrame(list(made.table.values())[1:]).to_csv(source.intensity_path, index=False)
    monkeypatch.setattr(slices, "_opened", {})
    monkeypatch.setattr(slices, "Lidc", lambda *a, **k: uncached())
    with pytest.raises(SlicesError, match=r"intensity table of .* has changed meanwhile"):
        pickle.loads(sent)  # noqa: S301


# --- The public set -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def public(real_slices: Path) -> Slices:
    return Slices(real_slices)


@pytest.mark.slow
def test_the_public_set_is_matched(public: Slices) -> None:
    table = public.report()
    matched = table[table["matched"]]
    assert len(matched) == table["nodule"].notna().sum() == 2630
    assert matched["lesion_id"].is_unique
    assert matched["iou"].median() == 1
    assert (matched["iou"] > 0.95).sum() == 2561
    assert (matched["method"] == "exact").all()
    # every slice has its place, or a reason
    assert matched["n_slices"].sum() == matched["slices"].map(len).sum() + 12
    assert len(public.exclusions()) == 12
    assert (matched["cut_voxels"] == 0).all()
    assert ((matched["missing_slices"].map(len) > 0).sum()) == 139
    assert matched["reader_iou"].map(lambda of: any(v < 1 for v in of)).sum() == 131
    unmatched = table[~table["matched"]]
    assert len(unmatched) == 21
    assert unmatched["reason"].str.startswith("no folder of the set shows it").all()
    scans = lidc.scans().groupby("patient").size()
    assert (scans[unmatched["patient"].unique()] == 2).all()
    assert unmatched["patient"].nunique() == 8


@pytest.mark.slow
def test_the_public_set_is_put_back_to_hu(public: Slices) -> None:
    assert public.intensity_path, f"{slices.INTENSITY_NAME} is not beside the set"
    table = public.report()
    n_slices = table["slices"].map(len)
    assert n_slices.sum() - table["n_calibrated"].sum() == 307
    assert ((table["n_calibrated"] == 0) & table["matched"]).sum() == 52
    assert (table["n_offset"].sum(), (table["n_offset"] > 0).sum()) == (662, 131)
    rng = np.random.default_rng(0)
    solid, lung = [], []
    texture = lidc.nodules()["texture"]
    for lesion_id in rng.choice(public.lesion_ids, 150, replace=False):
        crop = public.crop(str(lesion_id))
        assert crop.hu.shape[1:] == (128, 128)
        assert (crop.hu.min() >= -1024) & (crop.hu.max() <= 3071)
        if crop.calibrated.all() and texture[lesion_id] == 5:
            core = np.median(crop.hu[crop.consensus(1.0)]) if crop.consensus(1.0).any() else np.nan
            solid.append(core)
            lung.append(np.percentile(crop.hu, 20))
    # solid nodules are soft tissue, and what surrounds them is lung
    assert -200 < np.nanmedian(solid) < 100
    assert -950 < np.median(lung) < -700


@pytest.mark.slow
def test_offset_slices_show_lung_where_the_others_do(public: Slices) -> None:
    table = public.report()
    shifted = table.loc[table["n_offset"] > 0, "lesion_id"]
    crops = [public.crop(lesion_id) for lesion_id in shifted[::6]]
    lung = [np.percentile(c.hu[c.hu > -1024], 10) for c in crops]
    assert -1000 < np.median(lung) < -850
