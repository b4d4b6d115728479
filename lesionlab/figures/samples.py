"""Plots of the chapter "From scan to sample": crops, and what the papers make of them.

As in `lesionlab.figures`: arrays and tables in, matplotlib figures out, nothing displayed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from lesionlab.crops import Crop, Tier
from lesionlab.crops.footprint import Footprint
from lesionlab.crops.sampling import locate
from lesionlab.figures.readers import BLUE, GREEN, GREY, ORANGE, _figure, _plain

Window = tuple[float, float]

WINDOW: Window = (-1024.0, 400.0)
"""HU that are drawn black and white where no other window is named: the papers' own."""

PAPER_COLOURS = {
    "Li 2021": BLUE,
    "Fu 2021": ORANGE,
    "Liu 2020": GREEN,
    "Lei 2020": "#CC79A7",
    "Wang 2021": "#E69F00",
}


TIER_NOTES: dict[Tier, str] = {
    "phantom": "phantom",
    "slices": "real pixels: LIDC-IDRI slices",
    "dicom": "real pixels: LIDC-IDRI scans",
}


COLUMN = 688 / 120
"""Inches of a figure of 120 dpi that the book's column shows as they are; it shrinks wider ones."""


def _points(size: float, figure: FigureBase) -> float:
    """The font size that is `size` points once a figure is shrunk to the column: 5 are 8 pixels."""
    whole: Any = figure.figure  # of a subfigure, what it is a part of
    return float(size * max(1.0, whole.get_figwidth() / COLUMN))


def _note(figure: Figure, tier: Tier | None) -> Figure:
    """Say in the lower right corner where the voxels come from."""
    if tier is not None:
        figure.supxlabel(TIER_NOTES[tier], x=0.995, ha="right", color="#444444",
                         fontsize=_points(5.5, figure))  # fmt: skip
    return figure


@dataclass(frozen=True)
class Picture:
    """One image of a sheet.

    Attributes:
        values: (row, column), grey values.
        pixel: Height and width of a pixel, mm; None where it has no length.
        title: What stands above it.
        outline: (row, column) bool, whose border is drawn; None for none.
    """

    values: npt.NDArray[np.generic]
    pixel: tuple[float, float] | None
    title: str = ""
    outline: npt.NDArray[np.bool_] | None = None


def pictures(
    images: Sequence[npt.ArrayLike] | npt.ArrayLike,
    pixel: tuple[float, float] | None,
    titles: Sequence[str],
) -> list[Picture]:
    """One picture per image of a stack.

    Args:
        images: (image, row, column), arrays or a tensor on the CPU.
        pixel: As in `Picture`, for all of them.
        titles: One per image.

    Raises:
        ValueError: There are more or fewer titles than images.
    """
    stack = np.asarray(images)
    if stack.ndim != 3 or len(stack) != len(titles):
        raise ValueError(
            f"images of shape {stack.shape}: expected (image, row, column), "
            f"an image for each of {len(titles)} titles"
        )
    return [Picture(values, pixel, title) for values, title in zip(stack, titles, strict=True)]


def heights(z: npt.ArrayLike, decimals: int = 1) -> list[str]:
    """Titles for slices at these heights, mm; what was not read has no height.

    >>> heights([-0.04, 2.7, float("nan")])
    ['0.0 mm', '+2.7 mm', 'beyond']
    """
    rounded = np.round(np.asarray(z, float), decimals) + 0.0  # no minus before a zero
    signs = ("+" if value > 0 else "" for value in rounded)
    texts = [f"{sign}{v:.{decimals}f} mm" for sign, v in zip(signs, rounded, strict=True)]
    return [t.replace("-", "−") if "nan" not in t else "beyond" for t in texts]


def sheet(
    rows: Mapping[str, Sequence[Picture]],
    *,
    limits: Window = WINDOW,
    size: float = 1.25,
    tier: Tier | None = None,
) -> Figure:
    """Rows of pictures, each with a bar of so many mm; every pixel is drawn as it is.

    Args:
        rows: Name of a row to its pictures; rows may differ in length.
        limits: Values that are black and white.
        size: Height and width of a place, inches.
        tier: Where the voxels come from; written below.

    Raises:
        ValueError: There is no picture.
    """
    columns = max(map(len, rows.values()), default=0)
    if not columns:
        raise ValueError("rows: expected at least one picture, got none")
    lines = max(p.title.count("\n") + bool(p.title) for row in rows.values() for p in row)
    figure = _figure(columns * size + 0.35, 1)
    title = 0.021 * _points(6, figure) * lines  # inches
    figure.set_figheight(len(rows) * (size + title) + 0.2)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (name, pictures) in zip(grid, rows.items(), strict=True):
        for ax, picture in zip(axes, pictures, strict=False):
            _picture(ax, picture, limits)
        for ax in axes[len(pictures) :]:
            ax.set_visible(False)
        axes[0].set_ylabel(name, fontsize=_points(6, figure))
    return _note(figure, tier)


def _picture(ax: Axes, picture: Picture, limits: Window) -> None:
    height, width = picture.values.shape
    dy, dx = picture.pixel or (1.0, 1.0)
    ax.imshow(picture.values, cmap="gray", vmin=limits[0], vmax=limits[1],
              extent=(0, width * dx, height * dy, 0), interpolation="nearest")  # fmt: skip
    if picture.outline is not None:
        _outline(ax, picture.outline, (dy, dx), color=ORANGE, linewidth=0.8)
    ax.set_title(picture.title, fontsize=_points(6, ax.figure), pad=2)
    ax.set_xticks([])
    ax.set_yticks([])
    if picture.pixel is not None:
        _scale_bar(ax, width * dx, height * dy)


def _scale_bar(ax: Axes, width: float, height: float) -> None:
    length = next(step for step in (50, 20, 10, 5, 2, 1) if step <= width / 3 or step == 1)
    edge = [withStroke(linewidth=2, foreground="black")]
    x, y = 0.05 * width, 0.94 * height
    ax.plot([x, x + length], [y, y], color="white", linewidth=1.6, solid_capstyle="butt",
            path_effects=edge)  # fmt: skip
    ax.text(x, y - 0.03 * height, f"{length} mm", color="white", va="bottom", path_effects=edge,
            fontsize=_points(5.2, ax.figure))  # fmt: skip


def _outline(
    ax: Axes, mask: npt.NDArray[np.bool_], pixel: tuple[float, float], *, color: str,
    linewidth: float,
) -> None:  # fmt: skip
    """The border of a mask, along the borders of its pixels' centres."""
    if mask.any():
        y, x = ((np.arange(n + 2) - 0.5) * step for n, step in zip(mask.shape, pixel, strict=True))
        limits = ax.get_xlim(), ax.get_ylim()
        ax.contour(x, y, np.pad(mask, 1), [0.5], colors=[color], linewidths=linewidth)
        ax.set(xlim=limits[0], ylim=limits[1])  # the padding would leave a rim


def largest_slice(crop: Crop) -> int:
    """Which slice of a crop has most voxels of the consensus."""
    return int(crop.consensus().sum(axis=(1, 2)).argmax())


def in_scan(crop: Crop, *, n_slices: int, rows: int = 512) -> Figure:
    """Where a crop lies in its scan, seen from the feet and from the front, to scale in mm.

    Args:
        crop: The crop.
        n_slices: Slices of the scan.
        rows: Rows and columns of the scan, 512 throughout LIDC-IDRI.
    """
    dz, dy, dx = crop.spacing
    z0, y0, x0 = crop.origin
    depth, height, width = crop.hu.shape
    field, tall = rows * dx, n_slices * dz
    figure = _figure(8.2, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    k = largest_slice(crop)
    row = int(crop.consensus()[k].sum(axis=1).argmax())
    across = (x0 * dx, (x0 + width) * dx)
    for ax, image, extent, whole in (
        (left, crop.hu[k], (*across, (y0 + height) * dy, y0 * dy), (field, field)),
        (right, crop.hu[:, row], (*across, z0 * dz, (z0 + depth) * dz), (field, tall)),
    ):
        ax.imshow(image, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], extent=extent,
                  origin="lower" if ax is right else "upper")  # fmt: skip
        ax.add_patch(Rectangle((0, 0), *whole, fill=False, color=GREY))
        low, size = (
            (extent[0], min(extent[2:])),
            (extent[1] - extent[0], abs(extent[3] - extent[2])),
        )
        ax.add_patch(Rectangle(low, *size, fill=False, color=ORANGE, linewidth=1.5))
        ax.set(xlim=(min(0, low[0]) - 4, max(whole[0], extent[1]) + 4), aspect="equal")
        ax.set_xlabel("x (mm)", fontsize=8)
        _plain(ax).tick_params(labelsize=8)
    left.set(ylim=(max(field, (y0 + height) * dy) + 4, min(0, y0 * dy) - 4))
    left.set_ylabel("y (mm, towards the back)", fontsize=8)
    left.set_title(f"slice {crop.slice_index[k]}, one of {n_slices}", fontsize=8)
    right.set(ylim=(-4, tall + 4))
    right.set_ylabel("z (mm, towards the head)", fontsize=8)
    right.set_title(f"row {y0 + row}: {depth} slices every {dz:g} mm", fontsize=8)
    return _note(figure, crop.tier)


def windows(crop: Crop, named: Mapping[str, Window]) -> Figure:
    """The largest slice through several windows, and the histogram that they cut from.

    Args:
        crop: The crop.
        named: What a window is called, to the HU that become black and white.
    """
    hu, pixel = crop.hu[largest_slice(crop)], (crop.spacing[1], crop.spacing[2])
    figure = _figure(7.8, 4.6)
    grid = figure.add_gridspec(2, len(named), height_ratios=(1, 1.3))
    ax = _plain(figure.add_subplot(grid[0, :]))
    ax.hist(hu.ravel(), bins=np.arange(-1100, 1100, 20).tolist(), color=GREY, log=True)
    top = ax.get_ylim()[1]
    for number, (name, (low, high)) in enumerate(named.items()):
        y = top * 1.9 ** (number + 1)
        colour = (BLUE, ORANGE, GREEN, GREY)[number % 4]
        ax.plot([low, high], [y, y], color=colour, linewidth=3, solid_capstyle="butt")
        ax.annotate(name, (high, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    ax.set_ylim(top=top * 1.9 ** (len(named) + 0.8))
    ax.set_xlabel("HU (values above 1100 are left out)", fontsize=8)
    ax.set_ylabel("pixels", fontsize=8)
    ax.tick_params(labelsize=8)
    for column, (name, limits) in enumerate(named.items()):
        ax = figure.add_subplot(grid[1, column])
        title = f"{name}\n{limits[0]:g} to {limits[1]:g} HU".replace("-", "−")
        _picture(ax, Picture(hu, pixel, title), limits)
        ax.title.set_fontsize(8)
    return _note(figure, crop.tier)


def footprints(
    crop: Crop, places: Mapping[str, Footprint], *, squares: Mapping[str, Footprint] | None = None
) -> Figure:
    """Which square and which heights each sample is read from, on one lesion.

    Args:
        crop: The crop.
        places: Name of a sample, beginning with the paper's as in `PAPER_COLOURS`, to its place.
        squares: Those whose squares are drawn; `places` if None.
    """
    figure = _figure(8.6, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    pixel, k = (crop.spacing[1], crop.spacing[2]), largest_slice(crop)
    _picture(left, Picture(crop.hu[k], pixel), WINDOW)
    _outline(left, crop.consensus()[k], pixel, color="white", linewidth=1)
    for number, (name, place) in enumerate((squares or places).items()):
        line = ("-", "--", ":")[number % 3]
        left.add_patch(Rectangle(place.corner[::-1], place.side[1], place.side[0], fill=False,
                                 color=_paper_colour(name), linestyle=line, linewidth=1.6,
                                 label=f"{name}: {place.side[0]:.1f} mm"))  # fmt: skip
    for number, (name, place) in enumerate(places.items()):
        right.plot(np.full(len(place.z), number), place.z, "_", color=_paper_colour(name),
                   markersize=13, markeredgewidth=1.4, linestyle="none")  # fmt: skip
    height, width = crop.hu.shape[1] * pixel[0], crop.hu.shape[2] * pixel[1]
    left.set(xlim=(0, width), ylim=(height, 0))
    left.set_title("squares in plane, with their sides", fontsize=8)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, frameon=False,
                fontsize=8)  # fmt: skip
    centre = locate(crop).centroid[0]
    z = (crop.slice_index - centre) * crop.spacing[0]
    for height_of_slice in z:
        right.axhline(height_of_slice, color=GREY, linewidth=0.4, zorder=0)
    inside = z[crop.consensus().any(axis=(1, 2))]
    half = crop.spacing[0] / 2
    right.axhspan(inside.min() - half, inside.max() + half, color=GREY, alpha=0.25, zorder=0)
    right.set_xticks(range(len(places)), list(places), rotation=60, ha="right", fontsize=8)
    right.set_ylabel("height over the consensus' middle (mm)", fontsize=8)
    right.set_title("heights read; grey lines are the crop's slices", fontsize=8)
    _plain(right).tick_params(axis="y", labelsize=8)
    return _note(figure, crop.tier)


def _paper_colour(name: str) -> str:
    return PAPER_COLOURS.get(name.partition(",")[0], "black")
