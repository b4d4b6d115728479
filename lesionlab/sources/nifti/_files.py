"""One NIfTI or NRRD file, checked: its voxels and their place in the patient, or a plain error.

No header reaches SimpleITK as it was found, as one of 1 kB can claim 2 GB of voxels, and NRRD's can
name any other file. Here its sizes are held against the bytes that are there, and SimpleITK gets a
file with the fields that are needed and as many bytes as these say. Formats: nifti1.h (NIfTI-1),
teem.sourceforge.net/nrrd.
"""

from __future__ import annotations

import errno
import gzip
import math
import re
import stat
import struct
import tempfile
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from lesionlab.sources._own import FaultError, checked
from lesionlab.sources.dicom._files import PHANTOM

MAX_BYTES = 1 << 29  # of a volume when it is unpacked: 1,024 slices of 512 × 512, 16 bits each
MOST_SMALLER = 1040  # times that deflate makes anything smaller
MAX_HEADER = 1 << 16  # bytes
MAX_MM = 1e5  # of a position
SPACINGS = (1e-3, 1e3)  # mm
OBLIQUE = 1e-4  # that a direction cosine may be off an axis: 0.05 mm in half a metre
SAME = 1e-3  # mm that are taken for rounding

_NOTED = f"ITK_FileNotes:={PHANTOM}"  # SimpleITK writes it so in NRRD, and as `descrip` in NIfTI
_NIFTI_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4",
}  # fmt: skip
_NRRD_TYPES = {
    "signed char": "i1", "int8": "i1", "uchar": "u1", "unsigned char": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "unsigned short": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "unsigned int": "u4", "uint32": "u4",
    "float": "f4", "double": "f8",
}  # fmt: skip
_SPACES = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior")


class NiftiError(RuntimeError):
    """A folder of cases cannot be read as what was asked for; the message names the file."""


class BadVolumeError(FaultError, NiftiError):
    """One file cannot be used."""


check = partial(checked, BadVolumeError)


class Grid(NamedTuple):
    """Where the voxels of an array `(z, y, x)` lie in the patient."""

    spacing: tuple[float, float, float]  # `(z, y, x)` mm
    origin: tuple[float, ...]  # `(x, y, z)` of the first voxel's centre: towards left, back, head
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1)  # as SimpleITK's
    orientation: str = ""  # axes of the file that it came from, such as "RAS"; empty: these

    def at(self, index: tuple[int, int, int]) -> Grid:
        """The grid that begins at a voxel `(z, y, x)` of this one."""
        return self._replace(origin=tuple(self.mm(index).tolist()))

    def mm(self, index: Any) -> Any:
        """(..., 3) positions `(x, y, z)`, mm, of indices `(z, y, x)`."""
        steps = np.asarray(index, np.float64)[..., ::-1] * self.spacing[::-1]
        return steps @ np.reshape(self.direction, (3, 3)).T + self.origin


class Volume(NamedTuple):
    """What one file holds, its axes brought into the order `(z, y, x)`, each ascending in LPS."""

    voxels: npt.NDArray[Any]  # (z, y, x)
    grid: Grid
    synthetic: bool  # written by lesionlab, of a phantom


def write_volume(path: Path, voxels: npt.NDArray[Any], grid: Grid, *, synthetic: bool) -> None:
    """Write an array as NIfTI or NRRD, compressed, in the axes of `grid.orientation`."""
    import SimpleITK as sitk  # noqa: N813 - its users' own name for it

    image: Any = sitk.GetImageFromArray(voxels)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    if grid.orientation:
        image = sitk.DICOMOrient(image, grid.orientation)  # type: ignore[no-untyped-call]
    if synthetic:
        image.SetMetaData(*_NOTED.split(":="))
    sitk.WriteImage(image, str(path), useCompression=True)


def read_volume(path: Path) -> Volume:
    """Read a `.nii`, `.nii.gz` or `.nrrd` file of three axes.

    Raises:
        BadVolumeError: The file cannot be used; the message names it, the field and the reason.
    """
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]
    reader: Any = sitk.ImageFileReader()  # type: ignore[no-untyped-call]
    kind = "Nrrd" if path.name.endswith(".nrrd") else "Nifti"
    reader.SetImageIO(f"{kind}ImageIO")
    try:
        status = path.lstat()
        check(path, (stat.S_ISREG(status.st_mode), "", "is a link or no plain file"))
        with path.open("rb") as raw, tempfile.TemporaryDirectory() as folder:
            header, said, n, dtype, file = (_nrrd if kind == "Nrrd" else _nifti)(path, raw)
            n_bytes = n * dtype.itemsize
            most = min(MAX_BYTES, status.st_size * (1 if file is raw else MOST_SMALLER))
            told = f"its header says {n_bytes:,} bytes of voxels"
            check(path, (n_bytes <= most, "size", f"{told}, expected at most {most:,}"))
            reader.SetFileName(str(Path(folder, f"volume.{'nrrd' if kind == 'Nrrd' else 'nii'}")))
            with open(reader.GetFileName(), "wb") as out:
                out.write(header)
                left = n_bytes
                while left and (some := file.read(min(left, 1 << 20))):
                    left -= out.write(some)
                    values = np.frombuffer(
                        some[: len(some) // dtype.itemsize * dtype.itemsize], dtype
                    )
                    # SimpleITK makes a NaN of NIfTI 0, without a word
                    check(path, (np.isfinite(values).all(), "voxels", "are NaN or infinite"))
            check(path, (not left, "size", f"{told}, and {left:,} of them are missing"))
            file.read(1)  # at its end gzip compares its checksum
            with np.errstate(all="ignore"):  # of an axis without a length
                axes = said[:, :3] / np.linalg.norm(said[:, :3], axis=0)
            straight = np.allclose(axes.T @ axes, np.eye(3), atol=SAME)
            check(path, (straight, "direction", "its axes are sheared"))
            return _oriented(path, reader.Execute(), said, PHANTOM.encode() in header)
    except (OSError, EOFError, zlib.error) as error:  # gzip's are OSErrors, too
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise  # says nothing about the file
        why = getattr(error, "strerror", None) or "cut off or damaged"
        raise BadVolumeError(path, "", f"cannot be read: {why}") from None
    except RuntimeError as error:
        if isinstance(error, BadVolumeError):
            raise
        # the text is that of C++, with the place in the code
        raise BadVolumeError(path, "", "cannot be read by SimpleITK") from None


def _oriented(path: Path, image: Any, said: Any, synthetic: bool) -> Volume:
    """Bring the axes into order; `said` is what the header says of them."""
    import SimpleITK as sitk  # noqa: N813

    axes = np.reshape(image.GetDirection(), (3, 3))
    found = np.column_stack((axes * image.GetSpacing(), image.GetOrigin()))
    as_said = np.allclose(found, said, rtol=1e-4, atol=SAME)
    off = np.abs(np.abs(axes) - np.rint(np.abs(axes))).max()
    low, high = SPACINGS
    fits = all(low <= mm <= high for mm in image.GetSpacing())
    check(
        path,
        (fits, "spacing", f"expected {low:g} to {high:g} mm"),
        ((np.abs(found) <= MAX_MM).all(), "origin", f"expected at most {MAX_MM:g} mm"),
        (as_said, "direction", "its axes contradict its spacing"),
        (off <= OBLIQUE, "direction", "is rotated against the patient's axes: resample it first"),
    )
    filters: Any = sitk.DICOMOrientImageFilter
    code = filters.GetOrientationFromDirectionCosines(image.GetDirection())
    if code != "LPS":  # or it would be copied all the same
        image = sitk.DICOMOrient(image, "LPS")  # type: ignore[no-untyped-call]
    grid = Grid(image.GetSpacing()[::-1], image.GetOrigin(), image.GetDirection(), code)
    return Volume(sitk.GetArrayFromImage(image), grid, synthetic)


# --- Headers: a clean one, its axes (3, 4) in LPS mm, how many voxels of what kind, and from where

Header = tuple[bytes, Any, int, "np.dtype[Any]", BinaryIO]


def _nifti(path: Path, raw: BinaryIO) -> Header:
    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if zipped else raw
    head = file.read(348)
    order = next((o for o in "<>" if head[:4] == struct.pack(f"{o}i", 348)), None)
    check(path, (order and len(head) == 348 and head[344:] == b"n+1\0", "", "is no NIfTI-1 file"))
    words, numbers = np.frombuffer(head, f"{order}i2"), np.frombuffer(head, f"{order}f4")
    n_axes, *size = words[20:24].tolist()
    kind, offset = int(words[35]), float(numbers[27])
    by_quaternion, by_matrix = (words[126:128] > 0).tolist()  # qform_code, sform_code
    place = numbers[70:82] if by_matrix else numbers[64:70]
    used = np.r_[numbers[19:23], numbers[28:30], place]  # pixdim, slope and intercept
    check(
        path,
        (n_axes == 3, "dim", f"expected 3 axes, got {n_axes}"),
        (min(size) >= 1, "dim", "expected 1 or more voxels along each axis"),
        (kind in _NIFTI_TYPES, "datatype", f"{kind}: expected numbers of 8 to 32 bits, or float64"),
        (352 <= offset <= MAX_HEADER and offset % 1 == 0, "vox_offset", "expected 352 to 65,536"),
        (head[123] & 7 in (0, 2), "xyzt_units", "expected mm"),
        (by_quaternion or by_matrix, "sform_code", "it does not say where its voxels lie"),
        ((np.abs(used) <= MAX_MM).all(), "pixdim, srow", f"expected numbers up to {MAX_MM:g}"),
    )
    clean = bytearray(352)
    for start, end in ((0, 4), (40, 48), (70, 74), (76, 92), (112, 120), (256, 328), (344, 348)):
        clean[start:end] = head[start:end]
    clean[256:280], clean[123] = (bytes(24) if by_matrix else head[256:280]), 2
    struct.pack_into(f"{order}4h", clean, 48, 1, 1, 1, 1)
    dtype = np.dtype(f"{order}{_NIFTI_TYPES[kind]}")
    struct.pack_into(f"{order}h", clean, 72, 8 * dtype.itemsize)
    struct.pack_into(f"{order}f", clean, 108, 352)
    struct.pack_into(f"{order}2h", clean, 252, not by_matrix, by_matrix)
    if head[148:228].rstrip(b"\0") == PHANTOM.encode():
        clean[148:228] = head[148:228]
    file.read(int(offset) - 348)
    axes = place.reshape(3, 4) if by_matrix else _of_quaternion(place, numbers[19:23])
    said = axes * [[-1], [-1], [1]]  # NIfTI counts towards right, front and head
    return bytes(clean), said, math.prod(size), dtype, file


def _of_quaternion(place: Any, pixdim: Any) -> Any:
    """The axes (3, 4) as nifti1.h gives them."""
    b, c, d, *origin = place.tolist()
    rotation = Rotation.from_quat([b, c, d, math.sqrt(max(1 - b * b - c * c - d * d, 0))])
    steps = pixdim[1:] * [1, 1, -1 if pixdim[0] < 0 else 1]
    return np.column_stack((rotation.as_matrix() * steps, origin))


def _nrrd(path: Path, raw: BinaryIO) -> Header:
    head = b""
    while len(head) < MAX_HEADER and (line := raw.readline(MAX_HEADER)).strip():
        head += line
    magic, *lines = head.decode("utf-8", "replace").splitlines() or [""]
    told = {name.lower(): value.strip() for name, _, value in (x.partition(": ") for x in lines)}
    sizes, kind, encoding, space = (
        told.get(key, "") for key in ("sizes", "type", "encoding", "space")
    )
    three, endian = "[1-9][0-9]{0,5} [1-9][0-9]{0,5} [1-9][0-9]{0,5}", told.get("endian", "little")
    check(
        path,
        (re.fullmatch("NRRD000[1-5]", magic), "", "is no NRRD file"),
        (not told.keys() & {"data file", "datafile"}, "data file", "expected the voxels in here"),
        (told.get("dimension") == "3", "dimension", "expected 3 axes"),
        (re.fullmatch(three, sizes), "sizes", "expected three whole numbers"),
        (kind in _NRRD_TYPES, "type", "expected numbers of 8 to 32 bits, or double"),
        (space in _SPACES, "space", f"expected one of {', '.join(_SPACES)}"),
        (encoding in ("raw", "gzip", "gz"), "encoding", "expected raw or gzip"),
        (endian in ("little", "big"), "endian", "expected little or big"),
        (not told.keys() & {"line skip", "byte skip"}, "byte skip", "expected none"),
    )
    axes, place = [], {}
    for key, n in (("space directions", 3), ("space origin", 1)):
        values = np.full((n, 3), np.nan)
        with suppress(ValueError):
            numbers = re.findall("[-+.0-9eE]+", told.get(key, ""))
            values = np.array(numbers, np.float64).reshape(n, 3)
        fits = (np.abs(values) <= MAX_MM).all()
        check(path, (fits, key, f"expected {3 * n} numbers up to {MAX_MM:g}"))
        axes.append(values)
        place[key] = " ".join(f"({','.join(map(repr, row))})" for row in values.tolist())
    # nothing is passed on as it was found: SimpleITK crashes at some texts
    fields = {"type": kind, "dimension": "3", "space": space, "sizes": sizes, **place}
    fields |= {"kinds": "domain domain domain", "endian": endian, "encoding": "raw"}
    clean = ["NRRD0004", *(f"{key}: {value}" for key, value in fields.items())]
    clean += [*({_NOTED} & {*lines}), "\n"]
    file = raw if encoding == "raw" else cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    dtype = np.dtype(f"{'<' if endian == 'little' else '>'}{_NRRD_TYPES[kind]}")
    signs = [[-1 if "right" in space else 1], [-1 if "anterior" in space else 1], [1]]
    said = np.column_stack((axes[0].T, axes[1].T)) * signs
    return "\n".join(clean).encode(), said, math.prod(map(int, sizes.split())), dtype, file
