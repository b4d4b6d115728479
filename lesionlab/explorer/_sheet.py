"""One picture of several scenes, for what stands in where a page of many viewers is not shown."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from lesionlab.explorer import _png
from lesionlab.explorer._scene import Scene


def sheet(scenes: Sequence[Scene], state: Mapping[str, Any], *, title: str, columns: int) -> bytes:
    """A PNG of the largest slice of each scene, `columns` to a row; every panel names its tier.

    Args:
        scenes: At least one.
        state: Window and outlines, as the traits of a viewer.
        title: Above all of them.
        columns: To a row.
    """
    rows = -(-len(scenes) // columns)
    size = (2.6 * columns, 3.2 * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained", dpi=80)
    figure.suptitle(title, fontsize=10, parse_math=False)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[len(scenes) :]:
        ax.set_axis_off()
    for ax, scene in zip(axes, scenes, strict=False):
        _png.draw(ax, scene, {**state, "slice": scene.first_slice}, "", "viridis")
        ax.title.set_fontsize(6)
        ax.xaxis.label.set_fontsize(6)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
