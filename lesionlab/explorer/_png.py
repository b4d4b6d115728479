"""The picture that stands in for a viewer where neither widgets nor HTML are shown."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lesionlab import attributes, colours
from lesionlab.explorer import _scene
from lesionlab.explorer._scene import Scene
from lesionlab.figures import _draw as draw


def picture(scenes: Sequence[Scene], state: Mapping[str, Any]) -> bytes:
    """A PNG of what the viewer shows at first; every panel names its tier."""
    figure, axes = draw.row(len(scenes), 4.2 * len(scenes), 4.9)
    sides = list(zip(axes, scenes, ("", "other_"), strict=False))
    maps = [_chosen(scene, state, prefix) for _, scene, prefix in sides]
    limits = None
    if state["same_scale"] and len({shown[:2] for shown in maps if shown}) == 1:
        limits = _scene.limits(np.concatenate([shown[2].ravel() for shown in maps if shown]))
    for (ax, scene, prefix), shown in zip(sides, maps, strict=True):
        k = min(max(int(state[f"{prefix}slice"]), 0), len(scene.hu) - 1)
        _panel(ax, scene, state, k, 8, shown, limits)
    return draw.png(figure, dpi=100)


def sheet(scenes: Sequence[Scene], state: Mapping[str, Any], *, title: str, columns: int) -> bytes:
    """A PNG of the largest slice of each scene, `columns` to a row; every panel names its tier.

    `state` has the window and `show_contours`.
    """
    rows = -(-len(scenes) // columns)
    figure = draw.blank(2.6 * columns, 3.2 * rows + 0.5)
    figure.suptitle(title, fontsize=10, parse_math=False)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[len(scenes) :]:
        ax.set_axis_off()
    for ax, scene in zip(axes, scenes, strict=False):
        _panel(ax, scene, {"zoom": 1.0, "pan": (0, 0), **state}, scene.first_slice, 6)
    return draw.png(figure, dpi=80)


def _chosen(
    scene: Scene, state: Mapping[str, Any], prefix: str
) -> tuple[str, str, _scene.Floats] | None:
    """Method, head and values of the map shown, the method's first if there is no such head."""
    method, head = state[f"{prefix}method"], state[f"{prefix}head"]
    found = [(m, h, v) for (m, h), v in scene.maps.items() if m == method]
    return next((one for one in found if one[1] == head), found[0] if found else None)


def _panel(
    ax: Axes, scene: Scene, state: Mapping[str, Any], k: int, size: float,
    chosen: tuple[str, str, _scene.Floats] | None = None,
    limits: tuple[float, float] | None = None,
) -> None:  # fmt: skip
    """Slice `k` of a scene with its map and outlines, in the part that the viewer shows."""
    centre, width = state["window_centre"], state["window_width"]
    pixel = scene.spacing and scene.spacing[1:]
    window = (centre - width / 2, centre + width / 2)
    left, right, foot, top = draw.grey(ax, scene.hu[k], pixel, window, part=_part(scene, state))
    words = [f"slice {k + 1} of {len(scene.hu)}", f"window {centre:g} / {width:g} HU"]
    if chosen:
        method, head, values = chosen
        low, high = limits or _scene.limits(values)
        high = high if high > low else low + 1
        shown = values[min(k, len(values) - 1)]
        share = np.nan_to_num((shown - low) / (high - low))
        strength = np.clip(2 * np.abs(2 * share - 1) if low < 0 else 2 * share, 0, 1)
        ax.imshow(shown, cmap=colours.SIGNED_MAP if low < 0 else colours.MAP, vmin=low, vmax=high,
                  alpha=state["opacity"] * strength, extent=(left, right, foot, top),
                  interpolation="nearest")  # fmt: skip
        words.append(" of ".join(filter(None, [method, attributes.title(head)])))
    drawn = zip(scene.masks, colours.reader_colours(len(scene.masks)), strict=True)
    for reader, (mask, colour) in enumerate(drawn if state["show_contours"] else ()):
        # thinner from reader to reader, or equal outlines would hide each other
        width = (2.0, 1.5, 1.0, 0.6)[min(reader, 3)]
        draw.outline(ax, mask[k], pixel, colour, width)
    lines = [textwrap.fill(line, 52) for line in (*scene.title.splitlines(), scene.tier_text)]
    ax.set_title("\n".join(lines), fontsize=size, parse_math=False)
    ax.set_xlabel(" · ".join(words), fontsize=size, parse_math=False)


def _part(scene: Scene, state: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """What is seen of a slice: left, right, foot and top, as shares of its size."""
    zoom, *home = scene.home
    half = 0.5 / max(1.0, zoom * state["zoom"])
    y, x = (
        min(max((at + off) / n, half), 1 - half)
        for at, off, n in zip(home, state["pan"], scene.hu.shape[1:], strict=True)
    )
    return x - half, x + half, y + half, y - half
