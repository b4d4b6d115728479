"""CT slices in order: along their normal, one per position, with what is missing or askew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lesionlab.sources.dicom._files import DicomError, Slice, vector
from lesionlab.sources.lidc._database import FloatArray

OnGap = Literal["raise", "warn"]

SAME_POSITION = 0.01
"""Two slices nearer than this, in mm, stand at one position; LIDC's nearest are 0.45 mm apart."""

GAP = 1.5
"""A step above this many times the median step means that slices are missing."""


@dataclass(frozen=True)
class Series:
    """The slices of one series in order, from their headers alone.

    Attributes:
        slices: One per position, ascending.
        duplicates: The other slices at the same position, for each of `slices`.
        direction: As in `Volume`.
        positions: As `Volume.slice_z`.
        spacing: As in `Volume`.
        counts: As in `Volume`, without what takes pixels to know.
        warnings: As in `Volume`.
    """

    slices: tuple[Slice, ...]
    duplicates: tuple[tuple[Slice, ...], ...]
    direction: FloatArray
    positions: FloatArray
    spacing: tuple[float, float, float]
    counts: dict[str, int]
    warnings: tuple[str, ...]

    @property
    def is_axial(self) -> bool:
        """Slices perpendicular to the patient's long axis, to a tenth of a degree."""
        return bool(abs(self.direction[2, 2]) > math.cos(math.radians(0.1)))


def arrange(
    slices: list[Slice], *, counts: dict[str, int], warnings: tuple[str, ...], on_gap: OnGap
) -> Series:
    """Put slices in order along their normal and check the steps between them.

    Raises:
        DicomError: The gantry was tilted, a slice lies beside the others, slices are missing, or
            a single slice does not state its thickness.
    """
    direction = _direction(slices[0])
    position = np.array([s.position for s in slices])
    along = position @ direction[:, 2]
    # pylidc's rule for two slices at one position: the lesser InstanceNumber wins
    rank = sorted(
        range(len(slices)), key=lambda i: (slices[i].instance_number, str(slices[i].path))
    )
    order = sorted(rank, key=lambda i: along[i])
    groups: list[list[int]] = []
    for i in order:
        if groups and along[i] - along[groups[-1][0]] < SAME_POSITION:
            groups[-1].append(i)
        else:
            groups.append([i])
    groups = [sorted(group, key=rank.index) if len(group) > 1 else group for group in groups]
    kept = [slices[group[0]] for group in groups]
    positions = along[[group[0] for group in groups]]
    _check_sideways(kept, direction)
    step, notes = _step(kept, positions, on_gap)
    return Series(
        slices=tuple(kept),
        duplicates=tuple(tuple(slices[i] for i in group[1:]) for group in groups),
        direction=direction,
        positions=positions,
        spacing=(step, *kept[0].pixel_spacing),
        counts=counts,
        warnings=warnings + notes,
    )


def _direction(first: Slice) -> FloatArray:
    """Columns: where the x, y and z index grow. z ascends towards the head, as in pylidc."""
    along_x, along_y = np.array(first.orientation).reshape(2, 3)
    normal = np.cross(along_x, along_y)
    main = 2 if abs(normal[2]) > 1e-3 else int(np.abs(normal).argmax())
    return np.column_stack((along_x, along_y, normal * np.sign(normal[main]))) + 0.0


def _check_sideways(slices: list[Slice], direction: FloatArray) -> None:
    """Slices must be stacked along their normal: no tilted gantry, none pushed aside."""
    if len(slices) < 2:
        return
    away = np.array([s.position for s in slices]) - vector(slices[0].position)
    along = away @ direction[:, 2]
    aside = away @ direction[:, :2]  # (slice, 2)
    limit = 0.1 * min(slices[0].pixel_spacing) + 0.002
    if np.abs(aside).max() <= limit:
        return
    slope = np.median(np.diff(aside, axis=0) / np.diff(along)[:, None], axis=0)
    rest = np.abs(aside - along[:, None] * slope).max(axis=1)
    if rest.max() <= limit and np.abs(slope).max() > 0:
        tilt = math.degrees(math.atan(float(np.hypot(*slope))))
        raise DicomError(
            f"{slices[0].path} and {len(slices) - 1} more: the gantry was tilted, slices are "
            f"stacked {tilt:.2f}° off their normal; resample the series first"
        )
    worst = int(np.abs(rest - np.median(rest)).argmax())
    off = np.abs(aside[worst] - np.median(aside, axis=0)).max()
    raise DicomError(
        f"{slices[worst].path}: lies {off:.3g} mm beside the other slices, expected them stacked "
        "along their normal"
    )


def _step(
    slices: list[Slice], positions: FloatArray, on_gap: OnGap
) -> tuple[float, tuple[str, ...]]:
    if len(slices) == 1:
        if not slices[0].thickness > 0:
            raise DicomError(f"{slices[0].path}: a single slice without SliceThickness")
        return slices[0].thickness, ("a single slice: its thickness stands for the spacing",)
    steps = np.diff(positions)
    step = float(np.median(steps))
    notes = []
    # the lower of the two middle steps where their number is even: among few, one may be the gap
    usual = float(np.quantile(steps, 0.5, method="lower"))
    gaps = np.flatnonzero(steps > GAP * usual)
    for k in gaps:
        text = (
            f"{steps[k]:.4g} mm between {slices[k].path} and {slices[k + 1].path.name}, where "
            f"{usual:.4g} mm is usual: about {max(round(steps[k] / usual) - 1, 1)} slices missing"
        )
        if on_gap == "raise":
            more = f" ({len(gaps)} such gaps)" if len(gaps) > 1 else ""
            raise DicomError(f"{text}{more}; on_gap='warn' reads the series all the same")
        notes.append(text)
    if np.abs(steps - step).max() > 0.1 * step and not len(gaps):
        notes.append(f"uneven steps between slices: {steps.min():.4g} to {steps.max():.4g} mm")
    return step, tuple(notes)
