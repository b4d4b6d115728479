"""What is packed comes out the same; the decoder here is written from the description alone."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from scipy.interpolate import RegularGridInterpolator

from lesionlab.explorer import _encoding


def unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def numbers(text: str, shape: tuple[int, int, int]) -> np.ndarray:
    raw = unpack(text)
    out = np.zeros(shape, np.int64)
    for n, (z, y, x) in enumerate(np.ndindex(shape)):
        folded = raw[n] * 256 + raw[out.size + n]
        difference = folded // 2 if folded % 2 == 0 else -(folded + 1) // 2
        if x and y:
            left, upper = out[z, y, x - 1], out[z, y - 1, x]
            predicted = sorted([left, upper, left + upper - out[z, y - 1, x - 1]])[1]
        elif x:
            predicted = out[z, y, x - 1]
        elif y:
            predicted = out[z, y - 1, x]
        else:
            predicted = out[z - 1, 0, 0] if z else 0
        out[z, y, x] = (predicted + difference + 2**15) % 2**16 - 2**15
    return out


def graded(stored: dict[str, object], shape: tuple[int, int, int]) -> np.ndarray:
    grids = [g or list(range(n)) for g, n in zip(stored["grid"], shape, strict=True)]
    values = numbers(stored["values"], tuple(map(len, grids))).astype(float)
    # nothing is between the nodes of an axis with one
    long = [axis for axis, n in enumerate(shape) if n > 1]
    places = np.stack([np.indices(shape)[axis] for axis in long], axis=-1)
    values = RegularGridInterpolator([grids[a] for a in long], values.squeeze())(places)
    return stored["low"] + values / stored["levels"] * (stored["high"] - stored["low"])


@settings(max_examples=60)
@given(hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6)))
def test_every_int16_comes_back_bit_for_bit(volume: np.ndarray) -> None:
    assert np.array_equal(numbers(_encoding.whole_numbers(volume), volume.shape), volume)


def test_a_map_enlarged_from_a_few_cells_is_stored_as_these_cells() -> None:
    cells = np.random.default_rng(0).random((3, 4, 4))
    zoomed = RegularGridInterpolator([np.arange(n) * 8 for n in cells.shape], cells)
    large = zoomed(np.moveaxis(np.indices((17, 25, 25)), 0, -1))
    stored = _encoding.graded(large)
    assert stored["grid"] == [[0, 8, 16], [0, 8, 16, 24], [0, 8, 16, 24]]
    assert np.abs(graded(stored, large.shape) - large).max() <= 5e-5


@pytest.mark.parametrize("levels", [32767, 50])
@pytest.mark.parametrize("kind", ["noise", "smooth", "constant", "steps", "negative"])
def test_a_maps_error_is_what_it_says(kind: str, levels: int) -> None:
    rng = np.random.default_rng(3)
    z, y, x = np.indices((5, 12, 13))
    values = {
        "noise": rng.random(z.shape),
        "smooth": np.exp(-((y - 5) ** 2 + (x - 7) ** 2 + z) / 20),
        "constant": np.full(z.shape, 0.3),
        "steps": ((y // 4 + x // 4) % 3).astype(float),
        "negative": -3.0 + rng.random(z.shape) * 1e-3,
    }[kind]
    stored = _encoding.graded(values, levels=levels)
    worst = np.abs(graded(stored, values.shape) - values).max()
    assert stored["error"] == pytest.approx(worst, abs=1e-12)
    assert worst <= 1.5 / levels * np.ptp(values) + 1e-12


def test_missing_values_of_a_map_are_marked() -> None:
    values = np.arange(8.0).reshape(2, 2, 2)
    values[0, 0, 1], values[1, 1, 1] = np.nan, np.inf
    stored = _encoding.graded(values)
    assert (stored["low"], stored["high"]) == (0, 6)
    assert unpack(stored["missing"]) == bytes([0b01000001])
    assert _encoding.graded(np.full((1, 2, 2), np.nan))["low"] == 0
