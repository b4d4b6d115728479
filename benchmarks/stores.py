"""A store of crops against `.npy` files and the bare disk, on crops as deep as LIDC's.

`from disk`: the files are first dropped from the system's page cache. `from the page cache`: they
have just been read. One flat file is shown, not asked for: it tells what a file per lesion costs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from benchmarks._table import Row, seconds
from lesionlab.crops import Crop
from lesionlab.crops.stores import CropStore, build
from lesionlab.sources.lidc import Lidc

SIDE = 128
MARGIN = 2  # slices above and below a lesion
TURNS = 3
NPY = f"np.load {np.__version__}, two .npy a lesion"


def rows(*, max_lesions: int | None = None, folder: Path | None = None) -> list[Row]:
    """Compare on all lesions of LIDC, or on the first `max_lesions`.

    Args:
        max_lesions: A quick look.
        folder: On the disk to be measured; about 4 GB. The system's temporary one by default.
    """
    nodules = Lidc().nodules().iloc[:max_lesions]
    shapes = {
        str(name): (int(n.n_readers), int(n.n_slices) + 2 * MARGIN)
        for name, n in nodules.iterrows()
    }
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        files = _Files(Path(temporary), shapes)
        files.check()
        return [row for cold in (True, False) for row in _compare(files, cold)]


def _compare(files: _Files, cold: bool) -> Iterator[Row]:
    ids = list(files.shapes)
    shuffled = [str(name) for name in np.random.default_rng(1).permutation(ids)]
    state = "from disk" if cold else "from the page cache"
    for what, ours, peer, theirs, target, names in (
        ("whole store", files.walk, NPY, files.npy, 1, ids),
        ("whole store", files.walk, "one flat file", files.flat, 0, ids),
        ("lesions at random", files.picks, NPY, files.npy, 1, shuffled),
    ):
        ours_s, peer_s = _take_turns(files, cold, partial(ours, names), partial(theirs, names))
        equal = f"{len(names):,} lesions, {files.bytes(names) / 1e6:,.0f} MB"
        yield Row(f"{what}, {state}", peer, ours_s, peer_s, target, equal)


def _take_turns(files: _Files, cold: bool, *works: Callable[[], None]) -> list[float]:
    """The shortest wall time of each: what else the machine does falls on both alike."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(TURNS if cold else TURNS + 1):
        for work, taken in zip(works, times, strict=True):
            if cold:
                files.forget()
            if turn or cold:
                taken.append(seconds(work)[0])
            else:
                work()  # fills the page cache
    return [min(taken) for taken in times]


class _Files:
    """The same crops as a store, as `.npy` files and as one flat file; every way to read them."""

    def __init__(self, folder: Path, shapes: dict[str, tuple[int, int]]) -> None:
        self.folder, self.shapes = folder, shapes
        self._noise = np.random.default_rng(0).integers(-1024, 1500, 100 * SIDE * SIDE, np.int16)
        made = build(folder / "store", shapes, self._make, tier="phantom")
        self._sizes = (made.table["shape"].map(np.prod) * 2) + [
            masks * z * SIDE * SIDE // 8 for masks, z in shapes.values()
        ]
        (folder / "npy").mkdir()
        with (folder / "flat").open("wb") as flat:
            for name in tqdm(shapes, "np.save", unit="lesion"):
                crop = self._make(name)
                np.save(folder / "npy" / f"{name}.hu.npy", crop.hu)
                np.save(folder / "npy" / f"{name}.masks.npy", crop.masks)
                flat.write(crop.hu.tobytes() + np.packbits(crop.masks).tobytes())
        self._paths = [str(path) for path in folder.rglob("*") if path.is_file()]
        os.sync()  # what is not on the disk yet cannot be dropped from the cache

    def _make(self, lesion_id: str) -> Crop:
        readers, z = self.shapes[lesion_id]
        masks = np.zeros((readers, z, SIDE, SIDE), dtype=bool)
        masks[:, MARGIN:-MARGIN, 50:78, 50:78] = True
        start = sum(lesion_id.encode())
        return Crop(
            lesion_id=lesion_id,
            hu=self._noise[start : start + z * SIDE * SIDE].reshape(z, SIDE, SIDE),
            masks=masks,
            spacing=(2.5, 0.7, 0.7),
            slice_index=np.arange(z),
            corner=(100, 100),
            steps=np.zeros(z, np.int64),
            tier="phantom",
        )

    def bytes(self, names: list[str]) -> int:
        return int(self._sizes[names].sum())

    def check(self) -> None:
        """All of them give the same arrays."""
        for crop in tqdm(CropStore(self.folder / "store").crops(), "equal?", unit="lesion"):
            hu, masks = self._load(crop.lesion_id)
            assert np.array_equal(crop.hu, hu), crop.lesion_id
            assert np.array_equal(crop.masks, masks), crop.lesion_id

    def forget(self) -> None:
        """Ask the system to drop these files, and no others, from its page cache."""
        for path in self._paths if hasattr(os, "posix_fadvise") else ():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)

    # ours

    def walk(self, names: list[str]) -> None:
        assert sum(1 for _ in CropStore(self.folder / "store").crops()) == len(names)

    def picks(self, names: list[str]) -> None:
        store = CropStore(self.folder / "store")
        for name in names:
            store[name]

    # theirs

    def flat(self, names: list[str]) -> None:
        buffer = bytearray(1 << 22)
        with (self.folder / "flat").open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    def _load(self, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        folder = self.folder / "npy"
        return np.load(folder / f"{name}.hu.npy"), np.load(folder / f"{name}.masks.npy")

    def npy(self, names: list[str]) -> None:
        for name in names:
            self._load(name)
