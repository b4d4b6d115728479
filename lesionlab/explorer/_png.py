"""The picture that stands in for a viewer where neither widgets nor HTML are shown."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lesionlab import attributes, colours
from lesionlab.explorer import _scene
from lesionlab.explorer._scene import Scene

SCALE_BARS = (100, 50, 20, 10, 5, 2, 1)


def picture(scenes: Sequence[Scene], state: Mapping[str, Any], *, colour_map: str) -> bytes:
    """A PNG of what the viewer shows at first; every panel names its tier."""
    figure = Figure(figsize=(4.2 * len(scenes), 4.9), layout="constrained", dpi=100)
    prefixes = ("", "other_")[: len(scenes)]
    chosen = [_chosen(scene, state, p) for scene, p in zip(scenes, prefixes, strict=True)]
    maps, limits = [found for found in chosen if found], None
    if state["same_scale"] and len(maps) == 2 and maps[0][:2] == maps[1][:2]:
        limits = _scene.limits(np.concatenate([values.ravel() for *_, values in maps]))
    axes = figure.subplots(1, len(scenes), squeeze=False)[0]
    for ax, scene, prefix in zip(axes, scenes, prefixes, strict=True):
        _draw(ax, scene, state, prefix=prefix, colour_map=colour_map, limits=limits)
    return _bytes(figure)


def sheet(scenes: Sequence[Scene], state: Mapping[str, Any], *, title: str, columns: int) -> bytes:
    """A PNG of the largest slice of each scene, `columns` to a row; every panel names its tier."""
    rows = -(-len(scenes) // columns)
    size = (2.6 * columns, 3.2 * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained", dpi=80)
    figure.suptitle(title, fontsize=10, parse_math=False)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[len(scenes) :]:
        ax.set_axis_off()
    for ax, scene in zip(axes, scenes, strict=False):
        _draw(ax, scene, {**state, "slice": scene.first_slice})
        ax.title.set_fontsize(6)
        ax.xaxis.label.set_fontsize(6)
    return _bytes(figure)


def _bytes(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _chosen(
    scene: Scene, state: Mapping[str, Any], prefix: str
) -> tuple[str, str, _scene.Floats] | None:
    """Method, head and values of the map shown; None if none is."""
    method, head = str(state[f"{prefix}method"]), str(state[f"{prefix}head"])
    heads = scene.maps.get(method)
    if not heads:
        return None
    head = head if head in heads else next(iter(heads))
    return method, head, heads[head]


def _draw(
    ax: Axes, scene: Scene, state: Mapping[str, Any], *, prefix: str = "",
    colour_map: str = "viridis", limits: tuple[float, float] | None = None,
) -> None:  # fmt: skip
    """One scene; `prefix` says whose slice and map of `state`, `limits` the ends of the colours."""
    k = min(max(int(state[f"{prefix}slice"]), 0), len(scene.hu) - 1)
    centre, width = float(state["window_centre"]), float(state["window_width"])
    _, dy, dx = scene.spacing or (1.0, 1.0, 1.0)
    height, columns = scene.hu.shape[1:]
    extent = (-0.5 * dx, (columns - 0.5) * dx, (height - 0.5) * dy, -0.5 * dy)
    ax.imshow(scene.hu[k], cmap="gray", vmin=centre - width / 2, vmax=centre + width / 2,
              extent=extent, interpolation="nearest")  # fmt: skip
    words = [f"slice {k + 1} of {len(scene.hu)}", f"window {centre:g} / {width:g} HU"]
    if found := _chosen(scene, state, prefix):
        method, head, values = found
        low, high = limits or _scene.limits(values)
        high = high if high > low else low + 1
        shown = values[min(k, len(values) - 1)]
        share = np.nan_to_num((shown - low) / (high - low))
        strength = np.clip(2 * np.abs(2 * share - 1) if low < 0 else 2 * share, 0, 1)
        ax.imshow(shown, cmap=colours.SIGNED_MAP if low < 0 else colour_map, vmin=low, vmax=high,
                  alpha=float(state["opacity"]) * strength, extent=extent,
                  interpolation="nearest")  # fmt: skip
        words.append(" of ".join(filter(None, [method, attributes.title(head)])))
    if state["show_contours"]:
        _outlines(ax, scene, k, (dy, dx))
    (top, foot), span = _seen(scene, state)
    ax.set(xlim=span, ylim=(foot, top), xticks=[], yticks=[])
    if scene.spacing is not None:
        _scale_bar(ax)
    lines = [textwrap.fill(line, 52) for line in (*scene.title.splitlines(), scene.tier_text)]
    ax.set_title("\n".join(lines), fontsize=9, parse_math=False)
    ax.set_xlabel(" · ".join(words), fontsize=8, parse_math=False)


def _seen(scene: Scene, state: Mapping[str, Any]) -> list[tuple[float, float]]:
    """`(y, x)`: from where to where the slice is seen, mm from the middle of its first voxel."""
    zoom, *home = scene.home
    half = 0.5 / max(1.0, zoom * float(state["zoom"]))
    steps = (scene.spacing or (1.0, 1.0, 1.0))[1:]
    found = []
    for at, off, n, step in zip(home, state["pan"], scene.hu.shape[1:], steps, strict=True):
        middle = min(max(at + off, half * n), (1 - half) * n)
        found.append(((middle - half * n - 0.5) * step, (middle + half * n - 0.5) * step))
    return found


def _outlines(ax: Axes, scene: Scene, k: int, spacing: tuple[float, float]) -> None:
    # a frame of zeros around the mask closes outlines at the border
    y, x = (np.arange(-1, n + 1) * s for n, s in zip(scene.hu.shape[1:], spacing, strict=True))
    if min(scene.hu.shape[1:]) < 2:
        return
    drawn = zip(scene.masks, colours.reader_colours(len(scene.masks)), strict=True)
    for reader, (mask, colour) in enumerate(drawn):
        if mask[k].any():
            # thinner from reader to reader, or equal outlines would hide each other
            width = (2.0, 1.5, 1.0, 0.6)[min(reader, 3)]
            ax.contour(x, y, np.pad(mask[k], 1).astype(float), levels=[0.5], colors=[colour],
                       linewidths=[width])  # fmt: skip


def _scale_bar(ax: Axes) -> None:
    (first, last), (foot, top) = ax.get_xlim(), ax.get_ylim()
    width, height = last - first, foot - top
    length = next((b for b in SCALE_BARS if b <= width / 3), SCALE_BARS[-1])
    left, low = first + 0.04 * width, foot - 0.05 * height
    for colour, thickness in (("black", 4), ("white", 2)):
        ax.plot([left, left + length], [low, low], color=colour, linewidth=thickness,
                solid_capstyle="butt")  # fmt: skip
    ax.text(left, low - 0.02 * height, f"{length} mm", color="white", fontsize=8,
            bbox={"facecolor": "black", "alpha": 0.5, "linewidth": 0, "pad": 1})  # fmt: skip
