"""A volume to scroll through, with its readers' outlines, attention maps and ratings.

In JupyterLab it is a widget. The same output's HTML needs no kernel and no network; GitHub, PDF and
notebooks that are not trusted show its PNG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from lesionlab import colours
from lesionlab.explorer import _html, _scene
from lesionlab.explorer._scene import Scene

if TYPE_CHECKING:
    from lesionlab.explorer._widgets import VolumeViewer


class VolumePage(_html.Page):
    """A viewer without a kernel: HTML and a PNG; what `view` gives where anywidget is missing.

    `scenes` are one, or two side by side.
    """

    NAME, ENTRY = "volume", "mountPage"
    BUDGET = 300_000  # for each 64 × 64 × 64 voxels

    def __init__(self, scenes: tuple[Scene, ...]) -> None:
        self.scenes = scenes
        first, second = scenes[0], scenes[-1]
        none: tuple[tuple[str, str], Any] = (("", ""), None)
        (method, head), here = next(iter(first.maps.items()), none)
        # in a second panel of one volume another method, if there is one
        others = [m for m in second.maps.items() if len(scenes) > 1 or m[0][0] != method]
        (other_method, other_head), there = next(iter([*others, *second.maps.items()]), none)
        self.state = _html.window("lung") | {
            "slice": _start(first, here),
            "other_slice": _start(second, there),
            "cursor": [],
            "other_cursor": [],
            "method": method,
            "head": head,
            "other_method": other_method,
            "other_head": other_head,
            "opacity": 0.6,
            "show_contours": True,
            "show_consensus": False,
            "hidden_readers": [],
            "orthogonal": False,
            "compare": len(scenes) > 1,
            "linked": True,
            "same_scale": True,
            "zoom": 1.0,
            "pan": [0.0, 0.0],
        }

    def data(self, budget: float = inf) -> dict[str, Any]:
        """As `Page.data`; `budget` is for each 64³ voxels."""
        cubes = max(1.0, sum(scene.hu.size for scene in self.scenes) / 64**3)
        title = " and ".join(scene.title for scene in self.scenes)
        data: dict[str, Any] = {"title": title, "panels": []} | colours.palette()
        left = budget  # of which script and colour maps take some
        if budget < inf:
            left = budget * cubes - len(self.around(data).encode())
        return data | {"panels": _html.fitted(self.scenes, left)}

    def to_png(self) -> bytes:
        """As `Page.to_png`."""
        from lesionlab.explorer import _png  # plots load more than the viewer needs

        return _png.picture(self.scenes, self.state)

    def __repr__(self) -> str:
        names = ", ".join(repr(scene.title) for scene in self.scenes)
        shapes = ", ".join("×".join(map(str, scene.hu.shape)) for scene in self.scenes)
        return f"{type(self).__name__}({names}, {shapes})"


def view(
    volume: Any,
    *,
    other: VolumeViewer | VolumePage | None = None,
    spacing: Sequence[float] | None = None,
    masks: Any = None,
    overlays: Mapping[str, Any] | None = None,
    slice_weights: Any = None,
    predicted: Mapping[str, float] | None = None,
    readings: Mapping[str, Sequence[float]] | None = None,
    title: str | None = None,
    tier: str | None = None,
) -> VolumeViewer | VolumePage:
    """Show a volume; inputs are not changed.

        viewer = explorer.view(crop, overlays={"Grad-CAM": {"malignancy": map}})
        viewer.slice = 3            # moves what is shown; what the reader moves can be read

    In a kernel every value is exact. A page holds them exactly too if
    they fit into 300 KB for each 64³ voxels; else HU and maps are rounded, no more than
    needed, and the viewer says by how much.

    Args:
        volume: (z, y, x) HU, or a `lesionlab.crops.Crop`, which brings `spacing`, `masks`,
            `title` and `tier` along. NaN is shown as missing. More than 2²¹ voxels are thinned.
        other: A second viewer, shown beside this one with linked scrolling.
        spacing: `(z, y, x)` distance between voxel centres, mm. Without it there is no scale
            bar, and positions are counted in voxels.
        masks: (reader, z, y, x), or (z, y, x) for one reader.
        overlays: Method to map, or method to head to map; a map is (z, y, x), or (y, x) for
            all slices alike. Maps with values below zero are purple and orange.
        slice_weights: (z,) attention of each slice, from 0 up.
        predicted: Attribute to a model's value.
        readings: Attribute to the readers' values, in the order of `masks`.
        title: What is shown.
        tier: Where the voxels come from: `phantom`, `slices`, `dicom`, or other words.

    Returns:
        A widget, or a `VolumePage` where anywidget is not installed
        (`pip install 'lesionlab[lab]'`).
    """
    made = page(
        volume, other=other, spacing=spacing, masks=masks, overlays=overlays, tier=tier,
        title=title, slice_weights=slice_weights, predicted=predicted, readings=readings,
    )  # fmt: skip
    return _html.in_kernel(made, "_widgets", "VolumeViewer")  # type: ignore[no-any-return]


def page(volume: Any, *, other: Any = None, **shown: Any) -> VolumePage:
    """What `view` shows as HTML that needs no kernel, in a kernel, too: `page(…).to_html()`."""
    scenes: tuple[Scene, ...] = (_scene.of(volume, **shown),)
    if other is not None:
        if not getattr(other, "scenes", None):
            raise ValueError(f"other: expected what view() gives, got {type(other).__name__}")
        scenes = (*scenes, other.scenes[0])
    return VolumePage(scenes)


def _start(scene: Scene, values: _scene.Floats | None) -> int:
    """The slice where the map shown is strongest; else the one with most of the lesion."""
    peak = None if values is None else _scene.peak(values)
    return scene.first_slice if peak is None else peak
