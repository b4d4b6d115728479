"""A viewer as data, and as one piece of HTML that needs no kernel and no network."""

from __future__ import annotations

import base64
import json
import re
import secrets
import zlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from lesionlab import attributes
from lesionlab import colours as _colours
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


@dataclass(frozen=True)
class Quality:
    """How exactly a page stores HU (multiples of `step`) and maps; see `_encoding`.

    With `near`, HU in and next to the readers' outlines stay exact.
    """

    step: int
    levels: int
    tolerance: float
    near: bool = True


EXACT = Quality(step=1, levels=_encoding.TOP_LEVEL, tolerance=2e-5)

LADDER = (
    EXACT,
    Quality(1, 255, 0.002),
    Quality(1, 100, 0.01),
    Quality(2, 100, 0.01),
    Quality(4, 100, 0.01),
    Quality(8, 100, 0.01),
    Quality(8, 50, 0.02),
    Quality(16, 50, 0.02),
    Quality(16, 25, 0.04),
    Quality(32, 15, 0.06),
)
"""Tried in this order until a page is small enough."""

SMALL = (*LADDER, *(replace(LADDER[-1], step=step, near=False) for step in (8, 16, 32)))
"""The same for one of many small volumes, whose lesion may fill most of it."""


@cache
def script(*more: str) -> str:
    """The viewer's JavaScript, an ES module without imports.

    Args:
        more: Files that build on it. A module has one default export, what anywidget asks for:
            that of the last file stays.
    """
    folder = files("lesionlab.explorer")
    texts = [folder.joinpath(name).read_text(encoding="utf-8") for name in (*PARTS, *more)]
    own = [re.sub(r"(?m)^export default .*;$", "", text) for text in texts[:-1]]
    return "\n".join([*own, texts[-1]])


@cache
def _packed_script(*more: str) -> tuple[str, str]:
    """The same, deflated and in base64, and a name that changes with it."""
    packed = zlib.compress(script(*more).encode(), 9)
    return base64.b64encode(packed).decode(), f"lesionlab-{zlib.crc32(packed):08x}"


@cache
def _starter() -> str:
    return files("lesionlab.explorer").joinpath("page.js").read_text(encoding="utf-8").rstrip()


def presets(scene: Scene) -> dict[str, tuple[float, float]]:
    """The CT presets, and `full`: from the lowest to the highest value."""
    low, high = float(scene.hu.min()), float(scene.hu.max())
    return PRESETS | {"full": ((low + high) / 2, max(high - low, 1.0))}


def panel(
    scene: Scene, quality: Quality = EXACT, done: dict[Any, Any] | None = None
) -> dict[str, Any]:
    """One scene as JSON-ready values; `volume_data.js` reads them.

    Args:
        scene: What is shown.
        quality: How exactly.
        done: Keeps what was packed for the next quality, where often one of two stays.
    """
    done = {} if done is None else done
    notes = list(scene.notes)
    exact = quality.step > 1 and quality.near and len(scene.masks)
    near = scene.near_masks() if exact else None
    if quality.step > 1:
        inside = "" if near is None else ", but exact in and next to the readers' outlines"
        notes.append(
            f"to keep the page small, HU are rounded to multiples of {quality.step}{inside}"
        )
    key = (id(scene), quality.step, near is None)
    if key not in done:
        done[key] = _encoding.hounsfield(scene.hu, step=quality.step, exact=near)
    for _, _, values in _scene.all_maps(scene):
        if (id(values), quality.levels) not in done:
            done[id(values), quality.levels] = _encoding.graded(
                values, levels=quality.levels, tolerance=quality.tolerance
            )
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
        "ratings": [
            {
                "title": r.title,
                "scale": list(r.scale),
                "readings": list(r.readings),
                "predicted": r.predicted,
            }
            for r in scene.ratings
        ],
        "presets": [[name, *window] for name, window in presets(scene).items()],
        "first": scene.first_slice,
        "home": list(scene.home),
        "output": scene.output,
        "maps": [
            {
                "method": method,
                "head": head,
                "about": attributes.title(head),
                "peak": _scene.peak(values),
                "limits": list(_scene.limits(values)),
                # the same on every slice
                "flat": len(values) != len(scene.hu),
            }
            | done[id(values), quality.levels]
            for method, head, values in _scene.all_maps(scene)
        ],
        "notes": notes,
    }


def data(
    scenes: Sequence[Scene],
    *,
    colours: str = "viridis",
    quality: Quality = EXACT,
    done: dict[Any, Any] | None = None,
) -> dict[str, Any]:
    """All that the viewer's JavaScript shows, JSON-ready; arguments as in `panel`."""
    return {
        "panels": [panel(scene, quality, done) for scene in scenes],
        **_colours.palette(colours),
    }


def page(
    scenes: Sequence[Scene],
    state: Mapping[str, Any],
    *,
    colours: str = "viridis",
    budget: float | None = None,
) -> str:
    """One viewer as self-contained HTML; all text is escaped.

    Args:
        scenes: One, or two side by side.
        state: Where the controls stand.
        colours: The overlays' colour map.
        budget: Bytes that the HTML may take. Values are rounded, and the viewer says so, as
            little as that needs; None stores everything exactly.
    """
    done: dict[Any, Any] = {}
    for quality in LADDER:
        made = _page(data(scenes, colours=colours, quality=quality, done=done), state)
        if budget is None or len(made.encode()) <= budget:
            break
    return made


def fitted(scene: Scene, budget: float, done: dict[Any, Any] | None = None) -> dict[str, Any]:
    """One scene as `panel` gives it, as exact as `budget` bytes allow; `done` as there."""
    done = {} if done is None else done

    def fits(quality: Quality) -> bool:
        return len(_json(panel(scene, quality, done)).encode()) <= budget

    at = 0 if fits(EXACT) else bisect_left(SMALL[:-1], True, 1, key=fits)
    return panel(scene, SMALL[at], done)


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
    packed, version = _packed_script(*more)
    arguments = ", ".join(json.dumps(a) for a in (packed, version, entry))
    call = f'({_starter()})(document.getElementById("{name}"), {arguments});'
    return (
        f'<div class="{escape(kind)}" id="{name}">'
        f"<p>{escape(waiting)}</p>"
        f'<script type="application/json">{payload}</script>'
        f'<script type="module">{call}</script></div>'
    )


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _page(content: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    titles = " and ".join(str(p["title"]) for p in content["panels"])
    waiting = f"A viewer of {titles} comes here, in a browser that runs JavaScript."
    return piece("lesionlab-volume", waiting, {"data": content, "state": dict(state)})
