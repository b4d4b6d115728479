"""Voxels, maps and masks as text for a page: deflated, in base64.

Whole numbers are stored as differences from what their neighbours predict (the median predictor
of LOCO-I: Weinberger, Seroussi and Sapiro 2000, IEEE Trans. Image Process. 9, eq. 1). A CT crop
takes a fifth less so than as PNG, and no browser setting that blurs canvases can change a value.
`volume_data.js` is the other half.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

TOP_LEVEL = 32767
"""The finest grading of a map: as many steps as an int16 can count."""


def pack(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def whole_numbers(values: npt.NDArray[Any]) -> str:
    """(z, y, x) whole numbers in the range of int16, exactly.

    Each is stored as its difference, modulo 2¹⁶, from the median of left, upper, and left + upper
    − upper left; first all high bytes, then all low bytes.
    """
    v = values.astype(np.int32)
    left, upper, corner = np.zeros_like(v), np.zeros_like(v), np.zeros_like(v)
    left[..., 1:], upper[:, 1:], corner[:, 1:, 1:] = v[..., :-1], v[:, :-1], v[:, :-1, :-1]
    low, high = np.minimum(left, upper), np.maximum(left, upper)
    predicted = np.clip(left + upper - corner, low, high)  # the median of the three
    # at the edges there is one neighbour only
    predicted[:, 0, 1:], predicted[:, 1:, 0] = left[:, 0, 1:], upper[:, 1:, 0]
    predicted[1:, 0, 0], predicted[0, 0, 0] = v[:-1, 0, 0], 0
    residual = (v - predicted).astype(np.int16).astype(np.int32)  # wraps round
    folded = ((residual << 1) ^ (residual >> 15)) & 0xFFFF  # small numbers of either sign are small
    return pack((folded >> 8).astype(np.uint8).tobytes() + folded.astype(np.uint8).tobytes())


def bits(mask: npt.NDArray[np.bool_]) -> str:
    """A mask of any shape, in C order, eight to a byte, the first in the highest bit."""
    return pack(np.packbits(mask).tobytes())


def ends(values: npt.NDArray[np.floating[Any]]) -> tuple[float, float]:
    """The lowest and the highest finite value; 0 and 0 if there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def graded(values: npt.NDArray[np.floating[Any]], *, levels: int = TOP_LEVEL) -> dict[str, Any]:
    """A map as whole levels from 0 at its lowest to `levels` (up to `TOP_LEVEL`) at its highest.

    Along each axis only those indices are stored from which linear interpolation gives the others
    to within a third of a level. A map that was enlarged from a network's few cells comes down to
    these cells.

    `values` are (z, y, x), NaN and infinity count as missing. Returned are `low` and `high` of the
    finite values, `levels`, the axes' `grid` (None for an axis that is stored whole), the largest
    `error` of a value in the page, and the packed numbers.
    """
    finite = np.isfinite(values)
    low, high = ends(values)
    span = (high - low) or 1.0
    share = (np.where(finite, values, low).astype(np.float64) - low) / span
    grids, nodes = [], share
    for axis in range(3):
        grids.append(_nodes(np.moveaxis(nodes, axis, 0), 1 / (3 * levels)))
        nodes = nodes.take(grids[-1], axis)
    level = np.rint(nodes * levels)
    shown = level / levels
    for axis, (grid, n) in enumerate(zip(grids, values.shape, strict=True)):
        # how much of each node there is in each value between them
        shares = np.array([np.interp(np.arange(n), grid, node) for node in np.eye(len(grid))])
        shown = np.moveaxis(np.tensordot(shown, shares, (axis, 0)), -1, axis)
    made: dict[str, Any] = {
        "low": low,
        "high": high,
        "levels": levels,
        "grid": [None if len(g) == n else g for g, n in zip(grids, values.shape, strict=True)],
        "error": float(np.abs(shown - share).max()) * span,
        "values": whole_numbers(level),
    }
    return made if finite.all() else made | {"missing": bits(~finite)}


def _nodes(values: npt.NDArray[np.float64], tolerance: float, longest: int = 32) -> list[int]:
    """Indices on axis 0 between which everything is linear, as far apart as they can be."""
    n = len(values)
    nodes = [0]
    while nodes[-1] < n - 1:
        first, last = nodes[-1], nodes[-1] + 1
        while last + 1 < min(n, first + longest):
            share = np.arange(1, last + 1 - first)[:, None, None] / (last + 1 - first)
            line = values[first] * (1 - share) + values[last + 1] * share
            if np.abs(line - values[first + 1 : last + 1]).max() > tolerance:
                break
            last += 1
        nodes.append(last)
    return nodes
