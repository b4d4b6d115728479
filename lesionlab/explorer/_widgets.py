"""The viewer and what is built on it, as widgets; needs the extra `lab`, for anywidget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from lesionlab.explorer import _html
from lesionlab.explorer._scene import LARGEST

if TYPE_CHECKING:
    import pandas as pd

STAYING = (
    "window_centre", "window_width", "opacity", "show_contours", "show_consensus",
    "hidden_readers", "orthogonal", "linked", "same_scale",
)  # fmt: skip
"""Traits that do not depend on the volume shown."""


class _Widget(_html.Saved, anywidget.AnyWidget):
    """A widget whose output also carries HTML and a picture of where it stands now."""

    _data = traitlets.Dict().tag(sync=True)
    _page: Any

    def __init__(self, page: _html.Page) -> None:
        self._page = page
        self._esm = _html.script(*page.MORE)
        super().__init__(_data=page.data(), **page.state)

    def to_html(self) -> str:
        """One self-contained piece of HTML that starts where this widget stands now."""
        return str(self._now().to_html())

    def to_png(self) -> bytes:
        """A picture of what this widget shows now."""
        return bytes(self._now().to_png())

    def _now(self) -> Any:
        self._page.state = {name: getattr(self, name) for name in self._page.state}
        return self._page

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return data | self._now()._repr_mimebundle_() | {"text/plain": repr(self)}, metadata

    def __repr__(self) -> str:
        return repr(self._page).replace(type(self._page).__name__, type(self).__name__, 1)


class VolumeViewer(_Widget):
    """What `lesionlab.explorer.view` gives in a kernel.

    Traits can be set, and read after the reader has moved something. Those that begin with
    `other_` are of the second panel.

    Attributes:
        slice: Index of the slice shown, from 0.
        cursor: `[y, x]` of the pinned voxel, as shown; empty if none is.
        window_centre, window_width: HU shown as middle grey, and from black to white.
        method, head: Whose map lies over the slice ("" shows none), and which of its maps.
        show_consensus: Whether the outline of at least half of the readers is drawn.
        hidden_readers: Indices of readers whose outlines are not drawn.
        orthogonal: Whether the coronal and the sagittal plane are shown too.
        compare, linked: Whether a second panel is shown, and both scroll together.
        same_scale: Whether the same map of two volumes is drawn with one colour scale.
        zoom: 1 is the first view, which fits the lesion; above 1 it is enlarged.
        pan: `[y, x]`: how far the view was moved since, voxels.
        probe: Set by the browser: index `z`, `y`, `x` of the pinned voxel in the volume given,
            its `hu` and `map` (None if there is none), and `mm`.
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

    @property
    def scenes(self) -> Any:
        """What is shown: one `Scene`, or two side by side."""
        return self._page.scenes

    def replace(self, page: Any, *, keep_place: bool) -> None:
        """Show something else; the controls stay where they mean the same there.

        With `keep_place` slices and probe stay too, for other versions of the same volume. What
        cannot stay starts as `page` says.
        """
        kept = [*STAYING, *(["compare"] if len(page.scenes) == len(self.scenes) else [])]
        if keep_place and self.slice < min(len(scene.hu) for scene in page.scenes):
            kept += ["slice", "cursor", "zoom", "pan"]
        state = page.state | {name: getattr(self, name) for name in kept}
        if "slice" in kept:
            state |= {"other_slice": self.slice, "other_cursor": self.cursor}
        if not self.method:
            state["method"] = ""  # no map was wanted
        data = page.data()  # before anything is changed: it may not fit into memory
        with self.hold_sync():
            self._page = page
            # the browser looks up a map's name in the data: the names go first
            for name, value in state.items():
                setattr(self, name, value)
            self._data = data

    @traitlets.validate("window_centre", "window_width", "opacity", "zoom", "pan")
    def _check_number(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if not all(abs(number) <= LARGEST for number in (value if name == "pan" else [value])):
            raise ValueError(f"{name}={value}: expected numbers up to {LARGEST:g} in size")
        return value

    @traitlets.validate("slice", "other_slice", "method", "other_method")
    def _check(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        scene = self.scenes[-1 if name.startswith("other_") else 0]
        if name.endswith("slice"):
            if not 0 <= value < len(scene.hu):
                raise ValueError(f"{name}={value}: expected 0 to {len(scene.hu) - 1}")
        elif value not in (known := {"": None} | {method: None for method, _ in scene.maps}):
            raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, known))}")
        return value


class ScaleViewer(_Widget):
    """What `lesionlab.explorer.atlas` gives in a kernel; `step` is the step that is shown."""

    step = traitlets.Int().tag(sync=True)

    @traitlets.validate("step")
    def _check(self, proposal: Any) -> Any:
        attribute, value = self._page.attribute, proposal["value"]
        if value not in attribute.codes:
            raise ValueError(f"step={value}: expected {attribute.minimum} to {attribute.maximum}")
        return value


class WhatIf(_Widget):
    """The sliders of `lesionlab.explorer.what_if`, as the workbench shows them."""


class ReaderGame(_Widget):
    """What `lesionlab.explorer.be_the_reader` gives in a kernel.

    Traits can be set, and read while somebody plays.

    Attributes:
        answers: `lesion_id` to attribute to code, what was given so far.
        chosen: Attributes that are asked for.
        reveal: Whether the readers are shown after each nodule, or at the end only.
        phase: `start`, `rate` or `result`.
        at: Index of the nodule that is rated.
        seen: Ids of nodules whose readers have been shown; their answers stand.
    """

    answers = traitlets.Dict().tag(sync=True)
    chosen = traitlets.List(traitlets.Unicode()).tag(sync=True)
    reveal = traitlets.Bool().tag(sync=True)
    phase = traitlets.Enum(["start", "rate", "result"]).tag(sync=True)
    at = traitlets.Int().tag(sync=True)
    seen = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def score(self) -> pd.DataFrame:
        """The result of the answers so far, as `lesionlab.explorer.game.score` gives it."""
        return self._page.score(self.answers)  # type: ignore[no-any-return]

    @traitlets.validate("answers", "chosen", "at")
    def _check(self, proposal: Any) -> Any:
        name, value, page = proposal["trait"].name, proposal["value"], self._page
        if name == "answers":
            page.check(value)
        elif name == "at" and not 0 <= value < len(page.scenes):
            raise ValueError(f"at={value}: expected 0 to {len(page.scenes) - 1}")
        elif name == "chosen" and (unknown := [n for n in value if n not in page.names]):
            raise ValueError(f"chosen={unknown}: expected some of {', '.join(page.names)}")
        return value
