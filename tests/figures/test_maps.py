"""Figures of maps show what was measured of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

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


def test_one_feature_map_becomes_products(drawn: Any) -> None:
    g, pooled, weights = image(0, 16), image(1, 6), image(2, 6) - 0.5
    axes = drawn(maps.one_feature_map(g, pooled, weights, tier="phantom"))
    for ax, given in zip(axes, (g, pooled, weights, weights * pooled), strict=False):
        np.testing.assert_allclose(ax.get_images()[0].get_array(), given)


def test_region_shares_are_at_their_values(drawn: Any) -> None:
    figure = maps.region_shares({"trained": shares(), "random": shares().loc[["CAM"]]},
                                tier="slices")  # fmt: skip
    axes = drawn(figure)
    assert [ax.get_title() for ax in axes] == ["inside", "margin band", "outside"]
    assert axes[1].containers[0].lines[0].get_xdata().tolist() == [0.9, 1.3]
    assert np.isnan(axes[0].containers[1].lines[0].get_xdata()[1]), "one network lacks a method"
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["CAM", "SAM"]
    assert "real pixels" in figure.get_supxlabel()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["trained", "random"]


def test_deletion_has_both_curves(drawn: Any) -> None:
    index = pd.MultiIndex.from_product([["CAM", "SAM"], ["deletion", "insertion"]])
    index.names = ["method", "curve"]
    table = pd.DataFrame({"difference": [-0.1, 0.2, 0.0, 0.1]}, index=index)
    table = table.assign(low=table["difference"] - 0.05, high=table["difference"] + 0.05)
    axes = drawn(maps.deletion(table, tier="phantom"))
    found = [ax.containers[0].lines[0].get_xdata().tolist() for ax in axes]
    assert found == [[-0.1, 0.0], [0.2, 0.1]]


def test_cascade_begins_at_one_and_leaves_gaps_out(drawn: Any) -> None:
    similarity = pd.DataFrame([[0.8, 0.6], [np.nan, 0.2], [np.nan, np.nan]], index=list("cba"))
    (ax,) = drawn(maps.cascade({"SAM": similarity}))
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), [1, 0.7, 0.2, np.nan])


def test_matching_has_slice_maps_box_and_words(drawn: Any) -> None:
    over = image(1, 10)
    over[:3] = np.nan
    ratings = pd.DataFrame(
        {"reader 1": [4.0, 2.0], "reader 2": [5.0, np.nan]}, index=["margin", "malignancy"]
    )
    how = {"pixel": (0.5, 0.5), "box": (1.5, 1.0, 3.0, 2.0)}
    axes = drawn(maps.matching(image(size=10) * 100, {"SAM": over}, ratings, title="n1", **how))
    assert [len(ax.get_images()) for ax in axes] == [1, 2, 0, 0]  # a colour bar, and the words
    assert np.ma.getmaskarray(axes[1].get_images()[1].get_array())[:3].all()
    (box,) = axes[0].patches
    assert (box.get_y(), box.get_x(), box.get_height(), box.get_width()) == how["box"]
    (table,) = axes[-1].tables
    cells = {at: cell.get_text().get_text() for at, cell in table.get_celld().items()}
    rows = [[cells[i, j] for j in range(4)] for i in range(3)]
    assert rows == [
        ["", "reader 1", "reader 2", "scale"],
        ["Margin", "4", "5", "1 Poorly defined … 5 Sharp"],
        ["Malignancy", "2", "–", "1 Highly unlikely … 5 Highly suspicious"],
    ]
    with pytest.raises(ValueError, match=r"map of \(10, 10\)"):
        maps.matching(image(size=9), {"SAM": over}, ratings, **how)
