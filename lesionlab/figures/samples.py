"""Plots of the chapter "From scan to sample", and sheets of pictures, with or without maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from lesionlab.colours import reader_colours
from lesionlab.crops import Crop, Tier
from lesionlab.crops.footprint import Footprint
from lesionlab.crops.sampling import locate
from lesionlab.figures import _draw as draw
from lesionlab.figures._draw import TIER_NOTES as TIER_NOTES

Window = tuple[float, float]

PAPER_COLOURS = {
    "Li 2021": draw.BLUE,
    "Fu 2021": draw.ORANGE,
    "Liu 2020": draw.GREEN,
    "Lei 2020": draw.PURPLE,
    "Wang 2021": draw.YELLOW,
}


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of a sheet.

    Attributes:
        values: (row, column), grey values.
        pixel: Height and width of a pixel, mm; None where it has no length.
        title: What stands above it.
        outline: (row, column) bool whose border is drawn, or (reader, row, column).
        map: (row, column), drawn over the image; nothing where it is NaN.
        wrong: Draws the title in red, as Lei 2020 prints false positives and negatives.
    """

    values: npt.ArrayLike
    pixel: tuple[float, float] | None = None
    title: str = ""
    outline: npt.NDArray[np.bool_] | None = None
    map: npt.ArrayLike | None = None
    wrong: bool = False


def pictures(
    images: npt.ArrayLike, pixel: tuple[float, float] | None, titles: Sequence[str]
) -> list[Picture]:
    """One picture for each image of a stack (image, row, column), an array or a tensor."""
    stack = np.asarray(images)
    if stack.ndim != 3:
        raise ValueError(f"images of shape {stack.shape}: expected (image, row, column)")
    return [Picture(values, pixel, title) for values, title in zip(stack, titles, strict=True)]


def heights(z: npt.ArrayLike, decimals: int = 1) -> list[str]:
    """Titles for slices at these heights, mm; what was not read has no height.

    >>> heights([-0.04, 2.7, float("nan")])
    ['0.0 mm', '+2.7 mm', 'beyond']
    """
    rounded = np.round(np.asarray(z, float), decimals) + 0.0  # no minus before a zero
    texts = [f"{v:+.{decimals}f} mm" if v else f"{v:.{decimals}f} mm" for v in rounded]
    return ["beyond" if "nan" in text else text.replace("-", "−") for text in texts]


@draw.styled
def sheet(
    rows: Mapping[str, Sequence[Picture]],
    *,
    limits: Window = draw.WINDOW,
    size: float = 1.25,
    own_scales: bool = False,
    tier: Tier | None = None,
) -> Figure:
    """Rows of pictures, each with a bar of so many mm; every pixel is drawn as it is.

    Args:
        rows: Name of a row to its pictures; rows may differ in length.
        limits: Values that are black and white.
        size: Height and width of a place, inches.
        own_scales: Draw each map from its own smallest to its own largest value, with one colour
            bar that says so. Otherwise the maps of a row share a scale, and its colour bar.
        tier: Where the voxels come from; written below.
    """
    shown = [picture for row in rows.values() for picture in row]
    if not shown:
        raise ValueError(f"rows={dict(rows)!r}: expected at least one picture")
    columns = max(map(len, rows.values()))
    bars = 0.65 if any(picture.map is not None for picture in shown) else 0.0
    figure = draw.blank(columns * size + 0.35 + bars, 1)
    font = draw.points(6, figure)
    title = 0.021 * font * max(p.title.count("\n") + bool(p.title) for p in shown)  # inches
    figure.set_figheight(len(rows) * (size + title) + 0.2 + bars / 6)
    places = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (name, row) in zip(places, rows.items(), strict=True):
        maps = [np.asarray(p.map, dtype=float) for p in row if p.map is not None]
        scale = None
        if maps and not own_scales:
            scale = Normalize(min(map(np.nanmin, maps)), max(map(np.nanmax, maps)))
            _colour_bar(figure, axes.tolist(), scale)
        for ax, picture in zip(axes, row, strict=False):
            _picture(ax, picture, limits, scale)
            ax.set_title(picture.title, fontsize=font, pad=2,
                         color=draw.RED if picture.wrong else "black")  # fmt: skip
        for ax in axes[len(row) :]:
            ax.set_visible(False)
        axes[0].set_ylabel(name, fontsize=font)
    if own_scales:
        _colour_bar(figure, places.ravel().tolist(), None)
    return draw.note(figure, tier)


def _picture(ax: Axes, picture: Picture, limits: Window, scale: Normalize | None) -> None:
    extent = draw.grey(ax, picture.values, picture.pixel, limits)
    if picture.map is not None:
        over = np.ma.masked_invalid(np.asarray(picture.map, dtype=float))
        if over.shape != np.shape(picture.values):
            raise ValueError(
                f"map of {over.shape}: expected the image's {np.shape(picture.values)}"
            )
        ax.imshow(over, cmap=draw.MAP, norm=scale, alpha=0.45, extent=extent,
                  interpolation="nearest")  # fmt: skip
    if (masks := picture.outline) is None:
        return
    colours = [draw.ORANGE] if masks.ndim == 2 else reader_colours(len(masks))
    masks = masks.reshape(-1, *masks.shape[-2:])
    for mask, colour in zip(masks, colours, strict=True):
        draw.outline(ax, mask, picture.pixel, colour if picture.map is None else "white")


def _colour_bar(figure: Any, axes: list[Axes], scale: Normalize | None) -> None:
    """A bar at the right of pictures, for maps on one scale or, if None, each on its own."""
    shown = ScalarMappable(scale or Normalize(0, 1), draw.MAP)
    bar: Colorbar = figure.colorbar(shown, ax=axes, aspect=14, pad=0.01, format="%.2g",
                                    ticks=MaxNLocator(3))  # fmt: skip
    bar.ax.tick_params(labelsize=draw.points(5.2, figure), length=2, pad=1)
    if scale is None:
        bar.set_ticks([0, 1], labels=["low", "high"])
        bar.set_label("of each map alone", fontsize=draw.points(5.2, figure))


def largest_slice(crop: Crop) -> int:
    """Which slice of a crop has most voxels of the consensus."""
    return int(crop.consensus().sum(axis=(1, 2)).argmax())


@draw.styled
def in_scan(crop: Crop, *, n_slices: int) -> Figure:
    """Where a crop lies in its scan, seen from the feet and from the front, to scale in mm.

    Slices have 512 rows and columns throughout LIDC-IDRI.
    """
    z, y, x = (
        (first * step, (first + n) * step)
        for first, n, step in zip(crop.origin, crop.hu.shape, crop.spacing, strict=True)
    )
    field, tall = 512 * crop.spacing[2], n_slices * crop.spacing[0]
    k = largest_slice(crop)
    row = int(crop.consensus()[k].sum(axis=1).argmax())
    figure, (left, right) = draw.row(2, 8.2, 4.4)
    for ax, values, low, high, whole in (
        (left, crop.hu[k], *y, field),
        (right, crop.hu[::-1, row], *z, tall),  # the head is above
    ):
        ax.imshow(values, cmap="gray", vmin=draw.WINDOW[0], vmax=draw.WINDOW[1],
                  extent=(*x, *((high, low) if ax is left else (low, high))))  # fmt: skip
        ax.add_patch(Rectangle((0, 0), field, whole, fill=False, color=draw.GREY))
        ax.add_patch(Rectangle((x[0], low), x[1] - x[0], high - low, fill=False,
                               color=draw.ORANGE, linewidth=1.5))  # fmt: skip
        ax.set(xlim=(min(0, x[0]) - 4, max(field, x[1]) + 4), aspect="equal", xlabel="x (mm)")
    left.set(ylim=(max(field, y[1]) + 4, min(0, y[0]) - 4), ylabel="y (mm, towards the back)",
             title=f"slice {crop.slice_index[k]}, one of {n_slices}")  # fmt: skip
    right.set(ylim=(-4, tall + 4), ylabel="z (mm, towards the head)",
              title=f"row {crop.origin[1] + row}: {len(crop.hu)} slices "
              f"every {crop.spacing[0]:g} mm")  # fmt: skip
    return draw.note(figure, crop.tier)


@draw.styled
def windows(crop: Crop, named: Mapping[str, Window]) -> Figure:
    """The largest slice through several windows, and the histogram that they cut from.

    `named` is what a window is called, to the HU that become black and white.
    """
    hu = crop.hu[largest_slice(crop)]
    figure = draw.blank(7.8, 4.6)
    places = figure.add_gridspec(2, len(named), height_ratios=(1, 1.3))
    above = figure.add_subplot(places[0, :])
    above.hist(hu.ravel(), bins=np.arange(-1100, 1100, 20).tolist(), color=draw.GREY, log=True)
    top = above.get_ylim()[1]
    for number, (name, (low, high)) in enumerate(named.items()):
        y = top * 1.9 ** (number + 1)
        above.plot([low, high], [y, y], linewidth=3, solid_capstyle="butt")
        above.annotate(name, (high, y), (4, 0), textcoords="offset points", va="center",
                       fontsize=8)  # fmt: skip
        ax = figure.add_subplot(places[1, number])
        draw.grey(ax, hu, crop.spacing[1:], (low, high))
        ax.set_title(f"{name}\n{low:g} to {high:g} HU".replace("-", "−"), pad=2)
    above.set(xlabel="HU (values above 1100 are left out)", ylabel="pixels")
    above.set_ylim(top=top * 1.9 ** (len(named) + 0.8))
    return draw.note(figure, crop.tier)


@draw.styled
def footprints(
    crop: Crop, places: Mapping[str, Footprint], *, squares: Mapping[str, Footprint]
) -> Figure:
    """Which square and which heights each sample is read from, on one lesion.

    `places` is the name of a sample, beginning with the paper's as in `PAPER_COLOURS`, to its
    place; `squares` are those whose squares are drawn.
    """
    figure, (left, right) = draw.row(2, 8.6, 4.6, width_ratios=(1, 1.25))
    pixel, k = crop.spacing[1:], largest_slice(crop)
    _, width, height, _ = draw.grey(left, crop.hu[k], pixel, draw.WINDOW)
    draw.outline(left, crop.consensus()[k], pixel, "white")
    for number, (name, place) in enumerate(squares.items()):
        left.add_patch(Rectangle(place.corner[::-1], place.side[1], place.side[0], fill=False,
                                 color=_paper_colour(name), linestyle=("-", "--", ":")[number % 3],
                                 linewidth=1.6, label=f"{name}: {place.side[0]:.1f} mm"),
                       )  # fmt: skip
    for number, (name, place) in enumerate(places.items()):
        right.plot(np.full(len(place.z), number), place.z, "_", color=_paper_colour(name),
                   markersize=13, markeredgewidth=1.4, linestyle="none")  # fmt: skip
    left.set(xlim=(0, width), ylim=(height, 0), title="squares in plane, with their sides")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2)
    z = (crop.slice_index - locate(crop).centroid[0]) * crop.spacing[0]
    for height_of_slice in z:
        right.axhline(height_of_slice, color=draw.GREY, linewidth=0.4, zorder=0)
    inside = z[crop.consensus().any(axis=(1, 2))]
    half = crop.spacing[0] / 2
    right.axhspan(inside.min() - half, inside.max() + half, color=draw.GREY, alpha=0.25, zorder=0)
    right.set_xticks(range(len(places)), list(places), rotation=60, ha="right")
    right.set(ylabel="height over the consensus' middle (mm)",
              title="heights read; grey lines are the crop's slices")  # fmt: skip
    return draw.note(figure, crop.tier)


def _paper_colour(name: str) -> str:
    return PAPER_COLOURS.get(name.partition(",")[0], "black")
