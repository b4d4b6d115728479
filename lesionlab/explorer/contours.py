"""The readers' outlines of one nodule, slice by slice, to scroll through.

The same HTML works in JupyterLab and in the published page: an SVG and a slider, some 10 KB, no
kernel and no network. Where HTML is not shown (GitHub, PDF) a picture of all slices stands in.
"""

from __future__ import annotations

import html
import io
import json
import secrets
from importlib.resources import files
from itertools import groupby
from typing import Any

import numpy as np

from lesionlab.colours import reader_colours
from lesionlab.explorer import _html
from lesionlab.sources.lidc import Contour

_STYLE = """
.ll-contours{max-width:26rem;font-size:.85rem}
.ll-contours svg{display:block;width:100%;height:auto;border:1px solid #8888;touch-action:pan-y}
.ll-contours label{margin-right:.9em;white-space:nowrap}
.ll-contours input[type=range]{width:100%;margin:.4em 0}
.ll-contours i{display:inline-block;width:1.1em;height:.25em;vertical-align:middle;margin:0 .3em}
.ll-contours output{display:block;font-variant-numeric:tabular-nums}
"""


class ContourScroll(_html.Page):
    """Scroll through one nodule's outlines; show it as the last value of a cell.

    Args:
        contours: As `lesionlab.sources.lidc.contours` gives them; at least one.
        pixel_spacing: In-plane distance between pixels, mm.
        title: What is shown, for people and screen readers.
    """

    def __init__(self, contours: list[Contour], *, pixel_spacing: float, title: str) -> None:
        if not contours:
            raise ValueError("contours is empty: expected at least one outline")
        if not pixel_spacing > 0:
            raise ValueError(f"pixel_spacing={pixel_spacing!r}: expected mm, above 0")
        self.contours = contours
        self.pixel_spacing = pixel_spacing
        self.title = title
        self.readers = list(dict.fromkeys(c.reading_id for c in contours))

    def slices(self) -> list[dict[str, Any]]:
        """By ascending z, JSON-ready: `z`, and the `outlines` as SVG paths in mm."""
        made = []
        ordered = sorted(self.contours, key=lambda c: c.slice_index)
        for _, of_slice in groupby(ordered, key=lambda c: c.slice_index):
            contours = list(of_slice)
            outlines = [
                {
                    "reader": self.readers.index(c.reading_id),
                    "hole": not c.inside,
                    "path": _path(c.points * self.pixel_spacing),
                }
                for c in contours
            ]
            made.append({"z": round(contours[0].z, 2), "outlines": outlines})
        return made

    def to_html(self) -> str:
        """One self-contained piece of HTML; `self.title` is escaped."""
        points = np.vstack([c.points for c in self.contours]) * self.pixel_spacing
        low, high = points.min(axis=0), points.max(axis=0)
        side = float((high - low).max()) * 1.25 + 2 * self.pixel_spacing
        y, x = ((low + high - side) / 2).tolist()
        view = [round(v, 2) for v in (x, y, side, side)]
        length = next(step for step in (20, 10, 5, 2, 1) if step <= side / 3 or step == 1)
        slices, colours = self.slices(), reader_colours(len(self.readers))
        boxes = "".join(
            f'<label><input type="checkbox" checked><i style="background:{colour}"></i>'
            f"reader {number}</label>"
            for number, colour in enumerate(colours, start=1)
        )
        data = {"title": self.title, "view": view, "colours": colours, "slices": slices,
                "bar": {"length": length, "label": f"{length} mm"}}  # fmt: skip
        script = files("lesionlab.explorer").joinpath("contours.js").read_text(encoding="utf-8")
        # "</" would end the script element, whatever quotes it stands in
        payload = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")
        element, last = f"ll-{secrets.token_hex(4)}", len(slices) - 1
        return (
            f'<div class="ll-contours" id="{element}"><style>{_STYLE}</style>'
            f'<svg role="img" viewBox="{" ".join(map(str, view))}"></svg>'
            f'<input type="range" min="0" max="{last}" value="{last // 2}" '
            f'aria-label="Slice of {html.escape(self.title)}"><output></output>'
            f'<div role="group" aria-label="Readers shown">{boxes}</div>'
            f"<script>({script.rstrip()})"
            f"(document.getElementById('{element}'), {payload});</script></div>"
        )

    def to_png(self) -> bytes:
        """All slices side by side."""
        from lesionlab.figures import readers

        figure = readers.contour_sheet(self.contours, pixel_spacing=self.pixel_spacing)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=80)
        return stream.getvalue()

    def __repr__(self) -> str:
        return f"ContourScroll({self.title!r}, {len(self.readers)} readers)"


def _path(points: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for y, x in points) + "Z"
