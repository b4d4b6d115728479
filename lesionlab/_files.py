"""Files that appear whole or not at all, their checksums, and one writer at a time."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

LOCK = "writer.lock"
SEAL = "sha256"  # where a sealed JSON file has its own checksum


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path that takes the place of `path` when the block ends well.

    Nobody ever meets half a file: the temporary one lies in the same folder, which is made if it is
    missing, is on the disk before it gets the name, and the last step is one rename. If the block
    raises, `path` is left as it was.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # not tempfile.mkstemp: its files are readable by their owner alone, and stay so
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # or a power cut can leave the new name on an empty file
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `path`, new or empty, when the block ends well."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as parent:
        new = Path(parent, "new")  # the folder around it is its owner's alone, and would stay so
        new.mkdir()
        yield new
        os.replace(new, target)


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` as UTF-8 with Unix line ends, atomically; gives the path."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def write_json(path: str | Path, value: Any, *, sealed: bool = False) -> Path:
    """Write `value` as indented JSON, atomically; gives the path.

    NaN and infinity, which JSON does not have, are a ValueError; see `lesionlab.results.jsonable`.
    What is sealed, a mapping, carries its own SHA-256, so that `read_json` sees if it was changed.
    """
    if sealed:
        value = value | {SEAL: _seal(value)}
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path, *, sealed: bool = False) -> Any:
    """Read a JSON file; of one that was written `sealed`, what is under its seal.

    Raises:
        ValueError: It is not JSON, in which case the message names the line; or it has to be
            `sealed`, and has no seal or was changed after it was sealed.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also of thousands of digits or brackets
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not sealed:
        return found
    seal = found.pop(SEAL, None) if isinstance(found, dict) else None
    if seal is None:
        raise ValueError(
            f"{path} has no {SEAL} of its content: it is damaged, or of an old version"
        )
    if seal != _seal(found):
        raise ValueError(f"{path} is not as it was written: its {SEAL} does not fit its content")
    return found


def _seal(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def plain_errors(name: str, folder: object) -> Iterator[None]:
    """Say which file of which folder could not be written, and what to do about a full disk."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = "the disk is full; free some space and try again, what is stored is kept"
        # OSError picks the subclass, e.g. PermissionError, by the number
        told = f"cannot write {name} in {folder}: {why}"
        raise OSError(error.errno or errno.EIO, told) from error


def check_writable(folder: str | Path) -> None:
    """Make a folder if it is missing; OSError where no file can be written in it."""
    with plain_errors("a file", folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_new_folder(folder: str | Path) -> None:
    """`FileExistsError` unless there is nothing at a path, or an empty folder."""
    path = Path(folder)
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise FileExistsError(f"{path} is there already; expected a new or empty folder")


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, as `sha256sum` prints it."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(folder: str | Path, suffixes: Sequence[str]) -> str:
    """One SHA-256 for names and contents of all files under a folder that end like `".py"`.

    Files that begin with a dot, such as an editor's and our own temporary ones, do not count.
    """
    found = {
        path.relative_to(folder).as_posix(): path
        for path in Path(folder).rglob("[!.]*")
        if path.suffix in suffixes and path.is_file()
    }
    lines = "".join(f"{sha256(found[name])}  {name}\n" for name in sorted(found))
    return hashlib.sha256(lines.encode()).hexdigest()


@functools.cache
def sha256_code(*packages: str) -> str:
    """One SHA-256 for the code and the tables of some packages, e.g. `"sources/lidc"`.

    What was computed by them and kept carries it, so that old results are not taken for new ones.
    """
    root = Path(__file__).parent
    sums = [f"{sha256_tree(root / name, ['.py', '.csv'])}  {name}\n" for name in sorted(packages)]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


class BusyError(RuntimeError):
    """Another process writes to the same folder; the message names both."""


@contextlib.contextmanager
def sole_writer(
    folder: str | os.PathLike[str], *, patience: float = 0.0, progress: bool = True
) -> Iterator[None]:
    """Keep other writers out of a folder while the block runs, by a file `writer.lock` in it.

    The folder is a path, which is made if it is missing, or a URL that fsspec knows. A lock that a
    process of this machine left behind when it was killed keeps nobody out. A wait is told as a
    warning, or with `progress=False` as information only: a page does not say who ran beside it.

    Raises:
        BusyError: Another process still writes there after so many seconds of patience.
    """
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    until, told = time.monotonic() + patience, False
    files, root = url_to_fs(os.fspath(folder))
    lock, mine = f"{root}/{LOCK}", f"{os.getpid()} on {socket.gethostname()}".encode()
    with plain_errors(LOCK, folder):
        files.makedirs(root, exist_ok=True)
        while (other := _take(files, lock, mine)) is not None:
            if other == f"{os.getppid()} on {socket.gethostname()}":
                raise BusyError(
                    f"{folder} is being written by the process that started this one and waits "
                    "for it: a script makes crops under `if __name__ == '__main__':`"
                )
            if time.monotonic() >= until:
                raise BusyError(
                    f"{folder} is being written by process {other}; wait for it, or delete {LOCK} "
                    "there if it is gone"
                )
            if not told:
                level = logging.WARNING if progress else logging.INFO
                logger.log(level, "waiting for process %s, which writes %s", other, folder)
                told = True
            time.sleep(0.5)
    try:
        yield
    finally:
        files.rm_file(lock)


def _take(files: Any, lock: str, mine: bytes) -> str | None:
    """Make the lock ours; gives whoever holds it, and None if it is ours now."""
    with contextlib.suppress(FileExistsError):
        with files.open(lock, "xb") as file:
            file.write(mine)
        return None
    try:
        other = str(files.cat_file(lock).decode())
    except FileNotFoundError:  # it was given up since
        return _take(files, lock, mine)
    if not _gone(other):
        return other
    files.pipe_file(lock, mine)
    return None


def abandoned(folder: Path) -> bool:
    """Whether a folder of ours, no link, has the lock of a writer that was killed."""
    try:
        owned = folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
        return owned and _gone((folder / LOCK).read_text(encoding="utf-8"))
    except (OSError, ValueError, AttributeError):  # also where users have no numbers: Windows
        return False


def _gone(owner: str) -> bool:
    """Whether a writer ran on this machine and has ended for certain."""
    pid, _, host = owner.partition(" on ")
    if os.name == "posix" and host == socket.gethostname():
        try:
            os.kill(int(pid), 0)  # signal 0 only asks
        except ProcessLookupError:
            return True
        except (ValueError, PermissionError):
            pass
    return False
