"""Lesions in a scan of your own: a mask or a point, checked against the scan, and cut out.

    from lesionlab.sources import masks
    scan = masks.read_scan("my-scan")                   # a folder of DICOM, or a NIfTI or NRRD file
    crops, notes = masks.crops(scan, "lesion.nii.gz")   # a crop for each lesion in the mask
    crops, notes = masks.crops(scan, "SE01_01_01")      # or in one doctor's folder of .anno files
    crops, notes = masks.crops(scan, masks.Ball((12.5, -40.0, -210.0), diameter=9.0))

A mask is NIfTI, NRRD, DICOM-SEG, RTSTRUCT or a folder of `.anno` files. It has to be of the same
frame of reference, where both files name one. Where its voxels are not the scan's, each of the
scan's takes the value of the nearest, and a note says so. Each connected part of each label is a
lesion; `lesion-2-1` is the first part of label 2. Labels are numbers: the names that files give
them can name a person. `write` writes a mask in NIfTI, DICOM-SEG or RTSTRUCT.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lesionlab import _files, _names
from lesionlab.crops import Crop, Tier
from lesionlab.crops.cutting import cut
from lesionlab.sources._scans import VOLUMES, index_of
from lesionlab.sources._scans import grid_of as grid_of
from lesionlab.sources._scans import read_scan as read_scan
from lesionlab.sources.dicom._files import INT16, BadFileError, Header, quiet, read_slice
from lesionlab.sources.dicom._lidc import check_margin
from lesionlab.sources.dicom._objects import REFERRED, contours_of, planes_of, write_contours
from lesionlab.sources.dicom._segments import write_segmentation
from lesionlab.sources.dicom._series import Volume
from lesionlab.sources.nifti._files import Grid, read_volume, write_volume

Form = Literal["nifti", "dicom-seg", "rtstruct"]

MOST_MM = 150.0  # of a lesion; what is larger is an organ
MOST_LESIONS = 100
FEWEST_VOXELS = 4  # of a part that counts as a lesion
AIR_LIKE = -800  # HU; lung without a lesion is about −850


class MaskError(ValueError):
    """A mask does not fit its scan, or is none."""


class Ball(NamedTuple):
    """A lesion of which only the place and the size are known."""

    centre: tuple[float, float, float]  # `(x, y, z)` mm in the patient, as DICOM counts
    diameter: float  # mm


class Cut(NamedTuple):
    """The lesions of a mask."""

    crops: list[Crop]
    notes: tuple[str, ...]  # what a user should know of mask and scan, in sentences


class _Part(NamedTuple):
    """Voxels of one label, in the scan if `grid` is None, or elsewhere."""

    label: int
    voxels: npt.NDArray[np.bool_]  # (z, y, x)
    origin: tuple[int, int, int]  # `(z, y, x)` index of the first voxel, in the scan or the grid
    grid: Grid | None


# --- the mask -----------------------------------------------------------------------------------


def crops(
    scan: Volume,
    mask: str | Path | npt.ArrayLike | Ball,
    *,
    label: int | None = None,
    size: int | None = None,
    margin_mm: float = 20.0,
) -> Cut:
    """Cut the lesions of a mask out of a scan, in HU.

    Args:
        scan: What `read_scan` or `dicom.read_series` gives.
        mask: A file or folder, a `Ball`, or (z, y, x) whole numbers on the scan's voxels, with 0
            outside.
        label: Take only this label: the value of the voxels, or the number of the segment or ROI.
        size: Rows and columns of a crop. If None it is 128, or twice the lesion's if that is more.
        margin_mm: Slices up to that far below and above a lesion are taken along.

    Raises:
        MaskError: The mask is of another scan, empty, too large, or has no such label.
        BadVolumeError: The NIfTI or NRRD file cannot be read.
        DicomError: The DICOM file cannot be read.
        AnnoError: An `.anno` file cannot be used.
    """
    check_margin(size or 1, margin_mm)
    notes: list[str] = []
    name = "mask" if not isinstance(mask, (str, Path)) else str(Path(mask).name)
    parts = list(_parts(scan, mask, name, notes))
    labels = sorted({part.label for part in parts})
    if label is not None and labels and label not in labels:
        there = ", ".join(map(str, labels[:20]))
        raise MaskError(f"{name}: label={label} is not in it; there are {there}")
    found: dict[int, list[_Part]] = {}
    small = 0
    for part in parts:
        if label is None or part.label == label:
            for one in _connected(part):
                if isinstance(mask, Ball) or one.voxels.sum() >= FEWEST_VOXELS:
                    found.setdefault(part.label, []).append(one)
                else:
                    small += 1
    if small:
        notes.append(f"{small} parts of fewer than {FEWEST_VOXELS} voxels were left out")
    n = sum(map(len, found.values()))
    if not 0 < n <= MOST_LESIONS:
        why = (
            f"{n} lesions in it, expected 1 to {MOST_LESIONS}"
            if n or small
            else "the mask is empty"
        )
        raise MaskError(f"{name}: {why}")
    made, hu = [], scan.hu
    if hu.dtype != np.int16:
        hu = np.rint(hu).clip(*INT16).astype(np.int16)
    tier: Tier = "phantom" if scan.synthetic else "own"
    calibrated = not any("RescaleType" in note for note in scan.warnings)
    for of_label, several in found.items():
        for k, one in enumerate(several, 1):
            called = f"lesion-{of_label}" + (f"-{k}" if len(several) > 1 else "")
            voxels, origin = _placed(scan, one, called, notes)
            widest = int(np.ptp(np.argwhere(voxels)[:, 1:], axis=0).max()) + 1
            how: Any = {"size": size or max(128, 2 * widest), "margin_mm": margin_mm, "tier": tier}
            how["calibrated"] = calibrated
            made.append(cut(called, hu, voxels[None], origin, scan.spacing, **how))
            if np.median(made[-1].hu[made[-1].masks[0]]) < AIR_LIKE:
                notes.append(
                    f"{called}: more than half of its voxels are below {AIR_LIKE} HU, as lung is; "
                    "is the mask shifted, or of another scan?"
                )
    return Cut(made, tuple(dict.fromkeys(notes)))


def _parts(scan: Volume, mask: Any, name: str, notes: list[str]) -> Iterator[_Part]:
    """The voxels of each label, as the file has them."""
    if isinstance(mask, Ball):
        yield _ball(scan, mask)
        return
    if not isinstance(mask, (str, Path)):
        voxels = np.asarray(mask)
        if voxels.shape != scan.hu.shape or voxels.dtype.kind not in "biu":
            got = f"{voxels.dtype} {voxels.shape}"
            raise MaskError(f"mask: expected whole numbers {scan.hu.shape}, got {got}")
        yield from _labelled(voxels, None)
        return
    path = Path(mask)
    if path.is_dir():
        yield from _of_annotations(scan, path)
        return
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.name.endswith(VOLUMES):
        voxels, grid, _ = read_volume(path)
        if voxels.dtype.kind == "f":
            if (voxels != np.rint(voxels)).any() or np.abs(voxels).max() > 1e6:
                raise MaskError(f"{name}: expected labels, whole numbers, got fractions")
            voxels = voxels.astype(np.int32)
        _compare(scan, voxels.shape, grid, name, notes)
        yield from _labelled(voxels, grid)
        return
    with quiet():
        kind = Header(path, ["Modality"]).words("Modality")[0]
    if kind not in REFERRED:
        expected = f"{', '.join(VOLUMES)}, DICOM-SEG, RTSTRUCT, or a folder of .anno files"
        raise MaskError(f"{name}: is no mask; expected {expected}")
    at = _references(scan, notes)
    if kind == "SEG":
        for number, planes in planes_of(path, at.frame).items():
            yield from _of_planes(scan, path, number, planes, at, notes)
    else:
        for number, outlines in contours_of(path, at.frame).items():
            yield _of_contours(scan, path, number, outlines, at)


class _References(NamedTuple):
    """What DICOM objects refer to in a scan."""

    frame: str  # FrameOfReferenceUID; empty where there is none
    slices: dict[str, int]  # SOPInstanceUID to the index of the slice


@quiet()
def _references(scan: Volume, notes: list[str]) -> _References:
    frames, slices = set(), {}
    for k, file in enumerate(scan.files):
        header = Header(file, ["FrameOfReferenceUID", "SOPInstanceUID"])
        frames.add("".join(map(str, header.values("FrameOfReferenceUID"))))
        slices[header.uid("SOPInstanceUID")] = k
    frame = frames.pop() if len(frames) == 1 else ""
    if not frame:
        notes.append("the scan names no frame of reference: whether the mask is of the same patient"
                     " could not be checked")  # fmt: skip
    return _References(frame, slices)


def _same_slice(
    scan: Volume, path: Path, number: int, z: float, uids: list[str], at: _References
) -> None:
    """Refuse what was drawn on one slice and lies on another."""
    named = [at.slices[uid] for uid in uids if uid in at.slices]
    if len(named) == 1 and abs(z - named[0]) > 0.5:
        raise MaskError(
            f"{path.name}: label {number} was drawn on slice {named[0]} and lies on slice "
            f"{z:.4g}, counted from 0: it is shifted"
        )


def _labelled(voxels: npt.NDArray[Any], grid: Grid | None) -> Iterator[_Part]:
    used = [k for k, plane in enumerate(voxels) if plane.any()]
    first = used[0] if used else 0
    voxels = voxels[first : used[-1] + 1 if used else 0]  # of 2,000 slices a copy takes 0.5 GB
    labels = [int(v) for v in np.unique(voxels) if v]
    if labels and (min(labels) < 0 or len(labels) > MOST_LESIONS):
        raise MaskError(
            f"mask: {len(labels)} values from {min(labels)} to {max(labels)}, expected up to "
            f"{MOST_LESIONS} labels from 1: is it an image?"
        )
    for label in labels:
        inside = voxels == label
        ((z, y, x),) = ndimage.find_objects(inside.astype(np.uint8))
        yield _Part(label, inside[z, y, x], (first + z.start, y.start, x.start), grid)


def _compare(scan: Volume, shape: tuple[int, ...], grid: Grid, name: str, notes: list[str]) -> None:
    """Say how the voxels of a file lie to those of the scan."""
    ends = np.array(np.meshgrid(*((0, n - 1) for n in shape))).reshape(3, -1).T
    at = index_of(scan, grid.mm(ends))
    low, span = at.min(axis=0), np.ptp(at, axis=0)
    # half a voxel, as NIfTI cannot say that steps between slices are uneven
    same_size = np.abs(span - np.array(scan.hu.shape) + 1).max() < 0.5
    same_size &= sorted(shape) == sorted(scan.hu.shape)
    if same_size and (off := np.abs(low).max()) > 0.1:
        z, y, x = np.round(low, 2).tolist()
        raise MaskError(
            f"{name}: has the scan's size but lies {z:g}, {y:g} and {x:g} voxels beside it along "
            f"(z, y, x), up to {off:.3g}: it is shifted, or of another scan"
        )
    if not same_size:
        sides = " × ".join(f"{mm:.4g}" for mm in grid.spacing)
        of_scan = " × ".join(f"{mm:.4g}" for mm in scan.spacing)
        notes.append(
            f"the mask has other voxels than the scan ({sides} mm, the scan {of_scan} mm): each "
            "voxel of the scan took the nearest value"
        )


def _ball(scan: Volume, ball: Ball) -> _Part:
    if not 0 < ball.diameter <= MOST_MM:
        raise MaskError(f"diameter={ball.diameter!r}: expected mm above 0, at most {MOST_MM:g}")
    centre = index_of(scan, ball.centre)
    if len(ball.centre) != 3 or not np.isfinite(centre).all():
        raise MaskError("centre: expected (x, y, z) in mm")
    last = np.array(scan.hu.shape) - 1
    if (centre < -0.5).any() or (centre > last + 0.5).any():
        z, y, x = np.round(centre, 1).tolist()
        raise MaskError(f"centre: lies outside of the scan, at the voxel (z, y, x) = {z}, {y}, {x}")
    reach = ball.diameter / 2 / np.array(scan.spacing) + 1
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach), last).astype(int)
    index = np.moveaxis(np.mgrid[tuple(map(slice, low, high + 1))], 0, -1)
    away = np.linalg.norm(scan.patient_mm(index) - ball.centre, axis=-1)
    inside = away <= ball.diameter / 2
    inside.ravel()[away.argmin()] = True  # at least the voxel in the middle
    return _Part(1, np.asarray(inside), tuple(low.tolist()), None)


def _of_planes(
    scan: Volume, path: Path, number: int, planes: list[Any], at: _References, notes: list[str]
) -> Iterator[_Part]:
    """A segment: on the scan's voxels where its frames lie on these, else on a grid of its own."""
    first = planes[0]
    axes, (dy, dx) = first.axes, first.spacing
    alike = [p for p in planes if np.allclose(p.axes, axes, atol=1e-4) and p.spacing == (dy, dx)]
    if len(alike) < len(planes) or any(p.voxels.shape != first.voxels.shape for p in planes):
        raise BadFileError(path, "its frames differ in size, spacing or orientation")
    index = index_of(scan, [p.position for p in planes])
    for plane, place in zip(planes, index, strict=True):
        _same_slice(scan, path, number, float(place[0]), plane.drawn_on, at)
    whole = np.rint(index).astype(int)
    same = np.allclose(axes, scan.direction, atol=1e-3)
    same &= np.allclose((dy, dx), scan.spacing[1:], rtol=1e-3)
    if same and np.abs(index - whole).max() < 0.1 and len({*whole[:, 0]}) == len(planes):
        low = whole.min(axis=0)
        box = np.zeros((np.ptp(whole[:, 0]) + 1, *first.voxels.shape), np.bool_)
        box[whole[:, 0] - low[0]] = [p.voxels for p in planes]
        yield _Part(number, box, tuple(low.tolist()), None)
        return
    heights = np.array([p.position for p in planes]) @ axes[:, 2]
    gaps = np.diff(np.unique(heights))
    step = first.step or (float(np.median(gaps)) if len(gaps) else scan.spacing[0])
    k = np.rint((heights - heights.min()) / step).astype(int)
    if k.max() > 4096 or len({*k}) < len(k):
        raise BadFileError(path, "its frames are not a stack of even steps")
    bottom = planes[int(heights.argmin())].position
    grid = Grid((step, dy, dx), tuple(bottom), tuple(axes.ravel().tolist()))
    box = np.zeros((k.max() + 1, *first.voxels.shape), np.bool_)
    box[k] = [p.voxels for p in planes]
    _compare(scan, box.shape, grid, path.name, notes)
    yield _Part(number, box, (0, 0, 0), grid)


def _of_contours(
    scan: Volume, path: Path, number: int, outlines: list[Any], at: _References
) -> _Part:
    """A ROI: the voxels inside of an odd number of its outlines, slice by slice."""
    from lesionlab.sources.anno import _shapes

    pixels: list[npt.NDArray[np.int64]] = []
    for outline in outlines:
        place = index_of(scan, outline.points)
        z = float(np.median(place[:, 0]))
        _same_slice(scan, path, number, z, outline.drawn_on, at)
        if np.abs(place[:, 0] - z).max() > 0.1 or abs(z - round(z)) > 0.3:
            raise MaskError(
                f"{path.name}: ROI {number} has an outline that does not lie in a slice of the scan"
            )
        if np.ptp(place[:, 1:], axis=0).max() * min(scan.spacing[1:]) > 4 * MOST_MM:
            raise MaskError(f"{path.name}: ROI {number} is larger than a scan")
        inside = _shapes.fill(place[:, 1:])
        pixels.append(np.column_stack((np.full(len(inside), round(z)), inside)))
    at_once, times = np.unique(np.concatenate(pixels), axis=0, return_counts=True)
    voxels = at_once[times % 2 == 1]  # an outline inside another one is a hole
    if not len(voxels):
        raise MaskError(f"{path.name}: ROI {number} is empty: its outlines cancel each other out")
    return _boxed(number, voxels)


@quiet()
def _of_annotations(scan: Volume, folder: Path) -> list[_Part]:
    """One doctor's `.anno` files: a label for each lesion, filled between the slices marked."""
    from lesionlab.sources.anno import _files, _index, _shapes

    marks = [_files.read_annotation(file) for file in sorted(folder.glob("*.anno"))]
    if not marks:
        raise MaskError(f"{folder.name}: has no .anno file; expected the folder of one doctor")
    location = scan.slice_z
    if scan.files:
        read: list[Any] = [read_slice(file) for file in scan.files]
        said = np.array([one.location for one in read])
        location = np.where(np.isfinite(said), said, location)
    for mark in marks:
        same = mark.dimension[:2] == scan.hu.shape[:0:-1]
        same &= np.allclose(mark.spacing[:2], scan.spacing[:0:-1], rtol=0, atol=1e-3)
        if not same or scan.series_uid not in ("", mark.series_uid):
            raise MaskError(f"{mark.path.name}: was drawn on another series than the scan's")
    found = []
    for number, members in enumerate(_index._join(marks).values(), 1):
        pixels = []
        for mark in (marks[k] for k in members):
            inside = _shapes.fill(mark.outline)
            z = _index.index_of(mark, location, scan.spacing[0])
            pixels.append(np.column_stack((np.full(len(inside), z), inside)))
        one = _boxed(number, np.concatenate(pixels))
        found.append(one._replace(voxels=_shapes.fill_between(one.voxels)))
    return found


def _boxed(label: int, voxels: npt.NDArray[np.int64]) -> _Part:
    """Voxels `(voxel, 3)` of the scan in the box around them."""
    low = voxels.min(axis=0)
    box = np.zeros(np.ptp(voxels, axis=0) + 1, np.bool_)
    box[tuple((voxels - low).T)] = True
    return _Part(label, box, tuple(low.tolist()), None)


def _connected(part: _Part) -> Iterator[_Part]:
    """The parts of a label that do not touch, not even by their corners."""
    numbered, _ = ndimage.label(part.voxels, np.ones((3, 3, 3)))
    for k, box in enumerate(ndimage.find_objects(numbered), 1):
        start = tuple(o + s.start for o, s in zip(part.origin, box, strict=True))
        yield part._replace(voxels=numbered[box] == k, origin=start)


def _placed(
    scan: Volume, part: _Part, called: str, notes: list[str]
) -> tuple[npt.NDArray[np.bool_], tuple[int, int, int]]:
    """A lesion on the scan's voxels: a box and the index of its first voxel."""
    spacing = scan.spacing if part.grid is None else part.grid.spacing
    widest = max(n * mm for n, mm in zip(part.voxels.shape, spacing, strict=True))
    if widest > MOST_MM:
        told = f"is {widest:.0f} mm long, expected at most {MOST_MM:g} mm"
        raise MaskError(f"{called}: {told}: is the mask of an organ?")
    shape = np.array(scan.hu.shape)
    ends = np.array(part.origin) + np.argwhere(np.ones((2, 2, 2))) * (
        np.array(part.voxels.shape) - 1
    )
    at = ends.astype(float) if part.grid is None else index_of(scan, part.grid.mm(ends))
    if (at.min(axis=0) < -0.5 - 1e-3).any() or (at.max(axis=0) > shape - 0.5 + 1e-3).any():
        raise MaskError(f"{called}: lies outside of the scan; is the mask of another patient?")
    low = np.maximum(np.floor(at.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(at.max(axis=0)), shape - 1).astype(int)
    if part.grid is None:
        voxels = part.voxels
    else:
        index = np.moveaxis(np.mgrid[tuple(map(slice, low, high + 1))], 0, -1)
        steps = (scan.patient_mm(index) - part.grid.origin) @ np.reshape(
            part.grid.direction, (3, 3)
        )
        there = np.rint(steps / part.grid.spacing[::-1]).astype(int)[..., ::-1] - part.origin
        inside = ((there >= 0) & (there < part.voxels.shape)).all(axis=-1)
        voxels = inside.copy()
        voxels[inside] = part.voxels[tuple(there[inside].T)]
    if not voxels.any():
        raise MaskError(f"{called}: has no voxel of the scan nearest to it: it is too small")
    drawn = np.argwhere(voxels) + low
    if (drawn.min(axis=0) == 0).any() or (drawn.max(axis=0) == shape - 1).any():
        notes.append(f"{called}: reaches the edge of the scan, so that a part of it may be missing")
    return voxels, (int(low[0]), int(low[1]), int(low[2]))


# --- masks out ----------------------------------------------------------------------------------


def write(scan: Volume, mask: npt.NDArray[np.bool_], path: str | Path, form: Form) -> Path:
    """Write a mask of a scan for other programs; nothing is replaced.

    Args:
        scan: The scan.
        mask: (z, y, x), True inside, on the scan's voxels.
        path: A new file, which appears whole or not at all.
        form: `nifti`, `dicom-seg` or `rtstruct`. The latter two refer to the scan's files and
            carry what these say of the patient.

    Raises:
        FileExistsError: There is something at `path`.
        ValueError: The mask does not fit, or the scan has no DICOM files.
    """
    _names.one_of("form", form, get_args(Form))
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} is there already; expected a new file")
    if mask.shape != scan.hu.shape or mask.dtype != np.bool_ or not mask.any():
        raise MaskError(f"mask: expected booleans {scan.hu.shape}, not all False")
    if form != "nifti" and not scan.files:
        raise ValueError(f"form={form!r}: the scan was not read from DICOM files")
    used = np.flatnonzero(mask.any(axis=(1, 2)))
    some = slice(used[0], used[-1] + 1)
    with _files.replacing(path) as temporary:
        if form == "nifti":
            # ITK takes the format from the name
            new = temporary.with_name(f"{temporary.name}.nii.gz")
            write_volume(new, mask.astype(np.uint8), grid_of(scan), synthetic=scan.synthetic)
            new.replace(temporary)
        elif form == "dicom-seg":
            write_segmentation(
                temporary, mask[some], list(scan.files[some]), spacing_z=scan.spacing[0],
                corner=(0, 0), label="lesion", by_reader=True, description="lesionlab mask",
            )  # fmt: skip
        else:
            write_contours(temporary, scan, mask)
    return path
