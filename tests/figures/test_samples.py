"""Figures of crops and samples show what they were given, at the size in mm that they say."""

from __future__ import annotations

import io
import re
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from lesionlab.crops import Crop, Tier
from lesionlab.figures import samples as figures
from lesionlab.figures.samples import Footprint, Picture
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
                np.ones(keep.sum(), bool), "phantom")  # fmt: skip


def drawn(figure: Figure) -> None:
    """Render, so that nothing is left to fail on the reader's screen."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    assert stream.getvalue().startswith(b"\x89PNG")


def assert_readable(figure: Figure) -> None:
    """No text is smaller than 8 pixels where the book shows the figure in its column of 688."""
    drawn(figure)
    shrunk = min(1, 688 / (figure.get_figwidth() * figure.dpi))
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    assert texts
    for text in texts:
        pixels = text.get_fontsize() * figure.dpi / 72 * shrunk
        assert pixels >= 8, f"{text.get_text()!r} has {pixels:.1f} pixels"


# -- sheets ----------------------------------------------------------------------------


def test_a_sheet_draws_each_picture_to_scale() -> None:
    tall = Picture(np.zeros((4, 3)), (2.0, 0.5), "tall")
    figure = figures.sheet({"a": [tall], "b": [tall, tall]})
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == 3
    assert shown[0].get_title() == "tall"
    assert [ax.get_ylabel() for ax in shown] == ["a", "b", ""]
    assert shown[0].images[0].get_extent() == [0, 1.5, 8.0, 0]  # 3 × 0.5 mm wide, 4 × 2 mm high
    drawn(figure)


@pytest.mark.parametrize(("width", "bar"), [(200, 50), (64, 20), (32, 10), (16, 5), (2, 1)])
def test_the_bar_is_at_most_a_third_of_the_width(width: float, bar: int) -> None:
    figure = figures.sheet({"": [Picture(np.zeros((10, 10)), (width / 10, width / 10))]})
    (ax,) = figure.axes
    start, end = ax.lines[0].get_xdata()
    assert end - start == pytest.approx(bar)
    assert [text.get_text() for text in ax.texts] == [f"{bar} mm"]


@pytest.mark.parametrize(
    ("tier", "said"), [("phantom", "phantom"), ("slices", "real pixels"), (None, "")]
)
def test_a_sheet_says_where_its_voxels_come_from(tier: Tier | None, said: str) -> None:
    figure = figures.sheet({"": [Picture(np.zeros((2, 2)), None)]}, tier=tier)
    note = figure.get_supxlabel()
    assert note.startswith(said)
    assert bool(note) == bool(said)


def test_figures_of_a_crop_name_its_tier() -> None:
    ball = crop()
    place = Footprint(np.zeros(1), (0, 0), (1, 1), (1, 1))
    for figure in (
        figures.in_scan(ball, n_slices=150),
        figures.windows(ball, {"lung": (-1350.0, 150.0)}),
        figures.footprints(ball, {"Fu 2021": place}),
    ):
        assert figure.get_supxlabel() == "phantom"
        assert_readable(figure)


@pytest.mark.parametrize("columns", [1, 6, 11])
def test_text_of_a_sheet_is_readable_however_wide_it_is(columns: int) -> None:
    shown = [Picture(np.zeros((8, 8)), (2, 2), "+2.7 mm")] * columns
    assert_readable(figures.sheet({"D11C": shown}, tier="phantom"))


def test_a_picture_without_a_length_has_no_bar() -> None:
    (ax,) = figures.sheet({"": [Picture(np.zeros((2, 2)), None)]}).axes
    assert not ax.lines
    assert not ax.texts


def test_grey_values_are_those_given() -> None:
    values = np.array([[-1.0, 1.0]])
    (ax,) = figures.sheet({"": [Picture(values, (1, 1))]}, limits=(-1, 1)).axes
    assert ax.images[0].get_array().tolist() == values.tolist()
    assert ax.images[0].get_clim() == (-1, 1)


def test_an_outline_runs_along_the_borders_of_pixels() -> None:
    mask = np.zeros((5, 5), bool)
    mask[1:3, 2:4] = True
    (ax,) = figures.sheet({"": [Picture(np.zeros((5, 5)), (2, 2), outline=mask)]}).axes
    (path,) = ax.collections[0].get_paths()
    assert path.vertices.min(axis=0).tolist() == [4, 2]  # x from column 2, y from row 1, 2 mm each
    assert path.vertices.max(axis=0).tolist() == [8, 6]
    assert ax.get_xlim() == (0, 10)


def test_a_sheet_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="rows: expected at least one picture"):
        figures.sheet({"a": []})


def test_pictures_of_a_tensor() -> None:
    first, second = figures.pictures(torch.arange(8.0).reshape(2, 2, 2), (1, 2), ["a", "b"])
    assert first.values.tolist() == [[0, 1], [2, 3]]
    assert (second.pixel, second.title) == ((1, 2), "b")


@pytest.mark.parametrize(("shape", "titles"), [((2, 3, 3), ["a"]), ((3, 3), ["a", "b", "c"])])
def test_pictures_and_titles_go_together(shape: tuple[int, ...], titles: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"images of shape {shape}: expected")):
        figures.pictures(np.zeros(shape), (1, 1), titles)


# -- one crop --------------------------------------------------------------------------


def test_a_crop_lies_in_its_scan_in_mm() -> None:
    figure = figures.in_scan(crop(), n_slices=150)
    left, right = figure.axes
    assert left.images[0].get_extent() == [150, 198, 148, 100]  # columns 300 to 396 of 0.5 mm
    assert right.images[0].get_extent() == [150, 198, 200, 242]  # slices 100 to 121 of 2 mm
    assert left.get_title() == "slice 110, one of 150"
    assert [p.get_width() for p in left.patches] == [256, 48]
    drawn(figure)


def test_a_crop_that_reaches_over_the_border_stays_in_view() -> None:
    moved = Crop(**{**vars(crop()), "corner": (-20, 450)})
    left, _ = figures.in_scan(moved, n_slices=150).axes
    assert left.get_ylim()[1] < -10
    assert left.get_xlim()[1] > (450 + 96) * 0.5


def test_windows_clip_where_they_say() -> None:
    named = {"lung": (-1350.0, 150.0), "papers": (-1024.0, 400.0)}
    figure = figures.windows(crop(), named)
    above, *below = figure.axes
    assert [tuple(line.get_xdata()) for line in above.lines] == list(named.values())
    assert [ax.images[0].get_clim() for ax in below] == list(named.values())
    assert below[0].get_title() == "lung\n−1350 to 150 HU"
    drawn(figure)


# -- where samples are read ------------------------------------------------------------


def test_the_footprint_of_lei_is_two_diameters_at_one_mm() -> None:
    ball = crop()
    place = figures.footprint(ball, partial(lei2020.prepare, channels=11))
    assert place.z == pytest.approx(np.arange(-5, 6), abs=1e-3)
    diameter = (6 * ball.consensus().sum() * 0.5 / np.pi) ** (1 / 3)  # voxels of 0.5 mm³
    assert place.side == pytest.approx((2 * diameter, 2 * diameter), rel=1e-4)
    assert place.pixel[0] == pytest.approx(2 * diameter / 32, rel=1e-4)
    middle = (np.array(place.corner) + np.array(place.side) / 2) / 0.5
    assert middle == pytest.approx([48.5, 48.5], abs=0.1)  # the middle of voxel 48


def test_the_footprint_of_fu_is_the_box_at_80_percent() -> None:
    place = figures.footprint(crop(), fu2021.prepare, unit=None)
    # 27 pixels of the union and one of the outlines on either side, 0.5 mm each
    assert place.side == pytest.approx((29 * 0.5 / 0.8,) * 2, rel=1e-4)
    assert place.z.tolist() == pytest.approx(np.arange(-6, 7, 2), abs=1e-6)  # the scan's slices


def test_the_footprint_of_wang_ends_where_air_begins() -> None:
    place = figures.footprint(crop(depth=15), wang2021.prepare, unit=(-1, 1))
    assert place.side == pytest.approx((22.4, 22.4), rel=1e-3)
    assert np.isnan(place.z).sum() == 7  # slices 100 to 114 reach from -21 to +9 mm
    assert np.nanmax(place.z) == pytest.approx(8, abs=0.01)  # the last voxel's centre
    assert np.diff(place.z[:20]) == pytest.approx(np.ones(19), abs=1e-3)


def test_the_footprint_knows_of_missing_slices() -> None:
    place = figures.footprint(crop(missing=7), partial(li2021.prepare, mode="2.5d", n_slices=11))
    assert place.z == pytest.approx(np.arange(-10, 11, 2), abs=0.2)


def test_the_crop_is_left_as_it_was() -> None:
    ball = crop()
    before = ball.hu.copy()
    figures.footprint(ball, li2021.prepare)
    assert np.array_equal(ball.hu, before)


def test_footprints_are_drawn_in_mm_and_by_paper() -> None:
    place = Footprint(np.array([-2.0, 0, 2]), (10.0, 12.0), (20.0, 16.0), (1, 1))
    figure = figures.footprints(crop(), {"Fu 2021": place, "Lei 2020, D1C": place},
                                squares={"Fu 2021": place})  # fmt: skip
    left, right = figure.axes
    (square,) = left.patches
    assert square.get_xy() == (12, 10)
    assert (square.get_width(), square.get_height()) == (16, 20)
    heights = [line for line in right.lines if line.get_marker() == "_"]
    assert [line.get_ydata().tolist() for line in heights] == [[-2, 0, 2]] * 2
    assert [t.get_text() for t in right.get_xticklabels()] == ["Fu 2021", "Lei 2020, D1C"]
    assert heights[0].get_color() == figures.PAPER_COLOURS["Fu 2021"]
    drawn(figure)
