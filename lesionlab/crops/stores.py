"""Crops on disk or behind a URL: a Zarr group with the voxels, and one Parquet table.

    zarr.json          what the store is: format, tier, lesions expected, provenance, exclusions
    hu/LESION          (z, y, x) int16; its attributes are the lesion's row of the table
    masks/LESION       (reader, z, y, x) in bits, eight columns to a byte; absent where nobody read
    lesions.parquet    one row per lesion, in the order of the lesions expected

Depths differ from lesion to lesion, so each lesion has arrays of its own, of one chunk without
compression. Zarr's own package writes them, and any Zarr 3 library opens the store
(`zarr.open_group(url)`).

The order of writing makes an interrupted build harmless. A lesion counts as stored when its row is
in the attributes of `hu/LESION`, which are written after its voxels. The store counts as complete
when `zarr.json` has the SHA-256 of `lesions.parquet`, which is written last of all.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from lesionlab import _files
from lesionlab._parquet import read_parquet
from lesionlab.crops import Crop, Tier
from lesionlab.crops._making import BuildError, MakeCrop, ahead, make_all

__all__ = ["BuildError", "CropStore", "IncompleteStoreError", "build"]

Url = str | os.PathLike[str]
Row = dict[str, Any]

# a file name on every system, and nothing that leads out of the folder
LESION_ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,198}[A-Za-z0-9_-])?")
FORMAT = 2
ROOT, LESIONS = "zarr.json", "lesions.parquet"
SCHEMA = pa.schema(
    {
        "lesion_id": pa.string(),
        "tier": pa.string(),
        "shape": pa.list_(pa.int64()),
        "readers": pa.int64(),
        "spacing": pa.list_(pa.float64()),
        "slice_index": pa.list_(pa.int64()),
        "corner": pa.list_(pa.int64()),
        "calibrated": pa.list_(pa.bool_()),
        "sha256": pa.string(),
    }
)


class IncompleteStoreError(RuntimeError):
    """A store whose build did not come to its end."""


class CropStore(Mapping[str, Crop]):
    """Crops of one tier by `lesion_id`, in a folder or behind any URL that fsspec knows.

    A mapping to read: `store[lesion_id]`, `lesion_id in store`, `len(store)`, `store.items()`;
    iteration gives the ids, `crops()` the crops. `build` writes it and `open` opens it.

    Example:
        >>> hu, masks = np.full((2, 8, 8), -800, np.int16), np.ones((1, 2, 8, 8), bool)
        >>> def make(lesion_id):
        ...     return Crop(lesion_id, hu, masks, (2.5, 0.7, 0.7), np.arange(2), (0, 0),
        ...                 np.ones(2, bool), "phantom")
        >>> store = build("memory://doc", ["L-1"], make, tier="phantom", progress=False)
        >>> store.table[["tier", "readers"]]
                      tier  readers
        lesion_id
        L-1        phantom        1
    """

    def __init__(self, folder: Folder) -> None:
        header = folder.header()
        self.url = folder.url
        self.tier: Tier = header["tier"]  # which source its crops come from
        self.provenance: dict[str, Any] = header["provenance"]  # what its builder told
        self.expected: list[str] = header["expected"]  # what makes it complete, in this order
        self.exclusions: dict[str, str] = header["exclusions"]  # why lesions were left out
        self.complete = header["complete"] is not None
        self._folder = folder
        found = folder.table(header["complete"]) if self.complete else folder.stored()
        # only lesions that are expected count: these names are checked, and stay in the folder
        self._rows = {name: found[name] for name in self.expected if name in found}
        if self.complete and len(self) + len(self.exclusions) < len(self.expected):
            raise ValueError(f"{self.url}/{LESIONS} is damaged: lesions are missing")

    @classmethod
    def open(cls, url: Url, *, allow_incomplete: bool = False) -> Self:
        """Open a store to read: a folder, or a URL that fsspec knows; nothing is written.

        Raises:
            FileNotFoundError: There is no store.
            IncompleteStoreError: It is incomplete; the message says how far it is.
            ValueError: It is damaged, or another version of lesionlab wrote it.
        """
        store = cls(Folder(url))
        if not store.complete and not allow_incomplete:
            raise IncompleteStoreError(
                f"{store.url} is incomplete: {len(store)} of {len(store.expected)} lesions are "
                "stored; build it again to resume, or open it with allow_incomplete=True"
            )
        return store

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
        """Read one crop; KeyError if it is not in the store, ValueError if it is damaged."""
        if lesion_id not in self._rows:
            why = self.exclusions.get(lesion_id, "not in the store")
            raise KeyError(f"{lesion_id!r}: {why} ({self.url})")
        return self._folder.read(self._rows[lesion_id])

    def crops(self, lesion_ids: Iterable[str] | None = None) -> Iterator[Crop]:
        """Read many crops in the order asked for, all of them by default; errors as `store[…]`."""
        ids = list(self if lesion_ids is None else lesion_ids)
        if self._folder.local:
            yield from map(self.__getitem__, ids)
            return
        with ThreadPoolExecutor(8) as pool:  # several are on their way at the same time
            yield from ahead(pool, self.__getitem__, ids, 8)

    @property
    def table(self) -> pd.DataFrame:
        """A new table, one row per lesion in the order expected, index `lesion_id`.

        Columns are `tier`, `shape`, `readers`, `spacing`, `slice_index`, `corner` and `calibrated`
        as in `Crop`, and `sha256`.
        """
        rows = pa.Table.from_pylist(list(self._rows.values()), schema=SCHEMA)
        frame: pd.DataFrame = rows.to_pandas(use_threads=False)
        return frame.set_index("lesion_id")

    @property
    def checksum(self) -> str:
        """SHA-256 over `sha256  lesion_id` lines sorted by id: the same in any order of writing."""
        lines = [f"{row['sha256']}  {name}\n" for name, row in sorted(self._rows.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def info(self) -> dict[str, Any]:
        """Counts, bytes on disk, checksum and provenance, such that JSON can hold them."""
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

    def validate(self, *, progress: bool = True) -> dict[str, str]:
        """Read every lesion again: what is not as its SHA-256 says, by `lesion_id`."""
        wrong = {}
        for name in tqdm(self, "validate", len(self), disable=not progress, unit="lesion"):
            try:
                if _row(self[name]) != self._rows[name]:
                    wrong[name] = "voxels, masks or geometry are not what was written: SHA-256"
            except (ValueError, OSError) as error:
                wrong[name] = str(error)
        return wrong


class Folder:
    """The files of a store."""

    def __init__(self, url: Url) -> None:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]
        from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

        if not url:
            raise ValueError(f"url={url!r}: expected a folder or a URL")
        self.files, self.root = url_to_fs(os.path.expanduser(os.fspath(url)))
        self.local = isinstance(self.files, LocalFileSystem)
        self.url = self.root if self.local else os.fspath(url).rstrip("/")
        self._group: Any = None

    def group(self, attributes: Row | None = None) -> Any:
        """The Zarr group; with attributes to write, and made with them where there is none."""
        if self._group is None or attributes is not None:
            import zarr  # takes a third of a second: only where voxels are wanted
            from zarr.storage import FsspecStore, LocalStore

            store: Any = LocalStore(self.root) if self.local else FsspecStore.from_url(self.url)
            mode: Literal["r", "a"] = "r" if attributes is None else "a"
            self._group = zarr.open_group(store, mode=mode, zarr_format=3, attributes=attributes)
        return self._group

    def header(self) -> dict[str, Any]:
        """What `zarr.json` says of the store; `complete` is the SHA-256 of the table, or None."""
        where = f"{self.url}/{ROOT}"
        try:
            text = self.files.cat_file(f"{self.root}/{ROOT}")
            header: dict[str, Any] = json.loads(text)["attributes"]["lesionlab"]
            if header["version"] == FORMAT:
                _checked_ids(header["expected"])
                return header
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{self.url}: no store of crops, {ROOT} is missing") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{where} is damaged or not from lesionlab: {error}") from error
        raise ValueError(
            f"{self.url} was written by another version of lesionlab, in format "
            f"{header['version']}, not {FORMAT}: delete it and build it anew"
        )

    def write_header(self, header: Row) -> None:
        """Replace what `zarr.json` says of the store."""
        with _files.plain_errors(ROOT, self.url):
            self.group({"lesionlab": header}).update_attributes({"lesionlab": header})

    def table(self, sha256: str) -> dict[str, Row]:
        """The rows of a complete store by lesion, being what `zarr.json` says they are."""
        try:
            data = self.files.cat_file(f"{self.root}/{LESIONS}")
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"{self.url}/{LESIONS} is damaged: its SHA-256 is not that in {ROOT}")
        return {row["lesion_id"]: row for row in read_parquet(io.BytesIO(data)).to_pylist()}

    def write_table(self, rows: Iterable[Row]) -> str:
        """Write the table; gives its SHA-256."""
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), file)
        with _files.plain_errors(LESIONS, self.url):
            self.files.pipe_file(f"{self.root}/{LESIONS}", file.getvalue())
        return hashlib.sha256(file.getvalue()).hexdigest()

    def stored(self) -> dict[str, Row]:
        """The rows of the lesions that are stored whole, from the attributes of their voxels."""
        voxels = self.group().get("hu")
        rows = {name: array.attrs.asdict() for name, array in voxels.arrays()} if voxels else {}
        return {name: row for name, row in rows.items() if row.get("lesion_id") == name}

    def read(self, row: Row) -> Crop:
        """The crop of a row; ValueError where it is damaged."""
        name, (z, y, x) = row["lesion_id"], row["shape"]
        try:
            hu = self._chunk(f"hu/{name}/c/0/0/0", "<i2", (z, y, x))
            bits = np.zeros((0, z, y, 1), np.uint8)
            if readers := row["readers"]:
                shape = (readers, z, y, (x + 7) // 8)
                bits = self._chunk(f"masks/{name}/c/0/0/0/0", "u1", shape)
            return Crop(
                lesion_id=name,
                hu=hu.astype(np.int16, copy=False),
                masks=np.unpackbits(bits, axis=-1, count=x).view(np.bool_),
                spacing=tuple(row["spacing"]),
                slice_index=np.array(row["slice_index"], np.int64),
                corner=tuple(row["corner"]),
                calibrated=np.array(row["calibrated"], np.bool_),
                tier=row["tier"],
            )
        except (FileNotFoundError, ValueError, TypeError) as error:
            raise ValueError(f"{self.url} is damaged: lesion {name}: {error}") from error

    def _chunk(self, name: str, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The only chunk of an array: without a compressor, its bytes as they are in memory.

        Zarr's package would take fifteen times as long, most of it to look up the array.
        """
        data = bytearray(self.files.cat_file(f"{self.root}/{name}"))
        return np.frombuffer(data, dtype).reshape(shape)

    def write(self, crop: Crop) -> Row:
        """Store a crop, in place of what an interrupted build has left of it; gives its row."""
        name, row, bits = crop.lesion_id, _row(crop), np.packbits(crop.masks, axis=-1)
        packed = {"packed": "x", "bit_order": "big", "columns": crop.hu.shape[2]}
        options: dict[str, Any] = {
            "overwrite": True,
            "compressors": None,
            "chunk_key_encoding": {"name": "default", "separator": "/"},
            "config": {"write_empty_chunks": True},
        }
        with _files.plain_errors(f"the crop of {name}", self.url):
            if len(bits):
                self.group().create_array(
                    f"masks/{name}", data=bits, chunks=bits.shape, attributes=packed,
                    dimension_names=["reader", "z", "y", "x_byte"], **options,
                )  # fmt: skip
            voxels = self.group().create_array(
                f"hu/{name}", data=crop.hu, chunks=crop.hu.shape,
                dimension_names=["z", "y", "x"], **options,
            )  # fmt: skip
            voxels.update_attributes(row)  # in one write
        return row


def _row(crop: Crop) -> Row:
    """What the table says of a crop: all but its voxels, and a SHA-256 of everything.

    The sum is over the row as JSON with sorted keys, a line end, the voxels (little-endian), and
    the masks in bits (eight columns to a byte).
    """
    row: Row = {
        "lesion_id": crop.lesion_id,
        "tier": crop.tier,
        "shape": list(crop.hu.shape),
        "readers": len(crop.masks),
        "spacing": [float(mm) for mm in crop.spacing],
        "slice_index": crop.slice_index.tolist(),
        "corner": [int(k) for k in crop.corner],
        "calibrated": crop.calibrated.tolist(),
    }
    text = json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False)
    checksum = hashlib.sha256(text.encode() + b"\n")
    checksum.update(np.ascontiguousarray(crop.hu, dtype="<i2").data)
    checksum.update(np.packbits(crop.masks, axis=-1).data)
    return row | {"sha256": checksum.hexdigest()}


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
) -> CropStore:
    """Make a store of the crops of many lesions, or continue where an interrupted build ended.

    This process alone writes. A few crops for each process are in memory at a time.

    Args:
        url: A folder, or a URL that fsspec knows.
        lesion_ids: Which lesions, in the order of the table. What the store holds already stays in
            it; lesions that are not asked for come last.
        make_crop: Gives a lesion's crop. For several processes, a function of a module or a
            `functools.partial` of one.
        tier: Which source the crops come from.
        provenance: How they are made (seed, versions, parameters), JSON-serialisable. When a build
            is resumed, it must equal the stored one, or the store would mix two kinds.
        processes: How many make crops at the same time; with 1, this process does.
        on_error: `raise` stops at the first lesion that fails; `exclude` leaves it out and keeps
            the reason in `CropStore.exclusions`. Running out of memory always stops.
        retry_excluded: Try lesions again that an earlier build left out.
        progress: Show a bar.

    Returns:
        The complete store, to read.

    Raises:
        BuildError: A lesion failed, and `on_error` is `raise`.
        ValueError: An argument is wrong, or the store there was made otherwise or is damaged.
        RuntimeError: Another process writes there (`BusyError`), or a process of the build died.
            As after every error, the build can be resumed.
    """
    ids = _checked_ids(lesion_ids)
    if on_error not in ("raise", "exclude"):
        raise ValueError(f"on_error={on_error!r}: expected 'raise' or 'exclude'")
    if not isinstance(processes, int) or processes < 1:
        raise ValueError(f"processes={processes!r}: expected a whole number of at least 1")
    if tier not in get_args(Tier):
        raise ValueError(f"tier={tier!r}: expected one of {', '.join(get_args(Tier))}")
    kind = {"tier": tier, "provenance": json.loads(json.dumps(provenance or {}, allow_nan=False))}
    folder = Folder(url)
    store = _existing(folder, kind)
    retry = retry_excluded and store is not None and bool(store.exclusions)
    if store is not None and store.complete and set(ids) <= set(store.expected) and not retry:
        return store  # it may lie where nothing can be written
    with _files.sole_writer(folder.url):
        store = _existing(folder, kind)  # now that nobody else changes it
        rows = dict(store._rows) if store is not None else {}
        ids += [name for name in rows if name not in set(ids)]
        excluded = {} if store is None or retry else store.exclusions
        excluded = {name: excluded[name] for name in ids if name in excluded}
        header = {"version": FORMAT, **kind, "expected": ids, "exclusions": excluded}
        folder.write_header(header | {"complete": None})
        todo = [name for name in ids if name not in rows and name not in excluded]
        bar = tqdm(
            todo, "build", len(ids), initial=len(ids) - len(todo), disable=not progress,
            unit="lesion",
        )  # fmt: skip
        with closing(make_all(make_crop, todo, processes)) as attempts:
            for name, made in zip(bar, attempts, strict=True):
                if isinstance(made, Crop):
                    if made.tier != tier:
                        raise ValueError(f"{name}: expected a crop of {tier}, got {made.tier}")
                    rows[name] = folder.write(made)
                elif on_error == "raise":
                    raise made
                else:
                    excluded[name] = str(made).removeprefix(f"{name}: ")
        if not rows:
            raise ValueError(f"{folder.url}: every lesion is excluded: {excluded}")
        checksum = folder.write_table(rows[name] for name in ids if name in rows)
        folder.write_header(header | {"complete": checksum})
    return CropStore.open(url)


def _existing(folder: Folder, kind: Mapping[str, Any]) -> CropStore | None:
    """The store that is there, if there is one; an error where crops may not be added to it."""
    try:
        store = CropStore(folder)
    except FileNotFoundError:
        names = (
            folder.files.ls(folder.root, detail=False) if folder.files.isdir(folder.root) else []
        )
        other = {os.path.basename(str(name).rstrip("/")) for name in names} - {_files.LOCK}
        if other:
            raise FileExistsError(f"{folder.url} is not empty: it holds {min(other)}") from None
        return None
    for name, now in kind.items():
        if (before := getattr(store, name)) != now:
            raise ValueError(
                f"{folder.url} was begun with {name}={before!r}, now it is {now!r}: use another "
                "folder, or delete it"
            )
    return store
