"""Plots of activation maps: how they are made, how they are divided, whether they matter.

Papers draw every map from its own smallest to its own largest value: colours of two maps cannot be
compared then, and a map of almost equal values looks as decided as any other. In
`figures.samples.sheet` the maps of one row share a scale unless it is told otherwise. `tier`, where
the voxels come from, is written below a figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from lesionlab.attention.regions import REGIONS
from lesionlab.attributes import rating
from lesionlab.crops import Tier
from lesionlab.figures import _draw as draw
from lesionlab.figures.samples import colour_bar, lay


@draw.styled
def one_feature_map(
    g: npt.ArrayLike, pooled: npt.ArrayLike, weights: npt.ArrayLike, *, tier: Tier | None = None
) -> Figure:
    """How a soft activation head makes one number of one feature map (Lei 2020, Fig. 2).

    `g` is the feature map, `pooled` its averages A, `weights` one weight β for each; all (y, x).
    """
    whole, average, weight = (np.asarray(a, dtype=float) for a in (g, pooled, weights))
    parts = (
        ("feature map g", whole, "→"),
        ("averages A", average, "×"),
        ("weights β", weight, "="),
        ("products β A", average * weight, ""),
    )
    figure, axes = draw.row(4, 7.2, 2.1)
    for ax, (name, values, between) in zip(axes, parts, strict=True):
        shown = draw.bare(ax).imshow(values, cmap=draw.MAP)
        ax.set_title(f"{name}\n{values.shape[0]} × {values.shape[1]}")
        ax.text(1.25, 0.5, between, transform=ax.transAxes, fontsize=14, va="center", ha="center")
        figure.colorbar(shown, ax=ax, location="bottom", format="%.2g", ticks=MaxNLocator(3))
    return draw.note(figure, tier)


@draw.styled
def region_shares(tables: Mapping[str, pd.DataFrame], *, tier: Tier | None = None) -> Figure:
    """Where maps lie, beside a map that is the same everywhere.

    `tables` are up to three: name of a network (trained, untrained) to its table with the index
    (method, region) and the columns times, times_low, times_high.
    """
    titles = {region: region for region in REGIONS} | {"margin": "margin band"}
    columns = ("times", "times_low", "times_high")
    figure = _against(tables, titles, columns, even=1, width=8)
    figure.supxlabel("share of the map / share of a uniform map (1: no preference)")
    return draw.note(figure, tier)


@draw.styled
def deletion(table: pd.DataFrame, *, tier: Tier | None = None) -> Figure:
    """By how much the areas under deletion and insertion curves differ from a random order's.

    The table has the index (method, curve) and the columns difference, low, high.
    """
    titles = {
        "deletion": "deletion (left of the line: places matter)",
        "insertion": "insertion (right of the line: places matter)",
    }
    figure = _against({"": table}, titles, ("difference", "low", "high"), even=0, width=7.2)
    figure.supxlabel("area under the curve, less that of a random order")
    return draw.note(figure, tier)


def _against(
    tables: Mapping[str, pd.DataFrame], titles: Mapping[str, str], columns: Sequence[str], *,
    even: float, width: float,
) -> Figure:  # fmt: skip
    """Estimates of each method beside the value that says nothing, a panel for each title.

    `titles` are those of the panels, by the second level of the tables' index.
    """
    methods = list(dict.fromkeys(m for t in tables.values() for m in t.index.get_level_values(0)))
    height = 0.36 * len(methods) * max(1.0, 0.6 * len(tables)) + 1.2
    figure, axes = draw.row(len(titles), width, height, sharey=True)
    looks = zip((draw.BLUE, draw.GREY, draw.ORANGE), "oDs", tables.items(), strict=False)
    for number, (colour, mark, (name, table)) in enumerate(looks):
        shift = (number - (len(tables) - 1) / 2) * 0.25
        for ax, panel in zip(axes, titles, strict=True):
            rows = table.xs(panel, level=1).reindex(methods)
            draw.estimates(ax, rows, shift, columns=columns, label=name, fmt=mark, color=colour)
    for ax, title in zip(axes, titles.values(), strict=True):
        ax.axvline(even, color="black", linestyle="--", linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_title(title)
        ax.grid(axis="x")
    draw.rows_of(axes[0], methods)
    if len(tables) > 1:
        draw.legend(figure, columns=3, place="upper")
    return figure


@draw.styled
def cascade(found: Mapping[str, pd.DataFrame], *, tier: Tier | None = None) -> Figure:
    """How alike maps stay while layer after layer loses its weights, from the output back.

    `found` is a method to what `attention.randomisation_test` gives.
    """
    figure, (ax,) = draw.row(1, 6.8, 2.9)
    for name, similarity in found.items():
        mean = similarity.mean(axis=1)  # NaN where no lesion has a value
        ax.plot(range(len(mean) + 1), [1, *mean], "o-", markersize=3, linewidth=1.2, label=name)
    ax.axhline(0, color="black", linestyle="--", linewidth=0.8)
    ax.set(ylim=(-1.05, 1.05), xlabel="layers with shuffled weights, counted from the output",
           ylabel="Spearman's correlation\nwith the map as it was")  # fmt: skip
    ax.legend()
    return draw.note(figure, tier)


@draw.styled
def matching(
    image: npt.ArrayLike,
    maps: Mapping[str, npt.ArrayLike],
    ratings: pd.DataFrame,
    *,
    pixel: tuple[float, float],
    box: tuple[float, float, float, float],
    title: str = "",
    tier: Tier | None = None,
) -> Figure:
    """A slice with its nodule boxed, the maps pasted back, and the readers' words (Fig. 9).

    A template: whoever repeats the experiment of section 4.6 puts a blinded radiologist's
    description in place of the ratings.

    Args:
        image: (y, x) HU, the slice.
        maps: Name to (y, x) of the same size, NaN where the network saw nothing.
        ratings: Index attribute; a column of numbers per reader, NaN where one gave none.
        pixel: Height and width of a pixel, mm.
        box: (top, left, height, width) of the square that the network saw, mm.
        title: What stands above.
        tier: Where the voxels come from.
    """
    words = 0.26 * (len(ratings) + 1.5)  # inches
    figure = draw.blank(2.2 * (len(maps) + 1) + 0.6, 2.8 + words)
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.8, words))
    axes = parts[0].subplots(1, len(maps) + 1, squeeze=False)[0].tolist()
    for ax, (name, values) in zip(axes, {"slice": None, **maps}.items(), strict=True):
        extent = draw.grey(ax, image, pixel, draw.WINDOW)
        if values is not None:
            lay(ax, values, np.shape(image), extent)
        ax.add_patch(Rectangle((box[1], box[0]), box[3], box[2], fill=False, color=draw.RED))
        ax.set(xlim=extent[:2], ylim=extent[2:], title=name)
    colour_bar(parts[0], axes, None)
    _words(parts[1].subplots(), ratings)
    if title:
        figure.suptitle(title)
    return draw.note(figure, tier)


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
