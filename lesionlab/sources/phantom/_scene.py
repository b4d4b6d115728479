"""Where a made-up lesion lies in a chest, and how lung, lesion and wall become a crop.

Shared by the phantoms of the two private data sets, which have no real contours to render around:
`phantom_li2021` and `phantom_wang2021`. Lungs, vessels, wall and scanner are those of
`lesionlab.sources.phantom`. New here are the lobes, which two planes part as the fissures do, and
the search for a place of a given lobe and depth. Lengths in mm, densities in HU, axes (z, y, x).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lesionlab.crops import Crop
from lesionlab.sources.phantom._fields import (
    Array,
    FloatArray,
    Grid,
    Scanner,
    blur,
    draw_scanner,
    generator,
    noise,
)
from lesionlab.sources.phantom._lung import MARGIN_MM, Lung, draw_lung
from lesionlab.sources.phantom._thorax import Chest, Surroundings, draw_chest, make_room

HU_RANGE = (-1024, 3071)  # what twelve bits of CT hold
MOST_TWIGS = 700
"""Vessels' ends in a crop at most, so that the crop of a large lesion takes no longer."""

# The oblique fissure falls from the back of the chest to the front, the horizontal one parts the
# right upper lobe from the middle lobe. Levels are shares of the scan's height, 0 the lowest.
BACK, BACK_LEVEL, SLOPE = 0.72, 0.72, 1.1
HORIZONTAL_LEVEL = 0.53
# Heights at which to look for a place, by lobe; 0 is across the oblique fissure.
HEIGHTS = {
    0: (0.40, 0.66),
    1: (0.56, 0.80),
    2: (0.36, 0.52),
    3: (0.30, 0.58),
    4: (0.42, 0.80),
    5: (0.30, 0.58),
}
HEIGHT_TRIES, PLACE_TRIES = 6, 160


@dataclass(frozen=True)
class Scan:
    """What all lesions of one scan share."""

    chest: Chest
    lung: Lung
    scanner: Scanner


def draw_scan(
    scan_id: str,
    seed: int,
    *,
    thickness: float,
    spacing: float,
    pixel: float,
    contrast: bool = True,
) -> Scan:
    """Draw the patient and the scanner of a scan; id and seed alone decide.

    Half of the patients get contrast medium, none if not `contrast`.
    """
    rng = generator("height", scan_id, seed)
    height, blood = float(rng.uniform(270, 330)), float(rng.uniform(35, 50))
    chest = draw_chest(generator("chest", scan_id, seed), pixel=pixel, height=height)
    return Scan(
        chest=chest if contrast else replace(chest, blood=blood),
        lung=draw_lung(generator("lung", scan_id, seed)),
        scanner=draw_scanner(
            generator("scanner", scan_id, seed), thickness=thickness, spacing=spacing
        ),
    )


def whole(name: str, value: object, least: int) -> None:
    """Raise a ValueError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}={value!r}: expected a whole number, {least} or more")


def number(name: str, value: Any, low: float, high: float) -> float:
    """`value` as a float; a ValueError unless it is one from `low` to `high`."""
    try:
        checked = float(value)
    except (TypeError, ValueError):
        checked = np.nan
    if not low <= checked <= high:
        raise ValueError(f"{name}: expected {low:g} to {high:g}, got {value!r}")
    return checked


def is_right(chest: Chest, x: Array) -> npt.NDArray[np.bool_]:
    """Whether columns belong to the patient's right, which images show on their left."""
    return np.asarray(x < 0.5 * chest.fov + chest.shift[1])


def oblique(chest: Chest, z: Array, y: Array) -> Array:
    """Signed distance above the oblique fissure, mm."""
    steep = SLOPE * chest.height / chest.fov
    back = BACK * chest.fov + chest.shift[0]
    above = z - chest.height * BACK_LEVEL - steep * (y - back)
    return np.asarray(above / np.sqrt(1 + steep**2))


def horizontal(chest: Chest, z: Array) -> Array:
    """Signed distance above the horizontal fissure of the right lung, mm."""
    return z - HORIZONTAL_LEVEL * chest.height


def lobes(chest: Chest, z: Array, y: Array, x: Array) -> npt.NDArray[np.int64]:
    """The lobe at places in the lungs: Li 2021's codes of the location, 1 to 5."""
    upper = oblique(chest, z, y) > 0
    right = np.where(upper, np.where(horizontal(chest, z) > 0, 1, 2), 3)
    return np.asarray(np.where(is_right(chest, x), right, np.where(upper, 4, 5)))


def fissure_hu(chest: Chest, centre: Array, grid: Grid) -> FloatArray:
    """(planes, y, 1) HU that the fissures of the lesion's lung add: sheets of half a millimetre."""
    z, y = grid.z_fine[:, None], grid.y[None]
    above = oblique(chest, z, y)
    sheet = np.exp(-0.5 * (above / 0.55) ** 2)
    if is_right(chest, centre[2]):
        flat = np.exp(-0.5 * (horizontal(chest, z) / 0.55) ** 2)
        sheet = np.maximum(sheet, flat * (above > 0))
    return (250 * sheet).astype(np.float32)[:, :, None]


@dataclass(frozen=True)
class Place:
    """Where a lesion lies.

    Attributes:
        chest: The chest, widened where the lesion would not fit.
        centre: (3,) middle of the lesion, mm.
        outwards: (3,) unit vector, in plane, to the nearest place on the chest wall.
        to_wall: Distance to it, mm.
    """

    chest: Chest
    centre: Array
    outwards: Array
    to_wall: float


def find_place(
    rng: np.random.Generator,
    chest: Chest,
    *,
    radius: float,
    gap: float,
    lobe: int | None = None,
    facing: Literal["any", "wall", "back"] = "any",
) -> Place:
    """Look for a place at which a sphere of `radius` lies `gap` from the pleura.

    The best of a thousand random places is taken, by how far off the gap is and how far the
    sphere reaches over a fissure; the lobe has to be right.

    Args:
        rng: Source of the draws.
        chest: The chest of the scan.
        radius: Radius of the lesion, mm.
        gap: Wanted distance of its surface from the pleura, mm; negative where it reaches into it.
        lobe: Code of Li 2021's location that the middle must have, 0 for a place on the oblique
            fissure, None for anywhere.
        facing: Which pleura must be the nearest: the chest wall's and not the mediastinum's, or
            that of the back, where fluid gathers.
    """
    best, where = np.inf, np.zeros(3)
    low, high = HEIGHTS[lobe] if lobe is not None else (0.34, 0.80)
    for level in rng.uniform(low, high, HEIGHT_TRIES):
        z = float(level) * chest.height
        y, x = rng.uniform([[0.25], [0.1]], [[0.8], [0.9]], (2, PLACE_TRIES)) * chest.fov
        depth, angle = chest.radial(z, y, x)
        cost = np.abs(-depth - radius - gap)
        cost += np.maximum(chest.diaphragm(np.array(z), y, x) + radius, 0)
        if facing == "wall":
            cost += 1e3 * (np.cos(angle) < 0.1)
        elif facing == "back":
            cost += 1e3 * (np.abs(angle - np.pi / 3) > np.pi / 6)
        cost += _lobe_cost(chest, lobe, z, y, x, radius)
        k = int(np.argmin(cost))
        if cost[k] < best:
            best, where = float(cost[k]), np.array([z, y[k], x[k]])
    reach = max(radius + min(gap, 3.0), 1.0)
    ball = where + reach * np.array(
        [[0, a, b] for a, b in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))]
        + [[0, 0.7 * a, 0.7 * b] for a in (-1, 1) for b in (-1, 1)]
        + [[-1, 0, 0]]
    )
    if gap > -radius:
        chest = make_room(chest, ball)
    outwards, to_wall = _nearest_wall(chest, where)
    return Place(chest, where, outwards, to_wall)


def _lobe_cost(
    chest: Chest, lobe: int | None, z: float, y: Array, x: Array, radius: float
) -> Array:
    if lobe is None:
        return np.zeros(y.shape)
    height = np.full(y.shape, z)
    above = oblique(chest, height, y)
    if lobe == 0:
        return 3 * np.maximum(np.abs(above) - 0.25 * radius, 0)
    near = np.abs(above)
    if lobe in (1, 2):
        near = np.minimum(near, np.abs(horizontal(chest, height)))
    wrong = lobes(chest, height, y, x) != lobe
    return np.asarray(1e4 * wrong + np.maximum(radius + 2 - near, 0))


def _nearest_wall(chest: Chest, centre: Array) -> tuple[Array, float]:
    """Direction in plane and distance of the nearest chest wall, along 72 rays of up to 90 mm."""
    turn = 2 * np.pi * np.arange(72) / 72
    along = np.arange(0.5, 90, 1.0)
    y = centre[1] + along[:, None] * np.cos(turn)
    x = centre[2] + along[:, None] * np.sin(turn)
    depth, angle = chest.radial(float(centre[0]), y, x)
    hit = (depth > 0) & (np.cos(angle) > 0.0)
    first = np.where(hit.any(0), along[np.argmax(hit, axis=0)], np.inf)
    k = int(np.argmin(first))
    distance = float(first[k]) if np.isfinite(first[k]) else 90.0
    return np.array([0.0, np.cos(turn[k]), np.sin(turn[k])]), distance


def grid_around(
    place: Place, *, size: int, half_z: float, spacing: float, thickness: float, pixel: float
) -> Grid:
    """The crop around a place: `half_z` mm of slices above and below, `size` pixels across."""
    middle = place.centre[0] / spacing
    half = int(np.ceil(half_z / spacing))
    first = max(0, int(np.rint(middle)) - half)
    corner = [int(np.rint(place.centre[k] / pixel)) - size // 2 for k in (1, 2)]
    return Grid(
        first=first,
        n_slices=int(np.rint(middle)) + half + 1 - first,
        corner=(corner[0], corner[1]),
        size=size,
        spacing=spacing,
        thickness=thickness,
        pixel=pixel,
    )


def fewer_twigs(lung: Lung, grid: Grid) -> Lung:
    """The lung with at most `MOST_TWIGS` ends of vessels in and around a crop."""
    sides = np.array([grid.z_fine[-1] - grid.z_fine[0], *(2 * [grid.size * grid.pixel])])
    volume = float(np.prod(sides + 2 * MARGIN_MM)) / 1000
    return replace(lung, density=min(lung.density, MOST_TWIGS / volume))


def offsets(grid: Grid, centre: Array) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The grid's coordinates seen from a centre, mm, that broadcast to (planes, y, x)."""
    z, y, x = (
        (at - c).astype(np.float32)
        for at, c in zip((grid.z_fine, grid.y, grid.x), centre, strict=True)
    )
    return z[:, None, None], y[None, :, None], x[None, None, :]


def finish(
    volume: FloatArray,
    share: FloatArray,
    around: Surroundings,
    grid: Grid,
    scan: Scan,
    *,
    lesion_id: str,
    seed: int,
    not_lesion: npt.NDArray[np.bool_] | None = None,
) -> Crop:
    """From the object on fine planes to a crop: slices, wall, blur, noise, and the mask.

    Args:
        volume: (planes, y, x) HU of the lung with its lesion.
        share: (planes, y, x) share of each fine voxel in the lesion; its mask is where a slice has
            half or more of it.
        around: Chest wall and the rest.
        grid: The crop.
        scan: Whose scanner blurs and adds noise.
        lesion_id: Of the lesion.
        seed: Of the noise.
        not_lesion: (slices, y, x) what a reader leaves out of the mask.
    """
    filled = grid.average(share)
    aerated = np.clip(0.5 - around.depth / np.float32(1.2 * grid.pixel), 0, 1)
    aerated = 1 - (1 - aerated) * (1 - filled)
    slices = aerated * grid.average(volume) + (1 - aerated) * around.hu
    slices = blur(slices.astype(np.float32), scanner=scan.scanner, pixel=grid.pixel)
    slices += noise(generator("noise", lesion_id, seed), grid, scan.scanner)
    mask = filled >= 0.5
    if not_lesion is not None and (mask & ~not_lesion).any():
        mask &= ~not_lesion
    if not mask.any():  # smaller than a voxel: a reader would circle it
        mask[np.unravel_index(int(np.argmax(filled)), mask.shape)] = True
    return Crop(
        lesion_id=lesion_id,
        hu=np.clip(np.rint(slices), *HU_RANGE).astype(np.int16),
        masks=mask[None],
        spacing=(grid.spacing, grid.pixel, grid.pixel),
        slice_index=grid.first + np.arange(grid.n_slices, dtype=np.int64),
        corner=grid.corner,
        calibrated=np.ones(grid.n_slices, np.bool_),
        tier="phantom",
    )
