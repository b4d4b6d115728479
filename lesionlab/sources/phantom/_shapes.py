"""Shapes of made-up lesions: balls run together, strands, vessels that lead there, the pleura.

A lesion's outline is the union of a few stretched balls: one ball is a round lesion, several around
a core a lobulated one, several at random a consolidation. Lengths in mm, axes (z, y, x).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lesionlab.sources.phantom._fields import Array, FloatArray, Grid
from lesionlab.sources.phantom._thorax import Chest, Surroundings
from lesionlab.sources.phantom._vessels import GOLDEN, Tubes

PLEURA_HU = 25.0
"""Density of pleura that is drawn into the lung, HU."""


@dataclass(frozen=True)
class Blobs:
    """A union of balls in a space that is stretched along three axes and turned in plane.

    Attributes:
        centres: (k, 3).
        radii: (k,).
        stretch: (3,) along z, and along y and x before the turn; about 1.
        turn: Angle in plane, radians.
    """

    centres: Array
    radii: Array
    stretch: Array
    turn: float

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

    def half_widths(self) -> Array:
        """(3,) how far the surface reaches from the origin along z, y and x, mm."""
        return np.asarray(np.abs(self._surface()).max(axis=0))

    def with_diameter(self, diameter: float) -> Blobs:
        """The same form, centred, whose larger side in plane is `diameter`."""
        points = self._surface()
        low, high = points.min(axis=0), points.max(axis=0)
        z, y, x = (low + high) / 2
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        middle = np.array([z, cos * y + sin * x, cos * x - sin * y]) / self.stretch
        scale = diameter / float((high - low)[1:].max())
        return replace(self, centres=(self.centres - middle) * scale, radii=self.radii * scale)

    def _surface(self) -> Array:
        """(n, 3) points on all balls, mm."""
        points = self.centres[:, None] + self.radii[:, None, None] * sphere(200)
        z, v, w = (points * self.stretch).reshape(-1, 3).T
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return np.stack((z, cos * v - sin * w, sin * v + cos * w), axis=1)

    def reach(self, directions: Array, furthest: float) -> Array:
        """(n,) distance from the origin to the surface along (n, 3) unit vectors, mm."""
        along = np.linspace(0, furthest, 64)
        z, y, x = (directions[:, k, None] * along for k in range(3))
        outside = self.distance(*(a.astype(np.float32) for a in (z, y, x))) > 0
        last = len(along) - 1 - np.argmax(~outside[:, ::-1], axis=1)
        return np.asarray(np.where(outside.all(axis=1), 0.0, along[last]))


def sphere(n: int) -> Array:
    """(n, 3) points spread evenly over the unit sphere."""
    height = 1 - 2 * (np.arange(n) + 0.5) / n
    turn = GOLDEN * np.arange(n)
    ring = np.sqrt(1 - height**2)
    return np.stack((height, ring * np.sin(turn), ring * np.cos(turn)), axis=1)


def round_shape(rng: np.random.Generator) -> Blobs:
    """One ball, a little stretched."""
    stretch = np.exp(0.1 * rng.standard_normal(3))
    return Blobs(np.zeros((1, 3)), np.ones(1), stretch, float(rng.uniform(0, np.pi)))


def lobulated_shape(rng: np.random.Generator) -> Blobs:
    """A core with seven to ten balls around it, so that arcs meet in notches (Li 2021, 4.1.5)."""
    k = int(rng.integers(7, 11))
    out = sphere(k) + 0.12 * rng.standard_normal((k, 3))
    centres = np.concatenate((np.zeros((1, 3)), out * rng.uniform(0.6, 0.72, (k, 1))))
    radii = np.concatenate(([0.68], rng.uniform(0.3, 0.42, k)))
    stretch = np.exp(0.1 * rng.standard_normal(3))
    return Blobs(centres, radii, stretch, float(rng.uniform(0, np.pi)))


def patchy_shape(rng: np.random.Generator) -> Blobs:
    """Balls run together at random in a slab: the airspaces that a consolidation fills."""
    k = int(rng.integers(5, 9))
    centres = rng.uniform(-0.62, 0.62, (k, 3)) * np.array([0.8, 0.6, 1.0])
    centres[0] = 0
    stretch = np.exp(0.12 * rng.standard_normal(3))
    return Blobs(centres, rng.uniform(0.28, 0.5, k), stretch, float(rng.uniform(0, np.pi)))


def directions(rng: np.random.Generator, n: int) -> Array:
    """(n, 3) unit vectors all around; every other one lies nearly in the plane of the slices.

    Li 2021's 2D mode sees one slice, and a reader calls a sign that some slice shows.
    """
    turn = 2 * np.pi * (np.arange(n) + rng.uniform(-0.3, 0.3, n) + rng.random()) / n
    tilt = np.where(np.arange(n) % 2 == 0, 0.05, 0.5) * rng.standard_normal(n)
    height = np.clip(tilt, -0.95, 0.95)
    ring = np.sqrt(1 - height**2)
    return np.stack((height, ring * np.cos(turn), ring * np.sin(turn)), axis=1)


def strands(
    rng: np.random.Generator,
    shape: Blobs,
    centre: Array,
    *,
    count: int,
    lengths: tuple[float, float],
    furthest: float,
) -> Tubes:
    """Spicules: straight, unbranched, thicker at the lesion (Li 2021, 4.1.6).

    Args:
        rng: Source of the draws.
        shape: Where they begin.
        centre: (3,) of the lesion.
        count: How many.
        lengths: Shortest and longest.
        furthest: Distance within which the surface lies.
    """
    out = directions(rng, count)
    at = shape.reach(out, furthest)[:, None] * out
    aim = out + rng.standard_normal((count, 3)) * np.array([0.05, 0.2, 0.2])
    aim /= np.sqrt((aim**2).sum(1, keepdims=True))
    length = rng.uniform(*lengths, (count, 1))
    width = rng.uniform(0.6, 1.0, count)
    return Tubes(
        at - 0.8 * aim + centre, at + length * aim + centre, np.stack((width, 0.3 * width), 1)
    )


def leading_vessels(
    rng: np.random.Generator,
    shape: Blobs,
    centre: Array,
    hilum: Array,
    *,
    count: int,
    furthest: float,
    radius: float,
) -> Tubes:
    """Vessels that end in the lesion's edge: one from the hilum, the others from around.

    Each has three pieces that bend towards it. `radius` is that of the vessels at the lesion, mm.
    """
    towards = hilum - centre
    out = directions(rng, count)
    out[1] = towards / max(float(np.sqrt((towards**2).sum())), 1e-6)
    at = (shape.reach(out, furthest)[:, None] - 1.0) * out + centre
    bend = rng.standard_normal((count, 3)) * np.array([0.1, 0.35, 0.35])
    far = rng.uniform(30, 45, (count, 1))
    far[1] = 60
    knots = [at + s * far * (out + s * bend) for s in (1.0, 0.55, 0.2, 0.0)]
    thick = radius * rng.uniform(0.85, 1.25, count)
    growth = np.where(np.arange(count) == 1, 0.4, -0.6)
    widths = [thick * (1 + s * growth) for s in (1.0, 0.55, 0.2, 0.0)]
    return Tubes(
        np.concatenate(knots[:3]),
        np.concatenate(knots[1:]),
        np.stack((np.concatenate(widths[:3]), np.concatenate(widths[1:])), axis=1),
    )


def pleural_depth(chest: Chest, grid: Grid) -> FloatArray:
    """(planes, y, x) signed distance to the pleura on the fine planes, negative in the lungs."""
    y, x = grid.y[:, None], grid.x[None]
    first = chest.radial(float(grid.z_fine[0]), y, x)[0].astype(np.float32)
    last = chest.radial(float(grid.z_fine[-1]), y, x)[0].astype(np.float32)
    share = np.linspace(0, 1, len(grid.z_fine), dtype=np.float32)[:, None, None]
    return first + share * (last - first)


def indent(
    around: Surroundings, grid: Grid, centre: Array, outwards: Array, *, height: float, width: float
) -> Surroundings:
    """Draw the pleura in: a trumpet on the wall whose tip points at the lesion (Li 2021, 4.1.9).

    Its profile is `height * exp(-distance from the axis / width)`; the axis runs from the lesion's
    `centre` along `outwards`.
    """
    z, y, x = (
        (at - c).astype(np.float32)
        for at, c in zip((grid.z_slices, grid.y, grid.x), centre, strict=True)
    )
    y, x = y[:, None], x[None]
    along = np.float32(outwards[1]) * y + np.float32(outwards[2]) * x
    across = np.float32(outwards[2]) * y - np.float32(outwards[1]) * x
    away = np.sqrt(z[:, None, None] ** 2 + across**2)
    drawn = np.float32(height) * np.exp(-away / np.float32(width)) * (along > 0)
    depth = (around.depth + drawn).astype(np.float32)
    new = (depth > -1.5 * grid.pixel) & (around.depth < 0)
    return Surroundings(depth, np.where(new, np.float32(PLEURA_HU), around.hu))
