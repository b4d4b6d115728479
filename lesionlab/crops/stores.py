"""Crops on disk: one folder, one Zarr array per lesion, one Parquet table.

    zarr.json                    what the store is: tier, lesions expected, provenance
    hu/LESION/c.0.0.0            (z, y, x) int16, little-endian, one chunk, as it is in memory
    hu/LESION/zarr.json          written last of a lesion: with it, the lesion counts as stored
    masks/LESION/c.0.0.0.0       (reader, z, y, x) in bits, eight columns to a byte
    lesions.parquet              a row per lesion, in the order of the lesions expected
    exclusions.parquet           lesions left out, with the reason
    complete.json                written last of all, with the SHA-256 of the two tables

Depths differ from lesion to lesion, so a chunk is a lesion and an array has one chunk. Any Zarr 3
library opens the store (`zarr.open_group(url)`). It is written and read here without one, as
looking up an array costs more than reading its voxels (`benchmarks/stores.py`); and without
compression, so that it can be memory-mapped. Nothing is pickled.

A killed build leaves lesions that are stored and at most one that is half written; in no order of
events does `complete.json` stand beside missing lesions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from typing import Any, Literal, Self

from tqdm import tqdm

from lesionlab.crops import Crop, Tier
from lesionlab.crops import _crop_files as files
from lesionlab.crops._crop_files import COMPLETE, EXCLUSIONS, GROUPS, LESIONS, ROOT, SUMMED
from lesionlab.crops._folders import LOCK, Url, open_folder
from lesionlab.crops._store_builds import BuildError, MakeCrop, make_all
from lesionlab.crops._store_reading import StoreReader

__all__ = ["BuildError", "CropStore", "IncompleteStoreError", "build"]


class IncompleteStoreError(RuntimeError):
    """A store whose build did not come to its end."""


class CropStore(StoreReader):
    """Crops of one tier by `lesion_id`, in a folder or behind any URL that fsspec knows.

    A mapping: `store[lesion_id]`, `lesion_id in store`, `len(store)`, `store.items()`; iteration
    gives the ids, `crops()` the crops. Made by `create`, `open` or `build`, not directly.

    Attributes:
        url: Where it is.
        tier: Which source its crops come from.
        provenance: What the builder told about how they were made.
        expected: The lesions that make it complete, in the order of the table.
        exclusions: Reason by `lesion_id` for those left out.
        complete: Whether `finish` was reached and nothing written since; see also `validate`.

    Example:
        >>> import numpy as np
        >>> hu, masks = np.full((2, 8, 8), -800, np.int16), np.ones((1, 2, 8, 8), bool)
        >>> crop = Crop("L-1", hu, masks, (2.5, 0.7, 0.7), np.arange(2), (0, 0),
        ...             np.ones(2, bool), "phantom")
        >>> with CropStore.create("memory://doc", tier="phantom", expected=["L-1"]) as store:
        ...     store.append(crop, patient="P-1")
        ...     store.finish()
        >>> CropStore.open("memory://doc").table[["readers", "patient"]]
                   readers patient
        lesion_id
        L-1              1     P-1
    """

    @classmethod
    def create(
        cls,
        url: Url,
        *,
        tier: Tier,
        expected: Iterable[str],
        provenance: Mapping[str, Any] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Begin a store in an empty or new folder.

        Args:
            url: A folder, or a URL that fsspec knows.
            tier: Which source all its crops come from.
            expected: `lesion_id`s that make the store complete.
            provenance: What JSON can hold; a resumed build must tell the same.
            storage_options: For the fsspec file system.

        Raises:
            ValueError: An id cannot be a file name or stands twice, or an argument is wrong.
            FileExistsError: A store or anything else is there already.
            RuntimeError: Another process is writing there.
            OSError: The folder cannot be written.
        """
        header = files.make_header(tier, expected, provenance or {})
        folder = open_folder(url, storage_options)
        with ExitStack() as stack:
            lock = stack.enter_context(folder.lock())
            begun = set(folder.names())
            if ROOT in begun:
                raise FileExistsError(
                    f"{folder.url} holds a store already: open it with mode='a', or delete it"
                )
            # a creation that was killed leaves no more than these, and hidden temporary files
            other = {n for n in begun - {LOCK, *GROUPS} if not n.startswith(".")}
            if other:
                raise FileExistsError(f"{folder.url} is not empty: it holds {min(other)}")
            folder.sweep()
            for name in GROUPS:
                folder.write(f"{name}/{ROOT}", files.group({}))
            folder.write(ROOT, files.group(header))
            store = cls(folder, header, lock=lock, memory_map=False)
            stack.pop_all()
        return store

    @classmethod
    def open(
        cls,
        url: Url,
        *,
        mode: Literal["r", "a"] = "r",
        allow_incomplete: bool = False,
        memory_map: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Open a store to read, or to go on writing.

        Args:
            url: A folder, or a URL that fsspec knows.
            mode: `r` writes nothing, not even a lock; `a` keeps other writers out and clears away
                what an interrupted one left half done.
            allow_incomplete: Read a store whose build did not come to its end.
            memory_map: `crop.hu` is a read-only view of the file, read when it is looked at. For
                local folders; masks are bits in the file and always unpacked.
            storage_options: For the fsspec file system.

        Raises:
            FileNotFoundError: There is no store.
            IncompleteStoreError: It is incomplete; the message says how far it is.
            ValueError: It is damaged or of another version, or an argument is wrong.
            RuntimeError: `mode` is `a` and another process is writing.
        """
        if mode not in ("r", "a"):
            raise ValueError(f"mode={mode!r}: expected 'r' or 'a'")
        folder = open_folder(url, storage_options)
        if memory_map and not folder.local:
            raise ValueError(f"memory_map: expected a folder of this machine, got {folder.url}")
        if ROOT not in folder.names():
            raise FileNotFoundError(f"{folder.url}: no store of crops here, {ROOT} is missing")
        with ExitStack() as stack:
            lock = stack.enter_context(folder.lock()) if mode == "a" else None
            header = files.header(folder.read(ROOT), folder.url)
            store = cls(folder, header, lock=lock, memory_map=memory_map)
            store._load()
            if not store.complete and mode == "r" and not allow_incomplete:
                raise IncompleteStoreError(
                    f"{store.url} is incomplete: {len(store)} of {len(store.expected)} lesions "
                    f"are stored, {len(store.exclusions)} excluded; build it again to resume, or "
                    "open it with allow_incomplete=True"
                )
            stack.pop_all()
        return store

    def append(self, crop: Crop, /, **columns: Any) -> None:
        """Store one crop; it is safely on the disk when this returns.

        Args:
            crop: Of a lesion that is expected and not stored yet. Its exclusion is lifted.
            columns: Text, numbers, bools or None for further columns of the table; one kind each.

        Raises:
            ValueError: The crop does not belong here, or a column is wrong.
            OSError: It cannot be written, e.g. as the disk is full. What is stored stays, and the
                store stays incomplete.
        """
        lesion_id = crop.lesion_id
        self._check_expected(lesion_id)
        if crop.tier != self.tier:
            raise ValueError(f"{lesion_id}: expected a crop of {self.tier}, got {crop.tier}")
        row, hu, bits = files.encode(crop, columns)
        kinds = files.kinds(row)
        for name, kind in kinds.items():
            if self._kinds.get(name, kind) is not kind:
                raise ValueError(
                    f"column {name!r} of {lesion_id}: expected {self._kinds[name].__name__} as "
                    f"for the lesions before, got {kind.__name__} {row[name]!r}"
                )
        self._unmark()
        if self.exclusions.pop(lesion_id, None) is not None:
            self._write_exclusions()
        for name, data in zip(files.chunks(row), (hu.data, bits.data), strict=False):
            self._folder.write(name, data)
        for name, document in files.documents(row).items():
            self._folder.write(name, document)
        self._kinds |= kinds
        self._rows[lesion_id] = row

    def extend(self, crops: Iterable[Crop | tuple[Crop, Mapping[str, Any]]]) -> None:
        """Store several crops, each alone or with its columns; see `append`."""
        for item in crops:
            crop, columns = (item, {}) if isinstance(item, Crop) else item
            self.append(crop, **columns)

    def exclude(self, lesion_id: str, reason: str) -> None:
        """Leave a lesion out, with the reason, so that the store can be complete without it.

        Raises:
            ValueError: The lesion is not expected or stored already, or there is no reason.
        """
        self._check_expected(lesion_id)
        reason = reason.encode(errors="replace").decode().strip()  # file names may be no Unicode
        if not reason:
            raise ValueError(f"reason of {lesion_id}: expected a text, got {reason!r}")
        self._unmark()
        self.exclusions[lesion_id] = reason
        self._write_exclusions()

    def discard(self, lesion_id: str) -> None:
        """Remove a stored lesion, e.g. one that `validate` found damaged, to be built again.

        Raises:
            KeyError: The lesion is not in the store.
        """
        self._check_writable()
        self._row(lesion_id)
        self._unmark()
        del self._rows[lesion_id]
        for name in GROUPS:
            self._folder.remove(f"{name}/{lesion_id}")

    def expect(self, lesion_ids: Iterable[str]) -> None:
        """Change which lesions make the store complete.

        Raises:
            ValueError: A lesion that is stored is not among them.
        """
        ids = files.checked_ids(lesion_ids)
        if lost := sorted(self._rows.keys() - set(ids)):
            raise ValueError(
                f"{self.url} holds {len(lost)} lesions that are not asked for, e.g. {lost[0]}: "
                "ask for them too, or use another folder"
            )
        if ids == self.expected:
            return
        self._check_writable()
        self._unmark()
        header = files.make_header(self.tier, ids, self.provenance)
        self._folder.write(ROOT, files.group(header))
        self.expected = ids
        self.exclusions = {i: why for i, why in self.exclusions.items() if i in set(ids)}

    def finish(self) -> None:
        """Write the tables and then the mark that the store is complete.

        Raises:
            ValueError: Lesions are missing, or none is stored at all.
        """
        self._check_writable()
        here = self._rows.keys() | self.exclusions.keys()
        if missing := [lesion_id for lesion_id in self.expected if lesion_id not in here]:
            raise ValueError(
                f"{self.url}: {len(missing)} of {len(self.expected)} lesions are missing, e.g. "
                f"{', '.join(missing[:3])}; append or exclude them first"
            )
        if not self._rows:
            first, reason = next(iter(self.exclusions.items()))
            raise ValueError(f"{self.url}: every lesion is excluded, e.g. {first}: {reason}")
        self._unmark()
        self._write_exclusions()
        rows = [self._rows[lesion_id] for lesion_id in self]
        self._folder.write(LESIONS, files.to_parquet(rows, files.FIELDS))
        sums = {name: hashlib.sha256(self._folder.read(name)).hexdigest() for name in SUMMED}
        self._folder.write(COMPLETE, files.to_json(sums))
        self.complete = True

    def _check_writable(self) -> None:
        if self._lock is None:
            raise ValueError(f"{self.url} is open to read only: open it with mode='a'")

    def _check_expected(self, lesion_id: str) -> None:
        self._check_writable()
        if lesion_id not in self.expected:
            raise ValueError(f"lesion_id={lesion_id!r}: not among the lesions of {self.url}")
        if lesion_id in self._rows:
            raise ValueError(f"lesion_id={lesion_id!r}: stored already in {self.url}")

    def _unmark(self) -> None:
        """A store that is being changed is not complete, and must not look it."""
        if self.complete:
            self._folder.remove(COMPLETE)
            self.complete = False

    def _write_exclusions(self) -> None:
        told = [(i, why) for i in self.expected if (why := self.exclusions.get(i))]
        rows = [{"lesion_id": lesion_id, "reason": reason} for lesion_id, reason in told]
        self._folder.write(EXCLUSIONS, files.to_parquet(rows, files.EXCLUSION_FIELDS))


def build(
    url: Url,
    lesion_ids: Iterable[str],
    make_crop: MakeCrop,
    *,
    tier: Tier,
    provenance: Mapping[str, Any] | None = None,
    processes: int = 1,
    on_error: Literal["raise", "exclude"] = "raise",
    retry_excluded: bool = False,
    progress: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> CropStore:
    """Make a store of the crops of many lesions, or go on where an interrupted build ended.

    This process alone writes, in the order of `lesion_ids`: the files are the same whatever the
    number of processes and of interruptions. Few crops for each process are in memory at a time.

    Args:
        url: A folder, or a URL that fsspec knows.
        lesion_ids: Which lesions, all of them also when resuming. More than last time extend the
            store.
        make_crop: Gives a lesion's crop, or the crop and a dict of further columns. For several
            processes, a function of a module or a `functools.partial` of one.
        tier: Which source the crops come from.
        provenance: How they are made (seed, versions, parameters); a resumed build must tell the
            same, or the store would mix two kinds.
        processes: How many work at the same time.
        on_error: `raise` stops at the first lesion that fails; `exclude` leaves it out and keeps
            the reason in `exclusions.parquet`. Running out of memory always stops.
        retry_excluded: Try lesions again that an earlier build left out.
        progress: Show a bar.
        storage_options: For the fsspec file system.

    Returns:
        The complete store, to read.

    Raises:
        BuildError: A lesion failed, and `on_error` is `raise`.
        ValueError: An argument is wrong, or the store there was made otherwise.
        TypeError: `make_crop` cannot be sent to another process, or gave something else.
        RuntimeError: Another process writes there, or a process of the build was killed.
        OSError: The store cannot be written. As after every error, it can be resumed.
    """
    if on_error not in ("raise", "exclude"):
        raise ValueError(f"on_error={on_error!r}: expected 'raise' or 'exclude'")
    if not isinstance(processes, int) or processes < 1:
        raise ValueError(f"processes={processes!r}: expected a whole number of at least 1")
    header = files.make_header(tier, lesion_ids, provenance or {})
    ids: list[str] = header["expected"]
    with _begin(url, header, storage_options, reopen=retry_excluded) as store:
        store.expect(ids)
        left_out = () if retry_excluded else store.exclusions
        todo = [i for i in ids if i not in store and i not in left_out]
        known = len(ids) - len(todo)
        with (
            closing(make_all(make_crop, todo, processes)) as all_made,
            tqdm(total=len(ids), initial=known, disable=not progress, unit="lesion") as bar,
        ):
            for made in all_made:
                if made.crop is not None:
                    store.append(made.crop, **made.columns)
                elif on_error == "exclude":
                    store.exclude(made.lesion_id, made.reason)
                    bar.set_postfix(excluded=len(store.exclusions))
                else:
                    error = BuildError(f"{made.lesion_id}: {made.reason}")
                    if made.error is None:
                        error.add_note(made.trace)
                    raise error from made.error
                bar.update()
        if not store.complete:
            store.finish()
    return CropStore.open(url, storage_options=storage_options)


def _begin(
    url: Url,
    header: dict[str, Any],
    storage_options: Mapping[str, Any] | None,
    *,
    reopen: bool,
) -> CropStore:
    """A new store, or the one that is there if it was made in the same way."""
    folder = open_folder(url, storage_options)
    names = folder.names()
    if ROOT not in names:
        told = {name: header[name] for name in ("tier", "expected", "provenance")}
        return CropStore.create(url, **told, storage_options=storage_options)
    before = files.header(folder.read(ROOT), folder.url)
    for name in ("tier", "provenance"):
        if before[name] != header[name]:
            raise ValueError(
                f"{folder.url} was begun with {name}={before[name]!r}, now it is "
                f"{header[name]!r}: use another folder, or delete it"
            )
    # a store that needs nothing may lie where nothing can be written
    if COMPLETE in names and before == header and not reopen:
        return CropStore.open(url, storage_options=storage_options)
    return CropStore.open(url, mode="a", storage_options=storage_options)
