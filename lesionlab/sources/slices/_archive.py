"""The files of the slices set, in a folder or in its zip: checked first, then read one by one.

Nothing is ever unpacked or written. A zip that could lead a reader astray (names that point out
of it, links, two entries of one name, encryption) is refused as a whole, before any entry is read.
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
from typing import Any, NamedTuple

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
_PNG = b"\x89PNG\r\n\x1a\n"
_ZIP_ERRORS = (zipfile.BadZipFile, struct.error, zlib.error)


class SlicesError(RuntimeError):
    """The slices set, or the table beside it, is broken or not what was expected."""


class PictureError(ValueError):
    """One picture cannot be used; the message says why, the caller names the file."""


class Key(NamedTuple):
    """Which picture: `part` is `images` or one of `mask-0` … `mask-3`."""

    patient: str
    nodule: int
    part: str
    number: int


def existing_path(
    argument: str, given: str | Path | None, variable: str, expected: str
) -> Path | None:
    """The path given, or the one that an environment variable names; None if there is neither.

    Raises:
        FileNotFoundError: It names something that does not exist.
    """
    if given is None:
        if not (text := os.environ.get(variable)):
            return None
        path, origin = Path(text).expanduser(), f"{variable}={text!r}"
    else:
        path, origin = Path(given).expanduser(), f"{argument}={str(given)!r}"
    if not path.exists():
        raise FileNotFoundError(f"{origin} does not exist; expected {expected}")
    return path.resolve()


class Archive:
    """The pictures of a folder or a zip, found by name and read on demand.

    Args:
        path: A folder or a zip file that holds `LAYOUT` at any depth.

    Attributes:
        path: Where it lies.
        names: What each picture is called inside.
        n_ignored: Files that are none of the set's pictures.

    Raises:
        SlicesError: `path` is no readable folder or zip, the zip is unsafe, two files are the
            same picture, or none is in the expected layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._owner = -1  # process that opened the zip
        self.names: dict[Key, str] = {}
        self.n_ignored = 0
        listing = list(self._zip_names() if self.is_zip else self._folder_names())
        for name in listing:
            found = _NAME.fullmatch(name)
            if found is None:
                self.n_ignored += 1
                continue
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

    @property
    def is_zip(self) -> bool:
        """A zip file; otherwise a folder."""
        return not self.path.is_dir()

    def checksum(self) -> str:
        """SHA-256 of the zip, or of the names, sizes and times of the folder's files."""
        if self.is_zip:
            return sha256(self.path)
        digest = hashlib.sha256()
        for name in sorted(self.names.values()):
            status = (self.path / name).stat()
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def read(self, key: Key) -> npt.NDArray[np.uint8]:
        """The picture, (y, x).

        Raises:
            PictureError: It cannot be read or is no 8-bit grey PNG of 128 × 128.
        """
        return decode(self._bytes(self.names[key]))

    def _bytes(self, name: str) -> bytes:
        try:
            if not self.is_zip:
                with (self.path / name).open("rb") as file:
                    data = file.read(MAX_BYTES + 1)
            else:
                archive = self._open_zip()
                info = archive.getinfo(name)
                # anything else could unpack to more than it says, or needs memory of its own
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise PictureError(f"compressed by an unexpected method ({info.compress_type})")
                if info.file_size > MAX_BYTES:
                    raise PictureError(f"{info.file_size:,} bytes; expected {MAX_BYTES:,} at most")
                data = archive.read(info)
        except PictureError:
            raise
        # ValueError: a name inside that is no UTF-8; RuntimeError: encrypted or from the future
        except (OSError, EOFError, ValueError, RuntimeError, *_ZIP_ERRORS) as error:
            raise PictureError(f"cannot be read: {error}") from error
        if len(data) > MAX_BYTES:
            raise PictureError(f"over {MAX_BYTES:,} bytes")
        return data

    def _open_zip(self) -> zipfile.ZipFile:
        # after a fork both processes would move one file position: each opens the file itself
        if self._zip is None or self._owner != os.getpid():
            self._owner = os.getpid()
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (ValueError, RuntimeError, *_ZIP_ERRORS) as error:
                raise SlicesError(
                    f"{self.path} is not a zip file, or only a part of one: {error}"
                ) from error
            except OSError as error:
                raise SlicesError(f"{self.path} cannot be read: {error.strerror}") from error
        return self._zip

    def _zip_names(self) -> Iterator[str]:
        seen: set[str] = set()
        for info in self._open_zip().infolist():
            name = info.orig_filename
            if trouble := _unsafe(info, name):
                raise SlicesError(
                    f"{self.path}: the entry {name!r} {trouble}; the set has no such entry, so "
                    "nothing of this zip is read"
                )
            if name in seen:
                raise SlicesError(f"{self.path}: the entry {name!r} stands twice in the zip")
            seen.add(name)
            if not name.endswith("/"):
                yield name

    def _folder_names(self) -> Iterator[str]:
        def stop(error: OSError) -> None:
            raise SlicesError(f"{error.filename} cannot be read: {error.strerror}") from error

        for folder, folders, files in os.walk(self.path, onerror=stop):
            inside = Path(folder).relative_to(self.path)
            for name in folders:
                self._stay_inside(Path(folder, name))
            for file in files:
                name = (inside / file).as_posix()
                if _NAME.fullmatch(name):
                    self._stay_inside(self.path / name)
                    # a pipe or a device with such a name would keep a reader waiting
                    if not (self.path / name).is_file():
                        raise SlicesError(f"{self.path / name} is not a file that can be read")
                yield name

    def _stay_inside(self, path: Path) -> None:
        # realpath, not resolve: it does not stumble over links that go round in a circle
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(self.path):
            raise SlicesError(
                f"{path} is a link that leads out of {self.path}; nothing of this folder is read"
            )


def _unsafe(info: zipfile.ZipInfo, name: str) -> str | None:
    """What is wrong with an entry, from the zip's table of contents alone."""
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or re.match(r"[A-Za-z]:", name):
        return "is an absolute path"
    if ".." in parts:
        return "leads out of the zip"
    if "\\" in name or "\0" in name:
        return "has a character in its name that means different things on different systems"
    mode = info.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "is a symbolic link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is neither a file nor a folder"
    if info.flag_bits & 0x41:  # encrypted; strongly encrypted
        return "is encrypted"
    return None


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    """The pixels of an 8-bit grey PNG of 128 × 128, (y, x).

    Size and kind are read from the header before any pixel is decoded, so a file that claims to
    be huge costs nothing.

    Raises:
        PictureError: It is something else, or broken.
    """
    if len(data) < 33 or not data.startswith(_PNG) or data[12:16] != b"IHDR":
        raise PictureError("not a PNG file" if data else "an empty file")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if (height, width) != (SIZE, SIZE):
        raise PictureError(f"{width} × {height} pixels; expected {SIZE} × {SIZE}")
    if (depth, colour) != (8, 0):
        raise PictureError(f"PNG of {depth} bits and colour type {colour}; expected 8-bit grey")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            picture.load()
            pixels: npt.NDArray[Any] = np.asarray(picture)
    except Exception as error:  # damage shows in Pillow as IndexError and others besides its own
        raise PictureError(f"a broken PNG file: {error}") from error
    if pixels.shape != (SIZE, SIZE) or pixels.dtype != np.uint8:
        raise PictureError(f"decodes to {pixels.dtype} {pixels.shape}; expected 8-bit grey")
    return pixels


def as_mask(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """True where a mask picture is set.

    Raises:
        PictureError: More than one value besides 0, so it is no mask.
    """
    inside: npt.NDArray[np.bool_] = pixels != 0
    if not (pixels[inside] == pixels.max()).all():
        raise PictureError("holds several grey values; a mask has one besides 0")
    return inside
