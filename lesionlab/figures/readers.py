"""Every plot that a chapter shows: tables in, matplotlib figures out, nothing displayed here.

Figures are made without pyplot, so none stays open; a notebook shows what a function returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from seaborn.utils import relative_luminance

from lesionlab.attributes import LIDC_RATINGS, Attribute, rating, title
from lesionlab.colours import READER_COLOURS
from lesionlab.sources.lidc import Contour

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8C8C8C"


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def _plain(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def contour_sheet(contours: Sequence[Contour], *, pixel_spacing: float, columns: int = 4) -> Figure:
    """All marked slices of one nodule, by ascending z, each reader's outline in one colour.

    Args:
        contours: Outlines of one nodule.
        pixel_spacing: mm; axes are in mm from the corner of the box.
        columns: Slices in a row.
    """
    slices = sorted({c.slice_index for c in contours})
    readers = list(dict.fromkeys(c.reading_id for c in contours))
    columns = min(columns, len(slices))
    rows = -(-len(slices) // columns)
    figure = _figure(1.9 * columns + 0.4, 2.1 * rows + 0.4)
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    points = np.vstack([c.points for c in contours])
    low, high = points.min(axis=0) - 2, points.max(axis=0) + 2
    for ax, index in zip(axes, slices, strict=False):
        for contour in (c for c in contours if c.slice_index == index):
            closed = np.vstack([contour.points, contour.points[:1]]) - low
            y, x = (closed * pixel_spacing).T
            reader = readers.index(contour.reading_id)
            colour = READER_COLOURS[reader % len(READER_COLOURS)]
            line = "-" if contour.inside else ":"
            # thinner from reader to reader, or equal outlines would hide each other
            width = (4.5, 2.8, 1.6, 0.8)[min(reader, 3)]
            label = f"reader {reader + 1}"
            ax.plot(x, y, color=colour, linestyle=line, linewidth=width, label=label)
            ax.set_title(f"z = {contour.z:.1f} mm", fontsize=8)
    height, width = (high - low) * pixel_spacing
    axes[0].set(xlim=(0, width), ylim=(height, 0))  # rows count downwards
    for ax in axes:
        ax.set_aspect("equal")
        ax.tick_params(labelsize=7)
        ax.set_visible(bool(ax.lines))
    handles: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = sorted(handles)
    figure.legend([handles[n] for n in names], names, loc="outside lower center",
                  ncols=min(4, len(names)), frameon=False, fontsize=8)  # fmt: skip
    axes[0].set_ylabel("mm", fontsize=8)
    return figure


def rating_histograms(
    readings: pd.DataFrame, *, groups: Mapping[str, pd.Series] | None = None
) -> Figure:
    """How often each step of each scale was given: nine panels, shares of readings in per cent.

    Args:
        readings: One row per reading.
        groups: Name to a boolean per reading; one bar per group. All readings by default.
    """
    groups = groups or {"all readings": pd.Series(True, index=readings.index)}
    figure = _figure(8.4, 6)
    for ax, attribute in zip(figure.subplots(3, 3).ravel(), LIDC_RATINGS, strict=True):
        codes = np.array(attribute.codes)
        width = 0.8 / len(groups)
        for number, (name, chosen) in enumerate(groups.items()):
            values = readings.loc[chosen, attribute.name].dropna()
            share = 100 * values.value_counts(normalize=True).reindex(codes, fill_value=0)
            offset = (number - (len(groups) - 1) / 2) * width
            ax.bar(codes + offset, share, width, color=(BLUE, ORANGE, GREEN)[number], label=name)
        ax.set_xticks(codes)
        ax.set_title(f"{attribute.title} ({attribute.kind})", fontsize=9)
        ax.set_xlabel(f"1 {attribute.words[1]} … {codes[-1]} {attribute.words[codes[-1]]}",
                      fontsize=8)  # fmt: skip
        _plain(ax).tick_params(labelsize=8)
    figure.supylabel("share of readings (%)", fontsize=9)
    if len(groups) > 1:
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False,
                      fontsize=9)  # fmt: skip
    return figure


def counts(values: pd.Series, *, xlabel: str, ylabel: str = "nodules", mean: float | None = None,
           mean_label: str = "") -> Figure:  # fmt: skip
    """Histogram of a whole-number quantity, one bar per value, with one mean to compare with."""
    tally = values.value_counts().sort_index()
    figure = _figure(6.6, 2.8)
    ax = _plain(figure.subplots())
    ax.bar(tally.index, tally, width=0.9, color=BLUE)
    ax.axvline(values.mean(), color="black", linewidth=1, label=f"mean {values.mean():.2f}")
    if mean is not None:
        ax.axvline(mean, color=ORANGE, linewidth=1.5, linestyle="--", label=mean_label)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize=8)
    return figure


def square_heatmap(
    matrix: pd.DataFrame,
    *,
    label: str,
    limits: tuple[float, float],
    colours: str = "viridis",
    decimals: int = 2,
    short: bool = True,
) -> Figure:
    """A matrix between attributes with its values written into the cells.

    Args:
        matrix: Square, named by attributes on both sides; NaN cells stay empty.
        label: What the colour means, with its unit.
        limits: Values at the ends of the colour scale.
        colours: A perceptually uniform matplotlib map.
        decimals: Of the written values.
        short: Use the papers' abbreviations as tick labels.
    """
    names = [rating(str(n)).short if short else str(n) for n in matrix.index]
    figure = _figure(5.6, 4.9)
    _cells(figure.subplots(), matrix, names, limits, colours, decimals, fontsize=7.5,
           bar={"label": label, "shrink": 0.85})  # fmt: skip
    return figure


def _cells(
    ax: Axes, matrix: pd.DataFrame, names: Sequence[str], limits: tuple[float, float],
    colours: str, decimals: int, *, fontsize: float, bar: Mapping[str, Any],
) -> None:  # fmt: skip
    """A square matrix as coloured cells with their values; NaN cells stay empty."""
    sns.heatmap(matrix, vmin=limits[0], vmax=limits[1], cmap=colours, annot=True,
                fmt=f".{decimals}f", annot_kws={"fontsize": fontsize}, square=True,
                xticklabels=names, yticklabels=names, cbar_kws=bar, ax=ax)  # fmt: skip
    filled = np.asarray(ax.collections[0].get_facecolor())[matrix.notna().to_numpy().ravel()]
    for text, colour in zip(ax.texts, filled, strict=True):
        # equal contrast with black and white is at 0.18; seaborn changes at 0.41
        text.set_color("white" if relative_luminance(colour) < 0.18 else "black")
    ax.tick_params(axis="y", rotation=0)
    ax.spines[:].set_visible(True)  # or an empty cell in a corner would be missing


def category_heatmap(
    matrix: pd.DataFrame, attributes: Sequence[Attribute], *, label: str
) -> Figure:
    """A matrix between categories, attribute by attribute, as Li 2021 draws it (Fig. 2B).

    Args:
        matrix: Rows and columns `(attribute, category)`; NaN (a category that never
            occurs) is red.
        attributes: Their order and names.
        label: What the brightness means.
    """
    figure = _figure(7.6, 6.8)
    ax = figure.subplots()
    ax.set_facecolor("#d8b4b4")
    image = ax.imshow(matrix.to_numpy(dtype=float), vmin=0, vmax=1, cmap="gray")
    sizes = [int((matrix.index.get_level_values(0) == a.name).sum()) for a in attributes]
    ends = np.cumsum(sizes)
    for end in ends[:-1]:
        ax.axhline(end - 0.5, color=ORANGE, linewidth=0.7)
        ax.axvline(end - 0.5, color=ORANGE, linewidth=0.7)
    middles = ends - np.array(sizes) / 2 - 0.5
    ax.set_xticks(middles, [a.short for a in attributes])
    ax.set_yticks(middles, [a.short for a in attributes])
    codes = [str(int(c)) for c in matrix.index.get_level_values(1)]
    ax.set_yticks(range(len(codes)), codes, minor=True, fontsize=6.5)
    ax.yaxis.remove_overlapping_locs = False  # or the names would take a code's place
    ax.tick_params(axis="y", which="major", pad=12, length=0)
    ax.tick_params(axis="x", length=0)
    ax.set(xlabel="given this category …", ylabel="… the share that has this one")
    figure.colorbar(image, ax=ax, label=label, shrink=0.8)
    return figure


def intervals(
    table: pd.DataFrame,
    *,
    xlabel: str,
    groups: Sequence[str],
    marks: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Estimates with their intervals, one row per attribute and one dot per group.

    Args:
        table: Columns `(group, value | low | high)`, one row per attribute.
        xlabel: What is measured, with its unit.
        groups: Which groups, in the order of the legend.
        marks: Name of a set of points to attribute → value, drawn as diamonds (a paper's values).
    """
    figure = _figure(7, 0.42 * len(table) + 1.3)
    ax = _plain(figure.subplots())
    rows = np.arange(len(table))
    colours = (BLUE, GREEN, GREY, ORANGE)
    for number, group in enumerate(groups):
        value, low, high = (table[(group, k)].to_numpy(float) for k in ("value", "low", "high"))
        y = rows + (number - (len(groups) - 1) / 2) * 0.22
        ax.errorbar(value, y, xerr=np.abs([value - low, high - value]), fmt="o", markersize=4,
                    color=colours[number], label=group, linewidth=1)  # fmt: skip
    for number, (name, points) in enumerate((marks or {}).items()):
        at = [table.index.tolist().index(name) for name in points]
        ax.plot(list(points.values()), at, "D", markersize=5, color=ORANGE, label=name,
                fillstyle="none" if number else "full")  # fmt: skip
    ax.set_yticks(rows, [title(str(n)) for n in table.index])
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    ax.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure
