"""One NIfTI or NRRD file, checked: its voxels and their place in the patient, or a plain error.

No header reaches SimpleITK as it was found. Its numbers are read here, sizes are held against the
bytes that are there, and SimpleITK gets a file with a header of what was checked and as many bytes
of voxels as it says: a file of 1 kB can claim to hold 2 GB, and an NRRD header can name any other
file of the disk. Formats: nifti1.h of the NIfTI-1 data format; teem.sourceforge.net/nrrd.
"""

from __future__ import annotations

import gzip
import math
import re
import stat
import struct
import tempfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from lesionlab.sources._own import FaultError, checked

MAX_BYTES = 1 << 29
"""So many bytes a volume may have when it is unpacked: 1,024 slices of 512 × 512, 16 bits each."""

MOST_SMALLER = 1040  # times that deflate makes anything smaller
MAX_HEADER = 1 << 16  # bytes of an NRRD header
MAX_MM = 1e5  # of a position
SPACINGS = (1e-3, 1e3)  # mm
OBLIQUE = 1e-4  # that a direction cosine may be off an axis: 0.05 mm in half a metre
SAME = 1e-3  # mm that header and SimpleITK may differ, as single precision does

PHANTOM = "lesionlab phantom"  # what the header of a phantom says
_NOTE = "ITK_FileNotes"  # where SimpleITK writes it: `descrip` of NIfTI, a key of NRRD
_NOTED = f"{_NOTE}:={PHANTOM}"

_NIFTI_TYPES = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 256: 1, 512: 2, 768: 4}
"""Bytes of a voxel by `datatype`: whole numbers of 8 to 32 bits, float32, float64."""

_NRRD_TYPES = {
    "float": 4, "double": 8, "signed char": 1, "int8": 1, "uchar": 1, "unsigned char": 1,
    "uint8": 1, "short": 2, "int16": 2, "ushort": 2, "unsigned short": 2, "uint16": 2, "int": 4,
    "int32": 4, "uint": 4, "unsigned int": 4, "uint32": 4,
}  # fmt: skip
_SPACES = {"left-posterior-superior", "right-anterior-superior", "left-anterior-superior"}
_KEPT = (slice(40, 48), slice(70, 74), slice(76, 92), slice(112, 120), slice(344, 348))
_QFORM, _SFORM, _DESCRIP = slice(256, 280), slice(280, 328), slice(148, 228)
"""Bytes of a NIfTI header that say something of voxels and their place."""


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
    orientation: str = ""  # axes of the file that it came from, such as "RAS"; empty: as they are

    def at(self, index: tuple[int, int, int]) -> Grid:
        """The grid that begins at a voxel `(z, y, x)` of this one."""
        steps = np.array(index[::-1]) * self.spacing[::-1]
        moved = np.reshape(self.direction, (3, 3)) @ steps + self.origin
        return self._replace(origin=tuple(moved.tolist()))

    def same_as(self, other: Grid) -> bool:
        """Whether spacing, origin and direction are the same but for rounding."""
        return all(
            np.allclose(a, b, rtol=0, atol=SAME) for a, b in zip(self[:3], other, strict=False)
        )


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
        image = sitk.DICOMOrient(image, grid.orientation)
    if synthetic:
        image.SetMetaData(_NOTE, PHANTOM)
    sitk.WriteImage(image, str(path), useCompression=True)


def read_volume(path: Path) -> Volume:
    """Read a `.nii`, `.nii.gz` or `.nrrd` file of three axes.

    Raises:
        BadVolumeError: The file cannot be used; the message names it, the field and the reason.
    """
    try:
        return _read(path)
    except OSError as error:  # of gzip, too
        why = error.strerror or "is cut off or damaged"
        raise BadVolumeError(path, "", f"cannot be read: {why}") from None
    except (EOFError, zlib.error):
        raise BadVolumeError(path, "", "is cut off or damaged") from None


def _read(path: Path) -> Volume:
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]
    status = path.lstat()
    check(path, (stat.S_ISREG(status.st_mode), "", "is a link or no plain file"))
    nrrd = path.name.endswith(".nrrd")
    with path.open("rb") as raw, tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, f"volume{'.nrrd' if nrrd else '.nii'}")
        header, said, n_bytes, file = (_nrrd if nrrd else _nifti)(path, raw)
        most = status.st_size * (1 if file is raw else MOST_SMALLER)
        told = f"its header says {n_bytes:,} bytes of voxels"
        check(
            path,
            (n_bytes <= MAX_BYTES, "size", f"{told}, more than {MAX_BYTES:,}"),
            (n_bytes <= most, "size", f"{told}, and the file has {status.st_size:,}"),
        )
        with plain.open("wb") as out:
            out.write(header)
            left = n_bytes
            while left and (some := file.read(min(left, 1 << 20))):
                left -= out.write(some)
        check(path, (not left, "size", f"{told}, and {left:,} of them are missing"))
        file.read(1)  # at its end gzip compares its checksum
        reader: Any = sitk.ImageFileReader()  # type: ignore[no-untyped-call]
        reader.SetImageIO("NrrdImageIO" if nrrd else "NiftiImageIO")
        reader.SetFileName(str(plain))
        try:
            image = reader.Execute()
        except RuntimeError:  # its text is that of C++, with the place in the code
            raise BadVolumeError(path, "", "SimpleITK cannot read it") from None
    return _oriented(path, image, said, PHANTOM.encode() in header)


def _oriented(path: Path, image: Any, said: Any, synthetic: bool) -> Volume:
    """Bring the axes into order; `said` is what the header says of them, as `Header` has it."""
    import SimpleITK as sitk  # noqa: N813

    axes = np.reshape(image.GetDirection(), (3, 3))
    found = np.column_stack((axes * image.GetSpacing(), image.GetOrigin()))
    within = (np.abs(found) <= MAX_MM).all()
    spacings = [SPACINGS[0] <= mm <= SPACINGS[1] for mm in image.GetSpacing()]
    orthogonal = np.allclose(axes.T @ axes, np.eye(3), atol=SAME)
    # SimpleITK drops a shear of NIfTI without a word
    sheared = said is not None and not np.allclose(found, said, rtol=1e-4, atol=SAME)
    off = np.abs(np.abs(axes) - np.rint(np.abs(axes))).max()
    check(
        path,
        (all(spacings), "spacing", f"expected {SPACINGS[0]:g} to {SPACINGS[1]:g} mm"),
        (within, "origin", f"expected up to {MAX_MM:g} mm from the middle"),
        (
            orthogonal and not sheared,
            "direction",
            "its axes are sheared, or contradict its spacing",
        ),
        (
            off <= OBLIQUE,
            "direction",
            "its axes are rotated against the patient's: resample it first",
        ),
    )
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    image = sitk.DICOMOrient(image, "LPS")
    spacing = cast(tuple[float, float, float], image.GetSpacing()[::-1])
    grid = Grid(spacing, image.GetOrigin(), image.GetDirection(), code)
    return Volume(sitk.GetArrayFromImage(image), grid, synthetic)


# --- Headers: a clean one, its axes, how many bytes follow it, and from where --------------------

Header = tuple[bytes, Any, int, BinaryIO]
"""The axes are (3, 4): LPS mm of a step along each, and of the first voxel; None: not compared."""


def _nifti(path: Path, raw: BinaryIO) -> Header:
    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if zipped else raw
    head = file.read(348)
    order = next((o for o in "<>" if head[:4] == struct.pack(f"{o}i", 348)), None)
    check(path, (order and len(head) == 348 and head[344:] == b"n+1\0", "", "is no NIfTI-1 file"))
    words, numbers = np.frombuffer(head, f"{order}i2"), np.frombuffer(head, f"{order}f4")
    n_axes, *size = words[20:24].tolist()
    kind, (qform, sform) = int(words[35]), words[126:128]
    offset, slope, srow = float(numbers[27]), numbers[28:30], numbers[70:82].reshape(3, 4)
    used = np.r_[numbers[19:23], srow.ravel() if sform > 0 else numbers[64:70]]  # pixdim, and place
    check(
        path,
        (n_axes == 3, "dim", f"expected 3 axes, got {n_axes}"),
        (min(size) >= 1, "dim", "expected 1 or more voxels along each axis"),
        (kind in _NIFTI_TYPES, "datatype", f"{kind}: expected numbers of 8 to 32 bits, or float64"),
        (352 <= offset <= MAX_HEADER and offset % 1 == 0, "vox_offset", "expected 352 to 65,536"),
        (head[123] & 7 in (0, 2), "xyzt_units", "expected mm"),
        (np.isfinite(slope).all(), "scl_slope", "expected numbers"),
        (qform > 0 or sform > 0, "sform_code", "it does not say where its voxels lie"),
        ((np.abs(used) <= MAX_MM).all(), "direction", f"expected numbers up to {MAX_MM:g}"),
    )
    clean = bytearray(352)
    struct.pack_into(f"{order}i", clean, 0, 348)
    for kept in (*_KEPT, _SFORM if sform > 0 else _QFORM):
        clean[kept] = head[kept]
    struct.pack_into(f"{order}4h", clean, 48, 1, 1, 1, 1)
    struct.pack_into(f"{order}h", clean, 72, 8 * _NIFTI_TYPES[kind])
    struct.pack_into(f"{order}f", clean, 108, 352)
    struct.pack_into(f"{order}2h", clean, 252, *((0, 1) if sform > 0 else (1, 0)))
    clean[123] = 2
    if head[_DESCRIP].rstrip(b"\0") == PHANTOM.encode():
        clean[_DESCRIP] = head[_DESCRIP]
    file.read(int(offset) - 348)
    # NIfTI counts from right to left and from front to back; a quaternion cannot be sheared
    said = srow.astype(float) * [[-1], [-1], [1]] if sform > 0 else None
    return bytes(clean), said, math.prod(size) * _NIFTI_TYPES[kind], file


def _nrrd(path: Path, raw: BinaryIO) -> Header:
    head = b""
    while len(head) < MAX_HEADER and (line := raw.readline(MAX_HEADER)).strip():
        head += line
    magic, *lines = head.decode("utf-8", "replace").splitlines() or [""]
    check(path, (re.fullmatch("NRRD000[1-5]", magic), "", "is no NRRD file"))
    told = {name.lower(): value.strip() for name, _, value in (x.partition(": ") for x in lines)}
    sizes, kind = told.get("sizes", ""), told.get("type", "")
    space, encoding = told.get("space", ""), told.get("encoding", "")
    skips = {told.get(key, "0") for key in ("line skip", "lineskip", "byte skip", "byteskip")}
    count = "[1-9][0-9]{0,5}"
    check(
        path,
        (
            not told.keys() & {"data file", "datafile"},
            "data file",
            "its voxels are in another file",
        ),
        (told.get("dimension") == "3", "dimension", "expected 3 axes"),
        (re.fullmatch(f"{count} {count} {count}", sizes), "sizes", "expected three whole numbers"),
        (kind in _NRRD_TYPES, "type", "expected numbers of 8 to 32 bits, or double"),
        (space in _SPACES, "space", f"expected one of {', '.join(_SPACES)}"),
        (encoding in ("raw", "gzip", "gz"), "encoding", "expected raw or gzip"),
        (told.get("endian", "little") in ("little", "big"), "endian", "expected little or big"),
        (skips == {"0"}, "byte skip", "expected the voxels right behind the header"),
    )
    axes, origin = (_numbers(told.get(key, "")) for key in ("space directions", "space origin"))
    n_bytes, where = math.prod(map(int, sizes.split())) * _NRRD_TYPES[kind], "space directions"
    for key, found, n in ((where, axes, 9), ("space origin", origin, 3)):
        fits = len(found) == n and (np.abs(found) <= MAX_MM).all()
        check(path, (fits, key, f"expected {n} numbers up to {MAX_MM:g}"))
    vectors = [
        f"({','.join(map(repr, some))})" for some in (*axes.reshape(3, 3).tolist(), origin.tolist())
    ]
    clean = [
        "NRRD0004", f"type: {kind}", "dimension: 3", f"space: {space}", f"sizes: {sizes}",
        f"space directions: {' '.join(vectors[:3])}", "kinds: domain domain domain",
        f"endian: {told.get('endian', 'little')}", "encoding: raw", f"space origin: {vectors[3]}",
        *([_NOTED] if _NOTED in lines else []), "\n",
    ]  # fmt: skip
    signs = [[-1 if "right" in space else 1], [-1 if "anterior" in space else 1], [1]]
    said = np.column_stack((axes.reshape(3, 3).T, origin)) * signs
    file = raw if encoding == "raw" else cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    return "\n".join(clean).encode(), said, n_bytes, file


def _numbers(text: str) -> npt.NDArray[np.float64]:
    """The numbers in a text of vectors; none where there is anything else."""
    try:
        return np.array([float(part) for part in re.findall("[^(), ]+", text)])
    except ValueError:
        return np.array([])
