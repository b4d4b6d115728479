"""A viewer as data, and as one piece of HTML that needs no kernel and no network."""

from __future__ import annotations

import json
import re
import secrets
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html import escape
from importlib import import_module
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lesionlab import attributes
from lesionlab._files import write_text
from lesionlab.explorer import _encoding, _scene
from lesionlab.explorer._scene import Scene

PARTS = ("volume_data.js", "volume_draw.js", "volume_panel.js", "volume.js")
"""In this order they make one ES module."""

PRESETS = {"lung": (-600.0, 1500.0), "soft tissue": (40.0, 400.0), "bone": (400.0, 1800.0)}
"""Name to centre and width, HU; `full` is added for each volume."""


def window(preset: str) -> dict[str, float]:
    """The two traits of a viewer that a preset sets."""
    centre, width = PRESETS[preset]
    return {"window_centre": centre, "window_width": width}


LAB = ("anywidget", "ipywidgets", "traitlets")
"""What the extra `lab` installs."""


def document(title: str, body: str, *, style: str = "") -> str:
    """A whole HTML document around a body, which has to be escaped already."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{escape(title)}</title>" + (f"<style>{style}</style>" if style else "")
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


class Saved:
    """What can be saved as one file, to look at or to mail."""

    def to_html(self) -> str:
        """One self-contained piece of HTML."""
        raise NotImplementedError

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a page that needs nothing else: no kernel, no network, no other file.

        It holds the voxels that it shows. `FileExistsError` where there is a file of that name,
        unless it may be overwritten.
        """
        if Path(path).exists() and not overwrite:
            raise FileExistsError(f"path={str(path)!r} exists; choose another or overwrite=True")
        return write_text(path, document(Path(path).stem, self.to_html()))


class Page(Saved):
    """What a cell shows where there is no kernel: HTML, and a picture for where that is hidden."""

    NAME: ClassVar[str]  # `volume` for an element of the class `lesionlab-volume`
    ENTRY: ClassVar[str]  # the JavaScript function that is given the element
    MORE: ClassVar[tuple[str, ...]] = ()  # the JavaScript files that build on the viewer's
    BUDGET: ClassVar[int]  # how large the data of a volume may be, bytes
    state: dict[str, Any]  # where the controls stand

    def data(self, budget: float = inf) -> dict[str, Any]:
        """All that the JavaScript shows, JSON-ready, with a `title`; exact without a budget."""
        raise NotImplementedError

    def to_html(self) -> str:
        """One self-contained piece of HTML that starts itself; text from outside is escaped."""
        return self.around(self.data(self.BUDGET))

    def around(self, data: Mapping[str, Any]) -> str:
        """That piece of HTML, for these data."""
        name = f"ll-{secrets.token_hex(6)}"
        waiting = f"“{data['title']}” is shown here in a browser that runs JavaScript."
        # "<" could end the element or open a comment in it, whatever quotes it stands in
        payload = _json({"data": data, "state": self.state}).replace("<", "\\u003c")
        arguments = ", ".join(json.dumps(a) for a in (*_packed_script(*self.MORE), self.ENTRY))
        starter = _source("page.js").rstrip()
        call = f'({starter})(document.getElementById("{name}"), {arguments});'
        return (
            f'<div class="lesionlab-{self.NAME}" id="{name}">'
            f"<p>{escape(waiting)}</p>"
            f'<script type="application/json">{payload}</script>'
            f'<script type="module">{call}</script></div>'
        )

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


LADDER = ((1, _encoding.TOP_LEVEL), (2, 100), (8, 100), (16, 15), (32, 15))
"""Multiples to which HU are rounded, and levels of maps: the first pair that is small enough."""


def _source(name: str) -> str:
    return files("lesionlab.explorer").joinpath(name).read_text(encoding="utf-8")


@cache
def script(*more: str) -> str:
    """The viewer's JavaScript, an ES module without imports, and what files `more` build on it.

    A module has one default export, what anywidget asks for: that of the last file stays.
    """
    *first, last = map(_source, (*PARTS, *more))
    own = [re.sub(r"(?m)^export default .*;$", "", text) for text in first]
    return "\n".join([*own, last])


@cache
def _packed_script(*more: str) -> tuple[str, str]:
    """The script, deflated and in base64, and a name that changes with it."""
    packed = _encoding.pack(script(*more).encode())
    return packed, f"lesionlab-{zlib.crc32(packed.encode()):08x}"


def fitted(scenes: Sequence[Scene], budget: float) -> list[dict[str, Any]]:
    """Scenes as JSON-ready values, as exact as so many bytes for all of them together allow."""
    for step, levels in LADDER:
        made = [
            _once(_alike, scene) | _once(_maps, scene, levels) | _once(_hu, scene, step)
            for scene in scenes
        ]
        if budget == inf or len(_json(made).encode()) <= budget:
            break
    return made


def _once(pack: Callable[..., dict[str, Any]], scene: Scene, *quality: int) -> dict[str, Any]:
    """A part of a panel, which `volume_data.js` reads; packed once, and kept with the scene."""
    if (key := (pack, *quality)) not in scene.packed:
        scene.packed[key] = pack(scene, *quality)
    return scene.packed[key]  # type: ignore[no-any-return]


def _hu(scene: Scene, step: int) -> dict[str, Any]:
    rounded = f"to keep the page small, HU are rounded to multiples of {step}"
    values = _encoding.whole_numbers(np.rint(scene.hu / step))
    notes = [*scene.notes, *([rounded] if step > 1 else [])]
    return {"hu": {"step": step, "values": values}, "notes": notes}


def _maps(scene: Scene, levels: int) -> dict[str, Any]:
    maps = [
        {
            "method": method,
            "head": head,
            "about": attributes.title(head),
            "peak": _scene.peak(values),
            "limits": _scene.limits(values),
            "flat": len(values) != len(scene.hu),  # the same on all slices
        }
        | _encoding.graded(values, levels=levels)
        for (method, head), values in scene.maps.items()
    ]
    return {"maps": maps}


def _alike(scene: Scene) -> dict[str, Any]:
    """What is the same at every quality."""
    low, high = float(scene.hu.min()), float(scene.hu.max())
    presets = PRESETS | {"full": ((low + high) / 2, max(high - low, 1.0))}
    as_is = ("title", "stride", "spacing", "frame", "votes", "ratings", "home")
    return {name: getattr(scene, name) for name in as_is} | {
        "tier": {"name": scene.tier, "text": scene.tier_text},
        "shape": scene.hu.shape,
        "z": scene.z_mm.tolist(),
        "corner": scene.corner_mm,
        "missing": None if scene.missing is None else _encoding.bits(scene.missing),
        "readers": len(scene.masks),
        "masks": _encoding.bits(scene.masks) if len(scene.masks) else None,
        "weights": None if scene.weights is None else scene.weights.tolist(),
        "presets": [[name, *window] for name, window in presets.items()],
        "first": scene.first_slice,
        "output": _scene.output_word(head for _, head in scene.maps),
    }


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
