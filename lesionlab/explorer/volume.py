"""A volume to scroll through, with its readers' outlines, attention maps and ratings.

    from lesionlab import explorer
    viewer = explorer.view(crop, overlays={"Grad-CAM": {"malignancy": map}}, window="lung")
    viewer                      # as the last value of a cell
    viewer.slice = 3            # moves what is shown; what the reader moves can be read

One JavaScript module draws in JupyterLab, where the viewer is a widget, and in the published page,
where the same output's HTML carries the data and needs no kernel and no network. GitHub, PDF and
notebooks that are not trusted show the output's PNG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lesionlab import colours as _colours
from lesionlab.explorer import _html, _png, _scene
from lesionlab.explorer._optional import widget
from lesionlab.explorer._scene import Scene

if TYPE_CHECKING:
    from lesionlab.explorer._widget import VolumeViewer

__all__ = ["VolumePage", "view"]

PAGE_KB = 300
"""What a page may grow by for each 64 × 64 × 64 voxels, KB, unless `view` is told otherwise."""


class VolumePage:
    """A viewer without a kernel: HTML and a PNG; what `view` gives where anywidget is missing.

    Attributes:
        scenes: One, or two side by side.
        state: Where the controls stand; its keys are the traits of `VolumeViewer`.
        colours: The overlays' colour map.
        page_kb: As in `view`.
    """

    def __init__(
        self,
        scenes: tuple[Scene, ...],
        state: Mapping[str, Any],
        *,
        colours: str,
        page_kb: float | None,
    ) -> None:
        self.scenes = scenes
        self.state = dict(state)
        self.colours = colours
        self.page_kb = page_kb

    def to_html(self) -> str:
        """One self-contained piece of HTML; text from outside is escaped."""
        voxels = sum(scene.hu.size for scene in self.scenes)
        share = max(1.0, voxels / 64**3)
        budget = None if self.page_kb is None else 1000 * self.page_kb * share
        return _html.page(self.scenes, self.state, colours=self.colours, budget=budget)

    def to_png(self) -> bytes:
        """A picture of the slice, map and outlines that the viewer shows at first."""
        return _png.picture(self.scenes, self.state, colours=self.colours)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/html": self.to_html(), "image/png": self.to_png(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        names = ", ".join(repr(scene.title) for scene in self.scenes)
        shapes = ", ".join("×".join(map(str, scene.hu.shape)) for scene in self.scenes)
        return f"{type(self).__name__}({names}, {shapes})"


def view(
    volume: Any,
    *,
    spacing: Sequence[float] | None = None,
    masks: Any = None,
    overlays: Mapping[str, Any] | None = None,
    slice_weights: Any = None,
    predicted: Mapping[str, float] | None = None,
    readings: Mapping[str, Sequence[float]] | None = None,
    title: str | None = None,
    tier: str | None = None,
    window: str | tuple[float, float] = "lung",
    other: VolumeViewer | VolumePage | None = None,
    colours: str = "viridis",
    page_kb: float | None = PAGE_KB,
) -> VolumeViewer | VolumePage:
    """Show a volume.

    Inputs are not changed. In a kernel every value is exact. A page holds them exactly too if
    they fit into `page_kb`; else HU outside the readers' outlines and maps are rounded, no more
    than needed, and the viewer says so.

    Args:
        volume: (z, y, x) HU, or a `lesionlab.crops.Crop`, which brings `spacing`, `masks`,
            `title` and `tier` along. NaN is shown as missing. More than 2²¹ voxels are thinned.
        spacing: `(z, y, x)` distance between voxel centres, mm. Without it there is no scale
            bar, and positions are counted in voxels.
        masks: (reader, z, y, x), or (z, y, x) for one reader.
        overlays: Method to map, or method to head to map; a map is (z, y, x), or (y, x) for
            all slices alike.
        slice_weights: (z,) attention of each slice, from 0 up.
        predicted: Attribute to a model's value.
        readings: Attribute to the readers' values, in the order of `masks`.
        title: What is shown.
        tier: Where the voxels come from: `phantom`, `slices`, `dicom`, or other words.
        window: `lung`, `soft tissue`, `bone`, `full`, or centre and width in HU.
        other: A second viewer, shown beside this one with linked scrolling.
        colours: `viridis`, `cividis` or `magma` for the overlays. Maps with values below zero
            are shown in purple and orange.
        page_kb: KB of the page for each 64³ voxels; None stores every value exactly.

    Returns:
        A widget, or a `VolumePage` where anywidget is not installed
        (`pip install 'lesionlab[lab]'`).

    Raises:
        ValueError: An argument has the wrong kind, shape or range.
    """
    scene = _scene.of(
        volume,
        spacing=spacing,
        masks=masks,
        overlays=overlays,
        slice_weights=slice_weights,
        predicted=predicted,
        readings=readings,
        title=title,
        tier=tier,
    )
    scenes = (scene,) if other is None else (scene, _only_scene(other))
    made = page(scenes, window=window, colours=colours, page_kb=page_kb)
    made_of: type[VolumeViewer] | None = widget("_widget", "VolumeViewer")
    return made if made_of is None else made_of(made)


def page(
    scenes: tuple[Scene, ...],
    *,
    window: str | tuple[float, float] = "lung",
    colours: str = "viridis",
    page_kb: float | None = PAGE_KB,
) -> VolumePage:
    """A page of scenes that have been checked, with its controls where they stand at first.

    Raises:
        ValueError: An argument but `scenes` is out of range.
    """
    if colours not in _colours.MAPS:
        raise ValueError(f"colours={colours!r}: expected one of {', '.join(_colours.MAPS)}")
    if page_kb is not None and not page_kb > 0:
        raise ValueError(f"page_kb={page_kb!r}: expected KB above 0, or None")
    centre, width = window_of(window, scenes[0])
    state = state_of(scenes) | {"window_centre": centre, "window_width": width}
    return VolumePage(scenes, state, colours=colours, page_kb=page_kb)


def window_of(window: str | tuple[float, float], scene: Scene) -> tuple[float, float]:
    """Centre and width, HU, of a window as `view` takes it."""
    presets = _html.presets(scene)
    if isinstance(window, str):
        if window not in presets:
            raise ValueError(f"window={window!r}: expected one of {', '.join(presets)}")
        return presets[window]
    values = tuple(float(v) for v in window)
    if len(values) != 2 or not values[1] > 0 or not all(abs(v) < 1e6 for v in values):
        raise ValueError(f"window={window!r}: expected centre and width in HU, the width above 0")
    return values


def _only_scene(other: Any) -> Scene:
    match getattr(other, "scenes", None):
        case (Scene() as scene, *_):
            return scene
    raise ValueError(f"other: expected what view() gives, got {type(other).__name__}")


def state_of(scenes: tuple[Scene, ...]) -> dict[str, Any]:
    """Where the controls stand at first."""
    first, second = scenes[0], scenes[-1]
    maps, others = _scene.all_maps(first), _scene.all_maps(second)
    if len(scenes) == 1:  # another method, if there is one
        others = [m for m in maps if m[0] != maps[0][0]] or maps
    (method, head, here), (other_method, other_head, there) = (
        found[0] if found else ("", "", None) for found in (maps, others)
    )
    return {
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


def _start(scene: Scene, values: _scene.Floats | None) -> int:
    """The slice where the map shown is strongest; else the one with most of the lesion."""
    peak = None if values is None else _scene.peak(values)
    return scene.first_slice if peak is None else peak
