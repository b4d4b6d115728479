"""A folder of files, on this machine or behind a URL, in the few verbs that a store needs.

`LocalFolder` works on the file system directly, so that arrays can be memory-mapped and every
write is atomic and on the disk when it returns. `RemoteFolder` speaks to anything that fsspec
knows (`memory://`, `s3://`, …), where a single put is atomic by itself.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lesionlab import _files

if os.name == "posix":
    import fcntl

Url: TypeAlias = str | os.PathLike[str]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Data: TypeAlias = bytes | memoryview
LOCK = "lock.json"
FULL = (errno.ENOSPC, errno.EDQUOT)


class Folder(Protocol):
    """What a store asks of its folder. Names are relative, with `/` between the parts."""

    url: str
    local: bool

    def read(self, name: str) -> bytes:
        """Content of a file; FileNotFoundError where there is none."""

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Content of several files, asked for at the same time where that is possible."""

    def array(self, name: str, *, memory_map: bool = False) -> Bytes:
        """Content of a file as an array: writable, or a read-only view of the file."""

    def announce(self, names: Iterable[str]) -> None:
        """Let the system fetch files that are to be read soon; nothing happens if they are gone."""

    def write(self, name: str, data: Data) -> None:
        """Write a whole file or nothing; OSError in plain words."""

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""

    def names(self) -> list[str]:
        """What lies directly in the folder; nothing where there is no folder."""

    def sizes(self, name: str) -> dict[str, int]:
        """Bytes of every file at any depth under `name`."""

    def sweep(self) -> None:
        """Remove temporary files that killed writers have left; for who holds the lock."""

    def lock(self) -> contextlib.ExitStack:
        """Keep other writers out until the stack is closed; RuntimeError if one is at work."""


def open_folder(url: Url, storage_options: Mapping[str, Any] | None = None) -> Folder:
    """The folder behind a path or a URL.

    Args:
        url: A path, `file://…`, or what fsspec knows.
        storage_options: Given to the fsspec file system, e.g. `{"anon": True}`.

    Raises:
        ValueError: `url` is empty, or options are given for a local folder.
    """
    text = os.fspath(url)
    if not text or not isinstance(text, str):
        raise ValueError(f"url={url!r}: expected a folder or a URL")
    protocol, separator, rest = text.partition("://")
    if separator and protocol not in ("file", "local"):
        return RemoteFolder(text, dict(storage_options or {}))
    if storage_options:
        raise ValueError(f"storage_options: only for URLs behind fsspec, not for {text!r}")
    return LocalFolder(Path(rest if separator else text).expanduser())


def from_bytes(data: bytes) -> Bytes:
    """A writable array of the bytes."""
    return np.frombuffer(bytearray(data), np.uint8)


@contextlib.contextmanager
def _plain_errors(name: str, url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in FULL:
            why = "the disk is full; free some space and build again, what is stored is kept"
        # OSError picks the subclass, e.g. PermissionError, by the number
        raise OSError(error.errno or errno.EIO, f"cannot write {name} in {url}: {why}") from error


def _owner() -> bytes:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()


def _locked(url: str, owner: bytes) -> RuntimeError:
    try:
        told = json.loads(owner)
        who = f"process {told['pid']} on {told['host']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return RuntimeError(
        f"{url} is being written by {who}; wait for it, or delete {LOCK} there if it is gone"
    )


class LocalFolder:
    """A folder of this machine."""

    local = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def read(self, name: str) -> bytes:
        """See `Folder`."""
        return (self.path / name).read_bytes()

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """See `Folder`."""
        return {name: self.read(name) for name in names}

    def array(self, name: str, *, memory_map: bool = False) -> Bytes:
        """See `Folder`."""
        path = f"{self.url}/{name}"
        if memory_map and os.path.getsize(path):  # an empty file cannot be mapped
            return np.memmap(path, np.uint8, mode="r").view(np.ndarray)
        return np.fromfile(path, np.uint8)

    def announce(self, names: Iterable[str]) -> None:
        """See `Folder`."""
        if not hasattr(os, "posix_fadvise"):
            return
        for name in names:
            with contextlib.suppress(OSError):
                descriptor = os.open(f"{self.url}/{name}", os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(descriptor)

    def write(self, name: str, data: Data) -> None:
        """See `Folder`. The bytes are on the disk before the name is, and both on return."""
        with _plain_errors(name, self.url):
            with (
                _files.replacing(self.path / name) as temporary,
                temporary.open("wb") as file,
            ):
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._keep_names(name)

    def remove(self, name: str) -> None:
        """See `Folder`."""
        path = self.path / name
        with _plain_errors(name, self.url):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            self._keep_names(name)

    def _keep_names(self, name: str) -> None:
        """Or a power cut could bring back the mark of a store that has changed since."""
        if os.name != "posix":
            return  # where a folder cannot be synchronised
        for part in Path(name).parents:  # the folders on the way may be new, too
            if (self.path / part).is_dir():
                descriptor = os.open(self.path / part, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def names(self) -> list[str]:
        """See `Folder`."""
        return sorted(os.listdir(self.path)) if self.path.exists() else []

    def sizes(self, name: str) -> dict[str, int]:
        """See `Folder`."""
        return {
            path.relative_to(self.path).as_posix(): path.stat().st_size
            for path in (self.path / name).rglob("*")
            if path.is_file()
        }

    def sweep(self) -> None:
        """See `Folder`. In the folder and those directly in it."""
        for pattern in (".*.tmp", "*/.*.tmp"):
            for path in self.path.glob(pattern):
                self.remove(path.relative_to(self.path).as_posix())

    def lock(self) -> contextlib.ExitStack:
        """See `Folder`. The system drops the lock of a process that ends, however it ends."""
        path = self.path / LOCK
        if os.name != "posix":
            return _lock_by_file(self)
        while True:
            with _plain_errors(LOCK, self.url), contextlib.ExitStack() as stack:
                self.path.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(path.open("a+b"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    raise _locked(self.url, file.read()) from None
                # a writer that finished just now has removed the file that we have opened
                if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    stack.callback(path.unlink, missing_ok=True)
                    file.truncate(0)
                    file.write(_owner())
                    file.flush()
                    return stack.pop_all()


class RemoteFolder:
    """A folder behind fsspec."""

    local = False

    def __init__(self, url: str, storage_options: dict[str, Any]) -> None:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        self.url = url.rstrip("/")
        self.fs, root = url_to_fs(self.url, **storage_options)
        self.root = str(root).rstrip("/")
        self.fs.invalidate_cache()

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes:
        """See `Folder`."""
        return bytes(self.fs.cat_file(self._path(name)))

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """See `Folder`."""
        paths = {name: self._path(name) for name in names}
        found = self.fs.cat(list(paths.values())) if paths else {}
        return {name: found[path] for name, path in paths.items()}

    def array(self, name: str, *, memory_map: bool = False) -> Bytes:
        """See `Folder`. Cannot be mapped."""
        return from_bytes(self.read(name))

    def announce(self, names: Iterable[str]) -> None:
        """See `Folder`. Several files are asked for at the same time by `read_many`."""

    def write(self, name: str, data: Data) -> None:
        """See `Folder`."""
        with _plain_errors(name, self.url):
            self.fs.pipe_file(self._path(name), bytes(data))

    def remove(self, name: str) -> None:
        """See `Folder`."""
        with _plain_errors(name, self.url), contextlib.suppress(FileNotFoundError):
            self.fs.rm(self._path(name), recursive=True)

    def names(self) -> list[str]:
        """See `Folder`."""
        try:
            found = self.fs.ls(self.root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def sizes(self, name: str) -> dict[str, int]:
        """See `Folder`."""
        try:
            found = self.fs.find(self._path(name), detail=True)
        except FileNotFoundError:
            return {}
        return {path[len(self.root) + 1 :]: int(about["size"]) for path, about in found.items()}

    def sweep(self) -> None:
        """See `Folder`. A put leaves nothing behind."""

    def lock(self) -> contextlib.ExitStack:
        """See `Folder`. Object stores have no locks: two that start together are not seen."""
        return _lock_by_file(self)


def _lock_by_file(folder: Folder) -> contextlib.ExitStack:
    with contextlib.suppress(FileNotFoundError):
        owner = folder.read(LOCK)
        if _alive(owner):
            raise _locked(folder.url, owner)
    folder.write(LOCK, _owner())
    stack = contextlib.ExitStack()
    stack.callback(folder.remove, LOCK)
    return stack


def _alive(owner: bytes) -> bool:
    """False only where the writer ran on this machine and is gone for certain."""
    try:
        told = json.loads(owner)
        if os.name != "posix" or told["host"] != socket.gethostname():
            return True
        os.kill(int(told["pid"]), 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except (ValueError, KeyError, TypeError, PermissionError):
        pass
    return True
