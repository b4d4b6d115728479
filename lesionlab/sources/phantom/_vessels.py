"""Tubes: vessel trees, bronchi and spicules, drawn by the share of each voxel that they fill.

A tree is grown from random points: each is joined to a point nearer to the hilum, the closer and
the straighter the better, and radii add up by Murray's law, r^3 = sum of the branches' r^3
(Murray, PNAS 12 (1926) 207–214). Tubes are filled with parallel fibres whose samples are counted
voxel by voxel, which gives partial volume for any radius, above and below a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from lesionlab.sources.phantom._fields import Array, FloatArray, Grid

GOLDEN = np.pi * (3 - np.sqrt(5))


@dataclass(frozen=True)
class Tubes:
    """Straight pieces of tube, tapered.

    Attributes:
        start: (n, 3) `(z, y, x)` in mm.
        end: (n, 3) `(z, y, x)` in mm.
        radius: (n, 2) radius at start and end, mm.
    """

    start: Array
    end: Array
    radius: Array

    def take(self, which: Array) -> Tubes:
        """Some of the tubes."""
        return Tubes(self.start[which], self.end[which], self.radius[which])


def join(parts: list[Tubes]) -> Tubes:
    """Several sets of tubes as one."""
    return Tubes(
        np.concatenate([p.start for p in parts]),
        np.concatenate([p.end for p in parts]),
        np.concatenate([p.radius for p in parts]),
    )


def grow_tree(
    rng: np.random.Generator, points: Array, root: Array, *, tip: float, largest: float = 4.0
) -> Tubes:
    """Join points to a tree that flows to `root`.

    Args:
        rng: Source of the bends.
        points: (n, 3) `(z, y, x)` in mm.
        root: (3,) where the tree comes from, mm.
        tip: Radius of the last twigs, mm.
        largest: No radius is above it, mm.

    Returns:
        2n pieces, each branch bent once.
    """
    away = points - root
    distance = np.sqrt((away**2).sum(1))
    order = np.argsort(distance, kind="stable")
    points, away, distance = points[order], away[order], distance[order]
    n = len(points)
    if n == 0:
        empty = np.zeros((0, 3))
        return Tubes(empty, empty, np.zeros((0, 2)))
    outwards = away / np.maximum(distance, 1e-6)[:, None]
    parent = _parents(points, outwards)
    cube = np.full(n, tip**3) * np.exp(0.5 * rng.standard_normal(n))
    for child in range(n - 1, 0, -1):
        cube[parent[child]] += cube[child]
    radius = np.minimum(np.cbrt(cube), largest)
    start = points[parent]
    start[0] = root
    upstream = np.minimum(radius[parent], 1.25 * radius)
    upstream[0] = radius[0]
    span = np.sqrt(((points - start) ** 2).sum(1))[:, None]
    middle = (start + points) / 2 + 0.06 * span * rng.standard_normal((n, 3))
    at_middle = (upstream + radius) / 2
    return Tubes(
        np.concatenate((start, middle)),
        np.concatenate((middle, points)),
        np.concatenate((np.stack((upstream, at_middle), 1), np.stack((at_middle, radius), 1))),
    )


NEIGHBOURS = 12
"""Among how many of the nearest points a branch looks for the one that it hangs on."""


def _parents(points: Array, outwards: Array) -> npt.NDArray[np.int64]:
    """(n,) on which point each of `points` hangs: the cheapest by length and straightness.

    The points are ordered by their distance to the root, so that a parent stands before its
    children; the first one hangs on the root.
    """
    n = len(points)
    order = np.arange(n)
    _, near = cKDTree(points).query(points, k=min(NEIGHBOURS, n))
    near = near.reshape(n, -1)
    step = points[:, None] - points[near]  # (child, neighbour, 3)
    along = (step * outwards[:, None]).sum(-1)
    cost = 2.4 * np.sqrt((step**2).sum(-1)) - 1.4 * along  # the length, if straight
    cost[near >= order[:, None]] = np.inf
    best = cost.argmin(1)
    parent: npt.NDArray[np.int64] = near[order, best]
    for child in np.flatnonzero(np.isinf(cost[order, best]))[1:]:  # none nearer to the root
        step = points[child] - points[:child]
        length = np.sqrt((step**2).sum(1))
        parent[child] = (2.4 * length - 1.4 * (step * outwards[child]).sum(1)).argmin()
    parent[0] = 0
    return parent


def fill(tubes: Tubes, grid: Grid, *, fineness: float = 0.5) -> FloatArray:
    """(planes, y, x) share of each fine voxel that lies inside a tube, 0 to 1.

    Args:
        tubes: What to draw; pieces that do not reach the grid cost nothing.
        grid: Where.
        fineness: Distance of the samples, in pixels.
    """
    shape = (len(grid.z_fine), grid.size, grid.size)
    low = np.array([grid.z_fine[0], grid.y[0], grid.x[0]])
    voxel = np.array([grid.step, grid.pixel, grid.pixel])
    high = low + voxel * (np.array(shape) - 1)
    reach = tubes.radius.max(1, initial=0)[:, None] + grid.pixel
    near = (np.maximum(tubes.start, tubes.end) + reach > low) & (
        np.minimum(tubes.start, tubes.end) - reach < high
    )
    t = tubes.take(near.all(1))
    if not len(t.start):
        return np.zeros(shape, np.float32)
    between = fineness * grid.pixel
    axis = t.end - t.start
    length = np.sqrt((axis**2).sum(1))
    axis = axis / np.maximum(length, 1e-9)[:, None]
    thick = t.radius.mean(1)
    fibres = np.maximum(1, np.rint(np.pi * (thick / between) ** 2)).astype(np.int32)
    steps = np.maximum(1, np.ceil(length / between)).astype(np.int32)
    count = fibres * steps

    def each(values: Array) -> FloatArray:
        """A tube's value for each of its samples; single precision, for speed."""
        return np.repeat(values.astype(np.float32), count)

    number = np.arange(count.sum(), dtype=np.int32) - np.repeat(np.cumsum(count) - count, count)
    fibre = number // np.repeat(steps, count)
    at = (number - fibre * np.repeat(steps, count) + np.float32(0.5)) * each(1 / steps)
    radius = each(t.radius[:, 0]) + at * each(t.radius[:, 1] - t.radius[:, 0])
    several = (fibres > 1) / fibres  # a single fibre is the axis itself
    ring = radius * np.sqrt((fibre + np.float32(0.5)) * each(several))
    spiral = np.arange(fibres.max()) * GOLDEN
    aside = ring * np.cos(spiral).astype(np.float32)[fibre]
    above = ring * np.sin(spiral).astype(np.float32)[fibre]
    side, up = _across(axis)
    flat = np.zeros(len(number), np.int32)
    inside = np.ones(len(number), bool)
    for k in range(3):
        # in voxels from the corner of the first one
        position = at * each(length * axis[:, k] / voxel[k])
        position += aside * each(side[:, k] / voxel[k])
        position += above * each(up[:, k] / voxel[k])
        position += each((t.start[:, k] - low[k]) / voxel[k] + 0.5)
        inside &= (position >= 0) & (position < shape[k])
        flat *= np.int32(shape[k])
        flat += position.astype(np.int32)
    mass = radius * radius * each(np.pi * length / count / voxel.prod())
    filled = np.bincount(flat[inside], mass[inside], minlength=int(np.prod(shape)))
    return np.minimum(filled.astype(np.float32), np.float32(1)).reshape(shape)


def _across(axis: Array) -> tuple[Array, Array]:
    """Two unit vectors at right angles to each axis and to each other."""
    helper = np.where(np.abs(axis[:, :1]) < 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    side = np.cross(axis, helper)
    side /= np.maximum(np.sqrt((side**2).sum(1)), 1e-9)[:, None]
    return side, np.cross(axis, side)
