"""Plots of what readers drew and rated: tables in, matplotlib figures out, nothing displayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from seaborn.utils import relative_luminance

from lesionlab.attributes import LIDC_RATINGS, Attribute, title
from lesionlab.crops import Tier
from lesionlab.figures import _draw as draw


@draw.styled
def rating_histograms(readings: pd.DataFrame) -> Figure:
    """How often each step of each scale was given: nine panels, shares of readings in per cent."""
    figure = draw.blank(8.4, 6)
    for ax, attribute in zip(figure.subplots(3, 3).ravel(), LIDC_RATINGS, strict=True):
        codes = np.array(attribute.codes)
        share = readings[attribute.name].value_counts(normalize=True).reindex(codes, fill_value=0)
        ax.bar(codes, 100 * share, 0.8, color=draw.BLUE)
        ends = f"1 {attribute.words[1]} … {codes[-1]} {attribute.words[codes[-1]]}"
        ax.set(xticks=codes, title=f"{attribute.title} ({attribute.kind})", xlabel=ends)
    figure.supylabel("share of readings (%)")
    return figure


@draw.styled
def attribute_matrices(
    matrices: Mapping[str, pd.DataFrame],
    *,
    limits: Sequence[tuple[float, float]],
    colours: str = draw.MAP,
    tier: Tier | None = None,
) -> Figure:
    """Matrices between attributes side by side with their values (Fu 2021, Fig. 6 and S2).

    `matrices` are by title, square and named by attributes on both sides; NaN cells stay empty.
    `limits` are the values at the ends of the colour scale of each, `tier` is where voxels come
    from, if any.
    """
    figure, axes = draw.row(len(matrices), 4.1 * len(matrices), 4)
    for ax, (name, matrix), (low, high) in zip(axes, matrices.items(), limits, strict=True):
        names = [draw.SHORT.get(str(row), str(row)) for row in matrix.index]
        sns.heatmap(matrix, vmin=low, vmax=high, cmap=colours, annot=True, fmt=".2f",
                    annot_kws={"fontsize": 7.5}, square=True, xticklabels=names,
                    yticklabels=names, cbar_kws={"shrink": 0.7}, ax=ax)  # fmt: skip
        filled = np.asarray(ax.collections[0].get_facecolor())[matrix.notna().to_numpy().ravel()]
        for text, colour in zip(ax.texts, filled, strict=True):
            # equal contrast with black and white is at 0.18; seaborn changes at 0.41
            text.set_color("white" if relative_luminance(colour) < 0.18 else "black")
        ax.tick_params(axis="y", rotation=0)
        ax.spines[:].set_visible(True)  # or an empty cell in a corner would be missing
        ax.set(title=name, xlabel="", ylabel="")
    return draw.note(figure, tier)


@draw.styled
def category_heatmap(
    matrix: pd.DataFrame, attributes: Sequence[Attribute], *, label: str
) -> Figure:
    """A matrix between categories, attribute by attribute, as Li 2021 draws it (Fig. 2B).

    Rows and columns are `(attribute, category)`; NaN (a category that never occurs) is red.
    """
    figure, (ax,) = draw.row(1, 7.6, 6.8)
    ax.set_facecolor("#d8b4b4")
    image = ax.imshow(matrix.to_numpy(dtype=float), vmin=0, vmax=1, cmap="gray")
    sizes = [int((matrix.index.get_level_values(0) == a.name).sum()) for a in attributes]
    ends = np.cumsum(sizes)
    for end in ends[:-1]:
        ax.axhline(end - 0.5, color=draw.ORANGE, linewidth=0.7)
        ax.axvline(end - 0.5, color=draw.ORANGE, linewidth=0.7)
    middles = ends - np.array(sizes) / 2 - 0.5
    names = [a.short for a in attributes]
    ax.set_xticks(middles, names)
    ax.set_yticks(middles, names)
    codes = [str(int(c)) for c in matrix.index.get_level_values(1)]
    ax.set_yticks(range(len(codes)), codes, minor=True, fontsize=6.5)
    ax.yaxis.remove_overlapping_locs = False  # or the names would take a code's place
    ax.tick_params(axis="y", which="major", pad=12, length=0)
    ax.tick_params(axis="x", length=0)
    ax.set(xlabel="given this category …", ylabel="… the share that has this one")
    figure.colorbar(image, ax=ax, label=label, shrink=0.8)
    return figure


@draw.styled
def intervals(
    table: pd.DataFrame,
    *,
    xlabel: str,
    groups: Sequence[str],
    marks: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Estimates with their intervals, one row per attribute and one dot per group.

    `table` has the columns `(group, value | low | high)` and a row per attribute; `groups` are
    those to draw, at most four, and `xlabel` says what is measured, with its unit. `marks` are sets
    of points by name, attribute → value, drawn as diamonds (a paper's values).
    """
    looks = [(colour, "o") for colour in (draw.BLUE, draw.GREEN, draw.GREY, draw.ORANGE)]
    if not 1 <= len(groups) <= len(looks):
        raise ValueError(f"groups={list(groups)}: expected one to {len(looks)}")
    figure, (ax,) = draw.row(1, 7, 0.42 * len(table) + 1.3)
    draw.estimates(ax, {group: table[group] for group in groups}, 0.22, looks)
    for number, (name, points) in enumerate((marks or {}).items()):
        at = [table.index.tolist().index(name) for name in points]
        ax.plot(list(points.values()), at, "D", markersize=5, color=draw.ORANGE, label=name,
                fillstyle="none" if number else "full")  # fmt: skip
    draw.rows_of(ax, [title(str(n)) for n in table.index])
    ax.set_xlabel(xlabel)
    ax.grid(axis="x")
    draw.legend(figure, columns=2)
    return figure
