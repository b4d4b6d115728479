"""Crops on disk or behind a URL: a Zarr group with the voxels, and one Parquet table.

    zarr.json          what the store is: format, tier, lesions expected, provenance, exclusions
    hu/LESION          (z, y, x) int16; its attributes are the lesion's row of the table
    masks/LESION       (reader, z, y, x) in bits, eight columns to a byte; absent where nobody read
    lesions.parquet    one row per lesion, in the order of the lesions expected

Each lesion has arrays of its own depth, of one chunk without compression; `zarr.open_group(url)`
opens the store too. The order of writing makes an interrupted build harmless. A lesion counts as
stored when its row is in the attributes of `hu/LESION`, which are written after its voxels. The
store counts as complete when `zarr.json` has the SHA-256 of `lesions.parquet`, which is written
last of all.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from lesionlab import _files, _names, _processes
from lesionlab._parquet import read_parquet
from lesionlab.crops import Crop, Tier, _rows
from lesionlab.crops._rows import Row

Url = str | os.PathLike[str]
MakeCrop = Callable[[str], Crop]

# a file name on every system, and nothing that leads out of the folder
LESION_ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,198}[A-Za-z0-9_-])?")
FORMAT = 3
ROOT, LESIONS = "zarr.json", "lesions.parquet"


class BuildError(RuntimeError):
    """No crop could be made of a lesion; the message names it."""


class IncompleteStoreError(RuntimeError):
    """A store whose build did not come to its end."""


class _Folder:
    """Where a store lies, whether there is one or not."""

    def __init__(self, url: Url) -> None:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]
        from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

        if not url:
            raise ValueError(f"url={url!r}: expected a folder or a URL")
        self.files, self.root = url_to_fs(os.path.expanduser(os.fspath(url)))
        local = isinstance(self.files, LocalFileSystem)
        self.url: str = self.root if local else os.fspath(url).rstrip("/")

    def group(self, mode: Literal["r", "a"], attributes: Row | None = None) -> Any:
        """The Zarr group; with mode `a` it is made, with the attributes, where there is none."""
        import zarr  # takes a third of a second: only where it is wanted

        return zarr.open_group(self.url, mode=mode, zarr_format=3, attributes=attributes)


class CropStore(Mapping[str, Crop]):
    """Crops of one tier by `lesion_id`, to read, in a folder or behind any URL that fsspec knows.

    Raises:
        FileNotFoundError: There is no store; `build` writes one.
        IncompleteStoreError: Its build did not come to its end, and `allow_incomplete` is False.
        ValueError: It is damaged, or another version of lesionlab wrote it.
    """

    def __init__(self, url: Url, *, allow_incomplete: bool = False) -> None:
        self._folder = _Folder(url)
        self.url = self._folder.url
        header = self._header()
        self.tier: Tier = header["tier"]  # which source its crops come from
        self.provenance: dict[str, Any] = header["provenance"]  # what its builder told
        self.expected: list[str] = header["expected"]  # what makes it complete, in this order
        self.exclusions: dict[str, str] = header["exclusions"]  # why lesions were left out
        self.complete = header["complete"] is not None
        found = self._finished(header["complete"]) if self.complete else self._begun()
        # only lesions that are expected count: these names are checked, and stay in the folder
        self._rows = {name: found[name] for name in self.expected if name in found}
        if self.complete and len(self) + len(self.exclusions) < len(self.expected):
            raise ValueError(f"{self.url}/{LESIONS} is damaged: lesions are missing")
        if not self.complete and not allow_incomplete:
            raise IncompleteStoreError(
                f"{self.url} is incomplete: {len(self)} of {len(self.expected)} lesions are "
                "stored; build it again to resume, or open it with allow_incomplete=True"
            )

    def _read(self, name: str, check: Callable[[bytes], Any]) -> Any:
        """What `check` makes of a file of the store; whatever it says of it, with the file's name.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged.
        """
        try:
            return check(self._folder.files.cat_file(f"{self._folder.root}/{name}"))
        except NotADirectoryError as error:
            raise FileNotFoundError(str(error)) from None
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{self.url}/{name} is damaged or not from this version of lesionlab: {error}"
            ) from error

    def _header(self) -> Row:
        """What `zarr.json` says of the store; `complete` is the SHA-256 of the table, or None."""

        def check(data: bytes) -> Row:
            header: Any = _rows.attributes("group", data).get("lesionlab")
            _rows.typed(header, {"version": int})
            if header["version"] != FORMAT:
                raise ValueError(f"it has format {header['version']}, not {FORMAT}: build it anew")
            _names.one_of("tier", _rows.typed(header, _rows.HEADER)["tier"], get_args(Tier))
            _checked_ids(header["expected"])
            return dict(header)

        try:
            return dict(self._read(ROOT, check))
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.url}: no store of crops, {ROOT} is missing") from None

    def _finished(self, sha256: str) -> dict[str, Row]:
        """The rows of a complete store by lesion, from its table."""

        def check(data: bytes) -> dict[str, Row]:
            if hashlib.sha256(data).hexdigest() != sha256:
                raise ValueError(f"its SHA-256 is not that in {ROOT}")
            rows = map(_rows.checked_row, read_parquet(io.BytesIO(data)).to_pylist())
            return {row["lesion_id"]: row for row in rows}

        try:
            return dict(self._read(LESIONS, check))
        except FileNotFoundError:
            raise ValueError(f"{self.url}/{LESIONS} is damaged: it is missing") from None

    def _begun(self) -> dict[str, Row]:
        """The rows of the lesions that are stored whole, from the attributes of their voxels."""
        rows = {}
        for name in self.expected:

            def check(data: bytes, name: str = name) -> Row:
                row = _rows.attributes("array", data)
                return _rows.checked_row(row) if row.get("lesion_id") == name else {}

            with suppress(FileNotFoundError):
                rows[name] = self._read(f"hu/{name}/{ROOT}", check)
        return {name: row for name, row in rows.items() if row}

    def _check_groups(self) -> None:
        """What Zarr reads when a lesion is added: its own errors name no file."""
        for group in ("hu", "masks"):
            with suppress(FileNotFoundError):
                self._read(f"{group}/{ROOT}", partial(_rows.attributes, "group"))

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, lesion_id: object) -> bool:
        return lesion_id in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    # a mapping's own equality would read both stores
    __eq__, __hash__ = object.__eq__, object.__hash__

    def __repr__(self) -> str:
        state = "complete" if self.complete else f"{len(self.expected)} expected, incomplete"
        return f"CropStore({self.url!r}, tier={self.tier!r}, {len(self)} lesions, {state})"

    def __getitem__(self, lesion_id: str) -> Crop:
        """Read one crop; KeyError if it is not in the store, ValueError if its SHA-256 is wrong."""
        if lesion_id not in self._rows:
            why = self.exclusions.get(lesion_id, "not in the store")
            raise KeyError(f"{lesion_id!r}: {why} ({self.url})")
        row = self._rows[lesion_id]
        try:
            z, y, x = row["shape"]
            hu = self._chunk(f"hu/{lesion_id}/c/0/0/0", "<i2", (z, y, x))
            bits = np.zeros((0, z, y, 1), np.uint8)
            if readers := row["readers"]:
                shape = (readers, z, y, (x + 7) // 8)
                bits = self._chunk(f"masks/{lesion_id}/c/0/0/0/0", "u1", shape)
            crop = Crop(
                lesion_id=lesion_id,
                hu=hu.astype(np.int16, copy=False),
                masks=np.unpackbits(bits, axis=-1, count=x).view(np.bool_),
                spacing=tuple(row["spacing"]),
                slice_index=np.array(row["slice_index"], np.int64),
                corner=tuple(row["corner"]),
                steps=np.array(row["steps"], np.int64),
                tier=row["tier"],
            )
            if _rows.row(crop, bits) != row:
                raise ValueError("voxels, masks or geometry are not what was written: SHA-256")
            return crop
        except (FileNotFoundError, ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{self.url} is damaged: lesion {lesion_id}: {error}") from error

    def _chunk(self, name: str, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The only chunk of an array: without a compressor, its bytes as they are in memory.

        Zarr's package would take fifteen times as long, most of it to look up the array.
        """
        data = bytearray(self._folder.files.cat_file(f"{self._folder.root}/{name}"))
        return np.frombuffer(data, dtype).reshape(shape)

    def crops(self, lesion_ids: Iterable[str] | None = None) -> Iterator[Crop]:
        """Read many crops one by one, in the order asked for, all of them by default."""
        return map(self.__getitem__, self if lesion_ids is None else lesion_ids)

    @property
    def table(self) -> pd.DataFrame:
        """One row per lesion, index `lesion_id`: what is in `Crop` but voxels, and `sha256`."""
        rows = pd.DataFrame(list(self._rows.values()), pd.Index(self._rows, name="lesion_id"))
        return rows.drop(columns="lesion_id", errors="ignore")

    @property
    def checksum(self) -> str:
        """SHA-256 over `sha256  lesion_id` lines sorted by id: the same in any order of writing."""
        lines = [f"{row['sha256']}  {name}\n" for name, row in sorted(self._rows.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def info(self) -> dict[str, Any]:
        """Counts, bytes on disk, checksum and provenance, for JSON."""
        return {
            "url": self.url,
            "tier": self.tier,
            "complete": self.complete,
            "lesions": len(self),
            "expected": len(self.expected),
            "excluded": len(self.exclusions),
            "slices": sum(row["shape"][0] for row in self._rows.values()),
            "bytes": self._folder.files.du(self._folder.root),
            "checksum": self.checksum,
            "provenance": self.provenance,
        }

    def validate(
        self, faults: Callable[[Crop], Iterable[str]] | None = None, *, progress: bool = True
    ) -> dict[str, str]:
        """Read every lesion again: what is wrong by its SHA-256 or by `faults`, by `lesion_id`."""
        wrong = {}
        for name in tqdm(self, "validate", len(self), disable=not progress, unit="lesion"):
            try:
                crop = self[name]
                if faults is not None and (told := "; ".join(faults(crop))):
                    wrong[name] = told
            except (ValueError, OSError) as error:
                wrong[name] = str(error)
        return wrong


def _checked_ids(lesion_ids: Iterable[str]) -> list[str]:
    """The ids as a list; ValueError where they cannot be names of different files."""
    ids = [lesion_ids] if isinstance(lesion_ids, str) else list(lesion_ids)
    for name in ids:
        if not isinstance(name, str) or not LESION_ID.fullmatch(name) or name.lower() == ROOT:
            raise ValueError(
                f"lesion_id={name!r}: expected up to 200 letters, digits, '_', '-' and '.', with "
                "a letter or digit first and no '.' last"
            )
    if not ids or len({name.lower() for name in ids}) < len(ids):
        raise ValueError("lesion_ids: expected one or more, each once, capitals not counting")
    return ids


# --- Building -----------------------------------------------------------------------------------


def build(
    url: Url,
    lesion_ids: Iterable[str],
    make_crop: MakeCrop,
    *,
    tier: Tier,
    provenance: Mapping[str, Any] | None = None,
    processes: int = 1,
    on_error: Literal["raise", "exclude"] = "raise",
    patience: float = 0.0,
    progress: bool = True,
) -> CropStore:
    """Make a store of the crops of many lesions, or continue where an interrupted build ended.

    Args:
        url: A folder, or a URL that fsspec knows.
        lesion_ids: Which lesions, in the order of the table. What the store holds already stays in
            it; lesions that are not asked for come last.
        make_crop: Gives a lesion's crop. For several processes, a function of a module or a
            `functools.partial` of one, and the script calls `build` under
            `if __name__ == "__main__":`.
        tier: Which source the crops come from.
        provenance: How they are made (seed, versions, parameters), JSON-serialisable. When a build
            is resumed, it must equal the stored one, or the store would mix two kinds.
        processes: How many make crops at the same time; with 1, this process does.
        on_error: `raise` stops at the first lesion that fails; `exclude` leaves it out until the
            next build and keeps the reason in `CropStore.exclusions`. Running out of memory always
            stops.
        patience: Seconds to wait while another process writes the same store.
        progress: Show a bar, and say for whom it waits.

    Raises:
        BuildError: A lesion failed, and `on_error` is `raise`. As after every error, the build can
            be resumed.
        ValueError: An argument is wrong, or the store there was made otherwise or is damaged.
        RuntimeError: Another process still writes there (`BusyError`), or a process of the build
            died.
    """
    ids = _checked_ids(lesion_ids)
    _names.one_of("on_error", on_error, ("raise", "exclude"))
    _names.one_of("tier", tier, get_args(Tier))
    _names.whole(1, processes=processes)
    told: Row = json.loads(json.dumps(provenance or {}, allow_nan=False))
    store = existing(url, told, tier)
    if store is not None and store.complete and store.keys() >= set(ids):
        return store  # it may lie where nothing can be written
    folder = _Folder(url)
    alone = _files.sole_writer(folder.url, patience=patience, progress=progress)
    with alone, _files.plain_errors("crops", folder.url):
        before, store = store, existing(url, told, tier)  # now that nobody else changes it
        settled = set[str]()
        if store is not None and store.complete and (before is None or not before.complete):
            settled = {*store, *store.exclusions}
        if store is not None and settled >= set(ids):
            return store  # the other one has made them
        if store is not None:
            store._check_groups()
        rows = dict(store._rows) if store is not None else {}
        todo = [name for name in ids if name not in rows]
        ids += [name for name in rows if name not in set(ids)]
        excluded: dict[str, str] = {}
        header: Row = {
            "version": FORMAT, "tier": tier, "provenance": told, "expected": ids,
            "exclusions": excluded, "complete": None,
        }  # fmt: skip
        group = folder.group("a", {"lesionlab": header})
        group.update_attributes({"lesionlab": header})
        bar = tqdm(todo, "build", len(ids), initial=len(ids) - len(todo), disable=not progress)
        making = partial(_attempt, make_crop, tier)
        made_of = _processes.in_order(making, todo, processes, "made a crop")
        with closing(made_of) as attempts:
            for name, made in zip(bar, attempts, strict=True):
                if isinstance(made, Crop):
                    rows[name] = _write(group, made)
                elif on_error == "raise":
                    raise made
                else:
                    excluded[name] = str(made).removeprefix(f"{name}: ")
        if not rows:
            raise ValueError(f"{folder.url}: every lesion is excluded: {excluded}")
        file = io.BytesIO()
        in_order = [rows[name] for name in ids if name in rows]
        pq.write_table(pa.Table.from_pylist(in_order), file)
        header["complete"] = hashlib.sha256(file.getvalue()).hexdigest()
        folder.files.pipe_file(f"{folder.root}/{LESIONS}", file.getvalue())
        group.update_attributes({"lesionlab": header})
        return CropStore(url)


def existing(url: Url, provenance: Row, tier: Tier | None = None) -> CropStore | None:
    """The store at a place, complete or not, if there is one and it was made in the same way."""
    try:
        store = CropStore(url, allow_incomplete=True)
    except FileNotFoundError:
        at = _Folder(url)
        there = at.files.ls(at.root, detail=False) if at.files.isdir(at.root) else []
        if other := {os.path.basename(name.rstrip("/")) for name in there} - {_files.LOCK}:
            raise FileExistsError(f"{at.url} is not empty: it holds {min(other)}") from None
        return None
    before, now = store.provenance | {"tier": store.tier}, provenance | {"tier": tier or store.tier}
    told = [
        f"{k} was {before.get(k, 'not told')!s:.12}, now {now.get(k, 'not told')!s:.12}"
        for k in sorted(before.keys() | now.keys())
        if before.get(k) != now.get(k)
    ]
    if told:
        raise ValueError(
            f"{store.url} was made otherwise: {'; '.join(told)}: use another folder, or delete it"
        )
    return store


def _write(group: Any, crop: Crop) -> Row:
    """Store a crop, in place of what an interrupted build has left of it; gives its row."""
    name, bits = crop.lesion_id, np.packbits(crop.masks, axis=-1)
    row = _rows.row(crop, bits)
    options: dict[str, Any] = {
        "overwrite": True,
        "compressors": None,
        "chunk_key_encoding": {"name": "default", "separator": "/"},
        "config": {"write_empty_chunks": True},
    }
    if len(bits):
        packed = {"packed": "x", "bit_order": "big", "columns": crop.hu.shape[2]}
        group.create_array(
            f"masks/{name}", data=bits, chunks=bits.shape, attributes=packed,
            dimension_names=["reader", "z", "y", "x_byte"], **options,
        )  # fmt: skip
    voxels = group.create_array(
        f"hu/{name}", data=crop.hu, chunks=crop.hu.shape, dimension_names=["z", "y", "x"], **options
    )
    voxels.update_attributes(row)  # in one write
    return row


def _attempt(make_crop: MakeCrop, tier: Tier, lesion_id: str) -> Crop | BuildError:
    """The crop of a lesion, or why there is none."""
    try:
        crop = make_crop(lesion_id)
        if (crop.lesion_id, crop.tier) != (lesion_id, tier):
            got = f"the {crop.tier} crop of {crop.lesion_id}"
            raise ValueError(f"expected its {tier} crop, got {got}")
        return crop
    except MemoryError:
        raise  # says nothing about the lesion
    except Exception as error:
        # as text, which survives the way to another process; not every exception does, and a file
        # name in it may be no Unicode
        reason = f"{lesion_id}: {type(error).__name__}: {error}".encode(errors="replace").decode()
        failure = BuildError(reason)
        failure.add_note(traceback.format_exc())
        return failure
