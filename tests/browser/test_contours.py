"""The scroller through outlines in Chromium."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lesionlab.explorer.contours import ContourScroll
from lesionlab.sources.lidc import Contour

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_wheel_scrolls_the_page_until_the_picture_is_in_use(
    watch: Any, write_page: Callable[..., None], serve: Callable[[Path], str], tmp_path: Path
) -> None:
    square = np.array([[10, 20], [10, 24], [14, 24], [14, 20]])
    drawn = [Contour(1, z, float(z), True, square) for z in range(5)]
    scroll = ContourScroll(drawn, pixel_spacing=1, title="a nodule")
    write_page(tmp_path, "contours", *(scroll.to_html() for _ in range(4)))
    with watch(f"{serve(tmp_path)}/contours-light.html") as page:
        slider, picture = page.get_by_role("slider").first, page.locator("svg").first
        picture.hover()
        page.mouse.wheel(0, 100)
        page.wait_for_function("scrollY > 0")
        assert slider.input_value() == "2"
        picture.click()
        before = page.evaluate("scrollY")
        for way, expected in ((-100, "3"), (-100, "4"), (100, "3")):
            page.mouse.wheel(0, way)
            page.wait_for_function(
                "v => document.querySelector('input[type=range]').value === v", arg=expected
            )
        assert page.evaluate("scrollY") == before
