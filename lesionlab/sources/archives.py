"""The files of a public set, in a folder or a zip, found by name and read on demand.

Nothing is ever unpacked or written, so no name inside a zip becomes a path. What is not a plain
file of a size that the set has is refused before it is opened: a link can lead out of the folder, a
pipe blocks, a zip bomb fills memory.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zipfile
from collections.abc import Callable, Hashable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from lesionlab._files import sha256
from lesionlab.sources.origins import Origin, named

K = TypeVar("K", bound=Hashable)


def locate(origin: Origin, path: str | Path | None) -> Path:
    """Where a set lies: the path given, or what `origins.named` finds; FileNotFoundError if none.

    The error says what to do.
    """
    found = Path(path).expanduser() if path is not None else named(origin)
    if found is None:
        raise FileNotFoundError(origin.missing())
    if not found.exists():
        raise FileNotFoundError(f"{found} does not exist; expected {origin.expected}")
    return found.resolve()


class Archive(Generic[K]):
    """One set, opened.

    Args:
        path: The folder or the zip; files lie in it at any depth.
        origin: What set it is to be.
        name: What the files of the set are called, with their folders; others are passed over.
        key: A file of the set from the groups of its name.
        max_bytes: Largest file that is opened, uncompressed.
        error: What is raised for a set that is broken, unsafe or another.
        item: What one file is, for errors.
    """

    def __init__(
        self,
        path: Path,
        origin: Origin,
        name: re.Pattern[str],
        key: Callable[..., K],
        *,
        max_bytes: int,
        error: type[Exception],
        item: str,
    ) -> None:
        self.path, self._max_bytes = path, max_bytes
        try:
            self._zip = None if path.is_dir() else zipfile.ZipFile(path)
            files = list(self._files())
        except Exception as fault:  # damage shows in zipfile as errors of many kinds
            raise error(f"{path} cannot be read as a folder or zip file: {fault}") from fault
        self.names: dict[K, str] = {}  # what each file is called inside
        for inside, plain, size in files:
            if not (found := name.fullmatch(inside)):
                continue
            if not plain or size > max_bytes:
                raise error(
                    f"{path}: {inside!r} is no plain file of at most {max_bytes:,} bytes; nothing "
                    "of this set is read"
                )
            which = key(*found.groups())
            if which in self.names:
                raise error(
                    f"{path} holds the same {item} twice: {self.names[which]!r} and {inside!r}"
                )
            self.names[which] = inside
        if not self.names:
            raise error(
                f"{path} holds {len(files):,} files but none of the {origin.name} set; expected "
                f"{origin.expected}"
            )

    def _files(self) -> Iterator[tuple[str, bool, int]]:
        """Of every file its name inside, whether it is a plain file, and its size in bytes."""
        if self._zip is not None:
            for info in self._zip.infolist():
                # other ways to compress are not cut off where a file must end
                plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                plain &= stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
                yield info.filename, plain, info.file_size
            return

        def stop(error: OSError) -> None:
            raise error

        for folder, _, files in os.walk(self.path, onerror=stop):  # links to folders not followed
            for file in files:
                status = os.lstat(Path(folder, file))
                name = Path(folder, file).relative_to(self.path).as_posix()
                yield name, stat.S_ISREG(status.st_mode), status.st_size

    def data(self, key: K) -> bytes:
        """The bytes of a file, `max_bytes` at most; damage shows as errors of many kinds."""
        name = self.names[key]
        with self._zip.open(name) if self._zip else (self.path / name).open("rb") as file:
            return file.read(self._max_bytes)

    @cached_property
    def checksum(self) -> str:
        """As `Opened.checksum`."""
        if self.path.is_file():
            return sha256(self.path)
        lines = []
        for name in sorted(self.names.values()):
            status = (self.path / name).stat()
            lines.append(f"{name} {status.st_size} {status.st_mtime_ns}\n")
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class Opened(Generic[K]):
    """What a set's own class has in common with others: made from `path` alone, `_archive` in it.

    An instance can be sent to other processes, but is not to be used on both sides of a fork.
    """

    path: Path
    _archive: Archive[K]

    @property
    def checksum(self) -> str:
        """SHA-256 of the zip; of a folder, of the names, sizes and times of its files."""
        return self._archive.checksum

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (type(self), self.path)


@cache
def _opened(kind: Any, path: Path) -> Any:
    return kind(path)
