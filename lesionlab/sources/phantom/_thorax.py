"""The chest around a phantom lesion: two lungs, the wall with its ribs, mediastinum, diaphragm.

The outline of the lungs is the one that the real LIDC crops have on average at four heights, where
half of them show soft tissue. Each scan's lungs are that shape, scaled and bent at random.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from lesionlab.sources.phantom._physics import Array, FloatArray, Grid, texture

RIGHT, LEFT = SIDES = (0, 1)  # the patient's; the right is on the left of an image
FIELD = 512  # pixels across a scan
LEVELS = (0.32, 0.48, 0.62, 0.80)  # height in the scan, 0 the lowest slice
CENTRE = ((0.525, 0.285), (0.535, 0.715))  # of each side, (y, x), shares of the field of view
# Distance to the pleura in pixels of 512, in steps of 22.5 degrees: 0 is lateral, 90 posterior.
OUTLINE = (
    (
        (78, 80, 92, 114, 132, 129, 110, 99, 92, 75, 92, 118, 120, 98, 94, 84),
        (85, 83, 94, 115, 140, 137, 112, 95, 73, 68, 85, 126, 134, 123, 107, 90),
        (69, 72, 80, 100, 128, 134, 112, 92, 70, 74, 112, 126, 109, 91, 79, 69),
        (48, 51, 62, 76, 94, 106, 99, 92, 86, 80, 92, 98, 78, 62, 49, 46),
    ),
    (
        (83, 84, 94, 98, 117, 122, 100, 76, 66, 58, 66, 90, 118, 122, 106, 91),
        (78, 74, 83, 103, 124, 125, 100, 68, 47, 48, 60, 110, 132, 119, 100, 79),
        (66, 70, 80, 96, 120, 129, 100, 60, 48, 66, 108, 124, 122, 102, 80, 68),
        (46, 50, 58, 73, 94, 105, 93, 84, 80, 80, 92, 102, 92, 66, 54, 47),
    ),
)
ANGLES = 128  # steps of the interpolated outline
# Size of a drawn pair of lungs over `OUTLINE`, on average: they are widened for many a lesion
MEAN_SCALE = 0.95


@dataclass(frozen=True)
class Chest:
    """One scan's chest, and where it gives way to a lesion. Lengths in mm, HU for densities."""

    pixel: float  # pixel spacing of the scan
    height: float  # of the scan, for the share of it at which a slice lies
    scale: float  # size of the lungs over the mean
    shift: tuple[float, float]  # (y, x) displacement of the lungs
    bends: Array  # (side, 2, harmonics) cosine and sine part of the outline's relative deviation
    muscle: float  # thickness of ribs and muscle
    fat: float  # thickness of the fat under the skin
    rib_phase: float  # where along z the ribs stand
    waves: Array  # (4,) phases of the wall's unevenness, radians
    dome: tuple[float, float]  # height of the diaphragm's top per side, as a share of `height`
    blood: float  # HU of blood, higher with contrast medium
    bump: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
    """`(y, x, extra depth, width)`: where and how far the pleura is pushed outwards."""

    @property
    def fov(self) -> float:
        """Field of view, mm."""
        return FIELD * self.pixel

    def centre(self, side: int) -> tuple[float, float]:
        """`(y, x)` of a lung's centre, mm."""
        y, x = CENTRE[side]
        return y * self.fov + self.shift[0], x * self.fov + self.shift[1]

    def outline(self, side: int, z: float) -> Array:
        """(ANGLES,) distance from the centre to the pleura at height `z`, mm."""
        level = z / self.height
        rows = np.array(OUTLINE[side], float)
        row = np.array([np.interp(level, LEVELS, column) for column in rows.T])
        spectrum = np.fft.rfft(row)
        fine = np.fft.irfft(spectrum[:7], ANGLES) * (ANGLES / row.size)
        turn = 2 * np.pi * np.arange(ANGLES) / ANGLES
        bend = np.zeros(ANGLES)
        for k, (a, b) in enumerate(self.bends[side].T, start=2):
            bend += a * np.cos(k * turn) + b * np.sin(k * turn)
        apex = np.clip(1 - 2.2 * (level - 0.84), 0.3, 1.0)  # the lungs end above
        return np.asarray(fine * (1 + bend) * (self.scale * apex * self.pixel))

    def radial(self, z: float, y: Array, x: Array) -> tuple[Array, Array]:
        """Where places `(y, x)`, which broadcast, lie in the slice at height `z`; all in mm.

        Returns the signed distance to the pleura, to first order, negative in the lungs, and the
        angle seen from the centre of the nearer lung, radians.
        """
        best, angle = np.full(np.broadcast_shapes(y.shape, x.shape), np.inf), np.zeros(())
        for side in SIDES:
            cy, cx = self.centre(side)
            lateral = (x - cx) * (1 if side == LEFT else -1)
            turn = np.arctan2(y - cy, lateral) % (2 * np.pi)
            at = turn * (ANGLES / (2 * np.pi))
            low = at.astype(int) % ANGLES
            share = at - np.floor(at)
            edge = self.outline(side, z)
            ahead = np.roll(edge, -1)
            slope = (ahead - edge)[low] * (ANGLES / (2 * np.pi))
            here = edge[low] + share * (ahead - edge)[low]
            distance = (np.hypot(y - cy, lateral) - here) / np.sqrt(1 + (slope / here) ** 2)
            angle = np.where(distance < best, turn, angle)
            best = np.minimum(best, distance)
        by, bx, depth, width = self.bump
        if depth:
            best = best - depth * np.exp(-((y - by) ** 2 + (x - bx) ** 2) / (2 * width**2))
        return best, angle

    def diaphragm(self, z: Array, y: Array, x: Array) -> Array:
        """Signed height below the diaphragm, mm, positive beneath it; all arguments broadcast."""
        domes = []
        for side in SIDES:
            cy, cx = self.centre(side)
            r2 = ((y - cy) / (0.25 * self.fov)) ** 2 + ((x - cx) / (0.18 * self.fov)) ** 2
            domes.append(self.dome[side] * self.height - 0.22 * self.fov * r2 - z)
        return np.maximum(*domes) * 0.75  # across the slope of the dome


def draw_chest(rng: Generator, *, pixel: float, height: float) -> Chest:
    """Draw one scan's chest."""
    bends = 0.03 * rng.standard_normal((2, 2, 4)) / np.sqrt(np.arange(1, 5))
    contrast = rng.random() < 0.5
    return Chest(
        pixel=pixel,
        height=height,
        scale=float(np.clip(MEAN_SCALE + 0.06 * rng.standard_normal(), 0.78, 1.12)),
        shift=(
            float(0.015 * FIELD * pixel * rng.standard_normal()),
            float(0.012 * FIELD * pixel * rng.standard_normal()),
        ),
        bends=bends,
        muscle=float(rng.uniform(13, 24)),
        fat=float(rng.uniform(6, 40)),
        rib_phase=float(rng.uniform(0, 1)),
        waves=rng.uniform(0, 2 * np.pi, 4),
        dome=(float(rng.uniform(0.16, 0.33)), float(rng.uniform(0.13, 0.30))),
        blood=float(rng.uniform(90, 220) if contrast else rng.uniform(35, 50)),
    )


SLACK_MM = 0.3  # distance that `make_room` leaves between lesion and pleura, mm


def make_room(chest: Chest, points: Array, *, gap: float = SLACK_MM, reach: float = 0) -> Chest:
    """Widen the lungs until a lesion's voxels, `points` (n, 3) in mm, lie in them.

    First all around, while the lesion lies more than 3 mm outside, by up to 30 %; then by a bump
    of the pleura over the lesion, which is left `gap` mm away: touching it, unless asked for more.
    A pleura that is less than `reach` mm away comes as near. The diaphragm sinks below the lesion.
    """
    z, y, x = points.T
    middle = float(z.mean())
    # the apex narrows and the base ends: neither may shut a lesion out
    for factor in np.linspace(1.0, 1.3, 13):
        wide = replace(chest, scale=chest.scale * float(factor))
        out = float(wide.radial(middle, y, x)[0].max())
        if out <= 3.0:
            break
    if out > -max(gap, reach):
        cy, cx = (y.min() + y.max()) / 2, (x.min() + x.max()) / 2
        radius = float(np.hypot(y - cy, x - cx).max())
        width = max(14.0, 1.6 * radius)
        fade = float(np.exp(-(radius**2) / (2 * width**2)))
        wide = replace(wide, bump=(float(cy), float(cx), (out + gap) / fade, width))
    under = float(wide.diaphragm(z, y, x).max()) / 0.75
    if under > -4.0:
        drop = (under + 4.0) / wide.height
        wide = replace(wide, dome=(wide.dome[0] - drop, wide.dome[1] - drop))
    return wide


Around = tuple[FloatArray, FloatArray]
"""(slices, y, x) mm outside the lungs, negative within, and HU where that is above -1 pixel."""


def surroundings(rng: Generator, chest: Chest, grid: Grid) -> Around:
    """The chest wall, mediastinum and diaphragm in a crop."""
    z, y, x = grid.z_slices, grid.y[:, None], grid.x[None]
    first, angle = chest.radial(float(z[0]), y, x)
    last, _ = chest.radial(float(z[-1]), y, x)
    share = np.linspace(0, 1, len(z))[:, None, None]
    wall = ((1 - share) * first + share * last).astype(np.float32)
    dome = chest.diaphragm(z[:, None, None], y, x).astype(np.float32)
    depth = np.maximum(wall, dome)
    hu = np.full(depth.shape, -850, np.float32)
    outside = depth > -1.5 * grid.pixel
    if outside.any():
        rough = texture(rng, depth.shape, (6 / grid.spacing, 5 / grid.pixel, 5 / grid.pixel))
        fine = texture(rng, depth.shape, (2 / grid.spacing, 1.6 / grid.pixel, 1.6 / grid.pixel))
        hu[outside] = 55 + 0.3 * chest.blood  # beneath the diaphragm
        above = outside & (dome <= wall)
        inner = _between_lungs(chest, y, x, angle)
        height, row, column, turn = (
            np.broadcast_to(at.astype(np.float32), depth.shape)
            for at in (z[:, None, None], y, x, angle)
        )
        here = above & inner
        hu[here] = _mediastinum(chest, height[here], row[here], column[here], rough[here])
        here = above & ~inner
        hu[here] = _wall(chest, height[here], turn[here], np.maximum(wall[here], 0), rough[here])
        hu = np.where(wall > -0.5, np.maximum(hu, _spine(chest, z, y, x)), hu)
        hu[outside] += 8 * fine[outside]
    return depth, hu


def _step(distance: Array, pixel: float) -> Array:
    """1 where `distance` is above 0, 0 below, a ramp of one pixel between."""
    return np.asarray(np.clip(distance / pixel + 0.5, 0, 1))


def _wall(chest: Chest, z: Array, angle: Array, d: Array, rough: Array) -> Array:
    """HU in the wall: intercostal muscle and ribs, muscle with planes of fat, fat, skin, air."""
    pixel, w = chest.pixel, chest.waves.astype(np.float32)
    uneven = 0.3 * np.sin(2 * angle + w[0]) + 0.2 * np.sin(5 * angle + w[1])
    muscle = chest.muscle * (1 + uneven + 0.12 * np.sin(11 * angle + 0.08 * z + w[2]))
    skin = muscle + chest.fat * (1 + 0.35 * np.sin(angle + w[3])) + 2
    hu: Array = np.asarray(52 + 8 * rough)
    for share in (0.4, 0.75):
        layer = np.exp(-(((d - share * muscle) / 1.1) ** 2))
        hu = hu - 120 * layer * np.clip(0.7 + 0.6 * rough, 0, 1)
    hu = hu + _step(d - muscle, 2 * pixel) * (-103 - hu + 9 * rough)
    hu = hu + _step(d - skin, pixel) * (15 - hu)
    hu = hu + _step(d - skin - 1.8, pixel) * (-1000 - hu)
    # ribs run obliquely, so that a slice cuts them at length: period 24 mm across the rib
    arc = angle * (0.24 * chest.fov)
    across = (0.42 * arc + 0.9 * z + 24 * chest.rib_phase) % 24 - 12
    q = np.hypot(across / 5.4, (d - 5.5) / 3.6)
    bone = np.where(q < 0.68, 210 + 60 * rough, 720.0)
    return np.asarray(hu + _step((1 - q) * 3.5, pixel) * (bone - hu))


def _between_lungs(chest: Chest, y: Array, x: Array, angle: Array) -> npt.NDArray[np.bool_]:
    """Whether a place outside the lungs belongs to the mediastinum and not to the wall."""
    mid = 0.5 * chest.fov + chest.shift[1]
    ay = (y - 0.53 * chest.fov - chest.shift[0]) / (0.235 * chest.fov * chest.scale)
    ax = (x - mid) / (0.30 * chest.fov * chest.scale)
    facing = np.cos(angle) < -0.05  # seen from the lung, towards the middle
    return np.asarray((ay**2 + ax**2 < 1) & facing)


def _mediastinum(chest: Chest, z: Array, y: Array, x: Array, rough: Array) -> Array:
    """HU between the lungs: fat and soft tissue, heart, great vessels, trachea or bronchi."""
    fov, level = chest.fov, z / chest.height
    v = (y - chest.shift[0]) / fov
    u = (x - chest.shift[1]) / fov - 0.5
    hu = 40 - 125 * np.clip(0.5 + 1.2 * rough, 0, 1)

    def disc(cy: Array | float, cx: Array | float, ry: float, rx: float) -> Array:
        q = np.hypot((v - cy) / ry, (u - cx) / rx)
        return _step((1 - q) * min(ry, rx) * fov, chest.pixel)

    heart = disc(0.42, 0.05, 0.15, 0.17) * (level < 0.58)
    hu = hu + heart * (chest.blood - hu)
    for cy, cx, r in ((0.60, 0.055, 0.036), (0.40, -0.03, 0.045), (0.44, 0.03, 0.04)):
        hu = hu + disc(cy, cx, r, r) * (chest.blood - hu)
    lift = np.clip((0.66 - level) / 0.1, 0, 1)  # below its fork the trachea is two
    for sign in (-1, 1):
        airway = disc(0.50 - 0.01 * lift, sign * 0.07 * lift, 0.022, 0.024) * (level > 0.5)
        hu = hu + airway * (-980 - hu)
    return np.asarray(hu)


def _spine(chest: Chest, z: Array, y: Array, x: Array) -> FloatArray:
    """(slices, y, x) HU of the vertebra where it stands, else -1024."""
    fov = chest.fov
    v, u = (y - chest.shift[0]) / fov, (x - chest.shift[1]) / fov - 0.5
    body = np.hypot((v - 0.645) / 0.048, u / 0.055)
    arch = np.hypot((v - 0.755) / 0.05, u / 0.055)
    process = np.hypot((v - 0.82) / 0.05, u / 0.012)
    rib = np.hypot((v - 0.72 - 0.25 * (np.abs(u) - 0.08)) / 0.012, (np.abs(u) - 0.08) / 0.045)
    shell = np.where(body > 0.9, 400.0, 200.0)
    hu = np.where(body < 1, shell, -1024.0)
    hu = np.where((arch < 1) & (arch > 0.62) & (body >= 1), 430.0, hu)
    hu = np.where((arch <= 0.62) & (body >= 1), 30.0, hu)
    hu = np.where((process < 1) | (rib < 1), 420.0, hu).astype(np.float32)
    disc = np.abs((z / 26.0 + chest.rib_phase) % 1 - 0.5) > 0.42  # between two vertebrae
    cartilage = np.where(body < 1, np.float32(90), hu)
    return np.where(disc[:, None, None], cartilage, hu)
