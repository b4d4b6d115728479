import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from lesionlab.attention.regions import REGIONS
from lesionlab.figures import maps
from lesionlab.figures.maps import Tile


def drawn(figure):
    """The figure, drawn for real; axes that show something."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return [ax for ax in figure.findobj(lambda a: hasattr(a, "get_images")) if ax.get_visible()]


def image(seed=0, size=8):
    return np.random.default_rng(seed).random((size, size))


def assert_readable(figure):
    """No text is smaller than 8 pixels where the book shows the figure in its column of 688."""
    drawn(figure)
    shrunk = min(1, 688 / (figure.get_figwidth() * figure.dpi))
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    assert texts
    for text in texts:
        pixels = text.get_fontsize() * figure.dpi / 72 * shrunk
        assert pixels >= 8, f"{text.get_text()!r} has {pixels:.1f} pixels"


def shares():
    index = pd.MultiIndex.from_product([["CAM", "SAM"], REGIONS], names=["method", "region"])
    times = np.array([1.2, 0.9, 0.8, 0.7, 1.3, 1.0])
    return pd.DataFrame(
        {"times": times, "times_low": times - 0.1, "times_high": times + 0.2}, index=index
    )


def test_tiles_show_the_map_over_the_image_and_what_is_wrong():
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:5, 2:5] = True
    rows = {
        "one": [Tile(image()), Tile(image(), image(1), mask, "0.9", wrong=True, pixel=0.5)],
        "two": [Tile(image(), image(2), title="0.1")],
    }
    figure = maps.tiles(rows, tier="phantom")
    axes = drawn(figure)
    assert [len(ax.get_images()) for ax in axes] == [1, 2, 2, 0, 0]  # and a colour bar for a row
    over = axes[1].get_images()
    np.testing.assert_array_equal(over[1].get_array(), image(1))
    assert over[1].get_alpha() < 1
    assert to_hex(axes[1].title.get_color()) == "#b00020"
    assert axes[2].title.get_color() == "black"
    assert figure.get_supxlabel() == "phantom"
    assert axes[1].get_xlim() == (0, 4)  # 8 pixels of 0.5 mm


def test_maps_of_a_row_share_a_scale_and_its_bar():
    rows = {
        "a": [Tile(image(), image(1)), Tile(image(), 3 * image(2))],
        "b": [Tile(image(), image(3))],
        "no map": [Tile(image())],
    }
    figure = maps.tiles(rows)
    shown = [ax.get_images()[1] for ax in figure.axes if len(ax.get_images()) > 1]
    low, high = image(1).min(), 3 * image(2).max()
    assert [map.get_clim() for map in shown] == [
        (min(low, 3 * image(2).min()), high),
        (min(low, 3 * image(2).min()), high),
        (image(3).min(), image(3).max()),
    ]
    assert len(figure.axes) == 6 + 2, "no bar without a map"
    assert figure.axes[-2].get_ylim() == pytest.approx(shown[0].get_clim())


def test_maps_with_scales_of_their_own_have_one_bar_that_says_so():
    row = [Tile(image(), image(1)), Tile(image(), 3 * image(2))]
    figure = maps.tiles({"": row, "b": row}, own_scales=True)
    *_, bar = drawn(figure), figure.axes[-1]
    assert len(figure.axes) == 4 + 1
    assert [t.get_text() for t in bar.get_yticklabels()] == ["low", "high"]
    assert bar.get_ylabel() == "of each map alone"
    for ax, tile in zip(figure.axes, [*row, *row], strict=False):
        assert ax.get_images()[1].get_clim() == (tile.map.min(), tile.map.max())


@pytest.mark.parametrize("columns", [1, 6, 11])
def test_text_of_tiles_is_readable_however_wide_they_are(columns):
    row = [Tile(image(), image(1), title="HESAM\n0.82", pixel=0.6)] * columns
    for own in (True, False):
        assert_readable(maps.tiles({"CAM": row}, own_scales=own, tier="phantom"))


def test_one_feature_map_becomes_products():
    g, pooled, weights = image(0, 16), image(1, 6), image(2, 6) - 0.5
    figure = maps.one_feature_map(g, pooled, weights, tier="phantom")
    shown = [ax.get_images()[0].get_array() for ax in figure.axes[:4]]
    for found, given in zip(shown, (g, pooled, weights, weights * pooled), strict=True):
        np.testing.assert_allclose(found, given)
    assert_readable(figure)


def test_tiles_that_do_not_fit():
    with pytest.raises(ValueError, match="expected at least one picture"):
        maps.tiles({})
    with pytest.raises(ValueError, match=r"map of \(4, 4\)"):
        maps.tiles({"a": [Tile(image(), image(size=4))]})


def test_region_shares_are_at_their_values():
    figure = maps.region_shares({"trained": shares(), "random": shares()}, tier="slices")
    axes = drawn(figure)
    assert [ax.get_title() for ax in axes] == ["inside", "margin band", "outside"]
    margin = axes[1].containers[0].lines[0]
    assert margin.get_xdata().tolist() == [0.9, 1.3]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["CAM", "SAM"]
    assert "real pixels" in figure.get_supxlabel()
    assert_readable(figure)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["trained", "random"]
    with pytest.raises(ValueError, match="expected 1 to 3"):
        maps.region_shares({})


def test_a_method_that_one_network_lacks_is_left_empty():
    figure = maps.region_shares({"a": shares(), "b": shares().loc[["CAM"]]})
    line = drawn(figure)[0].containers[1].lines[0]
    assert np.isnan(line.get_xdata()[1])


def test_deletion_has_both_curves():
    index = pd.MultiIndex.from_product([["CAM", "SAM"], ["deletion", "insertion"]])
    index.names = ["method", "curve"]
    table = pd.DataFrame({"difference": [-0.1, 0.2, 0.0, 0.1]}, index=index)
    table = table.assign(low=table["difference"] - 0.05, high=table["difference"] + 0.05)
    figure = maps.deletion(table, tier="phantom")
    assert_readable(figure)
    axes = drawn(figure)
    found = [ax.containers[0].lines[0].get_xdata().tolist() for ax in axes]
    assert found == [[-0.1, 0.0], [0.2, 0.1]]


def test_cascade_begins_at_one_and_leaves_gaps_out():
    similarity = [[0.8, 0.6], [np.nan, 0.2], [np.nan, np.nan]]
    figure = maps.cascade({"SAM": (["c", "b", "a"], similarity)})
    assert_readable(figure)
    line = drawn(figure)[0].get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), [1, 0.7, 0.2, np.nan])
    with pytest.raises(ValueError, match="for 2 layers"):
        maps.cascade({"SAM": (["b", "a"], similarity)})
    with pytest.raises(ValueError, match="at least one"):
        maps.cascade({})


def test_matching_has_slice_maps_box_and_words():
    over = image(1, 10)
    over[:3] = np.nan
    ratings = pd.DataFrame(
        {"reader 1": [4.0, 2.0], "reader 2": [5.0, np.nan]}, index=["margin", "malignancy"]
    )
    how = {"pixel": (0.5, 0.5), "box": (1.5, 1.0, 3.0, 2.0)}
    figure = maps.matching(image(size=10) * 100, {"SAM": over}, ratings, title="n1", **how)
    axes = drawn(figure)
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
    assert_readable(figure)
    with pytest.raises(ValueError, match="'SAM' has"):
        maps.matching(image(size=9), {"SAM": over}, ratings, **how)
