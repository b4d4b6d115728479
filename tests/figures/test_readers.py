"""Figures show the numbers that they were given."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lesionlab.attributes import LIDC_RATINGS, RATING_NAMES
from lesionlab.figures import readers
from lesionlab.sources.lidc import Contour


def contour(reading: int, z: int) -> Contour:
    points = np.array([[0, 0], [0, 4], [6, 4], [6, 0]])
    return Contour(reading_id=reading, slice_index=z, z=float(z), inside=True, points=points)


def drawn(figure: Figure) -> None:
    """Render, so that nothing is left to fail on the reader's screen."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    assert stream.getvalue().startswith(b"\x89PNG")


def test_contour_sheet_has_a_panel_per_slice_in_mm() -> None:
    contours = [contour(1, 7), contour(2, 7), contour(1, 3)]
    figure = readers.contour_sheet(contours, pixel_spacing=0.5, columns=2)
    first, second = figure.axes
    assert first.get_title() == "z = 3.0 mm"
    assert len(first.lines) == 1
    assert len(second.lines) == 2
    x, y = first.lines[0].get_data()
    assert np.ptp(x) == 2.0  # 4 pixels of 0.5 mm
    assert np.ptp(y) == 3.0
    assert (x[0], y[0]) == (x[-1], y[-1])  # closed
    assert first.get_ylim()[0] > first.get_ylim()[1]  # rows count downwards
    drawn(figure)


def test_empty_panels_are_hidden() -> None:
    figure = readers.contour_sheet([contour(1, z) for z in range(4)], pixel_spacing=1, columns=3)
    assert [ax.get_visible() for ax in figure.axes] == [True] * 4 + [False] * 2


def test_rating_histograms_show_shares() -> None:
    readings = pd.DataFrame({name: [1.0, 1.0, 2.0, np.nan] for name in RATING_NAMES})
    figure = readers.rating_histograms(readings)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights[:2] == pytest.approx([200 / 3, 100 / 3])  # the missing one does not count
    assert len(figure.axes[2].patches) == 6  # calcification has six steps


def test_rating_histograms_by_group() -> None:
    readings = pd.DataFrame({name: [1.0, 1.0, 2.0] for name in RATING_NAMES})
    groups = {"a": pd.Series([True, True, False]), "b": pd.Series([False, False, True])}
    figure = readers.rating_histograms(readings, groups=groups)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [100, 0, 0, 0, 0, 0, 100, 0, 0, 0]


def test_counts_draws_a_bar_per_value() -> None:
    values = pd.Series([1, 1, 4])
    figure = readers.counts(values, xlabel="slices", mean=5.6, mean_label="paper")
    assert [b.get_height() for b in figure.axes[0].patches] == [2, 1]
    assert [line.get_xdata()[0] for line in figure.axes[0].lines] == [2.0, 5.6]
    drawn(figure)


def test_heat_map_writes_each_value_and_leaves_missing_ones_empty() -> None:
    names = list(RATING_NAMES[:2])
    matrix = pd.DataFrame([[np.nan, 0.25], [0.75, np.nan]], index=names, columns=names)
    figure = readers.square_heatmap(matrix, label="r", limits=(0, 1))
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.25", "0.75"]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["Sub", "IS"]
    drawn(figure)


def test_category_heat_map_keeps_the_order_given() -> None:
    index = pd.MultiIndex.from_tuples(
        [(a.name, code) for a in LIDC_RATINGS for code in a.codes], names=["attribute", "category"]
    )
    matrix = pd.DataFrame(np.eye(len(index)), index=index, columns=index)
    figure = readers.category_heatmap(matrix, LIDC_RATINGS, label="P")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == [
        a.short for a in LIDC_RATINGS
    ]
    drawn(figure)


def test_intervals_show_values_and_marks() -> None:
    columns = pd.MultiIndex.from_product([["constant"], ["value", "low", "high"]])
    table = pd.DataFrame([[0.5, 0.4, 0.7], [0.3, 0.2, 0.4]], index=["margin", "texture"],
                         columns=columns)  # fmt: skip
    figure = readers.intervals(table, xlabel="MAE", groups=["constant"],
                               marks={"paper": {"texture": 0.25}})  # fmt: skip
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["Margin", "Texture"]
    marks = next(line for line in ax.lines if line.get_label() == "paper")
    assert marks.get_xydata().tolist() == [[0.25, 1.0]]
    drawn(figure)


def test_no_figure_stays_open() -> None:
    import matplotlib.pyplot as plt

    readers.counts(pd.Series([1, 2]), xlabel="x")
    assert plt.get_fignums() == []
