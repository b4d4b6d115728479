"""Plots of activation maps: how they are made, how they are divided, whether they matter.

Papers draw every map from its own smallest to its own largest value: colours of two maps cannot be
compared then, and a map of almost equal values looks as decided as any other. In
`figures.samples.sheet` the maps of one row share a scale unless it is told otherwise. `tier`, where
the voxels come from, is written below a figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lesionlab.crops import Tier
from lesionlab.figures import _draw as draw

LOOKS = ((draw.BLUE, "o"), (draw.GREY, "D"), (draw.ORANGE, "s"))
"""Colour and mark of each network in `estimates`."""


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
def estimates(
    tables: Mapping[str, pd.DataFrame],
    measure: Literal["times", "difference"],
    *,
    tier: Tier | None = None,
) -> Figure:
    """What was measured of each method's maps, beside the value that says nothing.

    Either `times`, the shares of regions over those of a map that is the same everywhere, or
    `difference`, the areas under deletion and insertion curves less those of a random order.

    `tables` are up to three: name of a network (trained, untrained) to its table with the index
    (method, region or curve) and the columns times, times_low, times_high, or difference, low,
    high. Each region or curve has a panel.
    """
    if not 1 <= len(tables) <= len(LOOKS):
        raise ValueError(f"tables of {list(tables)}: expected one to {len(LOOKS)} networks")
    nothing, columns, label = {
        "times": (1, ("times", "times_low", "times_high"),
                  "share of the map / share of a uniform map (1: no preference)"),
        "difference": (0, ("difference", "low", "high"),
                       "area under the curve, less that of a random order\n"
                       "(places matter where deletion is below 0, and insertion above)"),
    }[measure]  # fmt: skip
    index = pd.concat(tables).index
    methods, panels = list(index.unique(1)), list(index.unique(2))
    height = 0.36 * len(methods) * max(1.0, 0.6 * len(tables)) + 1.2
    figure, axes = draw.row(len(panels), 7.6, height, sharey=True)
    for ax, panel in zip(axes, panels, strict=True):
        rows = {n: table.xs(panel, level=1).reindex(methods) for n, table in tables.items()}
        draw.estimates(ax, rows, 0.25, LOOKS, columns)
        ax.axvline(nothing, color="black", linestyle="--", linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_title(panel)
        ax.grid(axis="x")
    draw.rows_of(axes[0], methods)
    if len(tables) > 1:
        draw.legend(figure, columns=3, place="upper")
    figure.supxlabel(label)
    return draw.note(figure, tier)
