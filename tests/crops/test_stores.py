"""Stores of crops: what goes in comes out, and nothing looks complete that is not."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import pytest
import zarr
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lesionlab._files import LOCK, sole_writer
from lesionlab.crops import Crop, stores
from lesionlab.crops.stores import BuildError, CropStore, IncompleteStoreError

IDS = [f"L-{number}" for number in range(8)]


@pytest.fixture(autouse=True)
def makers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """`crop_makers`, so that processes which are started can import it too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "pids").mkdir()
    monkeypatch.setenv("CROP_MAKERS", str(tmp_path / "pids"))
    import crop_makers

    return crop_makers


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty object store."""
    yield "memory://bucket/store"
    fsspec.filesystem("memory").store.clear()


def build(url: Any, make_crop: Any, ids: list[str] = IDS, **options: Any) -> CropStore:
    return stores.build(url, ids, make_crop, **({"tier": "phantom", "progress": False} | options))


@pytest.fixture
def store(tmp_path: Path, makers: ModuleType) -> CropStore:
    """Eight lesions, complete."""
    return build(tmp_path / "store", makers.crop)


def same(first: Crop, second: Crop) -> None:
    for name, one in vars(first).items():
        np.testing.assert_array_equal(one, getattr(second, name), strict=True, err_msg=name)


@st.composite
def crops(draw: st.DrawFn) -> Crop:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 19)))
    return Crop(
        lesion_id=draw(st.from_regex(stores.LESION_ID, fullmatch=True)),
        hu=draw(hnp.arrays(np.int16, shape)),
        masks=draw(hnp.arrays(np.bool_, (draw(st.integers(0, 9)), *shape))),
        spacing=draw(st.tuples(*[st.floats(1e-3, 1e3)] * 3)),
        slice_index=draw(hnp.arrays(np.int64, shape[0])),
        corner=draw(st.tuples(*[st.integers(-(2**31), 2**31)] * 2)),
        steps=draw(hnp.arrays(np.int64, shape[0], elements=st.integers(-1, 40))),
        tier=draw(st.sampled_from(["phantom", "slices", "dicom"])),
    )


@given(crop=crops())
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_crop_comes_back_from_a_folder_and_from_an_object_store(crop):
    turned = Crop(**(vars(crop) | {"hu": np.asfortranarray(crop.hu)}))  # lies otherwise in memory
    sums = []
    with tempfile.TemporaryDirectory() as folder:
        for url, made in ((f"{folder}/s", crop), ("memory://any", turned)):
            build(url, lambda _, made=made: made, [crop.lesion_id], tier=crop.tier)
            back = CropStore(url)
            same(back[crop.lesion_id], crop)
            assert back.validate(progress=False) == {}
            sums.append(back.checksum)
        fsspec.filesystem("memory").store.clear()
    assert sums[0] == sums[1]


@pytest.mark.parametrize("kind", ["folder", "file://", "memory://"])
def test_a_store_is_a_mapping_with_a_table(kind, tmp_path, memory, makers):
    url = {"folder": str(tmp_path / "s"), "file://": f"file://{tmp_path}/s"}.get(kind, memory)
    with pytest.raises(FileNotFoundError, match=r"no store of crops, zarr\.json is missing"):
        CropStore(url)
    store = build(url, makers.crop)
    assert store.complete
    assert (len(store), list(store)) == (8, IDS)
    assert ("L-3" in store, "L-9" in store) == (True, False)
    assert [c.lesion_id for c in store.crops(["L-5", "L-1"])] == ["L-5", "L-1"]
    for lesion_id, crop in zip(IDS, store.crops(), strict=True):
        same(crop, makers.crop(lesion_id))
    with pytest.raises(KeyError, match="'L-9': not in the store"):
        store["L-9"]
    table, crop = store.table, makers.crop("L-2")
    assert (table.index.name, table.index.tolist()) == ("lesion_id", IDS)
    assert table.loc["L-2", "shape"] == list(crop.hu.shape)
    assert table.loc["L-2", "slice_index"] == crop.slice_index.tolist()
    told = store.info()
    assert told["slices"] == sum(len(crop.hu) for crop in store.crops())
    assert told["bytes"] > sum(crop.hu.nbytes for crop in store.crops())
    assert json.loads(json.dumps(told))["checksum"] == store.checksum
    same(pickle.loads(pickle.dumps(store))["L-1"], store["L-1"])  # noqa: S301


def test_zarr_and_pandas_read_the_store(store):
    group: Any = zarr.open_group(store.url, mode="r")
    assert group.attrs["lesionlab"]["tier"] == "phantom"
    assert sorted(group["hu"].array_keys()) == IDS
    for lesion_id, crop in store.items():
        hu, bits = group[f"hu/{lesion_id}"], group[f"masks/{lesion_id}"]
        assert hu.metadata.dimension_names == ("z", "y", "x")
        np.testing.assert_array_equal(hu[:], crop.hu)
        masks = np.unpackbits(bits[:], axis=-1, count=bits.attrs["columns"])
        np.testing.assert_array_equal(masks.astype(bool), crop.masks)
        assert hu.attrs["spacing"] == list(crop.spacing)
    direct = pd.read_parquet(Path(store.url) / "lesions.parquet").set_index("lesion_id")
    assert direct["sha256"].equals(store.table["sha256"])


def test_sum_of_a_lesion_by_hand(store):
    """The row as JSON, a line end, the voxels, the masks in bits; of the store: all sums."""
    crop, row = store["L-4"], store.table.reset_index().loc[4]
    told = row.drop("sha256").to_dict()
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), default=int) + "\n"
    data = text.encode() + crop.hu.astype("<i2").tobytes() + np.packbits(crop.masks, -1).tobytes()
    assert hashlib.sha256(data).hexdigest() == row["sha256"]
    lines = "".join(f"{sum_}  {i}\n" for i, sum_ in store.table["sha256"].items())
    assert store.checksum == hashlib.sha256(lines.encode()).hexdigest()


def test_order_and_number_of_processes_do_not_matter(store, memory, tmp_path, makers):
    assert build(memory, makers.crop, IDS[::-1]).checksum == store.checksum
    two = Path(build(tmp_path / "two", makers.crop, processes=2).url)
    files = [file for file in Path(store.url).rglob("*") if file.is_file()]
    assert len(files) > 4 * len(IDS)
    for file in files:
        assert (two / file.relative_to(store.url)).read_bytes() == file.read_bytes()


def test_a_complete_store_is_left_alone_and_may_be_read_only(store):
    before = {path: path.stat().st_mtime_ns for path in Path(store.url).rglob("*")}
    assert build(store.url, None, IDS[2:4]).checksum == store.checksum
    assert {path: path.stat().st_mtime_ns for path in Path(store.url).rglob("*")} == before


def test_more_lesions_extend_a_store(store, makers):
    with pytest.raises(BuildError, match="L-new: ZeroDivisionError"):
        build(store.url, lambda _: makers.crop(1 / 0), ["L-new"])
    with pytest.raises(IncompleteStoreError, match=r"8 of 9 lesions are stored; build it again"):
        CropStore(store.url)
    longer = build(store.url, makers.crop, ["L-new"])
    assert list(longer) == ["L-new", *IDS]
    assert longer.validate(progress=False) == {}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_lesion_that_fails_is_named_or_left_out(processes, tmp_path, makers):
    url = tmp_path / "s"
    with pytest.raises(BuildError, match="L-3: StrangeError: no contour in L-3") as told:
        build(url, makers.failing, processes=processes)
    assert "in failing" in told.value.__notes__[0]
    assert list(CropStore(url, allow_incomplete=True)) == IDS[:3]
    left_out = build(url, makers.failing, processes=processes, on_error="exclude")
    assert list(left_out) == [i for i in IDS if i != "L-3"]
    assert left_out.exclusions == {"L-3": "StrangeError: no contour in L-3"}
    with pytest.raises(KeyError, match="no contour in L-3"):
        left_out["L-3"]
    whole = build(url, makers.crop)
    assert (list(whole), whole.exclusions) == (IDS, {})


@pytest.mark.parametrize(
    ("name", "options", "error", "told"),
    [
        ("other", {"on_error": "raise"}, BuildError, "expected its phantom crop, got .* L-0-other"),
        ("dying", {"processes": 2}, RuntimeError, "a process ended while it made a crop: it was"),
        ("hungry", {}, MemoryError, "^$"),
        ("crop", {"tier": "dicom"}, ValueError, "every lesion is excluded: .*its dicom crop"),
    ],
)
def test_makers_that_are_wrong(name, options, error, told, tmp_path, makers):
    with pytest.raises(error, match=told):
        build(tmp_path / "s", getattr(makers, name), **{"on_error": "exclude"} | options)
    with pytest.raises(IncompleteStoreError, match="0 of 8"):
        CropStore(tmp_path / "s")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"processes": 0}, "processes=0"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"tier": "ct"}, "tier='ct': expected one of phantom, slices, volumes, dicom"),
        ({"ids": []}, "expected one or more"),
        ({"ids": ["a-1", "A-1"]}, "each once, capitals not counting"),
        *(
            ({"ids": ["L-0", bad]}, "lesion_id=.*expected up to 200 letters")
            for bad in ("", "../x", "a\\b", ".hidden", "zarr.json", 7)
        ),
        ({"url": ""}, "url='': expected a folder or a URL"),
    ],
)
def test_arguments_of_build(options, told, tmp_path):
    whole: dict[str, Any] = {"url": tmp_path / "s", "make_crop": None} | options
    with pytest.raises(ValueError, match=told):
        build(**whole)
    assert not (tmp_path / "s").exists()


def interrupted(patch: pytest.MonkeyPatch, at: int, error: BaseException) -> Callable[[], int]:
    """Let the write with number `at` to a folder go wrong; gives the number of writes."""
    from zarr.storage import _local

    count, put = 0, _local._put

    def broken(path: Path, *arguments: Any, **options: Any) -> int:
        nonlocal count
        if (count := count + 1) == at:
            raise error
        return put(path, *arguments, **options)

    patch.setattr(_local, "_put", broken)
    return lambda: count


class Crash(BaseException):
    """Ends a build in the middle, as a signal would."""


@pytest.mark.parametrize("error", [Crash(), OSError(errno.ENOSPC, "No space left on device")])
def test_interrupted_at_any_write_it_resumes_to_the_same(error, tmp_path, makers, monkeypatch):
    reference = build(tmp_path / "reference", makers.crop, IDS[:2])
    for at in range(1, 100):
        url = tmp_path / f"{at}"
        with monkeypatch.context() as patch:
            count = interrupted(patch, at, error)
            try:
                build(url, makers.crop, IDS[:2])
            except (Crash, OSError) as raised:
                told = str(raised)
            else:
                assert count() == at - 1
                break
        assert isinstance(error, Crash) or "the disk is full; free some space" in told
        with pytest.raises((IncompleteStoreError, FileNotFoundError)):
            CropStore(url)
        made = build(url, makers.crop, IDS[:2])
        assert (made.checksum, made.validate(progress=False)) == (reference.checksum, {})
    assert at > 10


def wait_for(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks after processes in /proc")
def test_a_killed_build_resumes_and_leaves_no_process_behind(tmp_path, makers):
    url, ids = tmp_path / "store", [f"L-{number:02}" for number in range(40)]
    with subprocess.Popen([sys.executable, makers.__file__, url, *ids]) as process:
        wait_for(lambda: len(list(url.glob("hu/*/zarr.json"))) >= 5)
        with pytest.raises(RuntimeError, match=f"being written by process {process.pid} on"):
            build(url, makers.crop, ids)
        process.send_signal(signal.SIGKILL)
    workers = [Path("/proc", path.name, "stat") for path in (tmp_path / "pids").iterdir()]
    assert 1 <= len(workers) <= 2

    def gone(worker):  # or a zombie that waits to be collected
        try:
            return ") Z " in worker.read_text("utf-8")
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_for(lambda: all(map(gone, workers)))
    with pytest.raises(IncompleteStoreError, match="of 40 lesions are stored"):
        CropStore(url)
    stored = list(CropStore(url, allow_incomplete=True))
    assert 4 <= len(stored) < 40
    asked = []
    made = build(url, lambda i: asked.append(i) or makers.crop(i), ids)
    assert asked == [lesion_id for lesion_id in ids if lesion_id not in stored]
    assert made.validate(progress=False) == {}
    assert made.checksum == build(tmp_path / "whole", makers.crop, ids).checksum


def test_one_writer_at_a_time(tmp_path, memory, makers):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    gone = f"{process.pid} on {os.uname().nodename}"
    for url in (str(tmp_path / "s"), memory):
        with sole_writer(url), pytest.raises(RuntimeError, match=f"by process {os.getpid()} on"):
            build(url, makers.crop)
        files, root = fsspec.url_to_fs(url)
        files.pipe_file(f"{root}/{LOCK}", b"1 on elsewhere")
        with pytest.raises(RuntimeError, match=r"process 1 on elsewhere; .*delete writer\.lock"):
            build(url, makers.crop)
        files.pipe_file(f"{root}/{LOCK}", gone.encode())  # of a killed process: keeps nobody out
        assert build(url, makers.crop).complete
        assert not files.exists(f"{root}/{LOCK}")


def test_who_waits_for_a_build_does_not_do_its_work_again(tmp_path, makers, monkeypatch):
    url, asked = tmp_path / "s", []
    held = sole_writer(url)
    held.__enter__()

    def other(seconds):  # it ends while this one waits
        held.__exit__(None, None, None)
        build(url, makers.failing, on_error="exclude")

    monkeypatch.setattr(time, "sleep", other)
    found = build(url, lambda i: asked.append(i) or makers.crop(i), patience=9, on_error="exclude")
    assert found.exclusions
    assert asked == []


def test_a_lock_that_is_given_up_while_it_is_read_is_taken(tmp_path, monkeypatch):
    held, read = sole_writer(tmp_path), LocalFileSystem.cat_file
    held.__enter__()

    def late(files, path, *arguments, **options):  # the other one ends just before
        held.__exit__(None, None, None)
        return read(files, path, *arguments, **options)

    monkeypatch.setattr(LocalFileSystem, "cat_file", late)
    with sole_writer(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def test_places_that_are_taken(store, makers, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"is not empty: it holds notes\.txt"):
        build(tmp_path / "mine", makers.crop)
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]
    with pytest.raises(OSError, match=r"cannot write writer\.lock in"):
        build(tmp_path / "mine" / "notes.txt", makers.crop)
    for change, told in [
        ({"tier": "dicom"}, "was made otherwise: tier was phantom, now dicom: use another folder"),
        ({"provenance": {"seed": 2}}, "was made otherwise: seed was not told, now 2"),
    ]:
        with pytest.raises(ValueError, match=told):
            build(store.url, makers.crop, **change)


def flipped(data: bytes) -> bytes:
    """One bit is another one."""
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize(
    ("lesion_id", "group", "damage", "told"),
    [
        ("L-2", "hu", flipped, "SHA-256"),
        ("L-5", "masks", flipped, "SHA-256"),
        ("L-1", "hu", lambda _: b"1234", "cannot reshape"),
        ("L-3", "hu", None, "No such file"),
        ("L-0", "masks", None, "No such file"),
    ],
)
def test_a_damaged_lesion_is_found_and_named(lesion_id, group, damage, told, store):
    file = Path(store.url, group, lesion_id, "c/0/0/0", "0" if group == "masks" else "")
    data = file.read_bytes()
    file.unlink()
    if damage:
        file.write_bytes(damage(data))
    opened = CropStore(store.url)
    wrong = opened.validate(progress=False)
    assert list(wrong) == [lesion_id]
    assert told in wrong[lesion_id]
    with pytest.raises(ValueError, match=f"^{store.url} is damaged: lesion {lesion_id}: .*{told}"):
        opened[lesion_id]  # every reader is told, not only who asks


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("lesions.parquet", lambda data: data[:-100], "lesions.parquet is damaged.*: its SHA-256"),
        ("zarr.json", lambda _: b"", "zarr.json is damaged or not from this version"),
        ("zarr.json", lambda data: data.replace(b'"version": 3', b'"version": 2'), "format 2"),
        ("zarr.json", lambda data: data.replace(b"L-0", b"../x"), r"lesion_id='\.\./x'"),
    ],
)
def test_a_damaged_store_is_not_opened(name, damage, told, store):
    file = Path(store.url, name)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=told):
        CropStore(store.url)


BAD = (..., None, [], {}, 5, "x", [5])  # `...` deletes
OF = {
    "version": (..., None, "x"), "tier": BAD, "expected": (*BAD, "L-0"), "complete": (..., [], 5),
    "provenance": (..., None, [], 5, "x"), "exclusions": (..., None, [], 5, "x"),
}  # fmt: skip
OF_ROW = {"shape": (*BAD, ["a", 1, 1]), "readers": (..., None, "x", []), "sha256": (..., 5)}
OF_ROW |= dict.fromkeys(["tier", "spacing", "slice_index", "corner", "steps"], (..., None, 5, {}))


def changed(path: list[str], value: Any) -> Callable[[bytes], bytes]:
    """Set or delete a member of a JSON document."""

    def change(data: bytes) -> bytes:
        document = inner = json.loads(data)
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        if value is ...:
            del inner[path[-1]]
        return json.dumps(document).encode()

    return change


def test_a_malformed_document_is_named(store, makers):
    with pytest.raises(BuildError):
        build(store.url, lambda _: makers.crop(1 / 0), ["L-new"])  # unfinished: its rows are read
    texts = (b"", b"null", b"[]", b"5", b"{", b"[" * 100_000, b"\xff\xfe{", b'{"attributes": []}')
    whole: list[Any] = [lambda _, text=text: text for text in texts]
    whole += [changed(["zarr_format"], bad) for bad in (..., None, 5, "x")]
    whole += [changed(["attributes"], bad) for bad in (..., None, [], 5)]
    of_root = [changed(["attributes", "lesionlab", k], bad) for k in OF for bad in OF[k]]
    of_row = [changed(["attributes", k], bad) for k in OF_ROW for bad in OF_ROW[k]]
    for name, changes in {
        "zarr.json": [*whole, changed(["attributes", "lesionlab"], []), *of_root],
        "hu/L-1/zarr.json": [*whole, *of_row],
        "hu/zarr.json": whole,
    }.items():
        file = Path(store.url, name)
        good = file.read_bytes()
        for change in changes:
            file.write_bytes(change(good))
            with pytest.raises(ValueError, match=f"^{file} is damaged or not from this version"):
                build(store.url, makers.crop, ["L-new"])
        file.write_bytes(good)
    assert len(build(store.url, makers.crop, ["L-new"])) == 9
