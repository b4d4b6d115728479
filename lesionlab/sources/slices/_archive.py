"""The files of the slices set, in a folder or in its zip, read one by one.

Nothing is ever unpacked or written, so no name inside a zip becomes a path. What is not a plain
file of the size of a picture is refused before it is opened.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from lesionlab._files import sha256

SIZE = 128
"""Rows and columns of every picture."""

MAX_BYTES = 1 << 20
"""Largest picture file that is opened; 128 × 128 bytes take 17 kB at most, uncompressed."""

IMAGES = "images"
MASKS = ("mask-0", "mask-1", "mask-2", "mask-3")

LAYOUT = "LIDC-IDRI-xxxx/nodule-k/{images,mask-0,mask-1,mask-2,mask-3}/slice-s.png"

_NAME = re.compile(
    r"(?:[^/]+/)*(LIDC-IDRI-[0-9]{4})/nodule-([0-9]{1,4})/(images|mask-[0-3])/"
    r"slice-([0-9]{1,4})\.png"
)
_ZIP_ERRORS = (zipfile.BadZipFile, struct.error, zlib.error, ValueError, RuntimeError)


class SlicesError(RuntimeError):
    """The slices set, or the table beside it, is broken or not what was expected."""


class Key(NamedTuple):
    """Which picture: `part` is `images` or one of `mask-0` … `mask-3`."""

    patient: str
    nodule: int
    part: str
    number: int


class Archive:
    """The pictures of a folder or a zip, found by name at any depth and read on demand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: tuple[int, zipfile.ZipFile] | None = None  # with the process that opened it
        self.names: dict[Key, str] = {}  # what each picture is called inside
        listing = list(self._of_folder() if path.is_dir() else self._of_zip())
        for name, trouble in listing:
            if not (found := _NAME.fullmatch(name)):
                continue
            if trouble:
                raise SlicesError(f"{path}: {name!r} {trouble}; nothing of this set is read")
            patient, nodule, part, number = found.groups()
            key = Key(patient, int(nodule), part, int(number))
            if key in self.names:
                raise SlicesError(
                    f"{path} holds the same picture twice: {self.names[key]!r} and {name!r}"
                )
            self.names[key] = name
        if not self.names:
            raise SlicesError(
                f"{path} holds {len(listing):,} files but none of the slices set; expected {LAYOUT}"
            )

    def checksum(self) -> str:
        """SHA-256 of the zip, or of the names, sizes and times of the folder's files."""
        if not self.path.is_dir():
            return sha256(self.path)
        digest = hashlib.sha256()
        for name in sorted(self.names.values()):
            status = (self.path / name).stat()
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def read(self, key: Key) -> npt.NDArray[np.uint8]:
        """The picture, (y, x); SlicesError if it is no 8-bit grey PNG of 128 × 128."""
        name = self.names[key]
        try:
            if self.path.is_dir():
                with (self.path / name).open("rb") as file:
                    return decode(file.read(MAX_BYTES))
            return decode(self._open_zip().read(name))
        except (OSError, EOFError, NotImplementedError, *_ZIP_ERRORS) as error:
            raise SlicesError(f"{self.path}: {name}: {error or 'cannot be read'}") from error

    def _open_zip(self) -> zipfile.ZipFile:
        # after a fork both processes would move one file position: each opens the file itself
        if self._zip is None or self._zip[0] != os.getpid():
            try:
                self._zip = os.getpid(), zipfile.ZipFile(self.path)
            except _ZIP_ERRORS as error:
                raise SlicesError(
                    f"{self.path} is not a zip file, or only a part of one: {error}"
                ) from error
            except OSError as error:
                raise SlicesError(f"{self.path} cannot be read: {error.strerror}") from error
        return self._zip[1]

    def _of_zip(self) -> Iterator[tuple[str, str]]:
        for info in self._open_zip().infolist():
            mode = stat.S_IFMT(info.external_attr >> 16) or stat.S_IFREG
            odd = info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            trouble = "is encrypted or compressed in an unexpected way"
            yield (
                info.filename,
                _trouble(mode, info.file_size) or (trouble if odd or info.flag_bits & 0x41 else ""),
            )

    def _of_folder(self) -> Iterator[tuple[str, str]]:
        def stop(error: OSError) -> None:
            raise SlicesError(f"{error.filename} cannot be read: {error.strerror}") from error

        for folder, _, files in os.walk(self.path, onerror=stop):  # links to folders not followed
            for file in files:
                status = os.lstat(Path(folder, file))
                name = Path(folder, file).relative_to(self.path).as_posix()
                yield name, _trouble(stat.S_IFMT(status.st_mode), status.st_size)


def _trouble(mode: int, size: int) -> str:
    """Why a file is not to be opened: a link can lead out, a pipe blocks, a bomb fills memory."""
    if mode != stat.S_IFREG:
        return "is a link, a pipe or something else than a plain file"
    return f"has {size:,} bytes, expected {MAX_BYTES:,} at most" if size > MAX_BYTES else ""


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    """The pixels of an 8-bit grey PNG of 128 × 128, (y, x); ValueError if it is something else.

    Size and kind are read from the header before any pixel is decoded, so a file that claims to
    be huge costs nothing.
    """
    if len(data) < 33 or not data.startswith(b"\x89PNG\r\n\x1a\n") or data[12:16] != b"IHDR":
        raise ValueError("not a PNG file" if data else "an empty file")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if (height, width, depth, colour) != (SIZE, SIZE, 8, 0):
        raise ValueError(
            f"{width} × {height} pixels of {depth} bits and colour type {colour}; "
            f"expected {SIZE} × {SIZE} of 8-bit grey"
        )
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            pixels = np.array(picture, dtype=np.uint8)
    except Exception as error:  # damage shows in Pillow as IndexError and others besides its own
        raise ValueError(f"a broken PNG file: {error}") from error
    if pixels.shape != (SIZE, SIZE):
        raise ValueError(f"decodes to {pixels.shape}, expected {SIZE} × {SIZE}")
    return pixels
