"""A viewer as data, and as one piece of HTML that needs no kernel and no network."""

from __future__ import annotations

import base64
import json
import re
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from html import escape
from importlib import import_module
from importlib.resources import files
from math import inf
from typing import Any, ClassVar

from lesionlab import attributes, colours
from lesionlab.explorer import _encoding, _scene
from lesionlab.explorer._scene import Scene

PARTS = ("volume_data.js", "volume_draw.js", "volume_panel.js", "volume.js")
"""In this order they make one ES module."""

PRESETS: dict[str, tuple[float, float]] = {
    "lung": (-600, 1500),
    "soft tissue": (40, 400),
    "bone": (400, 1800),
}
"""Name to centre and width, HU; `full` is added for each volume."""

LAB = ("anywidget", "ipywidgets", "traitlets")
"""What the extra `lab` installs."""


class Page:
    """What a cell shows where there is no kernel: HTML, and a picture for where that is hidden.

    `state` is where the controls stand, `MORE` the JavaScript that builds on the viewer's.
    """

    MORE: ClassVar[tuple[str, ...]] = ()
    state: dict[str, Any]

    def data(self, budget: float = inf) -> dict[str, Any]:
        """All that the JavaScript shows, JSON-ready; each volume takes up to `budget` bytes."""
        raise NotImplementedError

    def to_html(self) -> str:
        """One self-contained piece of HTML; text from outside is escaped."""
        raise NotImplementedError

    def to_png(self) -> bytes:
        """A picture of what the page shows at first."""
        raise NotImplementedError

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/html": self.to_html(), "image/png": self.to_png(), "text/plain": repr(self)}


def in_kernel(page: Page, module: str, name: str, *more: Any) -> Any:
    """A page as the widget of that name; the page itself where the extra `lab` is missing."""
    try:
        found = import_module(f"lesionlab.explorer.{module}")
    except ModuleNotFoundError as error:
        if error.name not in LAB:
            raise
        return page
    return getattr(found, name)(page, *more)


@dataclass(frozen=True)
class Quality:
    """How exactly a page stores HU (multiples of `step`) and maps; see `_encoding`.

    With `near`, HU in and next to the readers' outlines stay exact.
    """

    step: int
    levels: int
    tolerance: float
    near: bool = True


EXACT = Quality(1, _encoding.TOP_LEVEL, 2e-5)

LADDER = (
    EXACT,
    Quality(2, 100, 0.01),
    Quality(8, 100, 0.01),
    Quality(32, 15, 0.06),
    # for a small volume that the lesion fills
    Quality(16, 15, 0.06, near=False),
    Quality(32, 15, 0.06, near=False),
)
"""Tried in this order until a page is small enough."""


@cache
def script(*more: str) -> str:
    """The viewer's JavaScript, an ES module without imports, and what files `more` build on it.

    A module has one default export, what anywidget asks for: that of the last file stays.
    """
    folder = files("lesionlab.explorer")
    texts = [folder.joinpath(name).read_text(encoding="utf-8") for name in (*PARTS, *more)]
    own = [re.sub(r"(?m)^export default .*;$", "", text) for text in texts[:-1]]
    return "\n".join([*own, texts[-1]])


def presets(scene: Scene) -> dict[str, tuple[float, float]]:
    """The CT presets, and `full`: from the lowest to the highest value."""
    low, high = float(scene.hu.min()), float(scene.hu.max())
    return PRESETS | {"full": ((low + high) / 2, max(high - low, 1.0))}


def panel(
    scene: Scene, quality: Quality = EXACT, done: dict[Any, Any] | None = None
) -> dict[str, Any]:
    """One scene as JSON-ready values; `volume_data.js` reads them.

    `done` keeps what was packed for the next quality, where often one of two stays.
    """
    done = {} if done is None else done
    notes = list(scene.notes)
    near = scene.near_masks() if quality.step > 1 and quality.near and len(scene.masks) else None
    if quality.step > 1:
        inside = "" if near is None else ", but exact in and next to the readers' outlines"
        notes.append(
            f"to keep the page small, HU are rounded to multiples of {quality.step}{inside}"
        )
    key = (id(scene), quality.step, near is None)
    if key not in done:
        done[key] = _encoding.hounsfield(scene.hu, step=quality.step, exact=near)
    maps = []
    for method, head, values in scene.all_maps():
        map_key = (id(values), quality.levels)
        if map_key not in done:
            done[map_key] = _encoding.graded(
                values, levels=quality.levels, tolerance=quality.tolerance
            )
        about = {"method": method, "head": head, "about": attributes.title(head)}
        ends = {"peak": _scene.peak(values), "limits": list(_scene.limits(values))}
        same_on_all_slices = len(values) != len(scene.hu)
        maps.append(about | ends | {"flat": same_on_all_slices} | done[map_key])
    return {
        "title": scene.title,
        "tier": {"name": scene.tier, "text": scene.tier_text},
        "shape": list(scene.hu.shape),
        "stride": list(scene.stride),
        "spacing": None if scene.spacing is None else list(scene.spacing),
        "z": scene.z_mm.tolist(),
        "corner": list(scene.corner_mm),
        "frame": scene.frame,
        "hu": done[key],
        "missing": None if scene.missing is None else _encoding.bits(scene.missing),
        "readers": len(scene.masks),
        "votes": scene.votes,
        "masks": _encoding.bits(scene.masks) if len(scene.masks) else None,
        "weights": None if scene.weights is None else scene.weights.tolist(),
        "ratings": [asdict(rating) for rating in scene.ratings],
        "presets": [[name, *window] for name, window in presets(scene).items()],
        "first": scene.first_slice,
        "home": list(scene.home),
        "output": scene.output,
        "maps": maps,
        "notes": notes,
    }


def fitted(scene: Scene, budget: float, done: dict[Any, Any] | None = None) -> dict[str, Any]:
    """One scene as `panel` gives it, as exact as `budget` bytes allow."""
    done = {} if done is None else done
    for quality in LADDER:
        made = panel(scene, quality, done)
        if len(_json(made).encode()) <= budget:
            break
    return made


def data(
    scenes: Sequence[Scene], quality: Quality = EXACT, done: dict[Any, Any] | None = None
) -> dict[str, Any]:
    """All that the viewer's JavaScript shows, JSON-ready."""
    return {"panels": [panel(s, quality, done) for s in scenes]} | colours.palette()


def page(scenes: Sequence[Scene], state: Mapping[str, Any], budget: float) -> str:
    """One viewer as self-contained HTML, rounded as little as `budget` bytes need."""
    done: dict[Any, Any] = {}
    titles = " and ".join(scene.title for scene in scenes)
    waiting = f"A viewer of {titles} comes here, in a browser that runs JavaScript."
    for quality in LADDER:
        shown = data(scenes, quality, done)
        made = piece("lesionlab-volume", waiting, {"data": shown, "state": dict(state)})
        if len(made.encode()) <= budget:
            break
    return made


def piece(
    kind: str,
    waiting: str,
    content: Mapping[str, Any],
    *,
    more: tuple[str, ...] = (),
    entry: str = "mountPage",
) -> str:
    """Self-contained HTML that starts itself; all text is escaped.

    Args:
        kind: Class of the element.
        waiting: What stands there until the script has started.
        content: What the script reads, JSON-ready.
        more: As in `script`.
        entry: The module's function that is given the element.
    """
    name = f"ll-{secrets.token_hex(6)}"
    # "<" could end the element or open a comment in it, whatever quotes it stands in
    payload = _json(content).replace("<", "\\u003c")
    arguments = ", ".join(json.dumps(a) for a in (*_packed_script(*more), entry))
    starter = files("lesionlab.explorer").joinpath("page.js").read_text(encoding="utf-8").rstrip()
    call = f'({starter})(document.getElementById("{name}"), {arguments});'
    return (
        f'<div class="{escape(kind)}" id="{name}">'
        f"<p>{escape(waiting)}</p>"
        f'<script type="application/json">{payload}</script>'
        f'<script type="module">{call}</script></div>'
    )


@cache
def _packed_script(*more: str) -> tuple[str, str]:
    """The script, deflated and in base64, and a name that changes with it."""
    packed = zlib.compress(script(*more).encode(), 9)
    return base64.b64encode(packed).decode(), f"lesionlab-{zlib.crc32(packed):08x}"


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
