"""The data sets by name: built when asked for, kept apart, gone on with, checked."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lesionlab import _files
from lesionlab.crops import Crop, datasets, stores
from lesionlab.crops.stores import CropStore
from lesionlab.results import TIERS
from lesionlab.sources import lidc, phantom
from lesionlab.sources.phantom import li2021, wang2021

NODULES = lidc.nodules()
IDS = NODULES.index.tolist()
OF_TWO = NODULES.groupby("scan_id").filter(lambda nodules: len(nodules) == 2)["scan_id"]
SCAN = min(OF_TWO.tolist(), key=lambda scan: len(lidc.default().database.slice_z[scan]))
OF_SCAN = NODULES.index[NODULES["scan_id"] == SCAN].tolist()


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def scan(lidc_sources: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    lidc_sources.write_scan(root, SCAN)
    return root


def crops(name: str = "phantom", lesion_ids: Any = None, **options: Any) -> CropStore:
    return datasets.crops(name, lesion_ids, progress=False, **options)


def build(name: str, lesion_ids: Any, url: Any = None, **options: Any) -> tuple[CropStore, int]:
    return datasets.build(datasets.get(name, **options), lesion_ids, url=url, progress=False)


def test_crops_are_those_of_the_source_and_kept(cache, monkeypatch):
    store = crops(lesion_ids=IDS[:2], seed=3)
    assert store.complete
    assert list(store) == IDS[:2]
    np.testing.assert_array_equal(store[IDS[1]].hu, phantom.phantom(IDS[1], seed=3).hu)
    assert Path(store.url).parent == cache / "stores"
    assert store.url == datasets.get("phantom", seed=3).url == datasets.locate("phantom", 3)
    monkeypatch.setattr(phantom, "phantom", None)  # nothing is made again
    again = crops(lesion_ids=IDS[1:2], seed=3)
    assert (again.url, again.checksum) == (store.url, store.checksum)


def test_a_store_grows_in_the_order_of_the_database():
    crops(lesion_ids=[IDS[5], IDS[3]])
    store = crops(lesion_ids=iter([IDS[0], IDS[3]]))
    assert list(store) == [IDS[0], IDS[3], IDS[5]]
    at_once, n_made = build("phantom", [IDS[0], IDS[3], IDS[5]], url="memory://at-once")
    assert (at_once.checksum, n_made) == (store.checksum, 3)


def test_other_seeds_and_other_code_make_other_stores(monkeypatch):
    first, second = crops(lesion_ids=IDS[:1]), crops(lesion_ids=IDS[:1], seed=1)
    assert first.url != second.url
    assert (first[IDS[0]].hu != second[IDS[0]].hu).any()
    with pytest.raises(ValueError, match="was made otherwise: seed was 0, now 1: use another"):
        build("phantom", IDS[:1], url=first.url, seed=1)
    monkeypatch.setattr(_files, "sha256_code", lambda *packages: "f" * 64)
    with pytest.raises(FileNotFoundError, match="is missing; to make it: lesionlab data build"):
        datasets.locate("phantom")
    with pytest.raises(ValueError, match=r"code was \w{12}, now ffffffffffff"):
        build("phantom", IDS[:1], url=first.url)


def test_an_interrupted_store_gives_what_it_has_and_is_gone_on_with(monkeypatch):
    real = phantom.phantom

    def broken(lesion_id: str, seed: int) -> Any:
        if lesion_id == IDS[2]:
            raise ZeroDivisionError("x")
        return real(lesion_id, seed=seed)

    monkeypatch.setattr(phantom, "phantom", broken)
    with pytest.raises(stores.BuildError, match=f"{IDS[2]}: ZeroDivisionError: x"):
        crops(lesion_ids=IDS[:4])
    monkeypatch.setattr(phantom, "phantom", None)
    partly = crops(lesion_ids=IDS[:2])
    assert (partly.complete, list(partly)) == (False, IDS[:2])
    monkeypatch.setattr(phantom, "phantom", real)
    store, n_made = build("phantom", IDS[:4])
    assert (n_made, store.complete) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "options", "complaint"),
    [
        (["phantm"], {}, "unknown data set 'phantm'; did you mean 'phantom'[?]; there are anno"),
        (["phantom"], {"seed": -1}, "seed=-1: expected a whole number, 0 or more"),
        (["phantom"], {"source": "x"}, "source='x': phantom is rendered and has none"),
        (["slices"], {"seed": 1}, "seed=1: slices is not rendered and has no seed"),
        (["phantom", []], {}, "lesion_ids: expected ids of phantom such as LIDC.*, got none"),
        (["phantom", ["x", None]], {}, "got None, x"),
    ],
)
def test_wrong_arguments(arguments, options, complaint, cache):
    with pytest.raises(ValueError, match=complaint):
        crops(*arguments, **options)
    assert not cache.exists()


def test_another_writer_is_an_error_for_build_and_waited_for_by_crops(caplog, monkeypatch):
    of = datasets.get("phantom")
    held = _files.sole_writer(of.url)
    held.__enter__()
    with pytest.raises(RuntimeError, match="is being written by process"):
        datasets.build(of, IDS[:2])
    slept = []

    def sleep(seconds):  # the other one ends while this one waits
        slept.append(seconds)
        held.__exit__(None, None, None)

    monkeypatch.setattr(_files.time, "sleep", sleep)
    assert set(IDS[:2]) <= datasets.crops("phantom", IDS[:2]).keys()
    assert len(slept) == 1
    assert "waiting for process" in caplog.text
    caplog.clear()
    held = _files.sole_writer(of.url)
    held.__enter__()
    crops(lesion_ids=IDS[:3])  # without progress
    assert len(slept) == 2
    assert not caplog.text, "a chapter that runs beside another one shows no word of it"


def test_each_data_set_says_what_a_result_rests_on(lidc_sources, tmp_path, monkeypatch):
    slices = lidc_sources.write_slices(tmp_path / "set", OF_SCAN[:1])
    monkeypatch.setenv("LESIONLAB_LIDC_SLICES", str(slices))
    volumes = lidc_sources.write_volumes(tmp_path / "volumes", OF_SCAN[:1])
    monkeypatch.setenv("LESIONLAB_LIDC_VOLUMES", str(volumes))
    tables = {"phantom-li2021": li2021.lesions(), "phantom-wang2021": wang2021.nodules()}
    for name in datasets.DATASETS.keys() - {"anno", "nifti"}:  # which need files
        of = datasets.get(name)
        assert of.table().equals(tables.get(name, NODULES))
        assert of.of_lidc == (name not in tables)
        basis = of.rests_on()
        assert {b.tier for b in basis} <= set(TIERS)
        assert (basis[-1].tier == "phantom") == of.rendered
        if of.of_lidc:
            assert basis[0][1:] == ("real", lidc.default().checksum)
    assert "Li 2021, seed 1" in datasets.get("phantom-li2021", seed=1).rests_on()[0][0]
    _, table, voxels = (basis.checksum for basis in datasets.get("slices").rests_on())
    about = datasets.get("slices").provenance
    assert (table, voxels) == (about["intensity"], about["set"])


@pytest.mark.parametrize("paper", ["li2021", "wang2021"])
def test_a_papers_phantoms_are_a_data_set_of_their_own(paper):
    ids = datasets.choose(datasets.get(f"phantom-{paper}", seed=2), limit=2)
    store = crops(f"phantom-{paper}", ids, seed=2)
    assert (list(store), store.tier) == (ids, "phantom")
    assert datasets.validate(store) == {}
    assert f"phantom-{paper}-seed2-" in store.url


def test_choosing_by_file_and_number(tmp_path):
    of = datasets.get("phantom")
    assert datasets.choose(of) == IDS
    assert datasets.choose(of, limit=2) == IDS[:2]
    file = tmp_path / "ids.csv"
    file.write_text(f'\ufefflesion_id\n{IDS[4]},1\n\n# none\n"{IDS[1]}",0\n', "utf-8")
    assert datasets.choose(of, file=file) == [IDS[1], IDS[4]]
    assert datasets.choose(of, file=file, limit=1) == [IDS[1]]
    for content, complaint in [(b"L-9", "got L-9"), (b"\xff\xfe\x00", "is not a text file")]:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=complaint):
            datasets.choose(of, file=file)


def test_slices_are_built_with_the_unmatched_left_out(lidc_sources, tmp_path, monkeypatch):
    root = lidc_sources.write_slices(tmp_path / "set", OF_SCAN[:1])
    monkeypatch.setenv("LESIONLAB_LIDC_SLICES", str(root))
    store = crops("slices", OF_SCAN)
    assert store.complete
    assert (list(store), list(store.exclusions)) == (OF_SCAN[:1], OF_SCAN[1:])
    assert datasets.by_reason(store.exclusions) == {"no folder of the set shows it": 1}
    crop = store[OF_SCAN[0]]
    assert (crop.tier, crop.calibrated.all()) == ("slices", True)
    np.testing.assert_array_equal(crop.hu[0, 0], 8 * np.arange(1, 129) - 1000)
    assert datasets.validate(store) == {}
    # the place of the set does not matter, its content does
    moved = root.rename(tmp_path / "moved")
    assert datasets.get("slices", source=moved).url == store.url
    (moved / "lidc-idri-slices-intensity.csv").unlink()
    assert datasets.get("slices", source=moved).url != store.url


def test_a_tree_of_phantom_scans_makes_a_store_of_phantoms(lidc_sources, scan, tmp_path):
    store = crops("dicom", [*OF_SCAN, IDS[0]], source=scan)
    assert store.tier == "phantom"
    assert datasets.get("dicom", source=scan).rests_on()[1][1] == "phantom"
    assert list(store) == OF_SCAN
    assert datasets.by_reason(store.exclusions) == {"its series … is not under …": 1}
    assert datasets.validate(store) == {}
    # once it is downloaded as well, the next build takes it
    both = shutil.copytree(scan, tmp_path / "both")
    lidc_sources.write_scan(both, int(NODULES.loc[IDS[0], "scan_id"]))
    assert crops("dicom", [IDS[0]], source=both).exclusions  # what was asked for is known
    again, n_made = build("dicom", [IDS[0]], source=both)
    assert (n_made, again.exclusions) == (1, {})


def test_real_scans_are_not_mixed_with_phantoms(lidc_sources, scan, tmp_path):
    both = shutil.copytree(scan, tmp_path / "both")
    lidc_sources.write_scan(both, int(NODULES.loc[IDS[0], "scan_id"]), synthetic=False)
    store = crops("dicom", [*OF_SCAN, IDS[0]], source=both)
    assert (store.tier, list(store)) == ("dicom", [IDS[0]])
    assert datasets.by_reason(store.exclusions) == {
        "expected its dicom crop, got the phantom crop of …": 2
    }
    with pytest.raises(ValueError, match="was made otherwise: tier was dicom, now phantom"):
        build("dicom", OF_SCAN, source=scan)


def test_a_folder_without_a_scan(tmp_path):
    with pytest.raises(ValueError, match="none of the 1,018 series of LIDC-IDRI"):
        crops("dicom", IDS[:1], source=tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda c: {"masks": np.roll(c.masks, 1, axis=3)},
            r"^\d+ .* not as the readers drew them$",
        ),
        (lambda c: {"masks": c.masks[:1]}, "^1 readers' masks, in the database 4$"),
        (lambda c: {"masks": np.zeros_like(c.masks)}, "^no reader's mask has a voxel; "),
        (lambda c: {"hu": np.full_like(c.hu, -5)}, "^the image is empty: -5 HU everywhere$"),
        (lambda c: {"spacing": (1.0, 0.5, 0.5)}, r"^spacing 1 × 0\.5 × 0\.5 mm, in the database"),
        (lambda c: {"corner": (500, 500)}, r"\d+ voxels of the masks lie outside the crop$"),
    ],
)
def test_a_store_that_is_not_what_the_database_says(change, fault, tmp_path):
    def make(lesion_id: str) -> Crop:
        crop = phantom.phantom(lesion_id)
        return dataclasses.replace(crop, **change(crop))

    store = stores.build(tmp_path / "s", IDS[:1], make, tier="phantom", progress=False)
    (wrong,) = datasets.validate(store).values()
    assert re.search(fault, wrong)


def test_stores_and_lesions_that_are_not_known(tmp_path):
    options: dict[str, Any] = {"tier": "phantom", "progress": False}
    for complaint, provenance in {
        "unknown data set 'mine'; there are anno": {"dataset": "mine"},
        "with another LIDC-IDRI database": {"dataset": "phantom", "database": "0" * 64},
    }.items():
        options |= {"url": tmp_path / provenance["dataset"], "provenance": provenance}
        store = stores.build(lesion_ids=IDS[:1], make_crop=phantom.phantom, **options)
        assert complaint in datasets.validate(store)["lesions.parquet"]
    with pytest.raises(stores.BuildError):
        stores.build(tmp_path / "s", ["L-1"], lambda _: 1 / 0, tier="phantom", progress=False)
    store = CropStore(tmp_path / "s", allow_incomplete=True)
    assert datasets.validate(store) == {
        "zarr.json": "the build did not come to its end: 1 lesions are missing",
        "L-1": "not a lesion of phantom",
    }


def test_the_code_of_a_store_is_what_its_source_loads():
    """Whatever of lesionlab.sources a source imports lies in the packages of its recipe."""
    for name, of in datasets.DATASETS.items():
        assert all((Path(_files.__file__).parent / package).is_dir() for package in of.packages)
        if not of.of_lidc:
            continue
        ours = "(m for m in sys.modules if m.startswith('lesionlab.sources.'))"
        code = f"import sys, lesionlab.sources.{name}; print(*{ours})"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        loaded = {f"sources/{module.split('.')[2]}" for module in done.stdout.split()}
        # these two find and open files, and have no say in what comes out
        assert loaded <= {*of.packages, "sources/origins", "sources/archives"}, name
