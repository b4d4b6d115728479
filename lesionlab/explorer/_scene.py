"""What a viewer shows, checked: one volume with its masks, maps, weights and ratings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lesionlab import attributes
from lesionlab.crops import Crop, votes_needed
from lesionlab.explorer import _encoding

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MAX_VOXELS = 2**21
"""A volume with more voxels is thinned: a page with 2 million takes some 3 MB."""

TIERS = {
    None: "source not stated",
    "phantom": "phantom: rendered voxels, not a scan",
    "slices": "LIDC-IDRI slices: real pixels",
    "volumes": "LIDC-IDRI volumes: a part of a real scan",
    "dicom": "LIDC-IDRI DICOM: a real scan",
    "anno": "a scan of your own, outlined in .anno files",
    "nifti": "a scan of your own, with a mask in NIfTI or NRRD",
    "own": "a scan of your own",
}

LARGEST, STRONGEST = 1e9, 1e30
"""The largest size of a rating or a setting, and of a map: JavaScript can still add them."""

IN_SCAN = "the scan's first slice"

SCALES = {
    a.name: (a.minimum, a.maximum) for a in (*attributes.LI_CATEGORIES, *attributes.LIDC_RATINGS)
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Everything that one panel shows; `of` makes it from what users have.

    Attributes:
        missing: (z, y, x), True where the volume had no number; None if it had one everywhere.
        spacing: `(z, y, x)` distance between the voxels shown, mm; None if not known.
        z_mm, corner_mm: (z,) position of each slice from the one that `frame` names, and `(y, x)`
            of the first row and column; indices without a spacing.
        stride: `(z, y, x)` subsampling step along each axis of the volume.
        masks: (reader, z, y, x); no reader if none were given.
        maps: Method and head to map: (z, y, x), or (1, y, x) if it is the same on all slices.
        weights: (z,) attention of each slice.
        packed: What has been packed for a page; `_html.fitted` keeps it here.
    """

    title: str
    tier: str | None
    hu: npt.NDArray[np.int16]
    missing: Bools | None
    spacing: tuple[float, float, float] | None
    z_mm: Floats
    corner_mm: tuple[float, float]
    frame: str
    stride: tuple[int, int, int]
    masks: Bools
    maps: dict[tuple[str, str], Floats]
    weights: Floats | None
    ratings: list[dict[str, Any]]
    notes: tuple[str, ...]
    packed: dict[Any, Any] = field(default_factory=dict, init=False)

    @property
    def tier_text(self) -> str:
        """One line that says where the voxels come from."""
        return TIERS.get(self.tier, str(self.tier))

    @property
    def votes(self) -> int:
        """How many readers are at least half of them, the consensus."""
        return votes_needed(len(self.masks), 0.5) if len(self.masks) else 1

    @property
    def first_slice(self) -> int:
        """The slice with the largest consensus; the middle one if there is none."""
        area = (self.masks.sum(axis=0) >= self.votes).sum(axis=(1, 2))
        return int(area.argmax()) if area.any() else len(self.hu) // 2

    @property
    def home(self) -> tuple[float, float, float]:
        """How far a slice is enlarged at first, and around which place (y, x), voxels.

        The readers' outlines then take half of the picture, or less if fewer than 32 voxels were
        seen. Without outlines, and where they already take that much of the slice, all of it is
        shown.
        """
        height, width = self.hu.shape[1:]
        marked = np.argwhere(self.masks.any(axis=(0, 1)))
        if not len(marked):
            return 1.0, height / 2, width / 2
        low, high = marked.min(axis=0), marked.max(axis=0) + 1
        share = 2 * float(((high - low) / (height, width)).max())
        zoom = min(1 / share, min(height, width) / 32) if share < 0.8 else 1.0
        y, x = (float(v) for v in (low + high) / 2)
        return max(1.0, zoom), y, x


def of(
    volume: Any,
    *,
    spacing: Sequence[float] | None = None,
    masks: Any = None,
    overlays: Mapping[str, Any] | None = None,
    slice_weights: Any = None,
    predicted: Mapping[str, float] | None = None,
    readings: Mapping[str, Sequence[float]] | None = None,
    title: str | None = None,
    tier: str | None = None,
    most_slices: int = MAX_VOXELS,
) -> Scene:
    """Check and put together; the arguments are those of `lesionlab.explorer.view`.

    Of a volume with more than `most_slices` only every second, third … slice is shown.
    """
    crop = volume if isinstance(volume, Crop) else None
    array = crop.hu if crop else np.asarray(volume)
    if array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "iufb":
        expected = "expected numbers (z, y, x) without an empty axis"
        raise ValueError(f"volume: {expected}, got {array.dtype} {array.shape}")
    if crop:
        masks = crop.masks if masks is None else masks
        spacing = crop.spacing if spacing is None else spacing
        title, tier = title or crop.lesion_id, tier or crop.tier
    shape = array.shape
    stride = _stride(shape, most_slices)
    at = tuple(slice(None, None, s) for s in stride)
    hu, missing, notes = _whole(array[at])
    left_out = zip(("slice", "row", "column"), stride, strict=True)
    if few := ", ".join(f"1 {name} of {s}" for name, s in left_out if s > 1):
        notes.insert(0, f"shown is {few}, to keep the page small")
    if crop and not crop.calibrated.all():
        notes.append(f"{int((~crop.calibrated).sum())} slices are not calibrated in HU")
    mm = None if spacing is None else _spacing(spacing)
    dz, dy, dx = mm or (1.0, 1.0, 1.0)
    index = crop.slice_index if crop else np.arange(shape[0])
    row, column = crop.corner if crop else (0, 0)
    return Scene(
        title=str(title or "volume"),
        tier=None if tier is None else str(tier),
        hu=hu,
        missing=missing,
        spacing=None if mm is None else (dz * stride[0], dy * stride[1], dx * stride[2]),
        z_mm=(index[at[0]] * dz).astype(np.float64),
        corner_mm=(row * dy, column * dx),
        frame=IN_SCAN if crop else "the first slice here",
        stride=stride,
        masks=_masks(masks, shape)[:, *at],
        maps=_maps(overlays or {}, shape, at),
        weights=None if slice_weights is None else _weights(slice_weights, shape[0])[at[0]],
        ratings=_ratings(predicted or {}, readings or {}),
        notes=tuple(notes),
    )


def _stride(shape: Sequence[int], most_slices: int) -> tuple[int, int, int]:
    """The subsampling step along `(z, y, x)` that leaves no more voxels than a page can carry."""
    stride = np.array([-(-shape[0] // most_slices), 1, 1])
    while np.prod(sizes := -(-np.array(shape) // stride)) > MAX_VOXELS:
        stride[sizes.argmax()] += 1
    z, y, x = stride.tolist()
    return z, y, x


def _whole(array: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int16], Bools | None, list[str]]:
    """Values as int16, where they are missing, and what was changed."""
    notes: list[str] = []
    finite = np.isfinite(array)
    filled = np.where(finite, array, 0)
    rounded = np.rint(filled) if array.dtype.kind == "f" else filled.astype(np.int64)
    if not np.array_equal(rounded, filled):
        notes.append("values are shown rounded to whole HU")
    limits = np.iinfo(np.int16)
    hu = np.clip(rounded, limits.min, limits.max).astype(np.int16)
    if beyond := int((hu != rounded).sum()):
        notes.append(f"{beyond} values outside {limits.min} to {limits.max} are shown as the limit")
    if finite.all():
        return hu, None, notes
    notes.insert(0, f"{int((~finite).sum())} voxels have no value (NaN or infinite): hatched")
    # a neighbour's value would look like data, and any value compresses as well
    hu[~finite] = np.median(hu[finite]) if finite.any() else 0
    return hu, ~finite, notes


def _spacing(spacing: Sequence[float]) -> tuple[float, float, float]:
    values = tuple(float(s) for s in spacing)
    if len(values) != 3 or not all(1e-3 <= s <= 1e3 for s in values):
        raise ValueError(f"spacing={spacing!r}: expected (z, y, x) in mm, from 0.001 to 1000")
    return values


def _masks(masks: Any, shape: tuple[int, ...]) -> Bools:
    """(reader, z, y, x)."""
    array = np.zeros((0, *shape), np.bool_) if masks is None else np.asarray(masks)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[1:] != shape:
        expected = f"(reader, {', '.join(map(str, shape))}) as the volume"
        raise ValueError(f"masks: expected {expected}, got {array.shape}")
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise ValueError(f"masks: expected True and False (or 1 and 0), got {array.dtype} values")
    return array.astype(np.bool_)


def _maps(
    overlays: Mapping[str, Any], shape: tuple[int, ...], at: tuple[slice, ...]
) -> dict[tuple[str, str], Floats]:
    made = {}
    for method, heads in overlays.items():
        for head, values in (heads if isinstance(heads, Mapping) else {"": heads}).items():
            array = np.asarray(values)
            if array.shape not in (shape, shape[1:]) or array.dtype.kind not in "iufb":
                expected = f"expected numbers {shape} or {shape[1:]} as the volume"
                got = f"got {array.dtype} {array.shape}"
                raise ValueError(f"overlays, map {method!r}, {head!r}: {expected}, {got}")
            array = array[at] if array.ndim == 3 else array[None, *at[1:]]
            if (top := max(map(abs, _encoding.ends(array)))) > STRONGEST:
                expected = f"expected numbers up to {STRONGEST:g} in size, got {top:g}"
                raise ValueError(f"overlays, map {method!r}, {head!r}: {expected}")
            made[str(method), str(head)] = array.astype(np.float64)
    if not all(method for method, _ in made):
        raise ValueError("overlays: expected a name for each method, got an empty one")
    return made


def _weights(weights: Any, n_slices: int) -> Floats:
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (n_slices,) or not np.isfinite(array).all() or (array < 0).any():
        expected = f"expected {n_slices} finite numbers, one per slice, from 0 up"
        raise ValueError(f"slice_weights: {expected}, got {array.shape}: {array!s:.60}")
    return array


def _ratings(
    predicted: Mapping[str, float], readings: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for name in dict.fromkeys([*readings, *predicted]):
        given = [float(r) for r in readings.get(name, ())]
        value = float(predicted[name]) if name in predicted else None
        numbers = [*given, *([] if value is None else [value])]
        if not all(abs(number) <= LARGEST for number in numbers):
            expected = f"expected finite numbers up to {LARGEST:g} in size"
            raise ValueError(f"ratings of {name!r}: {expected}, got {numbers}")
        is_probability = bool(numbers) and min(numbers) >= 0 and max(numbers) <= 1
        low, high = SCALES.get(name, (0, 1) if is_probability else (1, 5))
        scale = [min([low, *numbers]), max([high, *numbers])]
        title = attributes.title(str(name))
        one = {"name": str(name), "title": title, "scale": scale}
        made.append(one | {"readings": given, "predicted": value})
    return made


def output_word(heads: Iterable[str]) -> str:
    """What to call outputs of a model: ratings, if all of them are."""
    return "Rating" if SCALES.keys() >= set(heads) else "Output"


def peak(values: Floats) -> int | None:
    """The slice on which a map is strongest; None if it is the same on all, or nothing at all."""
    strength = np.nan_to_num(np.abs(values), posinf=0).max(axis=(1, 2))
    return int(strength.argmax()) if len(values) > 1 and strength.any() else None


def limits(values: Floats) -> tuple[float, float]:
    """The ends of a map's colour scale: its own, but symmetrical where both signs occur."""
    low, high = _encoding.ends(values)
    if low < 0:
        high = max(-low, high)
        low = -high
    return low, high
