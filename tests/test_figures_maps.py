"""Figures of maps show the numbers that they were given."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lesionlab import figures_maps as figures
from lesionlab.attention.regions import REGIONS
from lesionlab.figures_maps import Tile

IMAGE = np.linspace(0, 1, 64).reshape(8, 8)


def drawn(figure: Figure) -> None:
    """Render, so that nothing is left to fail on the reader's screen."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    assert stream.getvalue().startswith(b"\x89PNG")


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


# -- maps on images --------------------------------------------------------------------


def test_a_row_per_method_and_wrong_answers_in_red() -> None:
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:6, 2:6] = True
    first = Tile(IMAGE, IMAGE**2, outlines=mask, title="0.93", pixel=0.5)
    rows = {"CAM": [first, Tile(IMAGE, title="0.20", wrong=True)], "SAM": [Tile(IMAGE)]}
    figure = figures.tiles(rows, tier="phantom")
    axes = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_ylabel() for ax in axes] == ["CAM", "", "SAM"]
    assert [ax.get_title() for ax in axes] == ["0.93", "0.20", ""]
    assert [to_hex(ax.title.get_color()) for ax in axes[:2]] == ["#000000", "#b00020"]
    picture, over = axes[0].images
    np.testing.assert_array_equal(picture.get_array(), IMAGE)
    np.testing.assert_array_equal(over.get_array(), IMAGE**2)
    assert picture.get_extent() == over.get_extent() == [0, 4, 4, 0]  # mm
    assert len(axes[1].images) == 1
    assert "phantom" in str(figure.get_supxlabel()).lower() or any(
        "phantom" in text.get_text().lower() for text in figure.texts
    )
    drawn(figure)


def test_maps_of_another_size_and_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"map of \(4, 4\): expected the image's \(8, 8\)"):
        figures.tiles({"CAM": [Tile(IMAGE, IMAGE[:4, :4])]})
    for rows in ({}, {"CAM": []}):
        with pytest.raises(ValueError, match="at least one picture"):
            figures.tiles(rows)


def test_a_constant_map_and_gaps_are_drawn() -> None:
    gaps = IMAGE.copy()
    gaps[0] = np.nan
    drawn(figures.tiles({"odd": [Tile(IMAGE, np.ones((8, 8))), Tile(IMAGE, gaps)]}))


# -- numbers of maps -------------------------------------------------------------------


def regions(times: float) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([["CAM", "SAM"], REGIONS], names=["method", "region"])
    value = times * np.arange(1.0, 7.0)
    return pd.DataFrame(
        {"times": value, "times_low": value - 0.1, "times_high": value + 0.3}, index=index
    )


def test_shares_have_a_panel_per_region_and_their_intervals() -> None:
    figure = figures.region_shares({"trained": regions(1.0), "random": regions(2.0)}, tier="slices")
    panels = figure.axes
    assert [ax.get_title() for ax in panels] == ["inside", "margin band", "outside"]
    for i, ax in enumerate(panels):
        for network, scale in zip(ax.containers, (1.0, 2.0), strict=True):
            points, _, (bars,) = network.lines
            np.testing.assert_allclose(points.get_xdata(), [scale * (1 + i), scale * (4 + i)])
            low, high = np.array(bars.get_segments())[:, :, 0].T
            np.testing.assert_allclose(points.get_xdata() - low, 0.1)
            np.testing.assert_allclose(high - points.get_xdata(), 0.3)
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["CAM", "SAM"]
    assert "real" in figure.get_supxlabel().lower()
    drawn(figure)
    with pytest.raises(ValueError, match="expected 1 to 3, got 0"):
        figures.region_shares({})


def test_deletion_and_insertion_stand_side_by_side() -> None:
    index = pd.MultiIndex.from_product([["CAM", "SAM"], ["deletion", "insertion"]])
    index.names = ["method", "curve"]
    value = np.array([-0.1, 0.2, 0.05, -0.3])
    table = pd.DataFrame({"difference": value, "low": value - 0.02, "high": value + 0.04}, index)
    figure = figures.deletion(table)
    left, right = figure.axes
    assert left.get_title().startswith("deletion (left")
    assert right.get_title().startswith("insertion (right")
    np.testing.assert_allclose(left.containers[0].lines[0].get_xdata(), [-0.1, 0.05])
    np.testing.assert_allclose(right.containers[0].lines[0].get_xdata(), [0.2, -0.3])
    drawn(figure)


def test_a_cascade_starts_at_one_and_leaves_gaps_out() -> None:
    similarity = np.array([[0.8, 0.6], [0.2, np.nan], [np.nan, np.nan]])
    figure = figures.cascade({"CAM": (["c", "b", "a"], similarity)}, tier="phantom")
    (ax,) = figure.axes
    line = ax.lines[0]
    np.testing.assert_allclose(line.get_ydata(), [1, 0.7, 0.2, np.nan])
    assert line.get_label() == "CAM"
    drawn(figure)
    with pytest.raises(ValueError, match="'CAM' has"):
        figures.cascade({"CAM": (["a"], similarity)})
    with pytest.raises(ValueError, match="at least one method"):
        figures.cascade({})


# -- matching words --------------------------------------------------------------------


def test_matching_has_the_box_in_mm_and_every_rating() -> None:
    ratings = pd.DataFrame(
        {"reader 1": [5.0, 1.0], "reader 2": [4.0, np.nan]}, index=["margin", "spiculation"]
    )
    over = np.where(np.arange(8)[:, None] < 4, IMAGE, np.nan)
    figure = figures.matching(
        IMAGE * 1000 - 800,
        {"HESAM": over},
        ratings,
        pixel=(0.5, 0.7),
        box=(1.0, 1.4, 2.0, 2.1),
        title="a nodule",
        tier="phantom",
    )
    slice_, mapped, words = (ax for part in figure.subfigs for ax in part.axes)
    assert [slice_.get_title(), mapped.get_title()] == ["slice", "HESAM"]
    for ax in (slice_, mapped):
        (box,) = (p for p in ax.patches if not p.get_fill())
        assert (box.get_xy(), box.get_width(), box.get_height()) == ((1.4, 1.0), 2.1, 2.0)
    assert mapped.images[1].get_array().mask.sum() == 32
    shown = texts(words)
    assert [t for t in shown if t in ("5", "4", "1", "–")] == ["5", "4", "1", "–"]
    assert {"Margin", "Spiculation", "reader 1", "reader 2"} <= set(shown)
    drawn(figure)
    with pytest.raises(ValueError, match="'HESAM' has"):
        figures.matching(IMAGE, {"HESAM": over[:2]}, ratings, pixel=(1, 1), box=(0, 0, 1, 1))
