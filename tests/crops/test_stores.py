"""Stores of crops: what goes in comes out, and nothing looks complete that is not."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lesionlab.crops import Crop, _folders
from lesionlab.crops.stores import BuildError, CropStore, IncompleteStoreError, build

IDS = [f"L-{number}" for number in range(8)]
FIELDS = ("hu", "masks", "spacing", "slice_index", "corner", "calibrated", "tier", "lesion_id")


@pytest.fixture(autouse=True)
def makers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """`crop_makers`, so that processes which are started can import it too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "pids").mkdir()
    monkeypatch.setenv("CROP_MAKERS", str(tmp_path / "pids"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and tells a test nothing
    import crop_makers

    return crop_makers


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty object store."""
    yield "memory://bucket/store"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def store(tmp_path: Path, makers: ModuleType) -> CropStore:
    """Eight lesions, complete."""
    url = tmp_path / "store"
    return build(url, IDS, makers.with_columns, tier="phantom", progress=False)


def same(first: Crop, second: Crop) -> None:
    for name in FIELDS:
        one, two = getattr(first, name), getattr(second, name)
        assert type(one) is type(two), name
        if isinstance(one, np.ndarray):
            assert one.dtype == two.dtype, name
            np.testing.assert_array_equal(one, two, err_msg=name)
        else:
            assert one == two, name


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# what goes in comes out


def test_round_trip(store: CropStore, makers: ModuleType) -> None:
    assert store.complete
    assert len(store) == 8
    assert list(store) == IDS
    assert "L-3" in store
    assert "L-9" not in store
    for lesion_id, crop in store.items():
        same(crop, makers.crop(lesion_id))
    for lesion_id, crop in zip(IDS, store.crops(), strict=True):
        same(crop, makers.crop(lesion_id))
    assert [c.lesion_id for c in store.crops(["L-5", "L-1"])] == ["L-5", "L-1"]


finite = st.floats(-1e6, 1e6, allow_subnormal=False)
lesion_ids = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,20}[A-Za-z0-9_-])?", fullmatch=True)
RESERVED = re.compile(r"zarr|con|prn|aux|nul|com\d|lpt\d", re.I)
lesion_ids = lesion_ids.filter(lambda name: not RESERVED.match(name))


@st.composite
def crops(draw: st.DrawFn) -> Crop:
    z, y, x = draw(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 19)))
    readers = draw(st.integers(0, 9))
    corner = st.integers(-(2**31), 2**31)
    return Crop(
        lesion_id=draw(lesion_ids),
        hu=draw(hnp.arrays(np.int16, (z, y, x))),
        masks=draw(hnp.arrays(np.bool_, (readers, z, y, x))),
        spacing=draw(st.tuples(*[st.floats(1e-3, 1e3)] * 3)),
        slice_index=draw(hnp.arrays(np.int64, z)),
        corner=(draw(corner), draw(corner)),
        calibrated=draw(hnp.arrays(np.bool_, z)),
        tier=draw(st.sampled_from(["phantom", "slices", "dicom"])),
    )


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63) + 1, 2**63 - 1), finite, st.text(max_size=20)
)
columns = st.dictionaries(st.text("abcdefgh_", min_size=1), scalars, max_size=4)


@given(crop=crops(), columns=columns)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_any_crop_comes_back_from_a_folder_and_from_an_object_store(
    crop: Crop, columns: dict[str, Any]
) -> None:
    sums = []
    with tempfile.TemporaryDirectory() as folder:
        for url in (folder, "memory://any"):
            with CropStore.create(url, tier=crop.tier, expected=[crop.lesion_id]) as made:
                made.append(crop, **columns)
                made.finish()
            back = CropStore.open(url)
            same(back[crop.lesion_id], crop)
            assert back.validate(progress=False) == {}
            told = back.table.loc[crop.lesion_id]
            for name, value in columns.items():
                assert pd.isna(told[name]) if value is None else told[name] == value
            sums.append(back.checksum)
        fsspec.filesystem("memory").store.clear()
    assert sums[0] == sums[1]


@pytest.mark.parametrize(
    "shape", [(0, 1, 1, 1), (0, 3, 5, 7), (8, 1, 1, 1), (8, 2, 3, 17), (1, 45, 8, 8)]
)
def test_odd_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    _, z, _, _ = shape
    crop = Crop(
        "L-1",
        rng.integers(-(2**15), 2**15, shape[1:]).astype(np.int16),
        rng.random(shape) < 0.5,
        (1.25, 0.5, 0.5),
        np.arange(z) * 3 - 7,  # slices are missing, and the first index is below zero
        (-40, -1),
        np.arange(z) % 2 == 0,
        "slices",
    )
    with CropStore.create(tmp_path / "s", tier="slices", expected=["L-1"]) as made:
        made.extend([(crop, {"note": "odd"})])
        same(made["L-1"], crop)
        made.finish()
    for memory_map in (False, True):
        same(CropStore.open(tmp_path / "s", memory_map=memory_map)["L-1"], crop)


def test_arrays_that_lie_otherwise_in_memory(tmp_path: Path, makers: ModuleType) -> None:
    crop = makers.crop("L-1", depth=3)
    turned = Crop(
        "L-1",
        np.asfortranarray(crop.hu[:, ::-1]),
        crop.masks[:, :, ::-1],
        crop.spacing,
        crop.slice_index,
        crop.corner,
        crop.calibrated,
        crop.tier,
    )
    with CropStore.create(tmp_path / "s", tier="phantom", expected=["L-1"]) as made:
        made.append(turned)
        same(made["L-1"], turned)


def test_table_has_a_row_per_lesion_and_the_columns_given(
    store: CropStore, makers: ModuleType
) -> None:
    table = store.table
    assert table.index.name == "lesion_id"
    assert table.index.tolist() == IDS
    row, crop = table.loc["L-2"], makers.crop("L-2")
    assert row["tier"] == "phantom"
    assert row["shape"].tolist() == list(crop.hu.shape)
    assert row["readers"] == len(crop.masks)
    assert row["spacing"].tolist() == list(crop.spacing)
    assert row["corner"].tolist() == list(crop.corner)
    assert row["slice_index"].tolist() == crop.slice_index.tolist()
    assert row["calibrated"].tolist() == crop.calibrated.tolist()
    assert row["patient"] == "L-2"
    assert row["texture"] == float(crop.hu[0, 0, 0])
    direct = pd.read_parquet(Path(store.url) / "lesions.parquet").set_index("lesion_id")
    assert direct["sha256"].equals(table["sha256"])


def test_sum_of_a_lesion_can_be_computed_from_its_files(store: CropStore) -> None:
    """By hand: the row as JSON, a line end, the two chunks."""
    folder, row = Path(store.url), pq.read_table(Path(store.url, "lesions.parquet")).to_pylist()[4]
    told = {name: value for name, value in row.items() if name != "sha256"}
    text = json.dumps(told, sort_keys=True, separators=(",", ":")) + "\n"
    voxels = (folder / "hu" / "L-4" / "c.0.0.0").read_bytes()
    masks = (folder / "masks" / "L-4" / "c.0.0.0.0").read_bytes()
    assert hashlib.sha256(text.encode() + voxels + masks).hexdigest() == row["sha256"]
    lines = sorted(f"{i} {sum_}" for i, sum_ in store.table["sha256"].items())
    text = "".join(f"{sum_}  {i}\n" for i, sum_ in (line.split() for line in lines))
    assert store.checksum == hashlib.sha256(text.encode()).hexdigest()


def test_zarr_itself_reads_the_store(store: CropStore) -> None:
    group: Any = zarr.open_group(store.url, mode="r")
    assert group.attrs["lesionlab"]["tier"] == "phantom"
    assert sorted(group["hu"].array_keys()) == IDS
    for lesion_id, crop in store.items():
        hu, bits = group[f"hu/{lesion_id}"], group[f"masks/{lesion_id}"]
        assert hu.metadata.dimension_names == ("z", "y", "x")
        np.testing.assert_array_equal(hu[:], crop.hu)
        width = bits.attrs["lesionlab"]["columns"]
        masks = np.unpackbits(bits[:], axis=-1, count=width)
        np.testing.assert_array_equal(masks.astype(bool), crop.masks)


def test_info(store: CropStore) -> None:
    told = store.info()
    crops = list(store.crops())
    assert told["lesions"] == told["expected"] == 8
    assert told["slices"] == sum(len(crop.hu) for crop in crops)
    assert told["bytes"] == sum(
        2 * crop.hu.size + crop.masks.shape[0] * len(crop.hu) * 20 * 3 for crop in crops
    )
    assert told["checksum"] == store.checksum
    json.dumps(told)


def test_memory_map_is_a_view_of_the_file(store: CropStore, memory: str) -> None:
    mapped = CropStore.open(store.url, memory_map=True)
    hu = mapped["L-0"].hu
    assert not hu.flags.owndata
    assert not hu.flags.writeable
    path = Path(store.url, "hu", "L-0", "c.0.0.0")
    with path.open("r+b") as file:
        file.write((-1024).to_bytes(2, "little", signed=True))
    assert hu[0, 0, 0] == -1024
    with pytest.raises(ValueError, match="expected a folder of this machine, got memory://"):
        CropStore.open(memory, memory_map=True)


def test_arrays_that_are_read_may_be_changed_without_harm(store: CropStore) -> None:
    crop = store["L-0"]
    before = crop.hu.copy()
    crop.hu[:] = 0
    crop.masks[:] = True
    np.testing.assert_array_equal(store["L-0"].hu, before)


def test_a_store_can_be_sent_to_another_process(store: CropStore) -> None:
    same(pickle.loads(pickle.dumps(store))["L-1"], store["L-1"])  # noqa: S301


def test_nothing_is_pickled(store: CropStore) -> None:
    for path in Path(store.url).rglob("*"):
        if path.is_file():
            assert path.suffix in {".json", ".parquet"} or path.name.startswith("c.0.0.0")


@pytest.mark.parametrize("kind", ["folder", "file://", "memory://"])
def test_urls(kind: str, tmp_path: Path, memory: str, makers: ModuleType) -> None:
    url = {"folder": str(tmp_path / "s"), "file://": f"file://{tmp_path}/s"}.get(kind, memory)
    with pytest.raises(FileNotFoundError, match="no store of crops here"):
        CropStore.open(url)
    made = build(url, IDS, makers.with_columns, tier="phantom", progress=False)
    assert made.validate(progress=False) == {}
    for crop in made.crops():
        same(crop, makers.crop(crop.lesion_id))
    same(made["L-7"], makers.crop("L-7"))
    reference = build(tmp_path / "r", IDS, makers.with_columns, tier="phantom", progress=False)
    assert made.checksum == reference.checksum


# order, processes, interruptions


def test_order_of_writing_does_not_matter(tmp_path: Path, makers: ModuleType) -> None:
    sums, tables = set(), []
    for number, order in enumerate((IDS, IDS[::-1], [*IDS[3:], *IDS[:3]])):
        with CropStore.create(tmp_path / str(number), tier="phantom", expected=IDS) as made:
            made.extend(makers.with_columns(lesion_id) for lesion_id in order)
            made.finish()
        sums.add(made.checksum)
        tables.append(tree(tmp_path / str(number)))
    assert len(sums) == 1
    assert tables[0] == tables[1] == tables[2]


def test_checksum_tells_voxels_masks_geometry_and_columns_apart(
    tmp_path: Path, makers: ModuleType
) -> None:
    crop = makers.crop("L-1", depth=2)
    hu, masks = crop.hu.copy(), crop.masks.copy()
    hu[1, 3, 4] += 1
    masks[0, 1, 2, 3] ^= True
    parts = {name: getattr(crop, name) for name in FIELDS}
    changes: list[dict[str, Any]] = [
        {},
        {"hu": hu},
        {"masks": masks},
        {"spacing": (2.5, 0.703125, 0.7031250000000001)},
        {"corner": (crop.corner[0], crop.corner[1] + 1)},
        {"slice_index": crop.slice_index + 1},
        {"calibrated": ~crop.calibrated},
    ]
    sums = []
    for number, change in enumerate([*changes, {}]):
        with CropStore.create(tmp_path / str(number), tier="phantom", expected=["L-1"]) as made:
            made.append(Crop(**(parts | change)), label=number // len(changes))
            sums.append(made.checksum)
    assert len(set(sums)) == len(changes) + 1


def test_same_files_from_one_process_and_from_two(tmp_path: Path, makers: ModuleType) -> None:
    one = build(tmp_path / "1", IDS, makers.with_columns, tier="phantom", progress=False)
    two = build(
        tmp_path / "2", IDS, makers.with_columns, tier="phantom", processes=2, progress=False
    )
    assert one.checksum == two.checksum
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


class Crash(BaseException):
    """Ends a build in the middle, as a signal would."""


def interrupted(
    monkeypatch: pytest.MonkeyPatch, at: int, how: str, error: BaseException
) -> Callable[[], int]:
    """Let the write with number `at` go wrong; gives the number of writes."""
    count = 0
    write = _folders.LocalFolder.write

    def broken(self: _folders.LocalFolder, name: str, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == at:
            if how == "half" and "/L-" in name:  # as where a rename is not atomic
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                (self.path / name).write_bytes(bytes(data)[: len(bytes(data)) // 2])
            if how == "temporary":
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                (self.path / name).with_name(f".{Path(name).name}.0a0a0a0a.tmp").touch()
            if how == "after":
                write(self, name, data)
            raise error
        write(self, name, data)

    monkeypatch.setattr(_folders.LocalFolder, "write", broken)
    return lambda: count


@pytest.mark.parametrize("how", ["before", "half", "temporary", "after"])
def test_interrupted_at_any_write_it_resumes_to_the_same_files(
    how: str, tmp_path: Path, makers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = IDS[:2]

    def made(url: Path) -> CropStore:
        return build(url, ids, makers.with_columns, tier="phantom", progress=False)

    reference = made(tmp_path / "reference")
    for at in range(1, 100):
        url = tmp_path / f"{at}"
        with monkeypatch.context() as patch:
            count = interrupted(patch, at, how, Crash())
            try:
                made(url)
            except Crash:
                pass
            else:
                assert count() == at - 1
                break
        if (url / "complete.json").exists():
            assert how == "after"
        else:
            with pytest.raises((IncompleteStoreError, FileNotFoundError)):
                CropStore.open(url)
        assert made(url).checksum == reference.checksum
        assert tree(url) == tree(tmp_path / "reference")
    assert at == 3 + 2 * 4 + 3 + 1  # groups, lesions, tables and mark, and one that went well


def test_interrupted_on_an_object_store_it_resumes(
    memory: str, makers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fsspec.filesystem("memory")
    put = type(files).pipe_file
    for at in range(1, 100):
        files.store.clear()
        count = 0

        def broken(self: Any, path: str, value: bytes, at: int = at, **options: Any) -> None:
            nonlocal count
            if (count := count + 1) == at:
                raise OSError("the bucket is out of reach")
            put(self, path, value, **options)

        with monkeypatch.context() as patch:
            patch.setattr(type(files), "pipe_file", broken)
            try:
                build(memory, IDS[:2], makers.crop, tier="phantom", progress=False)
            except OSError as error:
                told = str(error)
            else:
                break
        assert re.search(r"cannot write .* in memory://bucket/store: the bucket is out of", told)
        with pytest.raises((IncompleteStoreError, FileNotFoundError)):
            CropStore.open(memory)
        made = build(memory, IDS[:2], makers.crop, tier="phantom", progress=False)
        assert made.validate(progress=False) == {}
        same(made["L-1"], makers.crop("L-1"))
    assert at == 1 + 3 + 2 * 4 + 3 + 1  # the lock; the rest as on a disk


def test_a_full_disk_is_told_and_the_build_resumes(
    tmp_path: Path, makers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every moment when the system could tell: after each file and after each new name."""
    for at in range(1, 1000):
        url, opened = tmp_path / str(at), []

        def full(descriptor: int, at: int = at, opened: list[int] = opened) -> None:
            opened.append(descriptor)
            if len(opened) == at:
                raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            try:
                build(url, IDS[:2], makers.crop, tier="phantom", progress=False)
            except OSError as error:
                told, number = str(error), error.errno
            else:
                assert len(opened) == at - 1 > 14
                break
        assert number == errno.ENOSPC
        assert re.search(r"cannot write .* in .*: the disk is full", told)
        assert list(url.rglob("*.tmp")) == []
        if (url / "complete.json").exists():  # and nothing but its name is in doubt
            assert CropStore.open(url).validate(progress=False) == {}
        assert len(build(url, IDS[:2], makers.crop, tier="phantom", progress=False)) == 2


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be synchronised elsewhere")
def test_names_are_on_the_disk_too(
    tmp_path: Path, makers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CropStore.create(tmp_path / "s", tier="phantom", expected=["L-0"]) as made:
        seen: list[int | str] = []
        move = os.replace

        def fsync(descriptor: int) -> None:
            seen.append(os.fstat(descriptor).st_ino)

        def replace(source: Path, target: Path) -> None:
            move(source, target)
            seen.append(target.name)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", replace)
        made.append(makers.crop("L-0"))
    path = tmp_path / "s" / "hu" / "L-0" / "c.0.0.0"
    folders = [folder.stat().st_ino for folder in list(path.parents)[:3]]
    assert seen[:5] == [path.stat().st_ino, "c.0.0.0", *folders]
    last = len(seen) - 1 - seen[::-1].index("zarr.json")
    assert seen[last + 1 : last + 4] == folders


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount")
def test_a_disk_that_is_really_full(tmp_path: Path, makers: ModuleType) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(OSError, match="the disk is full; free some space"):
            build(disk / "s", IDS[:4], makers.large, tier="phantom", progress=False)
        with pytest.raises(IncompleteStoreError, match="2 of 4 lesions"):
            CropStore.open(disk / "s")
        subprocess.run(["mount", "-o", "remount,size=32m", disk], check=True)
        made = build(disk / "s", IDS[:4], makers.large, tier="phantom", progress=False)
        assert made.validate(progress=False) == {}
    finally:
        subprocess.run(["umount", disk], check=True)


def running(pid: int) -> bool:
    """Whether a process is there and not a zombie that waits to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def wait_for(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks after processes in /proc")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_build_resumes(processes: int, tmp_path: Path, makers: ModuleType) -> None:
    url, ids = tmp_path / "store", [f"L-{number:02}" for number in range(40)]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import crop_makers\n"
        "from lesionlab.crops.stores import build\n"
        "if __name__ == '__main__':\n"
        "    build(sys.argv[2], sys.argv[4:], crop_makers.slow, tier='phantom',\n"
        "          processes=int(sys.argv[3]), progress=False)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    here = Path(__file__).parent
    command = [sys.executable, str(script), str(here), str(url), str(processes), *ids]
    with subprocess.Popen(command) as process:
        wait_for(lambda: len(list(url.glob("hu/*/zarr.json"))) >= 5)
        with pytest.raises(RuntimeError, match=f"written by process {process.pid} on"):
            build(url, ids, makers.crop, tier="phantom", progress=False)
        process.send_signal(signal.SIGKILL)
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert 1 <= len(pids) <= processes
    # the workers end with the process that started them
    wait_for(lambda: not any(running(pid) for pid in pids))

    with pytest.raises(IncompleteStoreError, match="of 40 lesions are stored, 0 excluded") as told:
        CropStore.open(url)
    stored = set(CropStore.open(url, allow_incomplete=True))
    assert f"{len(stored)} of 40" in str(told.value)
    assert 5 <= len(stored) < 40

    asked = []

    def make_crop(lesion_id: str) -> Crop:
        asked.append(lesion_id)
        made: Crop = makers.crop(lesion_id)
        return made

    made = build(url, ids, make_crop, tier="phantom", progress=False)
    assert asked == [lesion_id for lesion_id in ids if lesion_id not in stored]
    build(tmp_path / "whole", ids, makers.crop, tier="phantom", progress=False)
    assert made.validate(progress=False) == {}
    assert tree(url) == tree(tmp_path / "whole")


def test_half_written_lesions_are_redone(tmp_path: Path, makers: ModuleType) -> None:
    url = tmp_path / "s"
    with CropStore.create(url, tier="phantom", expected=IDS) as made:
        made.extend(map(makers.crop, IDS[:6]))
    (url / "hu" / "L-1" / "zarr.json").unlink()
    (url / "hu" / "L-2" / "c.0.0.0").unlink()
    (url / "masks" / "L-3" / "c.0.0.0.0").write_bytes(b"")
    (url / "hu" / "L-4" / "zarr.json").write_bytes(b"{")
    assert list(CropStore.open(url, allow_incomplete=True)) == ["L-0", "L-5"]
    assert (url / "hu" / "L-1").exists()  # reading cleared nothing away
    with CropStore.open(url, mode="a") as made:
        assert list(made) == ["L-0", "L-5"]
        assert not (url / "hu" / "L-1").exists()
    made = build(url, IDS, makers.crop, tier="phantom", progress=False)
    assert made.validate(progress=False) == {}


def test_one_writer_at_a_time(tmp_path: Path, memory: str, makers: ModuleType) -> None:
    for url in (tmp_path / "s", memory):
        with CropStore.create(url, tier="phantom", expected=IDS) as made:
            for attempt in (
                lambda u: CropStore.open(u, mode="a"),
                lambda u: CropStore.create(u, tier="phantom", expected=IDS),
            ):
                with pytest.raises(RuntimeError, match=f"written by process {os.getpid()} on"):
                    attempt(url)
            made.append(makers.crop("L-0"))
            assert len(CropStore.open(url, allow_incomplete=True)) == 1
        with CropStore.open(url, mode="a") as made:
            assert list(made) == ["L-0"]


def test_a_lock_left_behind_keeps_nobody_out(tmp_path: Path, memory: str) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    for url in (str(tmp_path / "s"), memory):
        CropStore.create(url, tier="phantom", expected=IDS).close()
        folder = _folders.open_folder(url)
        owner = json.loads(_folders._owner()) | {"pid": process.pid}
        folder.write("lock.json", json.dumps(owner).encode())
        CropStore.open(url, mode="a").close()
        assert "lock.json" not in folder.names()


def test_a_lock_of_another_machine_holds_on_an_object_store(memory: str) -> None:
    CropStore.create(memory, tier="phantom", expected=IDS).close()
    folder = _folders.open_folder(memory)
    for lock in (b'{"pid": 1, "host": "elsewhere"}', b"?", b"[]"):
        folder.write("lock.json", lock)
        with pytest.raises(RuntimeError, match=r"is being written by .*delete lock\.json"):
            CropStore.open(memory, mode="a")


# builds


def test_a_complete_store_is_left_alone(store: CropStore) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(store.url).rglob("*")}

    def never(lesion_id: str) -> Crop:
        raise AssertionError(lesion_id)

    again = build(store.url, IDS, never, tier="phantom", progress=False)
    assert again.checksum == store.checksum
    assert {path: path.stat().st_mtime_ns for path in Path(store.url).rglob("*")} == before


def test_more_lesions_extend_a_store(store: CropStore, makers: ModuleType, tmp_path: Path) -> None:
    ids = ["L-new", *IDS]
    longer = build(store.url, ids, makers.with_columns, tier="phantom", progress=False)
    assert list(longer) == ids
    build(tmp_path / "at-once", ids, makers.with_columns, tier="phantom", progress=False)
    assert tree(Path(store.url)) == tree(tmp_path / "at-once")
    with pytest.raises(ValueError, match=r"holds 1 lesions that are not asked for, e\.g\. L-new"):
        build(store.url, IDS, makers.with_columns, tier="phantom", progress=False)
    assert CropStore.open(store.url).complete


def test_a_store_that_is_changed_is_not_complete(store: CropStore, makers: ModuleType) -> None:
    with CropStore.open(store.url, mode="a") as made:
        assert made.complete
        made.expect([*IDS, "L-8"])
        assert not made.complete
    with pytest.raises(IncompleteStoreError, match="8 of 9 lesions are stored, 0 excluded"):
        CropStore.open(store.url)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tier": "dicom"}, "was begun with tier='phantom', now it is 'dicom'"),
        ({"provenance": {"seed": 2}}, r"was begun with provenance=\{\}, now it is \{'seed': 2\}"),
    ],
)
def test_two_kinds_of_crops_are_not_mixed(
    store: CropStore, makers: ModuleType, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        build(store.url, IDS, makers.crop, **({"tier": "phantom", "progress": False} | change))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_lesion_that_fails_is_named(processes: int, tmp_path: Path, makers: ModuleType) -> None:
    def made(**options: Any) -> CropStore:
        options = {"tier": "phantom", "processes": processes, "progress": False} | options
        return build(tmp_path / "s", IDS, makers.failing, **options)

    with pytest.raises(BuildError, match="L-3: StrangeError: no contour in L-3") as told:
        made()
    assert told.value.__cause__ is not None or "in failing" in told.value.__notes__[0]
    assert list(CropStore.open(tmp_path / "s", allow_incomplete=True)) == IDS[:3]

    left_out = made(on_error="exclude")
    assert left_out.complete
    assert list(left_out) == [i for i in IDS if i != "L-3"]
    assert left_out.exclusions == {"L-3": "StrangeError: no contour in L-3"}
    assert left_out.info()["excluded"] == 1
    table = pd.read_parquet(tmp_path / "s" / "exclusions.parquet")
    assert table.to_dict("list") == {
        "lesion_id": ["L-3"],
        "reason": ["StrangeError: no contour in L-3"],
    }
    with pytest.raises(KeyError, match="no contour in L-3"):
        left_out["L-3"]
    with pytest.raises(BuildError, match="L-3"):
        made(retry_excluded=True)
    assert CropStore.open(tmp_path / "s").exclusions.keys() == {"L-3"}


def test_excluded_lesions_can_be_tried_again(tmp_path: Path, makers: ModuleType) -> None:
    options: dict[str, Any] = {"tier": "phantom", "progress": False}
    build(tmp_path / "s", IDS, makers.failing, on_error="exclude", **options)
    assert "L-3" not in build(tmp_path / "s", IDS, makers.crop, **options)
    whole = build(tmp_path / "s", IDS, makers.crop, retry_excluded=True, **options)
    assert whole.exclusions == {}
    build(tmp_path / "at-once", IDS, makers.crop, **options)
    assert tree(tmp_path / "s") == tree(tmp_path / "at-once")


def test_nothing_but_exclusions_is_no_store(tmp_path: Path, makers: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"every lesion is excluded, e\.g\. L-3: StrangeError"):
        build(
            tmp_path / "s", ["L-3"], makers.failing, tier="phantom", on_error="exclude",
            progress=False,
        )  # fmt: skip


def test_running_out_of_memory_excludes_nobody(tmp_path: Path) -> None:
    def hungry(lesion_id: str) -> Crop:
        raise MemoryError

    with pytest.raises(MemoryError):
        build(tmp_path / "s", IDS, hungry, tier="phantom", on_error="exclude", progress=False)
    assert CropStore.open(tmp_path / "s", allow_incomplete=True).exclusions == {}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("other", ValueError, r"make_crop\('L-0'\): got the crop of 'L-0-other'"),
        ("nothing", TypeError, r"make_crop\('L-0'\): expected a Crop, got None"),
    ],
)
def test_makers_of_something_else(
    processes: int, name: str, error: type[Exception], told: str, tmp_path: Path, makers: ModuleType
) -> None:
    with pytest.raises(error, match=told):
        build(
            tmp_path / "s", IDS, getattr(makers, name), tier="phantom", processes=processes,
            on_error="exclude", progress=False,
        )  # fmt: skip


def test_a_worker_that_dies(tmp_path: Path, makers: ModuleType) -> None:
    with pytest.raises(RuntimeError, match=r"ended without a word while making L-\d"):
        build(
            tmp_path / "s", IDS, makers.dying, tier="phantom", processes=2, progress=False
        )  # fmt: skip
    with pytest.raises(IncompleteStoreError, match="0 of 8"):
        CropStore.open(tmp_path / "s")


def test_a_maker_that_cannot_be_sent(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"make_crop=.*expected a function of a module"):
        build(tmp_path / "s", IDS, lambda i: None, tier="phantom", processes=2, progress=False)  # type: ignore[arg-type, return-value]


def test_building_holds_a_few_crops_only(tmp_path: Path, makers: ModuleType) -> None:
    one = 16 * 256 * 256 * (2 + 4)  # bytes of a crop in memory: voxels and the masks of 4 readers
    ids = [f"L-{number}" for number in range(30)]
    tracemalloc.start()
    try:
        made = build(tmp_path / "s", ids, makers.large, tier="phantom", progress=False)
        building = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        for _ in made.crops():
            pass
        reading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # making one draws random numbers of 8 bytes each for its masks: 8 of its own sizes
    assert one < building < 15 * one
    assert one < reading < 4 * one


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_building_needs_less_than_1500_megabytes(tmp_path: Path, makers: ModuleType) -> None:
    """All processes together, each at its peak, for 0.9 GB of crops that a slow disk holds up."""
    n, script = 48, tmp_path / "script.py"
    script.write_text(
        "import os, sys, time; sys.path.insert(0, sys.argv[1]); import crop_makers\n"
        "from lesionlab.crops.stores import build\n"
        "if __name__ == '__main__':\n"
        "    os.fsync = lambda descriptor: time.sleep(0.004)\n"
        "    ids = [f'L-{i}' for i in range(int(sys.argv[3]))]\n"
        "    made = build(sys.argv[2], ids, crop_makers.heavy, tier='phantom', processes=4,\n"
        "                 progress=False)\n"
        "    assert len(made) == len(ids)\n"
        "    print(crop_makers.peak_memory())\n",
        encoding="utf-8",
    )
    command = [sys.executable, script, Path(__file__).parent, tmp_path / "store", str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(tmp_path / "store")  # 400 MB
    peaks = [int(path.read_text(encoding="utf-8")) for path in (tmp_path / "pids").iterdir()]
    assert len(peaks) == 4
    writer, crops = int(done.stdout), n * 48 * 256 * 256 * (2 + 4)
    assert writer + sum(peaks) < 1.5e9, (writer, peaks)
    assert writer < crops / 2, (writer, peaks)  # it does not hold them all


# what is refused


@pytest.mark.parametrize(
    "lesion_id",
    ["", ".", "..", "../x", "a/b", "a\\b", "/etc", ".hidden", "a.", "zarr.json", "é", "a b", "a\n",
     "x" * 201, "a:b", "-x", "con", "NUL.txt", "Com1.2", None, 7],
)  # fmt: skip
def test_ids_that_are_no_file_names(lesion_id: Any, tmp_path: Path, makers: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"lesion_id=.*expected up to 200 letters"):
        CropStore.create(tmp_path / "s", tier="phantom", expected=["L-0", lesion_id])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"expected": []}, "expected at least one, got none"),
        ({"expected": ["a", "b", "a"]}, "'a' stands twice"),
        ({"expected": ["a-1", "A-1"]}, "'a-1' and 'A-1' differ in capitals only"),
        ({"expected": "L-1"}, "expected several ids, got one text"),
        ({"tier": "ct"}, "tier='ct': expected one of phantom, slices, dicom"),
        ({"provenance": {"seed": math.nan}}, "provenance: expected what JSON can hold"),
        ({"provenance": {"rng": np.random.default_rng()}}, "provenance: expected what JSON can"),
        ({"storage_options": {"anon": True}}, "storage_options: only for URLs behind fsspec"),
        ({"url": ""}, "url='': expected a folder or a URL"),
    ],
)
def test_arguments_of_create(options: dict[str, Any], told: str, tmp_path: Path) -> None:
    whole: dict[str, Any] = {"url": tmp_path / "s", "tier": "phantom", "expected": IDS} | options
    with pytest.raises(ValueError, match=told):
        CropStore.create(whole.pop("url"), **whole)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [({"processes": 0}, "processes=0"), ({"processes": 1.5}, "processes=1.5"),
     ({"on_error": "ignore"}, "on_error='ignore'")],
)  # fmt: skip
def test_arguments_of_build(
    options: dict[str, Any], told: str, tmp_path: Path, makers: ModuleType
) -> None:
    with pytest.raises(ValueError, match=told):
        build(tmp_path / "s", IDS, makers.crop, tier="phantom", progress=False, **options)


def test_places_that_are_taken(store: CropStore, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="holds a store already"):
        CropStore.create(store.url, tier="phantom", expected=IDS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"is not empty: it holds notes\.txt"):
        CropStore.create(tmp_path / "mine", tier="phantom", expected=IDS)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    with pytest.raises(OSError, match=r"cannot write lock\.json in"):
        CropStore.create(tmp_path / "mine" / "notes.txt", tier="phantom", expected=IDS)


def test_crops_that_do_not_belong(tmp_path: Path, makers: ModuleType) -> None:
    with CropStore.create(tmp_path / "s", tier="phantom", expected=["L-0", "L-1"]) as made:
        made.append(makers.crop("L-0"), rating=3)
        with pytest.raises(ValueError, match="'L-0': stored already"):
            made.append(makers.crop("L-0"))
        with pytest.raises(ValueError, match="'L-0': stored already"):
            made.exclude("L-0", "why")
        with pytest.raises(ValueError, match="'L-7': not among the lesions"):
            made.append(makers.crop("L-7"))
        crop = makers.crop("L-1")
        parts = {name: getattr(crop, name) for name in FIELDS}
        with pytest.raises(ValueError, match="L-1: expected a crop of phantom, got dicom"):
            made.append(Crop(**(parts | {"tier": "dicom"})))
        for columns, told in [
            ({"rating": 3.5}, "'rating' of L-1: expected int as for the lesions before, got float"),
            ({"rating": True}, "expected int as for the lesions before, got bool True"),
            ({"sha256": "0"}, "column 'sha256' of L-1: the store writes it itself"),
            ({"note": [1]}, r"'note' of L-1: expected text, a number, a bool or None, got \[1\]"),
            ({"note": np.zeros(2)}, "expected text, a number, a bool or None"),
            ({"note": math.inf}, "expected a finite number of 64 bits, got inf"),
            ({"note": 2**63}, "expected a finite number of 64 bits"),
        ]:
            with pytest.raises(ValueError, match=told):
                made.append(crop, **columns)
        with pytest.raises(ValueError, match="reason of L-1: expected a text"):
            made.exclude("L-1", " ")
        with pytest.raises(ValueError, match=r"1 of 2 lesions are missing, e\.g\. L-1"):
            made.finish()
        made.append(crop, rating=np.int8(4), crop=np.float32(0.5), note=pd.NA)
        made.finish()
    table = CropStore.open(tmp_path / "s").table
    assert table["rating"].tolist() == [3, 4]
    assert table.loc["L-1", "crop"] == 0.5
    assert table["note"].isna().all()


def test_reading_writes_nothing(store: CropStore, makers: ModuleType) -> None:
    for write in (
        lambda: store.append(makers.crop("L-1")),
        lambda: store.discard("L-1"),
        lambda: store.exclude("L-1", "why"),
        lambda: store.expect([*IDS, "L-8"]),
        store.finish,
    ):
        with pytest.raises(ValueError, match="is open to read only: open it with mode='a'"):
            write()
    with pytest.raises(ValueError, match="mode='w': expected 'r' or 'a'"):
        CropStore.open(store.url, mode="w")  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="'L-9': not in the store"):
        store["L-9"]


def test_a_folder_that_cannot_be_written(makers: ModuleType) -> None:
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "s", IDS, makers.crop, tier="phantom", progress=False)
        for path in (Path(folder), Path(folder) / "s"):
            path.chmod(0o555)
        try:
            if root:  # who may write anywhere
                os.seteuid(65534)
            assert CropStore.open(Path(folder) / "s").validate(progress=False) == {}
            build(Path(folder) / "s", IDS, makers.crop, tier="phantom", progress=False)
            with pytest.raises(PermissionError, match=r"cannot write lock\.json in .*/s: Permiss"):
                CropStore.open(Path(folder) / "s", mode="a")
            with pytest.raises(PermissionError, match=r"cannot write lock\.json in .*/new: Perm"):
                CropStore.create(Path(folder) / "new", tier="phantom", expected=IDS)
        finally:
            if root:
                os.seteuid(0)
            for path in (Path(folder), Path(folder) / "s"):
                path.chmod(0o755)


# damage


def test_a_wrong_byte_is_found_and_the_lesion_named(store: CropStore) -> None:
    folder = Path(store.url)
    for name in ("hu/L-2/c.0.0.0", "masks/L-5/c.0.0.0.0", "hu/L-6/zarr.json"):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
    (folder / "masks" / "L-0" / "c.0.0.0.0").unlink()
    (folder / "hu" / "L-1" / "c.0.0.0").write_bytes(b"123")
    wrong = store.validate(progress=False)
    assert wrong.keys() == {"L-0", "L-1", "L-2", "L-5", "L-6"}
    assert "SHA-256" in wrong["L-2"]
    assert "SHA-256" in wrong["L-5"]
    assert "hu/L-1/c.0.0.0 is damaged: expected" in wrong["L-1"]
    assert "No such file" in wrong["L-0"]
    with pytest.raises(ValueError, match=r"hu/L-1/c\.0\.0\.0 is damaged: expected .*, got 3"):
        store["L-1"]


@given(data=st.data())
@settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_byte_of_a_store_is_without_its_sum(store: CropStore, data: st.DataObject) -> None:
    folder = Path(store.url)
    names = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    path = data.draw(st.sampled_from(names), label="file")
    before = path.read_bytes()
    kind = data.draw(st.sampled_from(["flip", "cut", "empty"]), label="damage")
    place = data.draw(st.integers(0, len(before) - 1), label="byte")
    bits = data.draw(st.integers(1, 255), label="bits")
    after = {
        "flip": before[:place] + bytes([before[place] ^ bits]) + before[place + 1 :],
        "cut": before[:place],
        "empty": b"",
    }[kind]
    if path.name == "complete.json" and place >= len(before) - 1 and kind != "empty":
        return  # the line end means nothing
    path.write_bytes(after)
    try:
        found = CropStore.open(store.url).validate(progress=False)
    except ValueError as error:
        found = {path.name: str(error)}
    finally:
        path.write_bytes(before)
    assert found


def test_a_damaged_lesion_can_be_built_again(store: CropStore, makers: ModuleType) -> None:
    folder = Path(store.url)
    before = tree(folder)
    data = (folder / "hu" / "L-2" / "c.0.0.0").read_bytes()
    (folder / "hu" / "L-2" / "c.0.0.0").write_bytes(data[::-1])
    with CropStore.open(store.url, mode="a") as made:
        for lesion_id in made.validate(progress=False):
            made.discard(lesion_id)
        assert "L-2" not in made
        assert not made.complete
        with pytest.raises(KeyError, match="'L-2': not in the store"):
            made.discard("L-2")
    with pytest.raises(IncompleteStoreError, match="7 of 8 lesions"):
        CropStore.open(store.url)
    build(store.url, IDS, makers.with_columns, tier="phantom", progress=False)
    assert tree(folder) == before


def test_damage_on_an_object_store_is_found(memory: str, makers: ModuleType) -> None:
    made = build(memory, IDS, makers.crop, tier="phantom", progress=False)
    files = fsspec.filesystem("memory")
    path = "/bucket/store/hu/L-2/c.0.0.0"
    data = bytearray(files.cat_file(path))
    data[len(data) // 2] ^= 1
    files.pipe_file(path, bytes(data))
    files.rm("/bucket/store/masks/L-5/c.0.0.0.0")
    wrong = made.validate(progress=False)
    assert wrong.keys() == {"L-2", "L-5"}
    assert "SHA-256" in wrong["L-2"]
    with pytest.raises(FileNotFoundError, match="L-5"):
        list(made.crops())


def test_zarr_reads_an_object_store(memory: str, makers: ModuleType) -> None:
    build(memory, IDS, makers.crop, tier="phantom", progress=False)
    group: Any = zarr.open_group(memory, mode="r")
    np.testing.assert_array_equal(group["hu/L-3"][:], makers.crop("L-3").hu)


def test_tables_that_are_cut_or_gone(store: CropStore) -> None:
    folder = Path(store.url)
    data = (folder / "lesions.parquet").read_bytes()
    (folder / "lesions.parquet").write_bytes(data[:-100])
    with pytest.raises(ValueError, match=r"lesions\.parquet is damaged: its SHA-256 is not"):
        CropStore.open(store.url)
    # the sum fits, yet it is no table
    sums = json.loads((folder / "complete.json").read_bytes())
    sums["lesions.parquet"] = hashlib.sha256(data[:-100]).hexdigest()
    (folder / "complete.json").write_text(json.dumps(sums), encoding="utf-8")
    with pytest.raises(ValueError, match=r"lesions\.parquet is damaged or not Parquet"):
        CropStore.open(store.url)
    (folder / "lesions.parquet").unlink()
    with pytest.raises(ValueError, match=r"lesions\.parquet is missing from a complete store"):
        CropStore.open(store.url)
    # every lesion tells its own row: without the mark, the table is made again
    (folder / "complete.json").unlink()
    with CropStore.open(store.url, mode="a") as made:
        made.finish()
    assert (folder / "lesions.parquet").read_bytes() == data
    assert CropStore.open(store.url).checksum == store.checksum


def forge(store: CropStore, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Put another table into the store, with a sum that fits."""
    import pyarrow as pa

    path, mark = Path(store.url, "lesions.parquet"), Path(store.url, "complete.json")
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist(change(rows)), path)
    sums = json.loads(mark.read_bytes())
    sums["lesions.parquet"] = hashlib.sha256(path.read_bytes()).hexdigest()
    mark.write_text(json.dumps(sums), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[1:], r"complete\.json is there, but 1 of the lesions expected are not"),
        (lambda rows: [r | {"lesion_id": f"x-{r['lesion_id']}"} for r in rows], "not expected"),
        (lambda rows: [r | {"lesion_id": "../../L-0"} for r in rows], "is damaged: .*lesion_id="),
        (lambda rows: [r | {"shape": [1, 1]} for r in rows], "is damaged"),
        (lambda rows: [r | {"shape": [-1, -20, 20]} for r in rows], "is damaged"),
        (lambda rows: [r | {"spacing": None} for r in rows], "expected a column 'spacing'"),
        (lambda rows: [r | {"calibrated": [True] * 99} for r in rows], "is damaged"),
        (lambda rows: [{"lesion_id": r["lesion_id"]} for r in rows], "expected a column 'tier'"),
    ],
)
def test_tables_that_were_forged(
    store: CropStore, change: Callable[[list[dict[str, Any]]], Any], told: str
) -> None:
    forge(store, change)
    with pytest.raises(ValueError, match=told):
        CropStore.open(store.url)


def test_a_row_that_differs_from_the_lesions_own(store: CropStore) -> None:
    forge(store, lambda rows: [r | {"patient": "P-9"} for r in rows])
    wrong = CropStore.open(store.url).validate(progress=False)
    assert wrong.keys() == set(IDS)
    assert "tell different things" in wrong["L-0"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"zarr\.json is damaged, not JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "not from lesionlab"),
        ('{"attributes": {"lesionlab": 1}}', "not from lesionlab"),
        ('{"attributes": {"lesionlab": {"format": "crops", "version": 2}}}',
         "expected a store of crops of version 1, got 'crops' of version 2"),
        ('{"attributes": {"lesionlab": {"format": "maps", "version": 1}}}', "got 'maps'"),
        ('{"attributes": {"lesionlab": {"format": "crops", "version": 1, "tier": "ct"}}}',
         "tier 'ct'"),
        ('{"attributes": {"lesionlab": {"format": "crops", "version": 1, "tier": "dicom",'
         ' "provenance": {}, "expected": ["../x"]}}}', r"lesion_id='\.\./x'"),
        ('{"attributes": {"lesionlab": {"format": "crops", "version": 1, "tier": "dicom",'
         ' "provenance": {}, "expected": 3}}}', "is damaged"),
    ],
)  # fmt: skip
def test_roots_that_are_not_ours(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        CropStore.open(tmp_path)
