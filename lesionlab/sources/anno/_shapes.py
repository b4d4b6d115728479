"""Outlines and masks: filled, traced, tested, and interpolated between slices.

Outlines are (point, 2) arrays of `(y, x)` in pixels; the centre of a pixel has whole numbers.
"""

from __future__ import annotations

from itertools import pairwise

import contourpy
import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

BLOCK = 256  # edges that are tested against all others at a time
CIRCLE_POINTS = 32
ROUND = 0.05  # of a circle's radius, by which a drawn circle may be off


def fill(outline: FloatArray) -> IntArray:
    """(pixel, 2), the index `(y, x)` of each pixel whose centre lies inside.

    Every edge flips the pixels on its right in each row that it crosses. An outline around no
    centre gives the pixel that is nearest to its middle.
    """
    low, high = np.ceil(outline.min(axis=0)).astype(int), np.floor(outline.max(axis=0)).astype(int)
    y0, x0 = outline.T
    y1, x1 = np.roll(outline, -1, axis=0).T
    first = np.ceil(np.minimum(y0, y1)).astype(int)  # a row belongs to an edge's upper end only
    count = np.ceil(np.maximum(y0, y1)).astype(int) - first
    edge = np.repeat(np.arange(len(outline)), count)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    at = x0[edge] + (row - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    height, width = np.maximum(high - low + 1, 0)
    flips = np.zeros((height, width + 1), dtype=np.int64)
    np.add.at(flips, (row - low[0], np.clip(np.ceil(at).astype(int) - low[1], 0, width)), 1)
    inside: IntArray = np.argwhere(np.cumsum(flips, axis=1)[:, :-1] % 2) + low
    return inside if len(inside) else np.rint(outline.mean(axis=0, keepdims=True)).astype(np.int64)


def trace(mask: BoolArray, *, holes: bool = False) -> list[FloatArray]:
    """The outlines of a mask `(y, x)`, one for each part; `fill` gives the parts back.

    Holes are filled first, for an `.anno` file cannot say that there is one; or, with `holes`, they
    have outlines of their own.
    """
    solid = np.pad(mask if holes else ndimage.binary_fill_holes(mask), 1).astype(np.float64)
    lines = contourpy.contour_generator(z=solid).lines(0.5)
    return [np.asarray(line)[:-1, ::-1] - 1 for line in lines]


def circle(mask: BoolArray) -> FloatArray:
    """A circle with the centre of gravity and the area of a mask `(y, x)`."""
    turn = 2 * np.pi * np.arange(CIRCLE_POINTS) / CIRCLE_POINTS
    around = np.stack((np.sin(turn), np.cos(turn)), axis=1)
    middle: FloatArray = np.argwhere(mask).mean(axis=0)
    return np.asarray(middle + np.sqrt(mask.sum() / np.pi) * around)


def is_circle(outline: FloatArray) -> bool:
    """Whether an outline was drawn with a circle tool: eight points or more, equally far."""
    away = np.linalg.norm(outline - outline.mean(axis=0), axis=1)
    return len(outline) >= 8 and bool(np.ptp(away) <= ROUND * away.mean())


def crosses_itself(outline: FloatArray) -> bool:
    """Whether two edges of an outline cross; to touch is not to cross."""
    y, x = outline.T
    dy, dx = np.roll(outline, -1, axis=0).T - outline.T
    apart = np.empty((len(y), len(y)), dtype=np.bool_)  # an edge has the ends of another apart
    for k in range(0, len(y), BLOCK):
        edge = slice(k, k + BLOCK), None
        side = dx[edge] * (y - y[edge]) - dy[edge] * (x - x[edge])
        apart[k : k + BLOCK] = side * np.roll(side, -1, axis=1) < 0
    return bool((apart & apart.T).any())


def fill_between(masks: BoolArray) -> BoolArray:
    """Masks `(z, y, x)` with the empty slices between others interpolated by their shape.

    Signed distances to the outlines of the two neighbours are averaged by nearness: Raya and
    Udupa, IEEE Trans Med Imaging 9 (1990) 32–42. Where two neighbours do not overlap, what is
    between them may stay empty.
    """
    filled = masks.copy()
    for low, high in pairwise(np.flatnonzero(masks.any(axis=(1, 2)))):
        below, above = _signed_distance(masks[low]), _signed_distance(masks[high])
        for z in range(low + 1, high):
            share = (z - low) / (high - low)
            filled[z] = (1 - share) * below + share * above < 0
    return filled


def _signed_distance(mask: BoolArray) -> FloatArray:
    """Pixels to the outline, negative inside: half a pixel where the next one is outside."""
    inside = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    outside = ndimage.distance_transform_edt(~mask)
    return np.asarray(np.where(mask, 0.5 - inside, outside - 0.5))
