"""The files of the slices set, in a folder or in its zip, read one by one.

Nothing is ever unpacked or written, so no name inside a zip becomes a path. What is not a plain
file of the size of a picture is refused before it is opened: a link can lead out of the folder, a
pipe blocks, a zip bomb fills memory.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from lesionlab._files import sha256
from lesionlab.sources import origins

SIZE = 128
"""Rows and columns of every picture."""

MAX_BYTES = 1 << 20
"""Largest picture file that is opened; 128 × 128 bytes take 17 kB at most, uncompressed."""

IMAGES = "images"
MASKS = ("mask-0", "mask-1", "mask-2", "mask-3")

_NAME = re.compile(
    r"(?:[^/]+/)*(LIDC-IDRI-[0-9]{4})/nodule-([0-9]{1,4})/(images|mask-[0-3])/"
    r"slice-([0-9]{1,4})\.png"
)


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
        try:
            self._zip = None if path.is_dir() else zipfile.ZipFile(path)
            files = list(self._files())
        except Exception as error:  # damage shows in zipfile as errors of many kinds
            raise SlicesError(f"{path} cannot be read as a folder or zip file: {error}") from error
        self.names: dict[Key, str] = {}  # what each picture is called inside
        for name, plain, size in files:
            if not (found := _NAME.fullmatch(name)):
                continue
            if not plain or size > MAX_BYTES:
                raise SlicesError(
                    f"{path}: {name!r} is no plain file of at most {MAX_BYTES:,} bytes; nothing of "
                    "this set is read"
                )
            patient, nodule, part, number = found.groups()
            key = Key(patient, int(nodule), part, int(number))
            if key in self.names:
                raise SlicesError(
                    f"{path} holds the same picture twice: {self.names[key]!r} and {name!r}"
                )
            self.names[key] = name
        if not self.names:
            raise SlicesError(
                f"{path} holds {len(files):,} files but none of the slices set; expected "
                f"{origins.SLICES.expected}"
            )

    def _files(self) -> Iterator[tuple[str, bool, int]]:
        """Of every file its name inside, whether it is a plain file, and its size in bytes."""
        if self._zip is not None:
            for info in self._zip.infolist():
                # other ways to compress are not cut off where a picture must end
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

    def checksum(self) -> str:
        """SHA-256 of the zip, or of the names, sizes and times of the folder's files."""
        if self._zip is not None:
            return sha256(self.path)
        digest = hashlib.sha256()
        for name in sorted(self.names.values()):
            status = (self.path / name).stat()
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def read(self, key: Key) -> npt.NDArray[np.uint8]:
        """The picture, (y, x); SlicesError if it is no 8-bit grey PNG of 128 × 128.

        Size and kind are read from the header before any pixel is decoded, so a file that claims
        to be huge costs nothing.
        """
        name = self.names[key]
        try:
            with self._zip.open(name) if self._zip else (self.path / name).open("rb") as file:
                data = file.read(MAX_BYTES)
            with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
                # Pillow has one mode for grey of any bits: they and the kind of colour stand here
                if (*picture.size, *data[24:26]) != (SIZE, SIZE, 8, 0):
                    raise ValueError(f"expected {SIZE} × {SIZE} pixels of 8-bit grey")
                return np.array(picture, dtype=np.uint8)
        except MemoryError:
            raise  # says nothing about the picture
        except UnidentifiedImageError:
            raise SlicesError(f"{self.path}: {name} is no PNG file, or is broken") from None
        except Exception as error:  # damage shows in Pillow as errors of many kinds
            raise SlicesError(
                f"{self.path}: {name} is no picture of the set: {error or 'broken'}"
            ) from error
