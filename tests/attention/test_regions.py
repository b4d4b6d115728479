"""Shares of a map by region, and pointing, on masks small enough to count."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from lesionlab.attention import outline_distance, region_shares

LESION = np.zeros((7, 7), bool)
LESION[1:6, 1:6] = True  # 5 × 5; its outline runs between the voxels


def test_distances_by_hand() -> None:
    """2 mm apart along y, 1 mm along x."""
    found = outline_distance([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1]], (2.0, 1.0))
    assert np.allclose(found, [[math.sqrt(5), 2, 2, 2], [1, -1, -2, -2], [1, -1, -2, -3]])
    assert outline_distance(np.ones((2, 2)), (1, 1)).tolist() == [[-math.inf] * 2] * 2
    assert outline_distance(np.zeros((2, 2)), (1, 1)).tolist() == [[math.inf] * 2] * 2


def shares(values: np.ndarray, mask: np.ndarray = LESION, **options: object) -> SimpleNamespace:
    return SimpleNamespace(**region_shares(values, mask, (1.0, 1.0), **({"band": 1.0} | options)))


def test_a_band_of_a_voxel_is_the_voxels_on_both_sides() -> None:
    """5 × 5 in 7 × 7: 9 inside; 16 of the rim and 20 beside it in the band; 4 corners outside."""
    found = shares(np.ones((7, 7)))
    uniform = (found.uniform_inside, found.uniform_margin, found.uniform_outside)
    assert uniform == pytest.approx((9 / 49, 36 / 49, 4 / 49))
    assert (found.inside, found.margin, found.outside) == pytest.approx(uniform)


def test_shares_by_hand() -> None:
    values = np.zeros((7, 7))
    values[3, 3] = 2.0  # the middle
    values[1, 1] = 5.0  # a corner of the lesion: in the band
    values[0, 0] = 1.0  # across the diagonal: 1.41 mm from the lesion
    values[3, 4] = -9.0  # speaks against the score
    found = shares(values)
    assert (found.inside, found.margin, found.outside) == pytest.approx((2 / 8, 5 / 8, 1 / 8))
    wider = shares(values, band=1.5)
    assert (wider.inside, wider.margin, wider.outside) == pytest.approx((2 / 8, 6 / 8, 0))
    # the same picture with pixels half as wide, and half the band
    half = SimpleNamespace(**region_shares(values, LESION, (0.5, 0.5), band=0.5))
    assert (half.inside, half.margin, half.outside) == pytest.approx((2 / 8, 5 / 8, 1 / 8))


def test_readers_are_averaged() -> None:
    other = np.zeros((7, 7), bool)
    other[3, 3] = True
    values = np.random.default_rng(0).normal(size=(7, 7))
    both = vars(shares(values, np.stack([LESION, other])))
    each = [vars(shares(values, mask)) for mask in (LESION, other)]
    assert both == pytest.approx({k: (each[0][k] + each[1][k]) / 2 for k in both})
    assert both["inside"] + both["margin"] + both["outside"] == pytest.approx(1)


def test_a_map_on_the_margin_is_seen_to_be_there() -> None:
    """The claim's two sides: a rim, and a body, in three axes with slices 2.5 mm apart."""
    z, y, x = np.ogrid[-4:5, -12:13, -12:13]
    r = np.sqrt((2.5 * z) ** 2 + (0.7 * y) ** 2 + (0.7 * x) ** 2)
    mask, spacing = r < 6, (2.5, 0.7, 0.7)
    rim = region_shares(np.exp(-((r - 6) ** 2) / 0.5), mask, spacing)
    body = region_shares(np.exp(-(r**2) / 4), mask, spacing)
    inside, margin = rim["uniform_inside"], rim["uniform_margin"]
    assert rim["margin"] / margin > 2 > 1 > body["margin"] / margin
    assert body["inside"] / inside > 2 > 1 > rim["inside"] / inside


def test_maps_that_say_nothing() -> None:
    for values in (np.zeros((7, 7)), -np.ones((7, 7))):
        found = shares(values)
        assert math.isnan(found.margin)
        assert not math.isnan(found.uniform_margin)
        assert found.points_inside == found.chance_inside == pytest.approx(25 / 49)
        assert found.points_margin == found.chance_margin == pytest.approx(36 / 49)
    whole = shares(np.ones((7, 7)), np.ones((7, 7), bool))
    assert (whole.inside, whole.margin, whole.outside) == (1, 0, 0)


def test_pointing_by_hand() -> None:
    values = np.zeros((7, 7))
    for place, value, expected in (
        ((3, 3), 1, (1, 0, -3)),
        ((3, 0), 2, (0, 1, 1)),  # one pixel beside the lesion
        ((3, 3), 2, (0.5, 0.5, -1)),  # two greatest values: each counts half
    ):
        values[place] = value
        found = shares(values)
        assert (found.points_inside, found.points_margin, found.points_mm) == expected


@pytest.mark.parametrize(("change", "message"), [
    ({"values": np.ones((6, 7))}, r"masks: expected .* \(6, 7\), got bool \(7, 7\)"),
    ({"values": np.full((7, 7), np.nan)}, "finite values"),
    ({"masks": np.stack([LESION, LESION & False])}, "one is empty"),
    ({"spacing": (1.0, 0.0)}, "above 0"),
    ({"band": math.nan}, "band=nan"),
])  # fmt: skip
def test_bad_input(change: dict[str, object], message: str) -> None:
    options = {"values": np.ones((7, 7)), "masks": LESION, "spacing": (1.0, 1.0)} | change
    with pytest.raises(ValueError, match=message):
        region_shares(**options)
