"""The contour scroller: what it puts into the page is what was drawn, and nothing gets executed."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lesionlab.explorer.contours import ContourScroll
from lesionlab.sources import lidc
from lesionlab.sources.lidc import Contour

NAME = "LIDC-IDRI-0078-S0001-N02"


def square(reading: int, z: int, *, low: int = 10, inside: bool = True) -> Contour:
    points = np.array([[low, 20], [low, 24], [low + 4, 24], [low + 4, 20]])
    return Contour(reading_id=reading, slice_index=z, z=float(z), inside=inside, points=points)


def payload(scroll: ContourScroll) -> dict[str, object]:
    (text,) = re.findall(r"\), (\{.*\})\);</script>", scroll.to_html(), re.DOTALL)
    return json.loads(text)  # type: ignore[no-any-return]


def test_the_page_holds_every_outline_of_the_database() -> None:
    contours = lidc.contours(NAME)
    data = payload(ContourScroll(contours, pixel_spacing=0.65, title="a nodule"))
    slices = data["slices"]
    assert [s["z"] for s in slices] == sorted({c.z for c in contours})
    assert sum(len(s["outlines"]) for s in slices) == len(contours)
    assert len(data["colours"]) == 4


def test_paths_are_x_y_in_mm() -> None:
    data = ContourScroll([square(1, 3)], pixel_spacing=0.5, title="t").data()
    path = data["slices"][0]["outlines"][0]["path"]
    assert path == "M10.00 5.00L12.00 5.00L12.00 7.00L10.00 7.00Z"
    x, y, width, height = data["view"]
    assert x < 10
    assert x + width > 12
    assert y < 5
    assert y + height > 7
    assert data["bar"] == {"length": 1, "label": "1 mm"}


def test_slices_ascend_and_holes_are_marked() -> None:
    contours = [square(1, 5), square(2, 3), square(1, 3, inside=False)]
    slices = ContourScroll(contours, pixel_spacing=1, title="t").data()["slices"]
    assert [s["z"] for s in slices] == [3.0, 5.0]
    assert [(o["reader"], o["hole"]) for o in slices[0]["outlines"]] == [(1, False), (0, True)]


def test_text_from_outside_is_never_markup() -> None:
    title = "</script><script>alert(1)</script><img src=x onerror=alert(1)> \"' &"
    page = ContourScroll([square(1, 3)], pixel_spacing=1, title=title).to_html()

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.seen.append(tag)

    tags = Tags()
    tags.feed(page)
    assert tags.seen.count("script") == 1
    assert "img" not in tags.seen


def test_nothing_is_fetched_from_outside() -> None:
    page = ContourScroll([square(1, 3)], pixel_spacing=1, title="t").to_html()
    urls = set(re.findall(r"https?://[^\"' ]+", page))
    assert urls == {"http://www.w3.org/2000/svg"}  # the name of a language, not an address


def test_a_picture_stands_in_where_html_is_not_shown() -> None:
    bundle = ContourScroll([square(1, 3), square(2, 4)], pixel_spacing=1, title="t")
    shown = bundle._repr_mimebundle_()
    assert shown["image/png"].startswith(b"\x89PNG")
    assert shown["text/plain"] == "ContourScroll('t', 2 readers)"


def test_two_on_one_page_do_not_share_an_id() -> None:
    scroll = ContourScroll([square(1, 3)], pixel_spacing=1, title="t")
    ids = {re.search(r'id="([^"]+)"', scroll.to_html())[1] for _ in range(5)}  # type: ignore[index]
    assert len(ids) == 5


def test_more_readers_than_colours() -> None:
    contours = [square(r, 3) for r in range(10)]
    assert len(ContourScroll(contours, pixel_spacing=1, title="t").data()["colours"]) == 10


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="contours is empty"):
        ContourScroll([], pixel_spacing=1, title="t")
    with pytest.raises(ValueError, match="pixel_spacing=0"):
        ContourScroll([square(1, 3)], pixel_spacing=0, title="t")
