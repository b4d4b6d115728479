"""Plots of activation maps: on the image with outlines, how they are divided, whether they matter.

As in `lesionlab.figures`: tables and arrays in, matplotlib figures out, nothing displayed here.
Papers draw every map from its own smallest to its own largest value: colours of two maps cannot be
compared then, and a map of almost equal values looks as decided as any other. Here the maps of one
row share a scale wherever they are maps of one kind by one network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from lesionlab.attention.regions import REGIONS
from lesionlab.attributes import rating
from lesionlab.colours import READER_COLOURS
from lesionlab.crops import Tier
from lesionlab.figures.readers import BLUE, GREEN, GREY, ORANGE, _figure, _plain
from lesionlab.figures.samples import TIER_NOTES, WINDOW, _note, _outline, _points, _scale_bar

COLOURS = "viridis"  # even in lightness, and seen alike with any colour vision
METHOD_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", GREY)


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture: a slice, and a map over it.

    Attributes:
        image: (y, x), grey values.
        map: (y, x) of the same size, drawn over the image; None for the image alone.
        outlines: (reader, y, x) bool, whose borders are drawn; None for none.
        title: What stands above it.
        wrong: Draws the title in red, as the paper prints false positives and negatives.
        pixel: Side of a pixel, mm; draws a bar of so many mm. None for none.
    """

    image: npt.ArrayLike
    map: npt.ArrayLike | None = None
    outlines: npt.NDArray[np.bool_] | None = None
    title: str = ""
    wrong: bool = False
    pixel: float | None = None


def tiles(
    rows: Mapping[str, Sequence[Tile]],
    *,
    own_scales: bool = False,
    limits: tuple[float, float] = (0.0, 1.0),
    opacity: float = 0.45,
    size: float = 1.3,
    tier: Tier | None = None,
) -> Figure:
    """Rows of slices with their maps (Lei 2020, Fig. 1 and 5 to 8).

    Args:
        rows: Name of a row to its pictures; rows may differ in length.
        own_scales: Draw each map from its own smallest to its own largest value, with one colour
            bar that says so. Otherwise the maps of a row share a scale, and its colour bar.
        limits: Grey values that are black and white.
        opacity: Of the maps, 0 to 1.
        size: Height and width of a picture, inches.
        tier: Where the voxels come from; written below.

    Raises:
        ValueError: There is no picture, or a map of another size than its image.
    """
    columns = max(map(len, rows.values()), default=0)
    if not columns:
        raise ValueError("rows: expected at least one picture, got none")
    lines = max(tile.title.count("\n") + bool(tile.title) for row in rows.values() for tile in row)
    figure = _figure(columns * size + 1.0, 1)
    title = 0.021 * _points(6, figure) * lines  # inches
    figure.set_figheight(len(rows) * (size + title) + 0.3)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (name, row) in zip(grid, rows.items(), strict=True):
        maps = [np.asarray(tile.map, dtype=float) for tile in row if tile.map is not None]
        scale = None
        if maps and not own_scales:
            scale = Normalize(min(map(np.nanmin, maps)), max(map(np.nanmax, maps)))
            _bar(figure, axes.tolist(), scale)
        for ax, tile in zip(axes, row, strict=False):
            _tile(ax, tile, limits, opacity, scale)
        for ax in axes[len(row) :]:
            ax.set_visible(False)
        axes[0].set_ylabel(name, fontsize=_points(6, figure))
    if own_scales:
        _own(figure, grid.ravel().tolist())
    return _note(figure, tier)


def _bar(figure: Any, axes: list[Axes], scale: Normalize) -> Colorbar:
    """A colour bar at the right of a row of pictures."""
    bar: Colorbar = figure.colorbar(ScalarMappable(scale, COLOURS), ax=axes, aspect=14, pad=0.01,
                                    format="%.2g", ticks=MaxNLocator(3))  # fmt: skip
    bar.ax.tick_params(labelsize=_points(5.2, figure), length=2, pad=1)
    return bar


def _own(figure: Any, axes: list[Axes]) -> None:
    """One colour bar for maps of which each has a scale of its own."""
    bar = _bar(figure, axes, Normalize(0, 1))
    bar.set_ticks([0, 1], labels=["low", "high"])
    bar.set_label("of each map alone", fontsize=_points(5.2, figure))


def _tile(
    ax: Axes, tile: Tile, limits: tuple[float, float], opacity: float, scale: Normalize | None
) -> None:
    image = np.asarray(tile.image, dtype=float)
    pixel = tile.pixel or 1.0
    extent = (0, image.shape[1] * pixel, image.shape[0] * pixel, 0)
    ax.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], extent=extent,
              interpolation="nearest")  # fmt: skip
    if tile.map is not None:
        values = np.asarray(tile.map, dtype=float)
        if values.shape != image.shape:
            raise ValueError(f"map of {values.shape}: expected the image's {image.shape}")
        ax.imshow(values, cmap=COLOURS, norm=scale, alpha=opacity, extent=extent,
                  interpolation="nearest")  # fmt: skip
    for reader, mask in enumerate([] if tile.outlines is None else tile.outlines):
        colour = READER_COLOURS[reader % len(READER_COLOURS)]
        if tile.map is not None:
            colour = "white"
        _outline(ax, mask, (pixel, pixel), color=colour, linewidth=0.9)
    ax.set_title(tile.title, fontsize=_points(6, ax.figure), pad=2,
                 color="#B00020" if tile.wrong else "black")  # fmt: skip
    ax.set_xticks([])
    ax.set_yticks([])
    if tile.pixel is not None:
        _scale_bar(ax, extent[1], extent[2])


def one_feature_map(
    g: npt.ArrayLike, pooled: npt.ArrayLike, weights: npt.ArrayLike, *, tier: Tier | None = None
) -> Figure:
    """How a soft activation head makes one number of one feature map (Lei 2020, Fig. 2).

    Args:
        g: (y, x) the feature map.
        pooled: (y, x) its averages A.
        weights: (y, x) one weight β for each average.
        tier: Where the voxels come from; written below.
    """
    parts = {
        "feature map g": np.asarray(g, dtype=float),
        "averages A": np.asarray(pooled, dtype=float),
        "weights β": np.asarray(weights, dtype=float),
        "products β A": np.asarray(pooled, dtype=float) * np.asarray(weights, dtype=float),
    }
    figure = _figure(7.2, 2.1)
    for ax, between, (name, values) in zip(
        figure.subplots(1, 4), ("→", "×", "=", ""), parts.items(), strict=True
    ):
        shown = ax.imshow(values, cmap=COLOURS)
        ax.set_title(f"{name}\n{values.shape[0]} × {values.shape[1]}", fontsize=9)
        ax.text(1.25, 0.5, between, transform=ax.transAxes, fontsize=14, va="center", ha="center")
        ax.set_xticks([])
        ax.set_yticks([])
        bar = figure.colorbar(shown, ax=ax, location="bottom", format="%.2g", ticks=MaxNLocator(3))
        bar.ax.tick_params(labelsize=7)
    return _note(figure, tier)


def region_shares(tables: Mapping[str, pd.DataFrame], *, tier: Tier | None = None) -> Figure:
    """Where maps lie, beside a map that is the same everywhere.

    Args:
        tables: Name of a network (trained, untrained) to its table, as `lei2020_analyses.shares`:
            index (method, region), columns times, times_low, times_high.
        tier: Where the voxels come from; written below.

    Raises:
        ValueError: There is none, or more than three.
    """
    if not 1 <= len(tables) <= 3:
        raise ValueError(f"tables: expected 1 to 3, got {len(tables)}")
    names = list(dict.fromkeys(m for t in tables.values() for m in t.index.get_level_values(0)))
    figure = _figure(8, 0.36 * len(names) * max(1.0, 0.6 * len(tables)) + 1.2)
    grid = figure.subplots(1, len(REGIONS), sharey=True, squeeze=False)[0]
    for ax, region in zip(grid, REGIONS, strict=True):
        for number, (network, table) in enumerate(tables.items()):
            rows = table.xs(region, level="region").reindex(names)
            value, low, high = (
                rows[c].to_numpy(dtype=float) for c in ("times", "times_low", "times_high")
            )
            y = np.arange(len(names)) + (number - (len(tables) - 1) / 2) * 0.25
            ax.errorbar(value, y, xerr=np.abs([value - low, high - value]), linewidth=1,
                        fmt="oDs"[number], markersize=4, color=(BLUE, GREY, ORANGE)[number],
                        label=network)  # fmt: skip
        ax.axvline(1, color="black", linestyle="--", linewidth=0.8)
        ax.set_title({"margin": "margin band"}.get(region, region), fontsize=9)
        _plain(ax).grid(axis="x", alpha=0.3)
        ax.tick_params(labelsize=8)
    grid[0].set_yticks(range(len(names)), names)
    grid[0].invert_yaxis()
    figure.supxlabel("share of the map / share of a uniform map (1: no preference)", fontsize=8.5)
    if len(tables) > 1:
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False,
                      fontsize=8)  # fmt: skip
    return _corner(figure, tier)


def deletion(table: pd.DataFrame, *, tier: Tier | None = None) -> Figure:
    """By how much the areas under deletion and insertion curves differ from a random order's.

    Args:
        table: As `lei2020_analyses.against_random`: index (method, curve), columns difference, low,
            high.
        tier: Where the voxels come from; written below.
    """
    names = list(dict.fromkeys(table.index.get_level_values("method")))
    figure = _figure(7.2, 0.36 * len(names) + 1.1)
    grid = figure.subplots(1, 2, sharey=True, squeeze=False)[0]
    for ax, curve in zip(grid, ("deletion", "insertion"), strict=True):
        rows = table.xs(curve, level="curve").loc[names]
        value, low, high = (rows[c].to_numpy(dtype=float) for c in ("difference", "low", "high"))
        ax.errorbar(value, np.arange(len(names)), xerr=np.abs([value - low, high - value]),
                    fmt="o", markersize=4, linewidth=1, color=BLUE)  # fmt: skip
        ax.axvline(0, color="black", linestyle="--", linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        better = "left" if curve == "deletion" else "right"
        ax.set_title(f"{curve} ({better} of the line: places matter)", fontsize=8.5)
        _plain(ax).grid(axis="x", alpha=0.3)
        ax.tick_params(labelsize=8)
    grid[0].set_yticks(range(len(names)), names)
    grid[0].invert_yaxis()
    figure.supxlabel("area under the curve, less that of a random order", fontsize=8.5)
    return _corner(figure, tier)


def cascade(
    found: Mapping[str, tuple[Sequence[str], npt.ArrayLike]], *, tier: Tier | None = None
) -> Figure:
    """How alike maps stay while layer after layer loses its weights, from the output back.

    Args:
        found: Method to the layers, and (step, lesion) similarities, as `attention.Randomisation`
            has them.
        tier: Where the voxels come from; written below.

    Raises:
        ValueError: There is none, or not one row of similarities for each layer.
    """
    if not found:
        raise ValueError("found: expected at least one method, got none")
    figure = _figure(6.8, 2.9)
    ax = _plain(figure.subplots())
    for number, (name, (layers, similarity)) in enumerate(found.items()):
        values = np.asarray(similarity, dtype=float)
        if values.ndim != 2 or len(values) != len(layers):
            raise ValueError(f"found: {name!r} has {values.shape} for {len(layers)} layers")
        known = np.isfinite(values)
        n = known.sum(axis=1)
        total = np.where(known, values, 0).sum(axis=1)
        mean = np.divide(total, n, out=np.full(len(values), np.nan), where=n > 0)
        steps = np.arange(len(values) + 1)
        colour = METHOD_COLOURS[number % len(METHOD_COLOURS)]
        ax.plot(steps, [1, *mean], "o-", markersize=3, linewidth=1.2, color=colour, label=name)
    ax.axhline(0, color="black", linestyle="--", linewidth=0.8)
    ax.set(ylim=(-1.05, 1.05))
    ax.set_xlabel("layers with shuffled weights, counted from the output", fontsize=8.5)
    ax.set_ylabel("Spearman's correlation\nwith the map as it was", fontsize=8.5)
    ax.legend(frameon=False, fontsize=8)
    return _corner(figure, tier)


def matching(
    image: npt.ArrayLike,
    maps: Mapping[str, npt.ArrayLike],
    ratings: pd.DataFrame,
    *,
    pixel: tuple[float, float],
    box: tuple[float, float, float, float],
    title: str = "",
    window: tuple[float, float] = WINDOW,
    opacity: float = 0.45,
    tier: Tier | None = None,
) -> Figure:
    """A slice with its nodule boxed, the maps pasted back, and the readers' words (Fig. 9).

    A template: whoever repeats the experiment of section 4.6 puts a blinded radiologist's
    description in place of the ratings.

    Args:
        image: (y, x) HU, the slice.
        maps: Name to (y, x) of the same size, NaN where the network saw nothing, as
            `lei2020_analyses.pasted`.
        ratings: Index attribute; a column of numbers per reader, NaN where one gave none.
        pixel: Height and width of a pixel, mm.
        box: (top, left, height, width) of the square that the network saw, mm.
        title: What stands above.
        window: HU that are black and white.
        opacity: Of the maps.
        tier: Where the voxels come from; written below.

    Raises:
        ValueError: A map has another size.
    """
    hu = np.asarray(image, dtype=float)
    words = 0.26 * (len(ratings) + 1.5)  # inches
    figure = _figure(2.2 * (len(maps) + 1) + 0.6, 2.8 + words)
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.8, words))
    axes = parts[0].subplots(1, len(maps) + 1, squeeze=False)[0]
    extent = (0, hu.shape[1] * pixel[1], hu.shape[0] * pixel[0], 0)
    for ax, (name, values) in zip(axes, {"slice": None, **maps}.items(), strict=True):
        ax.imshow(hu, cmap="gray", vmin=window[0], vmax=window[1], extent=extent)
        if values is not None:
            over = np.asarray(values, dtype=float)
            if over.shape != hu.shape:
                raise ValueError(f"maps: {name!r} has {over.shape}, expected {hu.shape}")
            ax.imshow(np.ma.masked_invalid(over), cmap=COLOURS, alpha=opacity, extent=extent)
        ax.add_patch(Rectangle((box[1], box[0]), box[3], box[2], fill=False, color="#B00020"))
        ax.set(xlim=extent[:2], ylim=extent[2:])
        ax.set_title(name, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
        _scale_bar(ax, extent[1], extent[2])
    _own(parts[0], axes.tolist())
    _words(parts[1].subplots(), ratings)
    if title:
        figure.suptitle(title, fontsize=9)
    return _note(figure, tier)


def _words(ax: Axes, ratings: pd.DataFrame) -> None:
    """Each reader's ratings as numbers, with what the ends of the scale are called."""
    rows = []
    for name, row in ratings.iterrows():
        scale = rating(str(name))
        given = ["–" if np.isnan(value) else f"{value:g}" for value in row.to_numpy(dtype=float)]
        ends = f"1 {scale.words[1]} … {scale.codes[-1]} {scale.words[scale.codes[-1]]}"
        rows.append([scale.title, *given, ends])
    table = ax.table(rows, colLabels=["", *ratings.columns, "scale"], cellLoc="center",
                     loc="center", edges="horizontal")  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    table.auto_set_column_width(list(range(len(rows[0]))))
    ax.set_axis_off()


def _corner(figure: Figure, tier: Tier | None) -> Figure:
    """The tier in the corner, where the axis below has a name of its own."""
    if tier is None:
        return figure
    if figure.get_supxlabel():
        label = f"{figure.get_supxlabel()}   [{TIER_NOTES[tier]}]"
        figure.supxlabel(label, fontsize=8.5)
        return figure
    return _note(figure, tier)
