"""Slices of a series in order along their normal, and what their headers say that is odd."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from lesionlab.sources.dicom._files import AIR, MAX_PIXELS, DicomError, Slice

FloatArray = npt.NDArray[np.float64]

SAME_POSITION = 0.01  # mm; slices nearer stand at one position; LIDC's nearest are 0.45 mm apart
GAP = 1.5  # a step above this many times the usual step means that slices are missing


def axes_of(one: Slice) -> FloatArray:
    """`direction` as in `Volume`, of the series of a slice."""
    along_x, along_y = np.array(one.orientation).reshape(2, 3)
    normal = np.cross(along_x, along_y)
    # z ascends towards the head, as in pylidc
    main = 2 if abs(normal[2]) > 1e-3 else int(np.abs(normal).argmax())
    return np.column_stack((along_x, along_y, normal * np.sign(normal[main]))) + 0.0


def arrange(
    slices: list[Slice], strict: bool, *, phase: int | None = None, tilted: bool = False
) -> tuple[list[Slice], FloatArray, FloatArray, tuple[float, float, float], list[str]]:
    """Put slices in order along their normal and check the steps between them.

    Args:
        slices: Of one series.
        strict: Refuse steps that show that slices are missing.
        phase: As of `read_series`.
        tilted: Take slices that a tilted gantry has moved evenly aside; `straighten` puts them
            right.

    Returns:
        One slice per position, `direction`, `slice_z` and `spacing` as in `Volume`, and notes:
        which slices were left out, and what is odd about the steps.
    """
    direction = axes_of(slices[0])
    # pylidc's rule for two slices at one position: the lesser InstanceNumber wins
    slices = sorted(slices, key=lambda s: (s.instance_number, str(s)))
    along = np.array([s.position for s in slices]) @ direction[:, 2]
    order = np.argsort(along, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(along[order]) >= SAME_POSITION) + 1)
    at = [[slices[i] for i in sorted(group)] for group in groups]
    phases = _phases(at)
    if phase is not None:
        if not 1 <= phase <= len(phases):
            raise ValueError(f"phase={phase!r}: expected a whole number from 1 to {len(phases)}")
        if len(phases) > 1:
            return arrange(phases[phase - 1], strict, tilted=tilted)
    kept, notes = [some[0] for some in at], []
    if left_out := [(s, some[0].path.name) for some in at for s in some[1:]]:
        one, winner = left_out[0]
        notes = [
            f"{one} stands at the position of {winner}, whose InstanceNumber is not greater, and "
            "was left out"
            + (f", as were {len(left_out) - 1} more such slices" if len(left_out) > 1 else "")
            + (f"; phase=1 to {len(phases)} reads one phase alone" if len(phases) > 1 else "")
        ]
    positions = along[[min(group) for group in groups]]
    aside, moved = _aside(kept, direction)
    if moved and not (tilted and _even(positions, aside, kept[0])):
        away = np.abs(aside - np.median(aside, axis=0)).max(axis=1)
        raise DicomError(
            f"{kept[away.argmax()]}: lies {away.max():.3g} mm beside the other slices, "
            "expected them stacked along their normal or, if the gantry was tilted, evenly aslant"
        )
    step, odd = _step(kept, positions, strict)
    return kept, direction, positions, (step, *kept[0].pixel_spacing), notes + odd


def _phases(at: list[list[Slice]]) -> list[list[Slice]]:
    """The phases, or reconstructions, of a series of which half the positions or more hold several.

    Times, acquisitions and kernels tell them apart, or else the order of the InstanceNumbers.

    Args:
        at: The slices at each position, by InstanceNumber.
    """
    every, shared = [s for some in at for s in some], [some for some in at if len(some) > 1]
    if 2 * len(shared) < len(at):
        return [every]

    def label(s: Slice) -> Any:
        return [(len(word), word) for word in (*s.phase, s.kernel)]  # "2" before "10"

    by_label: dict[str, list[Slice]] = defaultdict(list)
    for s in sorted(every, key=label):
        by_label[str(label(s))].append(s)
    if all(len({str(label(s)) for s in some}) == len(some) for some in shared):
        return list(by_label.values())
    most = max(map(len, shared))
    return [[some[k] for some in at if k < len(some)] for k in range(most)]


def _tolerance(one: Slice) -> float:
    return 0.1 * min(one.pixel_spacing) + 0.002


def _aside(slices: list[Slice], direction: FloatArray) -> tuple[FloatArray, bool]:
    """(slice, 2) where in their planes slices begin, mm, and whether that differs."""
    aside = np.array([s.position for s in slices]) @ direction[:, :2]
    return aside, bool(np.ptp(aside, axis=0).max() > _tolerance(slices[0]))


def _even(positions: FloatArray, aside: FloatArray, one: Slice) -> bool:
    """Whether slices lie aslant in even steps, by 45° at most."""
    along, away = positions - positions.mean(), aside - aside.mean(axis=0)
    shear = along @ away / max(along @ along, 1e-12)
    off = np.abs(away - np.outer(along, shear)).max()
    return len(along) > 2 and bool(off <= _tolerance(one)) and float(np.hypot(*shear)) <= 1


def straighten(
    hu: npt.NDArray[Any], slices: list[Slice], direction: FloatArray
) -> tuple[npt.NDArray[Any], tuple[float, ...], list[str]]:
    """Move the slices of a tilted gantry in their planes until they are stacked along their normal.

    Between pixels it interpolates linearly, and what no slice shows becomes air.

    Returns:
        `hu`, larger by the widest shift, and `origin_mm` as in `Volume`, and a note; all slices as
        they are and no note where none has to be moved.
    """
    from scipy import ndimage

    aside, moved = _aside(slices, direction)
    if not moved:
        return hu, slices[0].position, []
    y, x = slices[0].pixel_spacing
    corner = aside.min(axis=0)
    shifts = (aside - corner)[:, ::-1] / (y, x)  # (slice, 2) pixels, as (y, x)
    more = np.ceil(shifts.max(axis=0) - 1e-6).astype(int)
    shape = hu.shape[1] + int(more[0]), hu.shape[2] + int(more[1])
    if max(shape) > MAX_PIXELS:
        raise DicomError(f"{slices[0]}: the gantry's tilt moves slices by {max(more)} pixels")
    made = np.empty((len(hu), *shape), hu.dtype)
    for plane, new, shift in zip(hu, made, shifts, strict=True):
        wide = np.pad(plane.astype(np.float32), [(0, n) for n in more], constant_values=AIR)
        wide = ndimage.shift(wide, shift, order=1, mode="constant", cval=AIR)
        new[:] = np.rint(wide) if new.dtype.kind == "i" else wide
    height = np.array(slices[0].position) @ direction[:, 2]
    tilt = np.array(slices[-1].position) - slices[0].position
    degrees = math.degrees(math.atan2(np.hypot(*(tilt @ direction[:, :2])), tilt @ direction[:, 2]))
    widest = np.ptp(aside, axis=0).max()
    note = (
        f"the gantry was tilted by {degrees:.1f}°: slices were moved in their planes by up to "
        f"{widest:.3g} mm and interpolated, so that they are stacked along their normal"
    )
    return made, tuple((direction @ (*corner, height)).tolist()), [note]


def _step(slices: list[Slice], positions: FloatArray, strict: bool) -> tuple[float, list[str]]:
    """The median step between slices, mm, and what is odd about the steps."""
    if len(slices) == 1:
        if not slices[0].thickness > 0:
            raise DicomError(f"{slices[0]}: a single slice without SliceThickness")
        return slices[0].thickness, ["a single slice: its thickness stands for the spacing"]
    steps = np.diff(positions)
    step = float(np.median(steps))
    # the lower of the two middle steps where their number is even: among few, one may be the gap
    usual = float(np.quantile(steps, 0.5, method="lower"))
    notes = [
        f"{steps[k]:.4g} mm between {slices[k]} and {slices[k + 1].path.name}, where "
        f"{usual:.4g} mm is usual: about {max(round(steps[k] / usual) - 1, 1)} slices missing"
        for k in np.flatnonzero(steps > GAP * usual)
    ]
    if notes and strict:
        raise DicomError(f"{notes[0]} ({len(notes)} such gaps); strict=False reads it all the same")
    if np.abs(steps - step).max() > 0.1 * step and not notes:
        notes = [f"uneven steps between slices: {steps.min():.4g} to {steps.max():.4g} mm"]
    return step, notes


def oddities(slices: list[Slice], n_skipped: int) -> tuple[list[str], list[str]]:
    """What the headers of a series say that is odd: what makes it no single scan, and the rest.

    Args:
        slices: Of one series.
        n_skipped: Files beside them that are no CT slices; some are numbered as these are.
    """
    refused = [
        *_mixed("patients", ((s, s.patient) for s in slices)),
        *_mixed("frames of reference", ((s, s.frame_of_reference) for s in slices)),
    ]
    notes = [
        *_mixed("reconstruction kernels", ((s, s.kernel) for s in slices)),
        *_mixed("slice thicknesses", ((s, f"{s.thickness:.4g}") for s in slices)),
    ]
    uids = Counter(s.sop_uid for s in slices if s.sop_uid and s.frame is None)
    if repeated := [s for s in slices if uids[s.sop_uid] > 1]:
        n = len(repeated)
        notes.append(f"{n} files share their SOPInstanceUID with another, the first {repeated[0]}")
    by_number = {int(s.instance_number): s for s in slices if math.isfinite(s.instance_number)}
    numbers = sorted(by_number)
    # where more are absent than there are, they do not count slices
    if numbers and 0 < numbers[0] - 1 - n_skipped <= len(numbers):
        first = by_number[numbers[0]]
        notes.append(
            f"slices before {first} may be missing: InstanceNumbers begin with its {numbers[0]}"
        )
    steps = set(np.diff(numbers).tolist())
    absent = numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0
    if len(numbers) > 2 and steps == {2}:
        notes.append("every second slice may be missing: InstanceNumbers rise by 2")
    elif 0 < absent <= len(numbers):
        notes.append(f"slices may be missing between others: InstanceNumbers lack {absent}")
    return refused, notes


def _mixed(what: str, kinds: Iterable[tuple[Slice, Hashable]]) -> list[str]:
    """A sentence where slices are of several kinds, which it counts and does not quote."""
    groups: dict[Hashable, list[Slice]] = defaultdict(list)
    for s, kind in kinds:
        groups[kind].append(s)
    if len(groups) < 2:
        return []
    some = sorted(groups.values(), key=len, reverse=True)
    told = ", ".join(f"{len(group)} slices as {group[0]}" for group in some[:3])
    return [f"{len(groups)} {what} in one series: {told}" + (" …" if len(some) > 3 else "")]
