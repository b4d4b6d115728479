"""The viewer as a widget; needs anywidget, which the extra `lab` installs."""

from __future__ import annotations

from typing import Any

import anywidget
import traitlets

from lesionlab.explorer import _html
from lesionlab.explorer._scene import Scene
from lesionlab.explorer.volume import VolumePage

STAYING = (
    "opacity", "show_contours", "show_consensus", "hidden_readers", "orthogonal", "linked",
    "same_scale",
)  # fmt: skip
"""What does not depend on the volume shown."""


class VolumeViewer(anywidget.AnyWidget):
    """What `lesionlab.explorer.view` gives in a kernel.

    Traits can be set, and read after the reader has moved something.

    Attributes:
        slice: Index of the slice shown, from 0.
        cursor: `[y, x]` of the pinned voxel, as shown; empty if none is.
        window_centre: HU shown as middle grey.
        window_width: HU from black to white.
        method: Whose map lies over the slice; "" shows none.
        head: Which of the method's maps.
        opacity: Of the map, 0 to 1.
        show_contours: Whether the readers' outlines are drawn.
        show_consensus: Whether the outline of at least half of the readers is drawn.
        hidden_readers: Indices of readers whose outlines are not drawn.
        orthogonal: Whether the coronal and the sagittal plane are shown too.
        compare: Whether a second panel is shown.
        linked: Whether both panels scroll together.
        same_scale: Whether the same map of two volumes, as before and after a change, is drawn
            with one colour scale.
        zoom: 1 is the first view, which fits the lesion; above 1 it is enlarged, below 1 more of
            the slice is seen, at most all of it.
        pan: `[y, x]`: how far the view was moved since, voxels.
        other_slice: As `slice`, of the second panel; so are `other_cursor`, `other_method`,
            `other_head`.
        probe: Set by the browser: what is at the pinned voxel: index `z`, `y`, `x` in the
            volume given, `hu` and `map` (None if there is none), `mm`.
        other_probe: The same for the second panel.
        error: Set by the browser: why it cannot show the volume, else "".
    """

    slice = traitlets.Int().tag(sync=True)
    other_slice = traitlets.Int().tag(sync=True)
    cursor = traitlets.List(traitlets.Int()).tag(sync=True)
    other_cursor = traitlets.List(traitlets.Int()).tag(sync=True)
    window_centre = traitlets.Float().tag(sync=True)
    window_width = traitlets.Float(min=0).tag(sync=True)
    method = traitlets.Unicode().tag(sync=True)
    head = traitlets.Unicode().tag(sync=True)
    other_method = traitlets.Unicode().tag(sync=True)
    other_head = traitlets.Unicode().tag(sync=True)
    opacity = traitlets.Float(min=0, max=1).tag(sync=True)
    show_contours = traitlets.Bool().tag(sync=True)
    show_consensus = traitlets.Bool().tag(sync=True)
    hidden_readers = traitlets.List(traitlets.Int()).tag(sync=True)
    orthogonal = traitlets.Bool().tag(sync=True)
    compare = traitlets.Bool().tag(sync=True)
    linked = traitlets.Bool().tag(sync=True)
    same_scale = traitlets.Bool().tag(sync=True)
    zoom = traitlets.Float(min=0).tag(sync=True)
    pan = traitlets.List(traitlets.Float(), minlen=2, maxlen=2).tag(sync=True)
    probe = traitlets.Dict().tag(sync=True)
    other_probe = traitlets.Dict().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    _data = traitlets.Dict().tag(sync=True)

    def __init__(self, page: VolumePage) -> None:
        self._page = page
        self._esm = _html.script()
        super().__init__(_data=_html.data(page.scenes, colours=page.colours), **page.state)

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """What is shown: one volume, or two side by side."""
        return self._page.scenes

    def state(self) -> dict[str, Any]:
        """Where the controls stand."""
        return {name: getattr(self, name) for name in self._page.state}

    def replace(self, page: VolumePage, *, keep_place: bool) -> None:
        """Show something else; what of the controls still means something stays as it is.

        Args:
            page: What, and where controls stand that cannot stay.
            keep_place: Whether slices and probe stay, for other versions of the same volume.
        """
        state = dict(page.state)
        same_kind = len(page.scenes) == len(self.scenes)
        kept = ["window_centre", "window_width", *STAYING, *(["compare"] if same_kind else [])]
        state |= {name: getattr(self, name) for name in kept}
        if not self.method:
            state["method"] = ""  # no map was wanted
        if keep_place and self.slice < min(len(scene.hu) for scene in page.scenes):
            linked = {"other_slice": self.slice, "other_cursor": self.cursor}
            here = {name: getattr(self, name) for name in ("slice", "cursor", "zoom", "pan")}
            state |= here | linked
        data = _html.data(page.scenes, colours=page.colours)
        with self.hold_sync():
            self._page = page
            # the sides' names of maps belong to the new scenes: first those, and then the data
            for name, value in state.items():
                setattr(self, name, value)
            self._data = data

    def to_html(self) -> str:
        """One self-contained piece of HTML that shows what this viewer shows now."""
        return self._now().to_html()

    def to_png(self) -> bytes:
        """A picture of what this viewer shows now: slice, map and outlines."""
        return self._now().to_png()

    def _now(self) -> VolumePage:
        page = self._page
        return VolumePage(page.scenes, self.state(), colours=page.colours, page_kb=page.page_kb)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        shown = super()._repr_mimebundle_(**kwargs)
        data, metadata = shown if shown else ({}, {})
        page = self._now()
        own = {"text/html": page.to_html(), "image/png": page.to_png(), "text/plain": repr(self)}
        return data | own, metadata

    def __repr__(self) -> str:
        return repr(self._page).replace(type(self._page).__name__, type(self).__name__, 1)

    @traitlets.validate("slice", "other_slice")
    def _check_slice(self, proposal: Any) -> int:
        scenes = self.scenes
        last = len(scenes[-1 if proposal["trait"].name == "other_slice" else 0].hu) - 1
        value = int(proposal["value"])
        if not 0 <= value <= last:
            raise ValueError(f"{proposal['trait'].name}={value}: expected 0 to {last}")
        return value

    @traitlets.validate("method", "other_method")
    def _check_method(self, proposal: Any) -> str:
        scene = self.scenes[-1 if proposal["trait"].name == "other_method" else 0]
        value = str(proposal["value"])
        if value and value not in scene.maps:
            known = ", ".join(map(repr, scene.maps)) or "none: there are no overlays"
            raise ValueError(f"{proposal['trait'].name}={value!r}: expected '' or one of {known}")
        return value
