"""Figures of maps show what was measured of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lesionlab.attention.regions import REGIONS
from lesionlab.figures import maps


def image(seed: int = 0, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).random((size, size))


def shares() -> pd.DataFrame:
    index = pd.MultiIndex.from_product([["CAM", "SAM"], REGIONS], names=["method", "region"])
    times = np.array([1.2, 0.9, 0.8, 0.7, 1.3, 1.0])
    return pd.DataFrame(
        {"times": times, "times_low": times - 0.1, "times_high": times + 0.2}, index=index
    )


def test_one_feature_map_becomes_products(drawn):
    g, pooled, weights = image(0, 16), image(1, 6), image(2, 6) - 0.5
    axes = drawn(maps.one_feature_map(g, pooled, weights, tier="phantom"))
    for ax, given in zip(axes, (g, pooled, weights, weights * pooled), strict=False):
        np.testing.assert_allclose(ax.get_images()[0].get_array(), given)


def test_estimates_are_at_their_values(drawn):
    figure = maps.estimates({"trained": shares(), "random": shares().loc[["CAM"]]}, "times",
                            tier="slices")  # fmt: skip
    axes = drawn(figure)
    assert [ax.get_title() for ax in axes] == ["inside", "margin", "outside"]
    assert axes[1].containers[0].lines[0].get_xdata().tolist() == [0.9, 1.3]
    assert np.isnan(axes[0].containers[1].lines[0].get_xdata()[1]), "one network lacks a method"
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["CAM", "SAM"]
    assert "real pixels" in figure.get_supxlabel()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["trained", "random"]
    columns = {"times": "difference", "times_low": "low", "times_high": "high"}
    axes = drawn(maps.estimates({"": shares().rename(columns=columns)}, "difference"))
    assert axes[2].containers[0].lines[0].get_xdata().tolist() == [0.8, 1.0]
