"""Trees of `.anno` files: written and read back, bad input named, lesions joined, labels."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree
from typer.testing import CliRunner

from lesionlab.attributes import LI_CATEGORIES
from lesionlab.cli import app
from lesionlab.crops import Crop, datasets
from lesionlab.sources import _own, lidc
from lesionlab.sources.anno import (
    Anno,
    AnnoError,
    BadAnnoError,
    _files,
    _index,
    detection_label,
    fill_between,
    read_annotation,
    validate,
    writing,
)
from lesionlab.sources.anno._shapes import circle, crosses_itself, fill, is_circle, trace
from lesionlab.sources.dicom import copy_series, read_series, write_series
from lesionlab.sources.phantom import li2021

pytestmark = pytest.mark.usefixtures("cache")

NAMES = [a.name for a in LI_CATEGORIES]
N = 6  # phantoms of the tree; the last one is small
CODES = dict.fromkeys(NAMES, 1)


def small(lesion_id: str, spacing: tuple[float, float, float] = (2.0, 0.7, 0.7)) -> Crop:
    """A crop with two readers' balls in noise."""
    z, y, x = np.ogrid[:13, :48, :48]
    away = ((z - 6) * spacing[0]) ** 2 + ((y - 22) * 0.7) ** 2 + ((x - 25) * 0.7) ** 2
    hu = np.random.default_rng(3).integers(-1000, 200, away.shape).astype(np.int16)
    index = np.arange(13) + 4
    masks = np.array([away <= 64, away <= 49])
    return Crop(lesion_id, hu, masks, spacing, index, (0, 0), 0 * index, "phantom")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("li") / "tree"
    return writing.write(root, writing.phantoms(N), every=1, circle_mm=8.0, progress=False)


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of one small lesion, outlined by two doctors on every third slice."""
    root = tmp_path_factory.mktemp("pattern") / "tree"
    codes = [CODES | {"cavity": 2}, CODES | {"cavity": 1, "lesion_type": 3}]
    return writing.write(root, [writing.from_crop(small("A"), "Ann", codes)], progress=False)


@pytest.fixture
def tree(pattern: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pattern, tmp_path / "tree")


def subject(tree: Path, number: int = 1) -> Path:
    return tree / f"CT/H01/2000/01/01/{number:04d}"


def files(tree: Path, doctor: int = 1) -> list[Path]:
    found = subject(tree).glob(f"SE01_01_{doctor:02d}/*.anno")
    return sorted(found, key=lambda file: int(file.name.split("_")[0]))


def change(file: Path, **values: Any) -> None:
    """Change keys of a file; those that are given as None go."""
    told = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: v for key, v in told.items() if v is not None}))


def faults(tree: Path) -> list[tuple[str, str, str]]:
    return [tuple(row) for row in Anno(tree).exclusions().itertuples(index=False)]


# -- there and back --


def test_phantoms_come_back_as_they_were_written(phantoms):
    source, table = Anno(phantoms), li2021.lesions().iloc[:N]
    back = source.lesions()
    assert (source.tier, len(source.exclusions()), validate(phantoms)) == ("phantom", 0, (N, []))
    np.testing.assert_array_equal(back[NAMES], table[NAMES])
    assert back["lesion_type_readings"].tolist() == [[c] for c in table["lesion_type"]]
    # a lesion is a subject of its own; only the file beside the tree knows whose
    assert back["scan_id"].tolist() == [f"{k + 1:04d}-SE01" for k in range(N)]
    np.testing.assert_array_equal(
        pd.factorize(back["patient"])[0], pd.factorize(table["patient"])[0]
    )
    mapping = phantoms.with_name("tree-subjects.csv").read_text()
    assert mapping.splitlines()[:2] == ["subject,patient", "0001,LI-0001"]
    assert not [f for f in phantoms.rglob("*") if f.is_file() and b"LI-0" in f.read_bytes()]
    for lesion_id, name in zip(back.index, table.index, strict=True):
        made, read = li2021.phantom(str(name), size=writing.PHANTOM_SIZE), source.crop(lesion_id)
        place = tuple(slice(c, c + n) for c, n in zip(read.corner, read.hu.shape[1:], strict=True))
        np.testing.assert_array_equal(read.hu, made.hu[:, *place][read.slice_index])
        assert read.spacing == pytest.approx(made.spacing)
        solid = np.array([ndimage.binary_fill_holes(plane) for plane in made.masks[0]])
        size = np.ptp(np.argwhere(solid)[:, 1:], axis=0).max() + 1
        assert back.loc[lesion_id, "circles"] == (size * made.spacing[1] < 8)
        if not back.loc[lesion_id, "circles"]:
            np.testing.assert_array_equal(read.masks[0], solid[:, *place][read.slice_index])
            assert back.loc[lesion_id, "diameter"] == pytest.approx(
                size * made.spacing[1], abs=1e-3
            )


def test_contours_attributes_and_codes_of_two_doctors(pattern):
    source = Anno(pattern)
    (lesion,) = source.lesions().itertuples()
    assert (lesion.Index, lesion.doctors, lesion.raters) == ("0001-SE01-L1", [1, 2], [1, 2])
    assert (lesion.lesion_type, lesion.lesion_type_readings) == (1, [1, 3])  # a tie: the lowest
    assert (lesion.cavity_readings, lesion.n_readers) == ([2, 1], 2)
    assert (lesion.slice_location, lesion.y, lesion.x) == pytest.approx((20.0, 22, 25), abs=0.5)
    made, crop = small("A"), source.crop(lesion.Index)
    as_marked = source.crop(lesion.Index, interpolate=False)
    window = tuple(slice(-c, 48 - c) for c in crop.corner)
    np.testing.assert_array_equal(crop.hu[:, *window], made.hu)
    for d, by_doctor in enumerate(source.annotations(lesion.Index).values()):
        assert is_circle(by_doctor[0].outline) is False
        marked = sorted(round((mark.location - 8) / 2) for mark in by_doctor)
        assert marked[:2] == [2 + d, 5 + d]
        np.testing.assert_array_equal(as_marked.masks[d][marked][:, *window], made.masks[d][marked])
        assert not np.delete(as_marked.masks[d], marked, axis=0).any()
        assert crop.masks[d][2 + d : 11 - d].any(axis=(1, 2)).all()
    with pytest.raises(LookupError, match="no lesion has the lesion_id 'x'"):
        source.crop("x")


def test_the_data_set_by_name(tree, monkeypatch):
    with pytest.raises(FileNotFoundError, match="LESIONLAB_ANNO is not set"):
        datasets.crops("anno", progress=False)
    monkeypatch.setenv("LESIONLAB_ANNO", str(tree))
    store = datasets.crops("anno", progress=False)
    assert (list(store), store.tier) == (["0001-SE01-L1"], "phantom")
    assert datasets.validate(store) == {}
    assert [basis.tier for basis in datasets.get("anno").rests_on()] == ["phantom"]
    for file in (subject(tree) / "SE01").iterdir():
        one = pydicom.dcmread(file)
        one.SeriesDescription = ""
        one.save_as(file)
    assert datasets.crops("anno", progress=False).tier == "anno"
    assert [basis.tier for basis in datasets.get("anno").rests_on()] == ["private"]


def test_the_index_goes_on_where_it_ended(phantoms, monkeypatch):
    monkeypatch.setattr(_own, "FEW", 0)
    scans, _ = _index.find_scans(phantoms)
    two = list(scans.values())[:2]
    _index.read_scans(two, processes=1, progress=False, thorough=False)
    read: list[str] = []
    real = _index.read_scan
    monkeypatch.setattr(
        _index, "read_scan", lambda scan, **how: read.append(scan.name) or real(scan, **how)
    )
    alone = Anno(phantoms, processes=1, progress=False)
    assert read == list(scans)[2:]
    monkeypatch.undo()
    both = Anno(phantoms, processes=2, progress=False, thorough=True)
    pd.testing.assert_frame_equal(alone.lesions(), both.lesions())


# -- shapes --


@pytest.mark.parametrize("radii", [(21.0, 21.0, 21.0), (25.0, 12.0, 30.0), (9.4, 30.0, 14.0)])
@pytest.mark.parametrize("start", [0, 1, 2])
def test_masks_between_marked_slices_are_within_a_voxel(radii, start):
    middle = np.array([32.3, 33.1, 31.8])
    grid = np.stack(np.meshgrid(*3 * [np.arange(66)], indexing="ij"), axis=-1) - middle
    true = (np.square(grid / radii).sum(axis=-1)) <= 1
    shown = np.flatnonzero(true.any(axis=(1, 2)))
    marked = shown[start::3].tolist()
    masks = np.zeros_like(true)
    masks[marked] = true[marked]
    between = slice(marked[0], marked[-1] + 1)
    found = fill_between(masks)
    np.testing.assert_array_equal(found[marked], true[marked])
    # voxels that differ lie within one voxel of the true surface
    fine = np.linspace(-1, 1, 401)
    u, turn = np.meshgrid(fine, np.pi * fine)
    ring = np.sqrt(1 - u**2)
    surface = np.stack((u, ring * np.cos(turn), ring * np.sin(turn)), axis=-1).reshape(-1, 3)
    wrong = np.argwhere((found ^ true)[between]) - middle + np.array((between.start, 0, 0))
    assert cKDTree(surface * radii).query(wrong)[0].max() <= 1
    assert not found[: between.start].any()


def test_outlines_fill_to_what_they_were_traced_from():
    masks = ndimage.gaussian_filter(np.random.default_rng(0).random((30, 24, 31)), (0, 1, 1)) > 0.5
    for mask in masks:
        back = np.zeros_like(mask)
        for outline in trace(mask):
            assert not crosses_itself(outline)
            back[tuple(fill(outline).T)] = True
        np.testing.assert_array_equal(back, ndimage.binary_fill_holes(mask))
    dot = fill(np.array([(4.1, 7.2), (4.2, 7.2), (4.2, 7.3)]))  # around no pixel's centre
    assert dot.tolist() == [[4, 7]]
    disc = np.hypot(*np.mgrid[-9:10, -9:10]) < 4.5
    assert (is_circle(circle(disc)), is_circle(trace(disc)[0])) == (True, False)
    assert abs(len(fill(circle(disc) + 9)) - int(disc.sum())) <= 4


def test_the_label_for_detection():
    def label(radii: tuple[float, float, float], slices: slice = slice(None)) -> Any:
        """Of an ellipsoid, mm, in voxels of 1 × 0.5 × 0.5 mm, from slice 10 and corner (5, 7)."""
        z, y, x = np.mgrid[:61, :121, :121]
        mask = ((z - 30) / radii[0]) ** 2 + ((y - 60) / 2 / radii[1]) ** 2 + (
            (x - 60) / 2 / radii[2]
        ) ** 2 <= 1  # fmt: skip
        mask, at = mask[slices], np.arange(61)[slices] + 10
        hu = np.zeros(mask.shape, np.int16)
        crop = Crop("A", hu, mask[None], (1.0, 0.5, 0.5), at, (5, 7), 0 * at, "phantom")
        return detection_label(crop, (-100.0, -90.0, 3.0))

    ball = label((12, 12, 12))
    assert ball[:3] == pytest.approx((-100 + 33.5, -90 + 32.5, 43), abs=1e-9)
    assert ball.diameter == pytest.approx(24, rel=0.01)
    assert label((9, 25, 14)).diameter == pytest.approx(50, rel=0.01)
    assert label((12, 12, 12), slice(30, 31)).diameter == pytest.approx(24, rel=0.01)  # a disc
    with pytest.raises(ValueError, match="no voxel of A"):
        label((0.1, 0.1, 0.1), slice(0, 2))


# -- bad input: one file, each named with its key, and the rest goes on --


def moved(told: dict[str, Any], by: float) -> dict[str, Any]:
    """The contour and the box somewhere else."""
    ends = {key: told[key] + by for key in ("XMin", "XMax", "YMin", "YMax")}
    return ends | {"Coords": [[x + by, y + by] for x, y in told["Coords"]]}


def bow(told: dict[str, Any]) -> list[list[float]]:
    x0, x1, y0, y1 = (told[key] for key in ("XMin", "XMax", "YMin", "YMax"))
    return [[x0, y0], [x1, y1], [x1, y0], [x0, y1]]


BAD: list[tuple[Callable[[dict[str, Any]], dict[str, Any]], str, str]] = [
    (lambda t: {"XMin": math.nan}, "XMin", "expected a number"),
    (lambda t: {"Coords": [[math.nan, 1], *t["Coords"]]}, "Coords", "expected 3 to 8,192 points"),
    (lambda t: {"Coords": [[10**400, 1], *t["Coords"]]}, "Coords", "list: expected 3 to 8,192"),
    (lambda t: moved(t, 40), "Coords", "outside the image of 48 × 48"),
    (lambda t: {"Coords": [[4, 4]]}, "Coords", "[[4, 4]]: expected 3 to 8,192 points"),
    (lambda t: {"Coords": [[20, 20], [24, 20], [22, 20]], "XMin": 20, "XMax": 24, "YMin": 20,
                "YMax": 20}, "Coords", "all points lie on one line"),
    (lambda t: {"Coords": bow(t)}, "Coords", "the contour crosses itself"),
    (lambda t: {"XMin": t["XMax"], "XMax": t["XMin"]}, "XMin", "is above XMax"),
    (lambda t: {"YMax": t["YMax"] + 5}, "YMax", "is 5 pixels off the contour"),
    (lambda t: {"XMin": 0.1, "XMax": 0.4, "YMin": 0.1, "YMax": 0.4}, "Coords", "are mixed"),
    (lambda t: {"SeriesID": "../../../other"}, "SeriesID", "expected a DICOM UID"),
    (lambda t: {"SeriesID": "1.2.3"}, "SeriesID", "is not that of SE01"),
    (lambda t: {"LesionID": 1.5}, "LesionID", "expected whole numbers"),
    (lambda t: {"NoduleSerialNumber": 77}, "NoduleSerialNumber", "as in the file's name"),
    (lambda t: {"Dimension": [512, 512, 13]}, "Dimension", "48 × 48 pixels"),
    (lambda t: {"Spacing": [0.7, 0.9, 2.0]}, "Spacing", "0.7 and 0.7 mm wide"),
    (lambda t: {"Origin": None}, "Origin", "is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "key", "reason"), BAD, ids=range(len(BAD)))
def test_a_bad_file_is_left_out_and_named(tree, make, key, reason):
    file = files(tree)[1]
    change(file, **make(json.loads(file.read_text())))
    ((path, named, why),) = faults(tree)
    assert (tree / path, named) == (file, key)
    assert reason in why
    source = Anno(tree)
    assert [len(some) for some in source.annotations("0001-SE01-L1").values()] == [3, 3]
    assert source.crop("0001-SE01-L1").masks.any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:200]), "neither JSON nor a Python literal"),
        (lambda f: f.write_text("__import__('os').mkdir('here')"), "neither JSON nor a Python"),
        (lambda f: f.write_text("[" * 100_000), "neither JSON nor a Python"),
        (lambda f: f.write_bytes(b"\x80\x04\x95"), "neither JSON nor a Python"),  # a pickle
        (lambda f: f.write_text("[1, 2]"), "expected a dictionary"),
        (lambda f: os.truncate(f, 100_000_000), "has 100,000,000 bytes, expected at most"),
        (lambda f: (f.unlink(), f.symlink_to("/etc/passwd")), "is a link"),
        (lambda f: (f.unlink(), f.mkdir()), "is a link or no plain file"),
        (lambda f: f.rename(f.with_name("2_x.anno")), "is not named aid_loc.anno"),
    ],
)
def test_what_is_no_such_file_is_left_out_and_named(tree, write, reason, monkeypatch):
    monkeypatch.chdir(tree.parent)
    write(files(tree)[1])
    ((path, key, why),) = faults(tree)
    assert (Path(path).parent.name, key) == ("SE01_01_01", "")
    assert reason in why
    assert not (tree.parent / "here").exists()


def test_a_python_literal_and_fractions_are_read(tree):
    file = files(tree)[1]
    before, told = read_annotation(file), json.loads(file.read_text())
    told["Coords"] = [((x + 0.5) / 48, (y + 0.5) / 48) for x, y in told["Coords"]]
    told |= {key: (told[key] + 0.5) / 48 for key in ("XMin", "XMax", "YMin", "YMax")}
    file.write_text(f"\n {told!r}")
    assert file.read_text().startswith("\n {'")
    np.testing.assert_allclose(read_annotation(file).outline, before.outline, atol=1e-9)
    assert validate(tree) == (1, [])


# -- bad input: what does not fit together --


def test_two_files_with_one_aid_are_both_left_out(tree):
    second = files(tree)[1]
    twin = second.with_name(second.name.replace("2_", "1_", 1))
    shutil.copy(second, twin)
    change(twin, NoduleSerialNumber=1)
    found = faults(tree)
    assert [key for _, key, _ in found] == 2 * ["NoduleSerialNumber"]
    assert {why for *_, why in found} == {"2 files of doctor 1 have this aid"}


def test_a_slice_that_the_scan_lacks(tree):
    z = float(files(tree)[1].stem.split("_")[1])
    (gone,) = (
        file for file in (subject(tree) / "SE01").iterdir()
        if pydicom.dcmread(file).SliceLocation == z
    )  # fmt: skip
    gone.unlink()
    source = Anno(tree)
    with pytest.raises(BadAnnoError, match=f"InstanceNumber: no slice at {z:g} mm; .* 2 mm away"):
        source.crop("0001-SE01-L1")
    n_lesions, found = validate(tree)
    assert n_lesions == 1
    assert {key for _, key, _ in found} == {"", "Dimension", "InstanceNumber"}
    with pytest.raises(ValueError, match="every lesion is excluded"):
        datasets.crops("anno", source=tree, progress=False)


def test_the_table_of_attributes_line_by_line(tree):
    table = tree / "attributes.csv"
    header, one, two = table.read_text().splitlines()
    lines = [header, one, two.replace(",3,", ",9,"), one, "0001,SE01,x,1" + 9 * ",1", "0001,SE01",
             "0009,SE01,1,1" + 9 * ",1", "../../x,SE01,1,1" + 9 * ",1",
             "0001,SE01,5,1" + 9 * ",1"]  # fmt: skip
    table.write_text("\n".join([*lines, ""]))
    source = Anno(tree)
    (lesion,) = source.lesions().itertuples()
    assert lesion.lesion_type_readings == [1, None]
    assert sorted((key, why) for _, key, why in faults(tree)) == [
        ("../../x SE01", "no such subject and series in the tree"),
        ("0001-SE01 5", "doctor 1 gave attributes, and there is no contour to go with them"),
        ("0009 SE01", "no such subject and series in the tree"),
        ("lesion, doctor (line 5)", "expected whole numbers"),
        ("lesion_type (line 3)", "'9': expected 1, 2, 3, 4, 5, 6"),
        ("line 4", "a second line of doctor 1 for lesion 1"),
        ("line 6", "expected as many cells as in the first line"),
    ]
    table.write_text(f"{header}\n{one}\n")
    ((_, key, why),) = faults(tree)
    assert (key, why) == ("SE01 L1", "no attributes of doctor 2 for this lesion")
    table.write_text(f"{header}\n")
    with pytest.raises(AnnoError, match=r"no lesion can be used; .*no attributes of"):
        Anno(tree).lesions()
    for breaks, complaint in (
        (lambda: table.write_text(header.replace("cavity", "cavities")), "one column 'cavity'"),
        (lambda: table.write_text(f'{header}\n"{"x" * 200_000}"'), "field larger than field limit"),
        (table.unlink, "expected a table of at most"),
    ):
        breaks()
        with pytest.raises(AnnoError, match=complaint):
            Anno(tree).lesions()
        n_lesions, found = validate(tree)
        assert (n_lesions, found[0].path) == (0, "attributes.csv")


def test_what_lies_where_it_should_not(tree):
    here = subject(tree)
    shutil.copytree(here / "SE01", here / "SE02")  # a series without contours
    shutil.copytree(here / "SE01_01_01", here / "SE03_01_01")  # contours without a series
    shutil.copytree(here / "SE01", here.with_name("empty") / "SE01", ignore=lambda *_: ["."])
    for file in (here.with_name("empty") / "SE01").iterdir():
        file.write_bytes(b"no DICOM")
    shutil.copytree(here, tree / "CT/H02/2001/01/01/0001")  # the subject once more
    (here / "SE04").symlink_to("/etc")
    shutil.copytree(here / "SE01_01_01", tree / "CT/SE01_01_01")
    found = {Path(path).name + ": " + why for path, _, why in faults(tree)}
    for expected in (
        "SE02: has no contour that can be used",
        "SE03: is missing: the doctors' slices",
        "SE01: has no CT slice that can be read",
        "SE01: the same subject and series as CT/H01/2000/01/01/0001/SE01",
        "SE04: expected ct_type/hospital/year/month/day/subject/SE01 and SE01_01_01, and no links",
        "SE01_01_01: expected ct_type",
    ):
        assert any(told.startswith(expected) for told in found)
    assert len(Anno(tree).lesions()) == 1
    (tree / "new").mkdir()
    shutil.copy(tree / "attributes.csv", tree / "new")
    with pytest.raises(AnnoError, match="no scan in it; expected ct_type/hospital"):
        Anno(tree / "new")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        Anno(tree / "nowhere")


def test_slices_without_lesion_id_are_joined_by_overlap(tree):
    every = [*files(tree, 1), *files(tree, 2)]
    for file in every:
        change(file, LesionID=None)
    table = tree / "attributes.csv"
    header, one, two = table.read_text().splitlines()
    # the tables of the doctors name one of their own contours each
    mine = int(files(tree, 2)[-1].name.split("_")[0])
    table.write_text("\n".join([header, one, two.replace("SE01,1,2", f"SE01,{mine},2")]))
    source = Anno(tree)
    (lesion,) = source.lesions().itertuples()
    assert (lesion.Index, lesion.doctors, lesion.lesion_type_readings) == (
        "0001-SE01-A1", [1, 2], [1, 3],
    )  # fmt: skip
    # without the two marks in between, the ends are six slices apart and are two lesions
    assert lesion.n_slices == len({file.stem.split("_")[1] for file in every})
    for file in every:
        if 15 <= float(file.stem.split("_")[1]) <= 26 and file.parent.name.endswith("1"):
            file.unlink()
    for file in files(tree, 2):
        file.unlink()
    assert len(Anno(tree)._records["0001-SE01"]["lesions"]) == 2


def test_two_scans_of_a_patient_stand_under_one(tmp_path):
    codes = [CODES, CODES]
    scans = [writing.from_crop(small(p), p, codes) for p in ("Ann", "Bob", "Ann")]
    root = writing.write(tmp_path / "tree", scans, progress=False)
    assert Anno(root).lesions()["patient"].tolist() == ["0001", "0002", "0001"]
    mapping = tmp_path / "tree-subjects.csv"
    for bad, told in (
        ("subject\n1", "one column 'patient'"),
        ("subject,patient\n1,a\n1,b", "line 3: expected a subject not told before"),
    ):
        mapping.write_text(bad)
        with pytest.raises(AnnoError, match=told):
            Anno(root)
    mapping.unlink()
    assert Anno(root).lesions()["patient"].tolist() == ["0001", "0002", "0003"]
    with pytest.raises(FileExistsError, match="is there already"):
        writing.write(root, [])
    with pytest.raises(ValueError, match="A: expected the crop of a phantom, got dicom"):
        writing.from_crop(dataclasses.replace(small("A"), tier="dicom"), "A", codes)


def test_an_export_goes_on_where_it_ended(tmp_path):
    def stop(folder: Path, subject: str) -> Any:
        raise OSError("disk full")

    root = tmp_path / "tree"
    one, two = (writing.from_crop(small(p), p, [CODES, CODES]) for p in ("Ann", "Bob"))
    with pytest.raises(OSError, match="disk full"):
        writing.write(root, [one, dataclasses.replace(two, make=stop)], progress=False)
    assert not root.exists()
    writing.write(root, [dataclasses.replace(one, make=stop), two], progress=False)  # one is there
    assert validate(root) == (2, [])
    assert not list(tmp_path.glob(".tree*"))


# -- LIDC, header fields, and the commands --


def test_lidc_lesions_are_written_with_named_header_fields_only(tmp_path, lidc_sources):
    scan_id = 698
    scan = lidc_sources.write_scan(tmp_path / "scans", scan_id)
    nodules = lidc.nodules()
    nodules = nodules[nodules["scan_id"] == scan_id]
    for file in scan.iterdir():
        one = pydicom.dcmread(file)
        one.PatientName = one.InstitutionName = one.StudyDescription = "ZZSECRETZZ"
        one.PatientBirthDate, one.PatientWeight = "19500101", "71.5"
        one.add_new((0x0009, 0x0010), "LO", "ZZSECRETZZ")
        one.ImageType, one.SeriesDescription = ["ORIGINAL", "ZZSECRET"], ""
        one.save_as(file)
    old = {v for f in scan.iterdir() for v in (pydicom.dcmread(f).SOPInstanceUID, f.name)}
    root = writing.write(
        tmp_path / "out", writing.lidc_scans(tmp_path / "scans", progress=False), every=1,
        circle_mm=0, progress=False,
    )  # fmt: skip
    first = pydicom.dcmread(next(root.rglob("*.dcm")))
    assert (first.PatientID, float(first.PatientWeight)) == ("0001", 71.5)
    assert first.SOPInstanceUID not in old
    assert first.ImageType == "ORIGINAL"
    kept = {element.keyword for element in first}
    assert not kept & {"PatientName", "PatientBirthDate", "StudyDate", "InstitutionName", ""}
    for file in root.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not [s for s in (b"SECRET", b"LIDC-IDRI", b"19500101") if s in content]
    source = Anno(root)
    table = source.lesions()
    assert (source.tier, len(table)) == ("anno", len(nodules))
    assert table["lesion_location"].isna().all()
    np.testing.assert_array_equal(read_series(subject(root) / "SE01").hu, read_series(scan).hu)
    for lesion_id, nodule in zip(table.index, nodules.itertuples(), strict=True):
        ours = source.crop(lesion_id, interpolate=False)
        theirs = lidc.masks(nodule.Index).window(ours.slice_index, ours.corner, 128)
        drawn = theirs.any(axis=(1, 2, 3))
        solid = [[ndimage.binary_fill_holes(p) for p in reader] for reader in theirs[drawn]]
        np.testing.assert_array_equal(ours.masks, solid)
        codes = writing.codes_of_readers(nodules.loc[nodule.Index])
        margins = [1 if m >= 4 else 2 for m in nodule.margin_readings]
        assert [c["margin_clarity"] for c in codes] == margins
        assert table.loc[lesion_id, "margin_clarity_readings"] == margins


def test_a_copied_phantom_is_one_still(tmp_path):
    hu = np.random.default_rng(1).integers(-1000, 1000, (2, 8, 8)).astype(np.int16)
    folder = write_series(hu, tmp_path / "scan", spacing=(1, 1, 1), patient_id="P")
    copied = read_series(copy_series(sorted(folder.iterdir()), tmp_path / "copy", patient_id="7"))
    np.testing.assert_array_equal(copied.hu, hu)
    assert copied.synthetic
    assert copied.series_uid != read_series(folder).series_uid


def test_the_commands(tmp_path):
    run = CliRunner()
    out = tmp_path / "tree"
    done = run.invoke(app, ["data", "export", "anno", str(out), "--limit", "2"])
    assert done.exit_code == 0, done.output
    done = run.invoke(app, ["data", "validate", str(out)])
    assert (done.exit_code, done.stdout) == (0, f"{out}: 2 lesions, nothing is wrong\n")
    broken = files(out)[:2]
    change(broken[0], XMin=math.nan)
    change(broken[1], Coords=[])
    done = run.invoke(app, ["data", "validate", str(out)])
    assert done.exit_code == 1
    told = sorted(done.stdout.splitlines())
    assert [line.split(": ")[1] for line in told] == ["XMin", "Coords"]
    assert all(str(f.relative_to(out)) in line for f, line in zip(broken, told, strict=True))
    assert done.stderr == f"lesionlab: {out}: 2 faults, 2 lesions can be used\n"
    for arguments, complaint in (
        (["nrrd", str(out)], "format='nrrd': expected one of anno, nifti, dicom-seg"),
        (["anno", str(out)], "is there already"),
        (["anno", str(tmp_path / "b"), "--source", "lidc"], "LESIONLAB_LIDC_DICOM is not set"),
    ):
        done = run.invoke(app, ["data", "export", *arguments])
        assert done.exit_code > 0
        assert complaint in done.stderr


def test_the_limits_hold_what_they_are_for():
    points = [[round(300 + 250 * math.cos(k / 1304), 3), round(300 + 250 * math.sin(k / 1304), 3)]
              for k in range(_files.MAX_POINTS)]  # fmt: skip
    assert len(json.dumps(points)) < _files.MAX_BYTES
    assert not crosses_itself(np.array(points))
