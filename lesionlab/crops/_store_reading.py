"""Reading a store of crops: what is in it, one crop, all crops, and whether it is as written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import zip_longest
from typing import Any, Self

import pandas as pd
from tqdm import tqdm

from lesionlab.crops import Crop, Tier
from lesionlab.crops import _crop_files as files
from lesionlab.crops._crop_files import COMPLETE, EXCLUSIONS, GROUPS, LESIONS, ROOT, SUMMED
from lesionlab.crops._folders import Folder, from_bytes

AHEAD = 8  # lesions


class StoreReader(Mapping[str, Crop]):
    """The part of `lesionlab.crops.stores.CropStore` that reads."""

    def __init__(
        self, folder: Folder, header: dict[str, Any], *, lock: ExitStack | None, memory_map: bool
    ) -> None:
        self.url = folder.url
        self.tier: Tier = header["tier"]
        self.provenance: dict[str, Any] = header["provenance"]
        self.expected: list[str] = header["expected"]
        self.exclusions: dict[str, str] = {}
        self.complete = False
        self._folder = folder
        self._memory_map = memory_map
        self._lock = lock
        self._rows: dict[str, files.Row] = {}
        self._kinds: dict[str, type] = {}

    def _load(self) -> None:
        """Rows from the table of a complete store, from the lesions' own files otherwise."""
        names = self._folder.names()
        self.complete = COMPLETE in names
        if self.complete:
            tables = self._tables()
            where = f"{self.url}/{LESIONS}"
            found = files.from_parquet(tables[LESIONS], where, files.FIELDS)
            rows = {row["lesion_id"]: files.checked_row(row, where) for row in found}
            # whatever the table says, no name may lead out of the folder
            if foreign := rows.keys() - set(self.expected):
                raise ValueError(f"{where} is damaged: {min(foreign)!r} is not expected")
            self._rows = rows
        else:
            tables = self._folder.read_many(name for name in names if name == EXCLUSIONS)
            self._rows = self._stored()
        if EXCLUSIONS in tables:
            where = f"{self.url}/{EXCLUSIONS}"
            found = files.from_parquet(tables[EXCLUSIONS], where, files.EXCLUSION_FIELDS)
            told = {row["lesion_id"]: row["reason"] for row in found}
            # `expect` may have been interrupted before the table followed
            self.exclusions = {i: why for i in self.expected if (why := told.get(i))}
        if self.complete and (gone := set(self.expected) - rows.keys() - self.exclusions.keys()):
            raise ValueError(
                f"{self.url} is damaged: {COMPLETE} is there, but {len(gone)} of the lesions "
                f"expected are not, e.g. {min(gone)}"
            )
        for row in self._rows.values():
            self._kinds |= files.kinds(row)

    def _tables(self) -> dict[str, bytes]:
        """The tables of a complete store, being what `complete.json` says they are."""
        told = files.from_json(self._folder.read(COMPLETE), f"{self.url}/{COMPLETE}")
        tables = {}
        for name in SUMMED:
            try:
                tables[name] = self._folder.read(name)
            except FileNotFoundError:
                raise ValueError(f"{self.url}/{name} is missing from a complete store") from None
            if hashlib.sha256(tables[name]).hexdigest() != told.get(name):
                raise ValueError(
                    f"{self.url}/{name} is damaged: its SHA-256 is not the one in {COMPLETE}; "
                    "delete that and build again, and the tables are made anew"
                )
        return tables

    def _stored(self) -> dict[str, files.Row]:
        """Row of every lesion whose files are whole; writers remove the files of the others."""
        sizes = self._folder.sizes("hu") | self._folder.sizes("masks")
        last = [name for i in self.expected if (name := f"hu/{i}/{ROOT}") in sizes]
        rows = {}
        for name, data in self._folder.read_many(last).items():
            lesion_id = name.split("/")[1]
            try:
                row = files.checked_row(files.about(data, name), name)
            except ValueError:
                continue
            whole = all(sizes.get(chunk) == size for chunk, size in files.chunks(row).items())
            if whole and row["lesion_id"] == lesion_id:
                rows[lesion_id] = row
        if self._lock is not None:
            self._folder.sweep()
            begun = {name.split("/")[1] for name in sizes} & set(self.expected)
            for lesion_id in sorted(begun - rows.keys()):
                self._folder.remove(f"hu/{lesion_id}")
                self._folder.remove(f"masks/{lesion_id}")
        return rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other writers in. It can still be read; whether it is complete does not change."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, lesion_id: object) -> bool:
        return lesion_id in self._rows

    def __iter__(self) -> Iterator[str]:
        return (lesion_id for lesion_id in self.expected if lesion_id in self._rows)

    def __eq__(self, other: object) -> bool:
        return self is other  # a mapping's own equality would read both stores

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        state = "complete" if self.complete else f"{len(self.expected)} expected, incomplete"
        return f"CropStore({self.url!r}, tier={self.tier!r}, {len(self)} lesions, {state})"

    def __getitem__(self, lesion_id: str) -> Crop:
        """Read one crop.

        Raises:
            KeyError: The lesion is not in the store.
            ValueError: A file of the lesion has the wrong size.
        """
        row = self._row(lesion_id)
        arrays = {
            name: self._folder.array(name, memory_map=self._memory_map and name.startswith("hu"))
            for name in files.chunks(row)
        }
        return files.decode(row, arrays, self.url)

    def crops(self, lesion_ids: Iterable[str] | None = None) -> Iterator[Crop]:
        """Read many crops, one after the other.

        Args:
            lesion_ids: Which, and in which order; all of them by default.

        Yields:
            The crops. From an object store, 32 are fetched at a time.

        Raises:
            KeyError: A lesion is not in the store.
            ValueError: A file of a lesion has the wrong size.
        """
        rows = [self._row(lesion_id) for lesion_id in (self if lesion_ids is None else lesion_ids)]
        if self._folder.local:
            # a disk that fetches the next ones meanwhile is read a third faster, and up
            for row, later in zip_longest(rows, rows[AHEAD:]):
                if later is not None:
                    self._folder.announce(files.chunks(later))
                yield self[row["lesion_id"]]
            return
        for first in range(0, len(rows), 32):
            some = rows[first : first + 32]
            data = self._folder.read_many(name for row in some for name in files.chunks(row))
            for row in some:
                arrays = {name: from_bytes(data.pop(name)) for name in files.chunks(row)}
                yield files.decode(row, arrays, self.url)

    def _row(self, lesion_id: str) -> files.Row:
        try:
            return self._rows[lesion_id]
        except (KeyError, TypeError):
            why = self.exclusions.get(lesion_id, "not in the store")
            raise KeyError(f"{lesion_id!r}: {why} ({self.url})") from None

    @property
    def table(self) -> pd.DataFrame:
        """A new table, one row per lesion in the order expected, index `lesion_id`.

        Columns are `tier`, `shape`, `readers`, `spacing`, `slice_index`, `corner` and
        `calibrated` as in `Crop`, `sha256`, and those given to `append`.
        """
        return files.to_frame([self._rows[lesion_id] for lesion_id in self])

    @property
    def checksum(self) -> str:
        """SHA-256 over `sha256  lesion_id` lines sorted by id: the same in any order of writing."""
        return files.checksum(self._rows.values())

    def info(self) -> dict[str, Any]:
        """What there is to say in a few lines: counts, bytes, checksum, provenance."""
        rows = self._rows.values()
        return {
            "url": self.url,
            "tier": self.tier,
            "complete": self.complete,
            "lesions": len(self),
            "expected": len(self.expected),
            "excluded": len(self.exclusions),
            "slices": sum(row["shape"][0] for row in rows),
            "bytes": sum(size for row in rows for size in files.chunks(row).values()),
            "checksum": self.checksum,
            "provenance": self.provenance,
        }

    def validate(self, *, progress: bool = True) -> dict[str, str]:
        """Read every file again and compare it with its sum.

        Args:
            progress: Show a bar.

        Returns:
            What is wrong, by `lesion_id`, and under `complete.json` what is wrong with the files
            that it vouches for. Empty: nothing is.
        """
        wrong = {}
        for lesion_id in tqdm(self, "validate", len(self), disable=not progress, unit="lesion"):
            try:
                self._validate(self._rows[lesion_id])
            except (ValueError, OSError) as error:
                wrong[lesion_id] = str(error)
        if not self.complete:
            return wrong
        try:
            self._tables()
            for name in GROUPS:
                if self._folder.read(f"{name}/{ROOT}") != files.group({}):
                    raise ValueError(f"{self.url}/{name}/{ROOT} is not what was written")
        except (ValueError, OSError) as error:
            wrong[COMPLETE] = str(error)
        return wrong

    def _validate(self, row: files.Row) -> None:
        """ValueError or OSError for a lesion whose files are not what was written."""
        own = files.about(self._folder.read(name := f"hu/{row['lesion_id']}/{ROOT}"), name)
        if files.known(own) != files.known(row):
            raise ValueError(f"{name} and {LESIONS} tell different things")
        for name, document in files.documents(own).items():
            if self._folder.read(name) != document:
                raise ValueError(f"{name} is not what was written")
        arrays = {name: self._folder.array(name) for name in files.chunks(row)}
        if files.digest(row, *files.views(row, arrays, self.url)) != row["sha256"]:
            raise ValueError("the voxels, masks or geometry are not what was written: SHA-256")
