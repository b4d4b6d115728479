"""Figures of crops and samples show what they were given, at the size in mm that they say."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from lesionlab.crops import Crop
from lesionlab.crops.footprint import Footprint, footprint
from lesionlab.figures import samples as figures
from lesionlab.figures.samples import Picture
from lesionlab.papers import fu2021, lei2020, li2021, wang2021


def crop(*, depth: int = 21, size: int = 96, spacing: tuple[float, float, float] = (2, 0.5, 0.5),
         missing: int | None = None) -> Crop:  # fmt: skip
    """A ball of 12 mm in the middle of lung, drawn by two readers, one a pixel larger in x."""
    index = np.arange(100, 100 + depth)
    z, y, x = np.meshgrid(index - 110, np.arange(size) - 48, np.arange(size) - 48, indexing="ij")
    far = np.sqrt((z * spacing[0]) ** 2 + (y * spacing[1]) ** 2 + (x * spacing[2]) ** 2)
    masks = np.stack([far <= 6, (far <= 6) | ((z == 0) & (y == 0) & (np.abs(x) <= 13))])
    hu = np.where(far <= 6, 40, -850).astype(np.int16)
    keep = np.arange(depth) != (depth if missing is None else missing)
    return Crop("L-1", hu[keep], masks[:, keep], spacing, index[keep], (200, 300),
                0 * index[keep], "phantom")  # fmt: skip


def image(seed: int = 0, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).random((size, size))


def test_a_sheet_draws_each_picture_to_scale(drawn: Any) -> None:
    tall = Picture(np.arange(12.0).reshape(4, 3), (2.0, 0.5), "tall")
    shown = drawn(figures.sheet({"a": [tall], "b": [tall, tall]}, limits=(-1, 1)))
    assert len(shown) == 3
    assert shown[0].get_title() == "tall"
    assert [ax.get_ylabel() for ax in shown] == ["a", "b", ""]
    (drawing,) = shown[0].images
    assert drawing.get_extent() == [0, 1.5, 8.0, 0]  # 3 × 0.5 mm wide, 4 × 2 mm high
    assert np.array_equal(drawing.get_array(), tall.values)
    assert drawing.get_clim() == (-1, 1)
    (ax,) = figures.sheet({"": [Picture(np.zeros((2, 2)), None)]}).axes
    assert not [*ax.lines, *ax.texts], "no bar without a length"


@pytest.mark.parametrize(("width", "bar"), [(200, 50), (64, 20), (16, 5), (2, 1)])
def test_the_bar_is_at_most_a_third_of_the_width(width: float, bar: int) -> None:
    figure = figures.sheet({"": [Picture(np.zeros((10, 10)), (width / 10, width / 10))]})
    (ax,) = figure.axes
    start, end = ax.lines[0].get_xdata()
    assert end - start == pytest.approx(bar)
    assert [text.get_text() for text in ax.texts] == [f"{bar} mm"]


@pytest.mark.parametrize("columns", [1, 6, 11])
def test_text_of_a_sheet_is_readable_however_wide_it_is(drawn: Any, columns: int) -> None:
    row = [Picture(image(), (0.6, 0.6), "HESAM\n0.82", map=image(1))] * columns
    for own in (True, False):
        figure = figures.sheet({"D11C": row}, own_scales=own, tier="slices")
        drawn(figure)
        assert figure.get_supxlabel().startswith("real pixels")


def test_an_outline_runs_along_the_borders_of_pixels() -> None:
    mask = np.zeros((5, 5), bool)
    mask[1:3, 2:4] = True
    (ax,) = figures.sheet({"": [Picture(np.zeros((5, 5)), (2, 2), outline=mask)]}).axes
    (path,) = ax.collections[0].get_paths()
    assert path.vertices.min(axis=0).tolist() == [4, 2]  # x from column 2, y from row 1, 2 mm each
    assert path.vertices.max(axis=0).tolist() == [8, 6]
    assert ax.get_xlim() == (0, 10)


def test_maps_lie_over_the_image_on_one_scale_for_a_row_or_on_their_own(drawn: Any) -> None:
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:5, 2:5] = True
    wrong = Picture(image(), (0.5, 0.5), "0.9", mask, 3 * image(2), wrong=True)
    rows = {
        "a": [Picture(image(), map=image(1)), wrong],
        "b": [Picture(image(), map=image(3))],
        "no map": [Picture(image())],
    }
    figure = figures.sheet(rows)
    shown = [ax for ax in drawn(figure) if len(ax.get_images()) > 1]
    over = [ax.get_images()[1] for ax in shown]
    np.testing.assert_array_equal(over[1].get_array(), 3 * image(2))
    assert over[1].get_alpha() < 1
    ends = min(image(1).min(), 3 * image(2).min()), 3 * image(2).max()
    assert [drawing.get_clim() for drawing in over] == [
        ends, ends, (image(3).min(), image(3).max()),
    ]  # fmt: skip
    assert len(figure.axes) == 6 + 2, "no bar without a map"
    assert figure.axes[-2].get_ylim() == pytest.approx(ends)
    assert [to_hex(ax.title.get_color()) for ax in shown] == ["#000000", "#b00020", "#000000"]
    with pytest.raises(ValueError, match=r"map of \(4, 4\)"):
        figures.sheet({"a": [Picture(image(), map=image(size=4))]})
    row = [Picture(image(), map=image(1)), Picture(image(), map=3 * image(2))]
    figure = figures.sheet({"": row, "b": row}, own_scales=True)
    *axes, bar = figure.axes
    assert [t.get_text() for t in bar.get_yticklabels()] == ["low", "high"]
    assert bar.get_ylabel() == "of each map alone"
    for ax, picture in zip(axes, [*row, *row], strict=True):
        assert ax.get_images()[1].get_clim() == (picture.map.min(), picture.map.max())


def test_pictures_of_a_tensor() -> None:
    first, second = figures.pictures(torch.arange(8.0).reshape(2, 2, 2), (1, 2), ["a", "b"])
    assert first.values.tolist() == [[0, 1], [2, 3]]
    assert (second.pixel, second.title) == ((1, 2), "b")
    for shape, message in (((2, 3, 3), "zip"), ((3, 3), r"images of shape \(3, 3\): expected")):
        with pytest.raises(ValueError, match=message):
            figures.pictures(np.zeros(shape), (1, 1), ["a", "b", "c"])


def test_a_crop_lies_in_its_scan_in_mm(drawn: Any) -> None:
    figure = figures.in_scan(crop(), n_slices=150)
    left, right = drawn(figure)
    assert left.images[0].get_extent() == [150, 198, 148, 100]  # columns 300 to 396 of 0.5 mm
    assert right.images[0].get_extent() == [150, 198, 200, 242]  # slices 100 to 121 of 2 mm
    assert left.get_title() == "slice 110, one of 150"
    assert [p.get_width() for p in left.patches] == [256, 48]
    assert figure.get_supxlabel() == "phantom"
    moved = Crop(**{**vars(crop()), "corner": (-20, 450)})  # over the border it stays in view
    left, _ = figures.in_scan(moved, n_slices=150).axes
    assert left.get_ylim()[1] < -10
    assert left.get_xlim()[1] > (450 + 96) * 0.5


def test_windows_clip_where_they_say(drawn: Any) -> None:
    named = {"lung": (-1350.0, 150.0), "papers": (-1024.0, 400.0)}
    above, *below = drawn(figures.windows(crop(), named))
    assert [tuple(line.get_xdata()) for line in above.lines] == list(named.values())
    assert [ax.images[0].get_clim() for ax in below] == list(named.values())
    assert below[0].get_title() == "lung\n−1350 to 150 HU"


def test_footprints_are_drawn_in_mm_and_by_paper(drawn: Any) -> None:
    place = Footprint(np.array([-2.0, 0, 2]), (10.0, 12.0), (20.0, 16.0), (1, 1))
    figure = figures.footprints(crop(), {"Fu 2021": place, "Lei 2020, D1C": place},
                                squares={"Fu 2021": place})  # fmt: skip
    left, right = drawn(figure)
    (square,) = left.patches
    assert square.get_xy() == (12, 10)
    assert (square.get_width(), square.get_height()) == (16, 20)
    heights = [line for line in right.lines if line.get_marker() == "_"]
    assert [line.get_ydata().tolist() for line in heights] == [[-2, 0, 2]] * 2
    assert [t.get_text() for t in right.get_xticklabels()] == ["Fu 2021", "Lei 2020, D1C"]
    assert heights[0].get_color() == figures.PAPER_COLOURS["Fu 2021"]


def test_footprints_are_where_the_papers_read() -> None:
    ball = crop()
    before = ball.hu.copy()
    place = footprint(ball, partial(lei2020.prepare, channels=11))
    assert np.array_equal(ball.hu, before)
    # Lei's is two diameters, at one mm
    assert place.z == pytest.approx(np.arange(-5, 6), abs=1e-3)
    diameter = (6 * ball.consensus().sum() * 0.5 / np.pi) ** (1 / 3)  # voxels of 0.5 mm³
    assert place.side == pytest.approx((2 * diameter, 2 * diameter), rel=1e-4)
    assert place.pixel[0] == pytest.approx(2 * diameter / 32, rel=1e-4)
    middle = (np.array(place.corner) + np.array(place.side) / 2) / 0.5
    assert middle == pytest.approx([48.5, 48.5], abs=0.1)  # the middle of voxel 48
    place = footprint(ball, fu2021.prepare, unit=None)
    # 27 pixels of the union and one of the outlines on either side, 0.5 mm each, are 80 per cent
    assert place.side == pytest.approx((29 * 0.5 / 0.8,) * 2, rel=1e-4)
    assert place.z.tolist() == pytest.approx(np.arange(-6, 7, 2), abs=1e-6)  # the scan's slices
    place = footprint(crop(depth=15), wang2021.prepare, unit=(-1, 1))
    assert place.side == pytest.approx((22.4, 22.4), rel=1e-3)
    assert np.isnan(place.z).sum() == 7  # slices 100 to 114 reach from -21 to +9 mm
    assert np.nanmax(place.z) == pytest.approx(8, abs=0.01)  # the last voxel's centre
    assert np.diff(place.z[:20]) == pytest.approx(np.ones(19), abs=1e-3)
    place = footprint(crop(missing=7), partial(li2021.prepare, mode="2.5d", n_slices=11))
    assert place.z == pytest.approx(np.arange(-10, 11, 2), abs=0.2)  # a missing slice is known
