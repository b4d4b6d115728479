"""Figures of realism show what was measured, phantoms dashed and real slices solid."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lesionlab import realism
from lesionlab.crops import Crop
from lesionlab.figures import realism as figures
from lesionlab.figures.samples import largest_slice
from lesionlab.statistics.intervals import Estimate


def crop(tier: str) -> Crop:
    """A bright disc in grainy lung, the right half of the crop chest wall."""
    rng = np.random.default_rng(len(tier))
    hu = -850 + 20 * rng.standard_normal((2, 64, 64))
    hu[:, :, 44:] = 40
    y, x = np.ogrid[:64, :64]
    disc = (y - 30) ** 2 + (x - 20) ** 2 < 36
    hu[:, disc] = 30
    masks = np.broadcast_to(disc, (1, 2, 64, 64)).copy()
    return Crop("L", hu.astype(np.int16), masks, (2, 0.7, 0.7), np.arange(2), (0, 0),
                np.zeros(2, np.int64), tier)  # type: ignore[arg-type]  # fmt: skip


def both(measure: object) -> pd.DataFrame:
    return pd.concat([measure([crop(tier)]) for tier in ("phantom", "slices")])  # type: ignore[operator]


def test_histograms_show_the_shares_of_each_tier_and_region(drawn: Any) -> None:
    table = both(realism.histograms)
    figure = figures.histograms(table)
    assert [ax.get_title() for ax in figure.axes] == list(figures.REGION_NAMES.values())
    for ax, region in zip(figure.axes, figures.REGION_NAMES, strict=True):
        phantom, real = ax.patches
        for line, tier in ((phantom, "phantom"), (real, "slices")):
            rows = table[(table["region"] == region) & (table["tier"] == tier)]
            values, edges, _ = line.get_data()
            assert values == pytest.approx(100 * rows["share"])
            assert (edges[0], edges[-1]) == (rows["low"].iloc[0], rows["high"].iloc[-1])
        assert (phantom.get_linestyle(), real.get_linestyle()) == ("--", "-")
    drawn(figure)


def test_noise_is_shown_as_power_and_as_form() -> None:
    table = both(realism.noise_power)
    power, share = figures.noise_power(table).axes
    assert [line.get_label() for line in power.lines] == ["phantoms", "real slices"]
    for ax, column in ((power, "power"), (share, "share")):
        for line, (_, rows) in zip(ax.lines, table.groupby("tier"), strict=True):
            np.testing.assert_array_equal(line.get_ydata(), rows[column])
            np.testing.assert_array_equal(line.get_xdata(), rows["frequency"])


def test_edge_widths_rise_to_all_lesions() -> None:
    table = pd.DataFrame({"tier": ["phantom"] * 2 + ["slices"] * 4, "width": [1, 2, 1, 2, 3, 6.0]})
    (ax,) = figures.edge_widths(table).axes
    phantom, real = ax.lines
    assert phantom.get_label() == "phantoms: 2 lesions, median 1.5 mm"
    assert real.get_label() == "real slices: 4 lesions, median 2.5 mm"
    assert real.get_ydata().max() == 1
    assert real.get_xdata().max() == 6


def test_classifiers_stand_above_single_numbers(drawn: Any) -> None:
    auc = Estimate(value=0.9, low=0.85, high=0.95, level=0.95, n=10, n_groups=5, method="")
    single = pd.DataFrame({"feature": ["share_bone", "ring_p90"], "auc": [0.7, 0.6]})
    figure = figures.told_apart(single, {"boosting": auc})
    (ax,) = figure.axes
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["boosting", "share of bone", "5 mm around: 90th percentile"]
    marks = {line.get_marker(): line.get_xdata()[0] for line in ax.lines[:2]}
    assert marks["D"] == 0.9
    assert any(list(line.get_xdata()) == [0.85, 0.95] for line in ax.lines)
    drawn(figure)


def test_effects_of_ratings_leave_rare_values_out(drawn: Any) -> None:
    table = pd.DataFrame(
        {
            "rating": ["margin"] * 3 + ["texture"],
            "value": [1.0, 4.0, 5.0, 5.0],
            "lesions": [3, 40, 50, 60],
            "phantom_edge_gradient": [1.0, 2, 3, 4],
            "slices_edge_gradient": [5.0, 6, 7, 8],
        }
    )
    figure = figures.rating_effects(table, ["margin", "texture"], effect="edge_gradient")
    margin, texture = figure.axes
    assert [line.get_ydata().tolist() for line in margin.lines] == [[2, 3], [6, 7]]
    assert [line.get_ydata().tolist() for line in texture.lines] == [[4], [8]]
    assert margin.get_ylabel() == "slope at the edge (HU/mm)"
    assert margin.get_xticks().tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="effect='malignancy': expected one of"):
        figures.rating_effects(table, ["margin"], effect="malignancy")
    drawn(figure)


def test_the_flattest_square_is_lung() -> None:
    square = figures.flattest(crop("phantom"))
    assert square.shape == (34, 34), "24 mm of 0.7 mm"
    assert np.mean(square < -700) > 0.8


def test_phantoms_stand_above_the_real_slices_of_the_same_lesions() -> None:
    real = crop("slices")
    figure = figures.side_by_side([(crop("phantom"), real)] * 7, list("abcdefg"))
    rows = [figure.axes[k : k + 6] for k in range(0, 24, 6)]
    titles = ["".join(ax.get_title() for ax in row if ax.get_visible()) for row in rows]
    assert titles == ["abcdef", "abcdef", "g", "g"]
    assert [row[0].get_ylabel().strip() for row in rows] == ["phantom", "real", "phantom", "real"]
    shown = rows[1][0].images[0].get_array()
    assert np.array_equal(shown, real.hu[largest_slice(real)])
    with Image.open(io.BytesIO(figures.png(figure))) as image:  # a small one, in grey
        shades = np.asarray(image.convert("RGB"))
    assert len(np.unique(shades)) <= 32
    assert (shades == shades[..., :1]).all()
