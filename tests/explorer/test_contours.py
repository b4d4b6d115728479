"""The contour scroller: what it puts into the page is what was drawn, and nothing gets executed."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from lesionlab.explorer.contours import ContourScroll
from lesionlab.sources import lidc
from lesionlab.sources.lidc import Contour


def square(reading: int, z: int, *, inside: bool = True) -> Contour:
    points = np.array([[10, 20], [10, 24], [14, 24], [14, 20]])
    return Contour(reading_id=reading, slice_index=z, z=float(z), inside=inside, points=points)


def data(scroll: ContourScroll) -> dict[str, Any]:
    (text,) = re.findall(r"\), (\{.*\})\);</script>", scroll.to_html(), re.DOTALL)
    return json.loads(text)  # type: ignore[no-any-return]


def test_the_page_holds_every_outline_of_the_database() -> None:
    contours = lidc.contours("LIDC-IDRI-0078-S0001-N02")
    found = data(ContourScroll(contours, pixel_spacing=0.65, title="a nodule"))
    assert [s["z"] for s in found["slices"]] == sorted({c.z for c in contours})
    assert sum(len(s["outlines"]) for s in found["slices"]) == len(contours)
    assert len(found["colours"]) == 4


def test_paths_are_x_y_in_mm_slices_ascend_and_holes_are_marked() -> None:
    contours = [square(1, 5), square(2, 3), square(1, 3, inside=False)]
    found = data(ContourScroll(contours, pixel_spacing=0.5, title="t"))
    low, high = found["slices"]
    assert (low["z"], high["z"]) == (3, 5)
    assert [(o["reader"], o["hole"]) for o in low["outlines"]] == [(1, False), (0, True)]
    assert high["outlines"][0]["path"] == "M10.00 5.00L12.00 5.00L12.00 7.00L10.00 7.00Z"
    x, y, width, height = found["view"]
    assert x < 10 < 12 < x + width
    assert y < 5 < 7 < y + height
    assert found["bar"] == {"length": 1, "label": "1 mm"}


def test_text_is_never_markup_nothing_is_fetched_and_a_picture_stands_in() -> None:
    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            seen.append(tag)

    seen: list[str] = []
    title = "</script><script>alert(1)</script><img src=x onerror=alert(1)> \"' &"
    contours = [square(reader, 3) for reader in range(10)]  # more readers than colours
    shown = ContourScroll(contours, pixel_spacing=1, title=title)._repr_mimebundle_()
    Tags().feed(shown["text/html"])
    assert seen.count("script") == 1
    assert "img" not in seen
    urls = set(re.findall(r"https?://[^\"' ]+", shown["text/html"]))
    assert urls == {"http://www.w3.org/2000/svg"}  # the name of a language, not an address
    assert shown["image/png"].startswith(b"\x89PNG")
    assert shown["text/plain"].endswith("10 readers)")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="contours is empty"):
        ContourScroll([], pixel_spacing=1, title="t")
    with pytest.raises(ValueError, match="pixel_spacing=0"):
        ContourScroll([square(1, 3)], pixel_spacing=0, title="t")
