"""Plots of the chapter "Phantoms beside real slices", and what `lesionlab.realism` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy import ndimage

from lesionlab import _names, attributes, realism
from lesionlab.crops import Crop
from lesionlab.figures import _draw as draw
from lesionlab.figures.samples import Picture, largest_slice, sheet
from lesionlab.sources import lidc, phantom
from lesionlab.sources.slices import Slices
from lesionlab.statistics.intervals import Estimate

# phantoms are dashed, for those who see no colour
STYLES: Mapping[str, Mapping[str, Any]] = {
    "phantom": {"color": draw.ORANGE, "linestyle": "--", "label": "phantoms"},
    "slices": {"color": draw.BLUE, "linestyle": "-", "label": "real slices"},
}
EFFECTS = {
    "inside_mean": "mean inside (HU)",
    "inside_sd": "spread inside (HU)",
    "edge_gradient": "slope at the edge (HU/mm)",
}
FEATURE_NAMES = {
    "edge_gradient": "slope at the edge",
    "grain_lung": "grain in lung",
    "grain_soft": "grain in soft tissue",
    "grain_correlation": "grain: correlation of neighbours",
}
WORDS = {"ring": "5 mm around", "sd": "spread", "p10": "10th percentile", "p90": "90th percentile"}
COLUMNS = 6  # lesions in a row
REGION_NAMES = {
    "inside": "inside the consensus",
    "ring": "5 mm around it",
    "crop": "the whole crop",
}


def side_by_side(pairs: Sequence[tuple[Crop, Crop]], titles: Sequence[str]) -> Figure:
    """Phantoms above the real slices of the same lesions, each at its largest slice."""
    rows: dict[str, list[Picture]] = {}
    for i, (both, title) in enumerate(zip(pairs, titles, strict=True)):
        blanks = " " * (i // COLUMNS)  # rows are told apart by their names
        for crop, name in zip(both, ("phantom", "real"), strict=True):
            picture = Picture(crop.hu[largest_slice(crop)], crop.spacing[1:], title)
            rows.setdefault(name + blanks, []).append(picture)
    return sheet(rows, size=1.25)


def examples(slices: Slices, *, seed: int = 0) -> Figure:
    """`side_by_side` of every 200th nodule of the database, if it has slices; twelve at most."""
    diameter = lidc.nodules()["diameter"]
    there = set(slices.lesion_ids)
    ids = [name for name in diameter.index[100::200] if name in there][:12]
    found = (realism.pair(phantom.phantom(name, seed=seed), slices.crop(name)) for name in ids)
    pairs = [both for both in found if both]
    return side_by_side(pairs, [f"Ø {diameter[real.lesion_id]:.0f} mm" for _, real in pairs])


def png(figure: Figure, *, dpi: int = 100) -> bytes:
    """A figure as a small PNG file in shades of grey."""
    drawn, small = BytesIO(draw.png(figure, dpi)), BytesIO()
    Image.open(drawn).convert("L").quantize(32).save(small, format="png", optimize=True)
    return small.getvalue()


@draw.styled
def histograms(table: pd.DataFrame) -> Figure:
    """Rows of `lesionlab.realism.histograms` of one or both tiers, a panel per region."""
    figure, axes = draw.row(len(REGION_NAMES), 9, 2.7)
    for ax, (region, name) in zip(axes, REGION_NAMES.items(), strict=True):
        for tier, rows in table[table["region"] == region].groupby("tier"):
            ends = [*rows["low"], rows["high"].iloc[-1]]
            ax.stairs(100 * rows["share"], ends, linewidth=1.4, **STYLES[str(tier)])
        ax.set(title=name, xlabel="HU", xlim=(-1050, 700), xticks=[-1000, -500, 0, 500])
    axes[0].set_ylabel("share of voxels (%)")
    draw.legend(figure, columns=2)
    return figure


@draw.styled
def noise_power(table: pd.DataFrame) -> Figure:
    """Rows of `lesionlab.realism.noise_power`: the spectrum as it is, and as shares (its form)."""
    figure, axes = draw.row(2, 7.6, 2.8)
    labels = {"power": "power (HU² mm²)", "share": "share of the sum"}
    for ax, (column, label) in zip(axes, labels.items(), strict=True):
        for tier, rows in table.groupby("tier"):
            ax.plot(rows["frequency"], rows[column], marker="o", markersize=3, **STYLES[str(tier)])
        ax.set(xlabel="frequency (1/mm)", ylabel=label)
        ax.set_ylim(bottom=0)
    draw.legend(figure, columns=2)
    return figure


@draw.styled
def edge_widths(table: pd.DataFrame) -> Figure:
    """Rows of `lesionlab.realism.edge_widths`: share of lesions whose edge is at most so wide."""
    figure, (ax,) = draw.row(1, 5, 2.9)
    for tier, rows in table.groupby("tier"):
        style = STYLES[str(tier)]
        told = f": {len(rows):,} lesions, median {rows['width'].median():.1f} mm"
        ax.ecdf(rows["width"], **{**style, "label": style["label"] + told})
    ax.set(xlabel="width of the edge, 10 % to 90 % (mm)", ylabel="share of lesions")
    draw.legend(figure, columns=1)
    return figure


@draw.styled
def told_apart(single: pd.DataFrame, together: Mapping[str, Estimate]) -> Figure:
    """How well phantoms are told from real slices: by each number alone, and by all together.

    `together` and `single` are what `lesionlab.realism.classifier_auc` gives.
    """
    names = [*together, *map(_name, single["feature"])]
    figure, (ax,) = draw.row(1, 6.4, 0.2 * len(names) + 1)
    for y, value in enumerate([*(e.value for e in together.values()), *single["auc"]]):
        marker, colour = ("D", draw.ORANGE) if y < len(together) else ("o", draw.BLUE)
        ax.plot([0.5, value], [y, y], color=draw.GREY, linewidth=1)
        ax.plot(value, y, marker, color=colour, markersize=6)
    for y, estimate in enumerate(together.values()):
        ax.plot([estimate.low, estimate.high], [y, y], color=draw.ORANGE, linewidth=3, alpha=0.5)
    draw.rows_of(ax, names)
    says = "area under the curve, phantoms against real slices (0.5: not told apart, 1: always)"
    ax.set(xlim=(0.48, 1.02), xlabel=says)
    ax.axvline(0.5, color="black", linewidth=0.8)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    return figure


def _name(feature: str) -> str:
    place, what = feature.split("_")
    if place == "share":
        return f"share of {what}"
    return FEATURE_NAMES.get(feature, f"{WORDS.get(place, place)}: {WORDS.get(what, what)}")


@draw.styled
def rating_effects(table: pd.DataFrame, ratings: Sequence[str], *, effect: str) -> Figure:
    """What a rating does to the pixels, in phantoms and in real slices of the same lesions.

    `table` is `ratings` of `lesionlab.realism.Realism`, `effect` a key of `EFFECTS`; each of
    `ratings` has a panel. Values with fewer than 20 lesions are left out.
    """
    _names.one_of("effect", effect, EFFECTS)
    figure, axes = draw.row(len(ratings), 2.3 * len(ratings), 2.6, sharey=True)
    for ax, rating in zip(axes, ratings, strict=True):
        rows = table[(table["rating"] == rating) & (table["lesions"] >= 20)]
        for tier, style in STYLES.items():
            ax.plot(rows["value"], rows[f"{tier}_{effect}"], marker="o", **style)
        codes = attributes.rating(rating).codes
        ax.set(title=attributes.title(rating), xlabel="readers' mean, rounded",
               xlim=(codes[0] - 0.4, codes[-1] + 0.4), xticks=codes)  # fmt: skip
    axes[0].set_ylabel(EFFECTS[effect])
    draw.legend(figure, columns=2)
    return figure


def flattest(crop: Crop) -> npt.NDArray[np.int16]:
    """The square of 24 mm on a crop's largest slice that holds most lung and least else, HU."""
    hu = crop.hu[largest_slice(crop)]
    n = min(round(24 / crop.spacing[2]), *hu.shape)
    lung = ndimage.uniform_filter((ndimage.gaussian_filter(hu.astype(float), 1) < -750) * 1.0, n)
    inside = lung[n // 2 : hu.shape[0] - (n - 1) // 2, n // 2 : hu.shape[1] - (n - 1) // 2]
    top, left = np.unravel_index(inside.argmax(), inside.shape)
    square: npt.NDArray[np.int16] = hu[top : top + n, left : left + n]
    return square
