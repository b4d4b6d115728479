"""What every plot of this folder is made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from io import BytesIO
from typing import Any, ParamSpec

import numpy as np
import numpy.typing as npt
from cycler import cycler
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.patheffects import withStroke

from lesionlab.attributes import LI_CATEGORIES, LIDC_RATINGS
from lesionlab.colours import MAP as MAP
from lesionlab.colours import READER_COLOURS
from lesionlab.crops import Tier

P = ParamSpec("P")

BLUE, ORANGE, GREEN, PURPLE, YELLOW, *_ = READER_COLOURS
GREY, RED = "#8C8C8C", "#B00020"

WINDOW = (-1024.0, 400.0)
"""HU that are drawn black and white where no other window is named: the papers' own."""

TIER_NOTES: dict[Tier, str] = {
    "phantom": "phantom",
    "slices": "real pixels: LIDC-IDRI slices",
    "volumes": "real pixels: LIDC-IDRI volumes",
    "dicom": "real pixels: LIDC-IDRI scans",
    "anno": "real pixels: scans of your own",
    "nifti": "real pixels: scans of your own",
    "own": "real pixels: a scan of your own",
}

COLUMN = 688 / 120
"""Inches of a figure of 120 dpi that the book's column shows as they are; it shrinks wider ones."""

SHORT = {a.name: a.short for a in (*LI_CATEGORIES, *LIDC_RATINGS)}
"""Name of an attribute to the papers' abbreviation."""


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function draw in `style.mplstyle`, whatever the caller's settings are."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        cycle = {"axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PURPLE, YELLOW, GREY])}
        with style.context(["lesionlab.figures.style", cycle]):
            return draw(*args, **kwargs)

    return drawn


def blank(width: float, height: float) -> Figure:
    """An empty figure of so many inches; without pyplot, so that none stays open."""
    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def png(figure: Figure, dpi: int) -> bytes:
    """A figure as a PNG file."""
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return stream.getvalue()


def row(n: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `n` panels side by side."""
    figure = blank(width, height)
    return figure, list(figure.subplots(1, n, squeeze=False, **options)[0])


def points(size: float, figure: FigureBase) -> float:
    """The font size that is `size` points once a figure is shrunk to the column: 5 are 8 pixels."""
    whole: Any = figure.figure  # of a subfigure, what it is a part of
    return float(size * max(1.0, whole.get_figwidth() / COLUMN))


def note(figure: Figure, tier: Tier | None) -> Figure:
    """Say below where the voxels come from, after the name of the axis if it has one."""
    if tier is not None and (label := figure.get_supxlabel()):
        figure.supxlabel(f"{label}   [{TIER_NOTES[tier]}]")
    elif tier is not None:
        figure.supxlabel(TIER_NOTES[tier], x=0.995, ha="right", color="#444444",
                         fontsize=points(5.5, figure))  # fmt: skip
    return figure


def legend(figure: Figure, columns: int, place: str = "lower") -> None:
    """One legend outside the axes for all of them, each name once."""
    found: dict[str, Any] = {}
    for ax in figure.axes:
        handles, names = ax.get_legend_handles_labels()
        found = found | dict(zip(names, handles, strict=True))
    outside: Any = f"outside {place} center"
    figure.legend(list(found.values()), list(found), loc=outside, ncols=min(columns, len(found)))


def bare(ax: Axes, *, spines: bool = True) -> Axes:
    """Without ticks, and with all or none of its sides."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(spines)
    return ax


def grey(
    ax: Axes, values: npt.ArrayLike, pixel: tuple[float, float] | None,
    limits: tuple[float, float], *, part: tuple[float, float, float, float] = (0, 1, 1, 0),
) -> tuple[float, float, float, float]:  # fmt: skip
    """Grey values, every pixel as it is, with a bar of so many mm if `pixel` has a length.

    `limits` are black and white; `part` is what is seen: left, right, foot and top, as shares of
    the image. Returned is where the whole image lies: left, right, foot, top.
    """
    rows, columns = np.shape(values)
    dy, dx = pixel or (1.0, 1.0)
    height, width = rows * dy, columns * dx
    extent = (0, width, height, 0)
    bare(ax).imshow(np.asarray(values), cmap="gray", vmin=limits[0], vmax=limits[1],
                    extent=extent, interpolation="nearest")  # fmt: skip
    left, right = part[0] * width, part[1] * width
    foot, top = part[2] * height, part[3] * height
    ax.set(xlim=(left, right), ylim=(foot, top))
    if pixel is not None:
        wide, tall = right - left, foot - top
        length = next(s for s in (100, 50, 20, 10, 5, 2, 1) if s <= wide / 3 or s == 1)
        edge = [withStroke(linewidth=2, foreground="black")]
        x, y = left + 0.05 * wide, foot - 0.06 * tall
        ax.plot([x, x + length], [y, y], color="white", linewidth=1.6, solid_capstyle="butt",
                path_effects=edge)  # fmt: skip
        ax.text(x, y - 0.03 * tall, f"{length} mm", color="white", va="bottom",
                path_effects=edge, fontsize=points(5.2, ax.figure))  # fmt: skip
    return extent


def outline(
    ax: Axes, mask: npt.NDArray[np.bool_], pixel: tuple[float, float] | None, color: str,
    linewidth: float = 0.9,
) -> None:  # fmt: skip
    """The border of a mask, along the borders of its pixels' centres."""
    if mask.any():
        steps = pixel or (1.0, 1.0)
        y, x = ((np.arange(n + 2) - 0.5) * step for n, step in zip(mask.shape, steps, strict=True))
        limits = ax.get_xlim(), ax.get_ylim()
        ax.contour(x, y, np.pad(mask, 1), [0.5], colors=[color], linewidths=linewidth)
        ax.set(xlim=limits[0], ylim=limits[1])  # the padding would leave a rim


def estimates(
    ax: Axes, tables: Mapping[str, Any], step: float,
    looks: Sequence[tuple[str, str]], columns: Sequence[str] = ("value", "low", "high"),
) -> None:  # fmt: skip
    """A dot with its interval for each row of each table; the tables lie `step` rows apart.

    `looks` has a colour and a mark for each table, or more.
    """
    shifts = (np.arange(len(tables)) - (len(tables) - 1) / 2) * step
    for shift, (name, table), (colour, mark) in zip(shifts, tables.items(), looks, strict=False):
        value, low, high = (table[column].to_numpy(dtype=float) for column in columns)
        error = np.abs([value - low, high - value])
        at = np.arange(len(value)) + shift
        ax.errorbar(value, at, xerr=error, fmt=mark, color=colour, linewidth=1, label=name)


def rows_of(ax: Axes, names: Sequence[str]) -> None:
    """A name for each row, the first one above."""
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
