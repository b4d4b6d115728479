"""What sources of a user's own files share: faults, tables, and records that are kept."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd
from tqdm.auto import tqdm

from lesionlab import _files, _processes
from lesionlab.crops import Tier
from lesionlab.sources import origins
from lesionlab.sources.lidc import cache_folder

MAX_TABLE = 1 << 26  # bytes of a table
FEW = 50  # items that one process reads: starting others takes longer
MOST_PROCESSES = 4

Item = TypeVar("Item")
Record = dict[str, Any]
"""What is known of one item, as JSON."""


class Fault(NamedTuple):
    """Something in a user's files that is wrong, and was left out."""

    path: str  # of the file or folder, below the root
    key: str  # in the file, a column and line of the table, or empty
    reason: str

    def __str__(self) -> str:
        return ": ".join(filter(None, self))


class FaultError(RuntimeError):
    """One file cannot be used."""

    def __init__(self, path: Path, key: str, reason: str) -> None:
        super().__init__(path, key, reason)  # all as args, or a process pool cannot hand it over
        self.path, self.key, self.reason = path, key, reason

    def __str__(self) -> str:
        return str(Fault(str(self.path), self.key, self.reason))


def checked(error: type[FaultError], path: Path, *expected: tuple[Any, str, str]) -> None:
    """Raise for the first thing that is wrong: whether it is as expected, the key, the reason."""
    for fits, key, reason in expected:
        if not fits:
            raise error(path, key, reason)


class Lesions:
    """A folder with lesions of the user's own, read: the part that all kinds share."""

    root: Path
    error: type[Exception]
    own: Tier
    _rows: dict[str, dict[str, Any]]  # by `lesion_id`
    _faults: list[Fault]
    _records: dict[str, Record]  # those with a `spacing` could be read

    def lesions(self) -> pd.DataFrame:
        """One row per lesion that can be used, index `lesion_id`; the class says the columns."""
        if not self._rows:
            told, n = "; ".join(map(str, self._faults[:2])), len(self._faults)
            raise self.error(f"{self.root}: no lesion can be used; {n:,} faults: {told}")
        index = pd.Index(list(self._rows), name="lesion_id")
        return pd.DataFrame(list(self._rows.values()), index=index)

    def exclusions(self) -> pd.DataFrame:
        """What was left out: `path` below the root, `key`, `reason`."""
        return pd.DataFrame(self._faults, columns=list(Fault._fields))

    @property
    def tier(self) -> Tier:
        """`phantom` where lesionlab wrote all that could be read, of phantoms."""
        read = [record["synthetic"] for record in self._records.values() if record["spacing"]]
        return "phantom" if read and all(read) else self.own

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of names, sizes and times of the files, and of the lesions as they were read."""
        keys = sorted(record["key"] for record in self._records.values())
        return hashlib.sha256(repr((keys, self._rows)).encode()).hexdigest()


def folder(variable: str, root: str | Path | None, missing: str, table: str) -> Path:
    """The folder given, or that a variable names; FileNotFoundError if it is not there."""
    found = Path(root).expanduser() if root is not None else origins.own(variable)
    if found is None:
        raise FileNotFoundError(missing)
    if not found.is_dir():
        raise FileNotFoundError(f"{found} is no folder; expected one with {table}")
    return found.resolve()


def lines(
    path: Path, columns: Sequence[str], error: type[Exception]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Number and cells of each line of a CSV file; no cells where their number is wrong.

    An `error` is raised if it is no file of at most `MAX_TABLE` bytes with these columns.
    """
    if not path.is_file() or path.stat().st_size > MAX_TABLE:
        raise error(f"{path}: expected a table of at most {MAX_TABLE:,} bytes")
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        try:
            header = list(reader.fieldnames or [])
            if missing := [name for name in columns if header.count(name) != 1]:
                raise error(f"{path}: expected one column {missing[0]!r} in the first line")
            for row in reader:
                whole = None not in row and None not in row.values()
                cells = {name: cell.strip() for name, cell in row.items()} if whole else {}
                yield f"line {reader.line_num}", cells
        except csv.Error as fault:
            raise error(f"{path}, line {reader.line_num}: {fault}") from None


def records(
    kind: str,
    items: Mapping[str, Item],
    keys: Mapping[str, str],
    work: Callable[[Item], Record],
    *,
    processes: int | None,
    progress: bool,
) -> dict[str, Record]:
    """`work` of each item by its name, with its `key`; from the cache if the key is there.

    A cache that is missing or damaged costs time, not results.
    """
    kept = cache_folder() / kind
    found: dict[str, Record] = {}
    for name in items:
        with suppress(OSError, ValueError):
            found[name] = _files.read_json(kept / f"{keys[name]}.json", sealed=True)
    todo = [name for name in items if name not in found]
    few = len(todo) <= FEW
    processes = processes or (1 if few else min(_processes.usable_cores(), MOST_PROCESSES))
    made = _processes.in_order(work, (items[n] for n in todo), processes, f"read {kind} files")
    with closing(made) as read:
        shown = tqdm(read, "read", len(todo), disable=few or not progress, unit="item")
        for name, record in zip(todo, shown, strict=True):
            found[name] = record
            with suppress(OSError):
                _files.write_json(kept / f"{keys[name]}.json", record, sealed=True)
    return {name: found[name] | {"key": keys[name]} for name in items}
