"""The slices set: parts of it made here from real contours, and the public one where it is."""

from __future__ import annotations

import io
import logging
import os
import pickle
import shutil
import stat
import struct
import zipfile
import zlib
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lesionlab._files import sha256
from lesionlab.crops import HU_ERROR
from lesionlab.sources import lidc, origins, slices
from lesionlab.sources.slices import (
    INTENSITY_NAME,
    MASKS,
    Archive,
    Key,
    Slices,
    SlicesError,
)

INDEX = slices.read_index()
NEIGHBOURS = [f"LIDC-IDRI-0003-S0014-N0{i}" for i in range(1, 5)]  # of one scan
FIVE_READERS = "LIDC-IDRI-0332-S0334-N01"
SHOWN = [*NEIGHBOURS, FIVE_READERS]
FIRST = INDEX[NEIGHBOURS[0]]
FOLDER = f"LIDC-IDRI-slices/{FIRST.patient}/nodule-{FIRST.nodule}"
PICTURE = f"{FOLDER}/images/slice-1.png"


def png(mode: str) -> bytes:
    file, pixels = io.BytesIO(), np.random.default_rng(0).integers(0, 251, (128, 128), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder).as_posix())
    return target


@pytest.fixture(scope="module")
def original(lidc_sources, tmp_path_factory):
    """A part of the set with a table; grey value g, a ramp along x, is 8 g - 1000 HU."""
    return lidc_sources.write_slices(tmp_path_factory.mktemp("slices") / "set", SHOWN)


@pytest.fixture
def part(original: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "set"))


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_part_of_the_set_gives_its_lesions_and_no_others(part, as_zip):
    source = Slices(zipped(part, part / "set.zip") if as_zip else part)
    assert source.lesion_ids == [i for i in INDEX if i in SHOWN]
    for crop in map(source.crop, source.lesion_ids):
        about, shown = lidc.nodules().loc[crop.lesion_id], INDEX[crop.lesion_id]
        np.testing.assert_array_equal(crop.hu[:, 5], [8 * np.arange(1, 129) - 1000] * len(crop.hu))
        assert crop.slice_index.tolist() == shown.slice_index
        assert (crop.corner, crop.tier, crop.calibrated.all()) == (shown.corner, "slices", True)
        assert len(crop.masks) == about["n_readers"]
        # in the scan the consensus lies where the database has it
        inside = np.argwhere(crop.consensus()) + crop.origin
        assert inside.mean(axis=0) == pytest.approx(about[["z", "y", "x"]].to_numpy(float))


def test_a_nodule_without_a_crop_and_a_broken_picture_say_why(part):
    (part / PICTURE).write_bytes(b"")
    source = Slices(part)
    with pytest.raises(SlicesError, match=rf"{PICTURE} is no PNG file"):
        source.crop(NEIGHBOURS[0])
    (part / PICTURE).unlink()
    source = Slices(part)
    for lesion_id, why in {
        NEIGHBOURS[0]: f"1 of its {len(FIRST.slices)} pictures are missing",
        "LIDC-IDRI-0484-S0489-N01": "no folder of the set shows it",
        "N-1": "no nodule has that lesion_id",
    }.items():
        with pytest.raises(LookupError, match=f"no crop of {lesion_id}: {why}"):
            source.crop(lesion_id)


def test_another_set_in_the_same_folders_is_found_out_by_its_masks(part):
    for mask in (part / FOLDER).glob("mask-*/*.png"):
        Image.fromarray(np.roll(np.asarray(Image.open(mask)), 1, axis=0)).save(mask)
    with pytest.raises(SlicesError, match=f"is one of {NEIGHBOURS[0]}, which the public set shows"):
        Slices(part).crop(NEIGHBOURS[0])


def test_no_set_says_what_to_do(original, tmp_path, monkeypatch):
    variable = origins.SLICES.variable
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(origins, "data_folder", lambda: tmp_path / "data")
    message = r"LESIONLAB_LIDC_SLICES is not set\. .*fetch slices"
    with pytest.raises(FileNotFoundError, match=message):
        Slices()
    monkeypatch.setenv(variable, "/no/such/set.zip")
    with pytest.raises(FileNotFoundError, match=r"/no/such/set.zip does not exist; expected a zip"):
        Slices()
    monkeypatch.setenv(variable, str(original))
    assert Slices().path == original


def test_it_goes_to_other_processes(original):
    source = Slices(original)
    assert len(pickle.dumps(source.crop)) < 5_000
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        crop = pool.submit(source.crop, FIVE_READERS).result()
    np.testing.assert_array_equal(crop.masks, source.crop(FIVE_READERS).masks)


def test_the_public_set_needs_no_table_and_another_gets_no_hu_from_ours(part, monkeypatch, caplog):
    table = part / INTENSITY_NAME
    made_for_it = pd.read_csv(table)
    ramp = np.tile(np.arange(1, 129, dtype=np.uint8), (128, 1))  # every picture of this set
    made_for_it["crc32"] = f"{zlib.crc32(ramp.tobytes()):08x}"
    made_for_it.to_csv(part / "ours.csv.gz", index=False)
    monkeypatch.setattr(slices, "INTENSITY", part / "ours.csv.gz")
    Slices(part)
    assert caplog.text == ""  # the table beside the set is the same
    table.unlink()
    (part / PICTURE).write_bytes(b"")  # says nothing about the others
    source = Slices(part)
    assert source.intensity_path == part / "ours.csv.gz"
    assert source.crop(NEIGHBOURS[1]).hu[0, 0, 9] == 8 * 10 - 1000
    for picture in part.rglob("images/*.png"):
        Image.fromarray(ramp[:, ::-1]).save(picture)
    with caplog.at_level(logging.WARNING):
        source = Slices(part)
    assert source.intensity_path is source.intensity_checksum is None
    assert "its pictures are not those that the table of lesionlab is for" in caplog.text
    assert not source.crop(NEIGHBOURS[1]).calibrated.any()


def test_the_first_edition_of_the_table_gives_way_to_ours(part, monkeypatch):
    table = part / INTENSITY_NAME
    monkeypatch.setattr(slices, "_is_public", lambda archive: True)
    assert Slices(part).intensity_path == table
    monkeypatch.setattr(slices, "FIRST_EDITION", sha256(table))
    assert Slices(part).intensity_path == slices.INTENSITY


def test_every_slice_tells_its_steps(part):
    table = pd.read_csv(part / INTENSITY_NAME)
    shown = INDEX[FIVE_READERS]
    mine = (table["patient"] == shown.patient) & (table["nodule"] == shown.nodule)
    table.loc[mine, "steps"] = np.arange(mine.sum())
    table[mine.cumsum() != 2].to_csv(part / INTENSITY_NAME, index=False)
    crop = Slices(part).crop(FIVE_READERS)
    assert crop.steps.tolist() == [0, -1, *range(2, mine.sum())]
    assert crop.hu_error[:3].tolist() == [5, np.inf, 42]


GOOD = "patient,nodule,slice,slope,intercept,source,steps\nLIDC-IDRI-0003,0,0,8.5,-1000,anchor,0\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read as a CSV table"),
        (GOOD.replace("slope", "gain"), r"cannot be read .*not found: \['slope'\]"),
        (GOOD + "LIDC-IDRI-0003,0,1,8.5,NaN,chained,1\n", "line 3: expected"),
        (GOOD + "LIDC-IDRI-0003,0,1,0,-1000,anchor,0\n", "line 3: expected"),
        (GOOD + "LIDC-IDRI-0003,0,0,8.5,-1000,chained,1\n", "line 3: expected"),
        (GOOD + "LIDC-IDRI-0003,0,1,8.5,-1000,chained,-1\n", "line 3: expected"),
        (GOOD + "LIDC-IDRI-0003,0.5,1,8.5,-1000,anchor,0\n", "cannot be read as a CSV table"),
        (GOOD.replace("0003", "0004"), "has HU for no slice of"),
        (GOOD.splitlines()[0] + "\n", "line 2: expected a row"),
        (GOOD.replace("8.5", "1e300"), "line 2: expected .*a slope above 0 and up to 1000"),
        (GOOD.replace("-1000", "-1e300"), "line 2: expected .*an intercept within"),
        (GOOD.replace("-1000", "inf"), "line 2: expected"),
        (GOOD.replace("steps", "slope"), "column 'slope' stands in it twice"),
        (GOOD.replace("anchor", "NONE"), "has HU for no slice of"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(text, says, part):
    (part / INTENSITY_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(SlicesError, match=rf"{INTENSITY_NAME}.*{says}"):
        Slices(part)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("gone")])
def test_what_is_no_file_is_no_table(make, part):
    (part / INTENSITY_NAME).unlink()
    make(part / INTENSITY_NAME)
    with pytest.raises(SlicesError, match=rf"{INTENSITY_NAME} is no file"):  # a pipe blocks nobody
        Slices(part)


LINK = zipfile.ZipInfo(PICTURE)
LINK.external_attr = (stat.S_IFLNK | 0o777) << 16
AGAIN = f"elsewhere/{FIRST.patient}/nodule-{FIRST.nodule}/images/slice-0.png"


def entry(name: str | zipfile.ZipInfo, content: bytes, method: int | None = None) -> Any:
    """Put an entry into a zip of the set."""

    def put(picture: Path) -> Path:
        path = zipped(picture.parents[4], picture.parents[4] / "set.zip")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, content, method)
        return path

    return put


@pytest.mark.parametrize(
    ("put", "says"),
    [
        (entry(PICTURE, bytes(30 << 20), zipfile.ZIP_DEFLATED), "file of at most 1,048,576 bytes"),
        (entry(LINK, b"/etc/passwd"), "no plain file"),
        (entry(PICTURE, b"x", zipfile.ZIP_LZMA), "no plain file"),
        (entry(AGAIN, b""), "holds the same picture twice"),
        (lambda file: file.symlink_to(file.with_name("slice-0.png")), "slice-1.png' is no plain"),
        (os.mkfifo, "slice-1.png' is no plain file"),
        (lambda file: file.write_bytes(bytes(2 << 20)), "slice-1.png' is no plain file"),
    ],
)
def test_a_hostile_zip_or_folder_is_refused(put, says, part):
    (part / PICTURE).unlink()
    path = put(part / PICTURE)
    with pytest.raises(SlicesError, match=says):
        Archive(path if isinstance(path, Path) else part)


def test_names_that_lead_out_of_a_zip_are_only_names(part):
    path = zipped(part, part / "set.zip")
    known = Archive(path).names
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../outside.png", "/etc/passwd", f"../../{PICTURE}.png"):
            archive.writestr(name, b"x")
    assert Archive(path).names == known


def test_what_is_no_zip_or_another_set_is_refused(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"not a zip" * 999)
    with pytest.raises(SlicesError, match=r"set.zip cannot be read as a folder or zip file: File"):
        Archive(tmp_path / "set.zip")
    with pytest.raises(SlicesError, match="1 files but none of the slices set; expected a zip or"):
        Archive(tmp_path)


GREY = png("L")
HUGE = chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31, 2**31, 8, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GIF89a" + bytes(40), "no PNG file, or is broken"),
        (GREY[:-4000], "no picture of the set: .*truncated"),
        (png("RGB"), "expected 128 × 128 pixels of 8-bit grey"),
        (png("1"), "expected 128 × 128 pixels of 8-bit grey"),
        (GREY[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 128, 128, 4, 0, 0, 0, 0)) + GREY[33:],
         "expected 128 × 128 pixels of 8-bit grey"),
        (GREY[:8] + HUGE + GREY[33:], "exceeds limit"),
        # a second header, after the one that says how many bits and what colour
        (GREY[:33] + png("RGB")[8:33] + GREY[33:], "expected 128 × 128 pixels of 8-bit grey"),
        (GREY[:33] + HUGE + GREY[33:], "exceeds limit"),
    ],
)  # fmt: skip
def test_a_picture_that_cannot_be_used_says_why(data, says, part):
    (part / PICTURE).write_bytes(data)
    with pytest.raises(SlicesError, match=rf"{PICTURE} is .*{says}"):
        Archive(part).read(Key(FIRST.patient, FIRST.nodule, "images", 1))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    either = (a | b).sum()
    return (a & b).sum() / either if either else np.nan


@pytest.mark.slow
def test_every_folder_of_the_public_set_shows_what_the_index_says(real_slices):
    archive = Archive(real_slices)
    for lesion_id, shown in INDEX.items():
        masks, (first, _, _) = lidc.masks(lesion_id), lidc.masks(lesion_id).origin
        in_scan = np.arange(first, first + masks.readers.shape[1]).tolist()
        assert sorted(shown.slice_index + shown.missing_slices) == in_scan
        ours = masks.window(np.array(shown.slice_index), shown.corner, 128)[:4]
        keys = [[shown.key(n, part) for n in shown.slices] for part in MASKS[: len(ours)]]
        theirs = np.array([[archive.read(key) > 0 for key in of_reader] for of_reader in keys])
        both = iou(theirs.mean(axis=0) >= 0.5, ours.mean(axis=0) >= 0.5)
        each = [iou(a, b) for a, b in zip(theirs, ours, strict=True)]
        assert [both, *each] == pytest.approx([shown.iou, *shown.reader_iou], nan_ok=True)


@pytest.mark.slow
def test_the_public_set(real_slices):
    public, archive, nodules = Slices(real_slices), Archive(real_slices), lidc.nodules()
    shown = pd.DataFrame([INDEX[i] for i in public.lesion_ids])
    assert (len(shown), shown["iou"].median(), (shown["iou"] > 0.95).sum()) == (2630, 1, 2561)
    pictures = Counter(key[:2] for key in archive.names if key.part == "images")
    folders, n_slices = [INDEX[i] for i in public.lesion_ids], shown["slices"].map(len)
    excluded = np.array([pictures[f[:2]] for f in folders]) - n_slices
    assert (excluded.sum(), sum(pictures.values())) == (12, 12 + n_slices.sum())
    # what is in no crop shows another nodule
    assert shown.loc[excluded > 0, "leftover"].isin(nodules.index).all()
    absent = nodules.index.difference(public.lesion_ids)
    assert [public._why_not(i) for i in absent] == 21 * ["no folder of the set shows it"]
    known = [sum(f.key(n) in public._calibration for n in f.slices) for f in folders]
    unknown = n_slices - known
    assert (unknown.sum(), (unknown == n_slices).sum()) == (282, 47)
    # line 5 of the table of intensities: 7.925 × grey − 1024
    grey = archive.read(Key("LIDC-IDRI-0001", 0, "images", 3))
    hu = public.crop("LIDC-IDRI-0001-S0012-N01").hu[3]
    np.testing.assert_array_equal(hu, np.rint(7.925 * grey - 1024))
    # solid nodules are soft tissue, and what surrounds them is lung
    solid, lung = [], []
    texture = nodules["texture"]
    for lesion_id in public.lesion_ids[::20]:
        crop = public.crop(lesion_id)
        if crop.calibrated.all() and texture[lesion_id] == 5 and crop.consensus(1.0).any():
            solid.append(np.median(crop.hu[crop.consensus(1.0)]))
            lung.append(np.percentile(crop.hu, 20))
    assert -200 < np.median(solid) < 100
    assert -950 < np.median(lung) < -700


@pytest.mark.slow
def test_windows_of_two_nodules_on_one_slice_show_the_same_hu(real_slices):
    public, seen, gaps = Slices(real_slices), defaultdict(list), []
    for lesion_id, folder in INDEX.items():
        for number, k in zip(folder.slices, folder.slice_index, strict=True):
            seen[lesion_id.rpartition("-N")[0], k].append((folder, number))
    for (a, m), (b, n) in chain.from_iterable(combinations(s, 2) for s in seen.values()):
        down, right = np.subtract(b.corner, a.corner).tolist()
        keys = a.key(m), b.key(n)
        if max(abs(down), abs(right)) > 100 or not public._calibration.keys() >= {*keys}:
            continue
        (left, steps), (other, more) = public._slice(a, m), public._slice(b, n)
        left = left[max(down, 0) : 128 + min(down, 0), max(right, 0) : 128 + min(right, 0)]
        other = other[max(-down, 0) : 128 + min(-down, 0), max(-right, 0) : 128 + min(-right, 0)]
        if np.corrcoef(left.ravel(), other.ravel())[0, 1] > 0.999:
            gaps.append((steps == more, np.median(np.abs(left.astype(int) - other))))
    alike, gap = np.array(gaps).T
    # where both windows have it, one was fitted to the other; 8 bits are steps of 3 to 22 HU
    assert alike.sum() > 400
    assert np.percentile(gap[alike == 1], 95) < 10


@pytest.mark.slow
def test_hu_of_lung_are_those_of_the_volumes(lidc_sources, real_slices, real_volumes, tmp_path):
    """Real cubes in exact HU, on the slices that they share with the set; see `HU_ERROR`."""
    public, rows = Slices(real_slices), []
    for folder, cube, (first, y, x) in lidc_sources.volumes(
        real_volumes, lidc_sources.link(), tmp_path
    ):
        row, column = y - folder.corner_y, x - folder.corner_x  # of the pictures
        top, left = max(row, 0), max(column, 0)
        for number, k in zip(folder.slices, folder.slice_index, strict=True):
            if not 0 <= k - first < len(cube):
                continue
            hu, steps = public._slice(folder, number)
            ours = hu[top : row + cube.shape[1], left : column + cube.shape[2]]
            theirs = cube[k - first, top - row :, left - column :]
            theirs = theirs[: ours.shape[0], : ours.shape[1]]
            lung = (theirs < -700) & (theirs > -1000)
            alike = lung.sum() >= 30 and np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99
            if steps >= 0 and alike:
                off = np.median(ours[lung].astype(int) - theirs[lung])
                rows.append((folder.patient, steps, off))
    found = pd.DataFrame(rows, columns=["patient", "steps", "off"])
    assert len(found) > 7000
    ends = [*(least for least, _, _ in HU_ERROR), 99]
    for (_, median, most), low, high in zip(HU_ERROR, ends, ends[1:], strict=False):
        off = found.loc[found["steps"].between(low, high - 1), "off"].abs()
        assert np.median(off) < median, f"{low} steps"
        assert np.percentile(off, 95) < most, f"{low} steps"
    # 55 patients' scans store HU + 1000, of which 1024 had been taken off
    of_patient = found[found["steps"] == 0].groupby("patient")["off"].median()
    assert of_patient.abs().max() < 6
