"""Voxels, maps and masks as text for a page: deflated, in 85 printable characters.

Whole numbers are stored as differences from what their neighbours predict (the median predictor
of LOCO-I: Weinberger, Seroussi and Sapiro 2000, IEEE Trans. Image Process. 9, eq. 1), which takes
a third off the size of a CT crop. `volume_data.js` is the other half.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

# Z85's characters without < > &, so that neither HTML nor JSON has anything to escape
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?,_|(){}[]@%$#"

TOP_LEVEL = 32767
"""The finest grading of a map: as many steps as an int16 can count."""


def pack(raw: bytes) -> str:
    """Deflate (zlib), then five characters of `ALPHABET` for four bytes.

    The first character says how many bytes were added to fill the last four.
    """
    packed = zlib.compress(raw, 9)
    padding = -len(packed) % 4
    numbers = np.frombuffer(packed + bytes(padding), ">u4").astype(np.uint64)
    powers = 85 ** np.arange(4, -1, -1, dtype=np.uint64)
    digits = numbers[:, None] // powers % 85
    letters = np.frombuffer(ALPHABET.encode(), np.uint8)[digits.astype(np.intp)]
    return f"{padding}{letters.tobytes().decode()}"


def whole_numbers(values: npt.NDArray[Any]) -> str:
    """(z, y, x) whole numbers in the range of int16, exactly.

    Each is stored as its difference, modulo 2¹⁶, from the median of left, upper, and left + upper
    − upper left; then all high bytes, then all low bytes.
    """
    v = values.astype(np.int32)
    left, upper, corner = np.zeros_like(v), np.zeros_like(v), np.zeros_like(v)
    left[..., 1:], upper[:, 1:], corner[:, 1:, 1:] = v[..., :-1], v[:, :-1], v[:, :-1, :-1]
    low, high = np.minimum(left, upper), np.maximum(left, upper)
    predicted = np.clip(left + upper - corner, low, high)  # the median of the three
    # at the edges there is one neighbour only
    predicted[:, 0, 1:], predicted[:, 1:, 0] = left[:, 0, 1:], upper[:, 1:, 0]
    predicted[1:, 0, 0], predicted[0, 0, 0] = v[:-1, 0, 0], 0
    residual = (v - predicted).astype(np.int16)  # wraps round
    folded = ((residual.astype(np.int32) << 1) ^ (residual.astype(np.int32) >> 15)) & 0xFFFF
    halves = (folded >> 8).astype(np.uint8), (folded & 0xFF).astype(np.uint8)
    return pack(b"".join(half.tobytes() for half in halves))


def bits(mask: npt.NDArray[np.bool_]) -> str:
    """A mask of any shape, in C order, eight to a byte, the first in the highest bit."""
    return pack(np.packbits(mask).tobytes())


def hounsfield(
    hu: npt.NDArray[np.int16],
    *,
    step: int = 1,
    exact: npt.NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """HU values, rounded to multiples of `step` except where `exact` is True.

    Args:
        hu: (z, y, x).
        step: 1 stores every value as it is.
        exact: (z, y, x), where nothing is rounded.
    """
    rounded = np.rint(hu / step).astype(np.int16)
    made: dict[str, Any] = {"step": step, "values": whole_numbers(rounded)}
    if step > 1 and exact is not None and exact.any():
        # rounding errors are at most step/2 in size: one byte each
        lost = (hu.astype(np.int32) - rounded.astype(np.int32) * step)[exact]
        made |= {"exact": bits(exact), "lost": pack(lost.astype(np.int8).tobytes())}
    return made


def graded(
    values: npt.NDArray[np.floating[Any]], *, levels: int = TOP_LEVEL, tolerance: float = 2e-5
) -> dict[str, Any]:
    """A map as whole levels from 0 at its lowest to `levels` at its highest value.

    Along each axis only those indices are stored from which linear interpolation gives the
    others. A map that was enlarged from a network's few cells comes down to these cells.

    Args:
        values: (z, y, x); NaN and infinity count as missing.
        levels: Up to `TOP_LEVEL`.
        tolerance: Share of the range by which interpolation may be off, in all axes together.

    Returns:
        `low` and `high` of the finite values, `levels`, the axes' `grid` (None for an axis that
        is stored whole), the largest `error` of a value in the page, and the packed numbers.
    """
    finite = np.isfinite(values)
    low, high = (float(f(values[finite])) if finite.any() else 0.0 for f in (np.min, np.max))
    span = (high - low) or 1.0
    share = (np.where(finite, values, low).astype(np.float64) - low) / span
    grids, nodes = [], share
    for axis in range(3):
        grid = _nodes(np.moveaxis(nodes, axis, 0), tolerance / 3)
        grids.append(grid)
        nodes = nodes.take(grid, axis)
    level = np.rint(nodes * levels)
    made: dict[str, Any] = {
        "low": low,
        "high": high,
        "levels": levels,
        "grid": [None if len(g) == n else g for g, n in zip(grids, values.shape, strict=True)],
        "error": float(np.abs(_interpolate(level / levels, grids) - share).max()) * span,
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


def _interpolate(
    values: npt.NDArray[np.floating[Any]], grids: list[list[int]]
) -> npt.NDArray[np.floating[Any]]:
    """Linear, axis after axis, from the grid's nodes to every index."""
    for axis, grid in enumerate(grids):
        at = np.arange(grid[-1] + 1)
        right = np.clip(np.searchsorted(grid, at), 1 if len(grid) > 1 else 0, len(grid) - 1)
        left = np.maximum(right - 1, 0)
        nodes = np.asarray(grid)
        share = (at - nodes[left]) / np.maximum(nodes[right] - nodes[left], 1)
        share = share.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        values = values.take(left, axis) * (1 - share) + values.take(right, axis) * share
    return values
