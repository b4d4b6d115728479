"""A scan's patient, and how lung, lesion and chest wall become a crop, for every generator.

For `li2021` and `wang2021`, which have no real contours, also lobes, places and outlines.
Lengths in mm, densities in HU, axes (z, y, x).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.random import Generator

from lesionlab import _names
from lesionlab.crops import Crop
from lesionlab.sources.phantom import _physics as physics
from lesionlab.sources.phantom._lung import (
    GOLDEN,
    MARGIN_MM,
    Clear,
    Lung,
    draw_lung,
    parenchyma,
    vessels,
)
from lesionlab.sources.phantom._physics import Array, FloatArray, Grid, Scanner, generator
from lesionlab.sources.phantom._thorax import Around, Chest, draw_chest, make_room

BoolArray = npt.NDArray[np.bool_]
Key = tuple[str, int]
"""Id of a lesion or scan, and the seed: with the name of a step they decide what it draws."""

MOST_TWIGS = 700  # vessels' ends in a crop, so that the crop of a large lesion takes no longer

# The oblique fissure falls from the back of the chest to the front, the horizontal one parts the
# right upper lobe from the middle lobe. Levels are shares of the scan's height, 0 the lowest.
BACK, BACK_LEVEL, SLOPE = 0.72, 0.72, 1.1
HORIZONTAL_LEVEL = 0.53
# Heights at which to look for a place, by lobe from 0, which is across the oblique fissure.
HEIGHTS = ((0.40, 0.66), (0.56, 0.80), (0.36, 0.52), (0.30, 0.58), (0.42, 0.80), (0.30, 0.58))
HEIGHT_TRIES, PLACE_TRIES = 6, 160
# Points of a ball of radius 1 for which room is made: its section, and its lowest point.
BALL = [(0.0, y, x) for y, x in ((0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))]
BALL += [(0.0, y, x) for y in (-0.7, 0.7) for x in (-0.7, 0.7)] + [(-1.0, 0.0, 0.0)]


Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest value by name of the column, `diameter` and `pixel_spacing` in mm."""


def numbers(
    row: pd.Series[Any], ranges: Ranges, seed: int, size: int, around: float, least: float = 0.0
) -> list[float]:
    """The columns of a row that `ranges` names, as floats.

    A ValueError says if one is outside its range, or if `size` pixels are narrower than the
    diameter with `around` mm of lung, or than `least` mm.
    """
    _names.whole(0, seed=seed)
    _names.whole(1, size=size)
    checked = {}
    for name, (low, high) in ranges.items():
        value = pd.to_numeric(row[name], errors="coerce")
        if value is None or not low <= value <= high:
            raise ValueError(f"{name}={row[name]!r} of {row.name}: expected {low:g} to {high:g}")
        checked[name] = float(value)
    wide, pixel = max(least, checked["diameter"] + around), checked["pixel_spacing"]
    if wide > size * pixel:
        raise ValueError(
            f"size={size}: a crop of {row.name} has to be {wide:.1f} mm wide, "
            f"expected {int(np.ceil(wide / pixel))} pixels or more"
        )
    return list(checked.values())


def draw_scan(
    key: Key, spacing: float, thickness: float, pixel: float, height: float = 0, *, contrast: bool
) -> tuple[Chest, Lung, Scanner]:
    """Draw the patient and the scanner of a scan; its id and the seed, `key`, alone decide.

    Half of the patients get contrast medium, none if not `contrast`. A `height` of 0 is drawn.
    """
    drawn, blood = generator("height", *key).uniform((270, 35), (330, 50)).tolist()
    chest = draw_chest(generator("chest", *key), pixel=pixel, height=height or drawn)
    chest = chest if contrast else replace(chest, blood=blood)
    scanner = physics.draw_scanner(generator("scanner", *key), thickness=thickness, spacing=spacing)
    return chest, draw_lung(generator("lung", *key)), scanner


def apportion(shares: npt.ArrayLike, n: int) -> npt.NDArray[np.int64]:
    """Whole numbers in proportion to `shares` that sum to `n`, by largest remainders."""
    quota = np.asarray(shares, float)
    quota = quota * (n / quota.sum())
    whole: npt.NDArray[np.int64] = np.floor(quota + 1e-9).astype(np.int64)
    order = np.argsort(-np.round(quota - whole, 9), kind="stable")
    whole[order[: n - int(whole.sum())]] += 1
    return whole


def is_right(chest: Chest, x: Array) -> BoolArray:
    """Whether columns belong to the patient's right, which images show on their left."""
    return np.asarray(x < 0.5 * chest.fov + chest.shift[1])


def fissures(chest: Chest, z: Array, y: Array) -> tuple[Array, Array]:
    """Signed distance above the oblique fissure, and the right lung's horizontal one, mm."""
    steep = SLOPE * chest.height / chest.fov
    back = BACK * chest.fov + chest.shift[0]
    above = z - chest.height * BACK_LEVEL - steep * (y - back)
    return above / np.sqrt(1 + steep**2), z - HORIZONTAL_LEVEL * chest.height


def find_place(
    rng: Generator, chest: Chest, radius: float, gap: float, facing: str, lobe: int | None = None
) -> tuple[Chest, Array]:
    """Look for a place at which a sphere of `radius` lies `gap` from the pleura; both in mm.

    The best of a thousand random places is taken, by how far off the gap is, which is negative
    where the lesion reaches into the pleura, and how far the sphere reaches over a fissure.

    `lobe` is a code of Li 2021's location, 0 for a place on the oblique fissure, None for anywhere.
    `facing` says which pleura must be the nearest: `any`, that of the chest `wall` and not of the
    mediastinum, or that of the `back`, where fluid gathers.

    Returns the chest, widened where the lesion would not fit, and (3,) the lesion's middle, mm.
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
        if lobe is not None:
            cost += _lobe_cost(chest, lobe, np.full(y.shape, z), y, x, radius)
        k = int(np.argmin(cost))
        if cost[k] < best:
            best, where = float(cost[k]), np.array([z, y[k], x[k]])
    reach = max(radius + min(gap, 3.0), 1.0)
    return make_room(chest, where + reach * np.array(BALL)), where


def _lobe_cost(chest: Chest, lobe: int, z: Array, y: Array, x: Array, radius: float) -> Array:
    """How far a sphere reaches over a fissure, mm, and far more in another lobe than `lobe`."""
    above, over = fissures(chest, z, y)
    near = np.abs(above)
    if lobe == 0:
        return 3 * np.maximum(near - 0.25 * radius, 0)
    if lobe in (1, 2):
        near = np.minimum(near, np.abs(over))
    right = np.where(above > 0, np.where(over > 0, 1, 2), 3)
    here = np.where(is_right(chest, x), right, np.where(above > 0, 4, 5))
    return np.asarray(1e4 * (here != lobe) + np.maximum(radius + 2 - near, 0))


def nearest_wall(chest: Chest, centre: Array) -> tuple[Array, float]:
    """Direction in plane and distance of the nearest chest wall, along 72 rays of up to 90 mm."""
    turn = 2 * np.pi * np.arange(72) / 72
    along = np.arange(0.5, 90, 1.0)
    y = centre[1] + along[:, None] * np.cos(turn)
    x = centre[2] + along[:, None] * np.sin(turn)
    depth, angle = chest.radial(float(centre[0]), y, x)
    hit = (depth > 0) & (np.cos(angle) > 0.0)
    first = np.where(hit.any(0), along[np.argmax(hit, axis=0)], 90.0)
    k = int(np.argmin(first))
    return np.array([0.0, np.cos(turn[k]), np.sin(turn[k])]), float(first[k])


def grid_around(chest: Chest, middle: Array, size: int, half_z: float, spacing: float) -> Grid:
    """The crop around a place: `half_z` mm of slices above and below, `size` pixels across."""
    at, half = int(np.rint(middle[0] / spacing)), int(np.ceil(half_z / spacing))
    first = max(0, at - half)
    y, x = (int(np.rint(middle[k] / chest.pixel)) - size // 2 for k in (1, 2))
    return Grid(first, at + half + 1 - first, (y, x), size, spacing, spacing, chest.pixel)


def offsets(z: Array, grid: Grid, centre: Array) -> tuple[FloatArray, ...]:
    """Heights `z` and the grid's rows and columns seen from a centre, mm; they broadcast."""
    axes = zip((z, grid.y, grid.x), centre, strict=True)
    return np.ix_(*((at - c).astype(np.float32) for at, c in axes))


@dataclass(frozen=True)
class Blobs:
    """A union of balls in a space that is stretched along three axes and turned in plane."""

    centres: Array  # (k, 3)
    radii: Array  # (k,)
    stretch: Array  # (3,) along z, and along y and x before the turn; about 1
    turn: float  # angle in plane, radians

    def distance(self, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
        """Signed distance to the surface, to first order; negative inside, the axes broadcast."""
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        s = self.stretch.astype(np.float32)
        u, v, w = z / s[0], (cos * y + sin * x) / s[1], (cos * x - sin * y) / s[2]
        away = []
        for centre, radius in zip(self.centres.astype(np.float32), self.radii, strict=True):
            plane = (v - centre[1]) ** 2 + (w - centre[2]) ** 2
            away.append(np.sqrt((u - centre[0]) ** 2 + plane) - np.float32(radius))
        return np.asarray(np.minimum.reduce(away) * np.float32(np.cbrt(s.prod())), np.float32)

    def surface(self) -> Array:
        """(n, 3) points on all balls, mm."""
        points = self.centres[:, None] + self.radii[:, None, None] * sphere(200)
        z, v, w = (points * self.stretch).reshape(-1, 3).T
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return np.stack((z, cos * v - sin * w, sin * v + cos * w), axis=1)

    def with_diameter(self, diameter: float) -> Blobs:
        """The same form, centred, whose larger side in plane is `diameter`."""
        points = self.surface()
        low, high = points.min(axis=0), points.max(axis=0)
        z, y, x = (low + high) / 2
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        middle = np.array([z, cos * y + sin * x, cos * x - sin * y]) / self.stretch
        scale = diameter / float((high - low)[1:].max())
        return replace(self, centres=(self.centres - middle) * scale, radii=self.radii * scale)

    def reach(self, directions: Array, furthest: float) -> Array:
        """(n,) distance from the origin to the surface along (n, 3) unit vectors, mm."""
        along = np.linspace(0, furthest, 64)
        z, y, x = ((directions[:, k, None] * along).astype(np.float32) for k in range(3))
        outside = self.distance(z, y, x) > 0
        last = len(along) - 1 - np.argmax(~outside[:, ::-1], axis=1)
        return np.asarray(np.where(outside.all(axis=1), 0.0, along[last]))


def sphere(n: int) -> Array:
    """(n, 3) points spread evenly over the unit sphere."""
    height = 1 - 2 * (np.arange(n) + 0.5) / n
    turn = GOLDEN * np.arange(n)
    ring = np.sqrt(1 - height**2)
    return np.stack((height, ring * np.sin(turn), ring * np.cos(turn)), axis=1)


def stretched(rng: Generator, *balls: tuple[float, ...]) -> Blobs:
    """Balls, (z, y, x, radius) each, stretched a little and turned at random."""
    stretch = np.exp(0.1 * rng.standard_normal(3))
    all_balls = np.array(balls)
    return Blobs(all_balls[:, :3], all_balls[:, 3], stretch, float(rng.uniform(0, np.pi)))


def directions(rng: Generator, n: int) -> Array:
    """(n, 3) unit vectors all around; every other one lies nearly in the plane of the slices.

    Li 2021's 2D mode sees one slice, and a reader calls a sign that some slice shows.
    """
    turn = 2 * np.pi * (np.arange(n) + rng.uniform(-0.3, 0.3, n) + rng.random()) / n
    tilt = np.where(np.arange(n) % 2 == 0, 0.05, 0.5) * rng.standard_normal(n)
    height = np.clip(tilt, -0.95, 0.95)
    ring = np.sqrt(1 - height**2)
    return np.stack((height, ring * np.cos(turn), ring * np.sin(turn)), axis=1)


def made_up_lung(
    key: Key, chest: Chest, lung: Lung, middle: Array, grid: Grid, clear: Clear | None = None
) -> tuple[FloatArray, FloatArray]:
    """HU of the lung around a made-up lesion, and the share of vessels in each fine voxel."""
    low, high = grid.ends
    sides = np.array([high[0] - low[0], *(2 * [grid.size * grid.pixel])])
    twigs = MOST_TWIGS / (float(np.prod(sides + 2 * MARGIN_MM)) / 1000)
    lung = replace(lung, density=min(lung.density, twigs))
    volume = parenchyma(generator("parenchyma", *key), lung, grid)
    # the fissures of the lesion's lung are sheets of half a millimetre
    above, over = fissures(chest, grid.z_fine[:, None], grid.y[None])
    sheet = np.exp(-0.5 * (above / 0.55) ** 2)
    if is_right(chest, middle[2]):
        sheet = np.maximum(sheet, np.exp(-0.5 * (over / 0.55) ** 2) * (above > 0))
    volume += (250 * sheet).astype(np.float32)[:, :, None]
    return volume, vessels(generator("vessels", *key), volume, lung, chest, grid, clear)


def finish(
    key: Key,
    volume: FloatArray,
    share: FloatArray,
    around: Around,
    grid: Grid,
    scanner: Scanner,
    masks: BoolArray | None = None,
    not_lesion: BoolArray | None = None,
) -> Crop:
    """From the object on fine planes to a crop: slices, wall, blur, noise, and the mask.

    `volume` (planes, y, x) has the HU of the lung with its lesion, `share` the lesion's share of
    each fine voxel, `around` is of `surroundings`. `masks` are (reader, slices, y, x); if None,
    there is one mask of where a slice has half of the lesion, without `not_lesion` (slices, y, x).
    """
    filled = grid.average(share)
    depth, outside = around
    aerated = np.clip(0.5 - depth / np.float32(1.2 * grid.pixel), 0, 1)
    aerated = 1 - (1 - aerated) * (1 - filled)
    slices = aerated * grid.average(volume) + (1 - aerated) * outside
    slices = physics.blur(slices.astype(np.float32), scanner=scanner, pixel=grid.pixel)
    slices += physics.noise(generator("noise", *key), grid, scanner)
    if masks is None:
        mask = filled >= 0.5
        if not_lesion is not None and (mask & ~not_lesion).any():
            mask &= ~not_lesion
        if not mask.any():  # smaller than a voxel: a reader would circle it
            mask[np.unravel_index(int(np.argmax(filled)), mask.shape)] = True
        masks = mask[None]
    return Crop(
        lesion_id=key[0],
        hu=np.clip(np.rint(slices), *physics.HU_RANGE).astype(np.int16),
        masks=masks,
        spacing=(grid.spacing, grid.pixel, grid.pixel),
        slice_index=grid.slices,
        corner=grid.corner,
        steps=np.zeros(grid.n_slices, np.int64),
        tier="phantom",
    )
