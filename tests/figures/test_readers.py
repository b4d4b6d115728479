"""Figures show the numbers that they were given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lesionlab.attributes import LIDC_RATINGS, RATING_NAMES
from lesionlab.figures import readers


def test_rating_histograms_show_shares(drawn):
    readings = pd.DataFrame({name: [1.0, 1.0, 2.0, np.nan] for name in RATING_NAMES})
    figure = readers.rating_histograms(readings)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights[:2] == pytest.approx([200 / 3, 100 / 3])  # the missing one does not count
    assert len(figure.axes[2].patches) == 6  # calcification has six steps
    drawn(figure)


def test_matrices_stand_side_by_side_with_their_values(drawn):
    names = [*RATING_NAMES[:2], "own"]  # a target need not be one of LIDC's ratings
    first = pd.DataFrame(np.arange(9.0).reshape(3, 3) / 9, index=names, columns=names)
    second = first.where(~np.eye(3, dtype=bool))
    matrices = {"readers": first, "weights": second}
    left, right, *_ = drawn(readers.attribute_matrices(matrices, limits=[(0, 1), (0, 2)]))
    assert (left.get_title(), right.get_title()) == ("readers", "weights")
    assert [t.get_text() for t in left.texts[:2]] == ["0.00", "0.11"]
    assert (len(left.texts), len(right.texts)) == (9, 6), "missing values leave empty cells"
    assert [t.get_text() for t in left.get_xticklabels()] == ["Sub", "IS", "own"]
    assert right.collections[0].get_clim() == (0, 2)


def test_category_heat_map_keeps_the_order_given(drawn):
    index = pd.MultiIndex.from_tuples(
        [(a.name, code) for a in LIDC_RATINGS for code in a.codes], names=["attribute", "category"]
    )
    matrix = pd.DataFrame(np.eye(len(index)), index=index, columns=index)
    ax = drawn(readers.category_heatmap(matrix, LIDC_RATINGS, label="P"))[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == [a.short for a in LIDC_RATINGS]


def test_intervals_show_values_and_marks(drawn):
    columns = pd.MultiIndex.from_product([["constant"], ["value", "low", "high"]])
    table = pd.DataFrame([[0.5, 0.4, 0.7], [0.3, 0.2, 0.4]], index=["margin", "texture"],
                         columns=columns)  # fmt: skip
    marks = {"paper": {"texture": 0.25}}
    (ax,) = drawn(readers.intervals(table, xlabel="MAE", groups=["constant"], marks=marks))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["Margin", "Texture"]
    (shown,) = ax.containers[0].lines[2]
    assert [segment[:, 0].tolist() for segment in shown.get_segments()] == [[0.4, 0.7], [0.2, 0.4]]
    (mark,) = (line for line in ax.lines if line.get_label() == "paper")
    assert mark.get_xydata().tolist() == [[0.25, 1.0]]
