"""An attribute's scale in Chromium, without a kernel and with the network cut off."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from lesionlab import atlas, explorer
from lesionlab.crops import Crop

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SAID = {"a": [1, 1, 1, 1], "b": [1, 2, 5, 5], "c": [2, 2, 2, 3], "d": [5, 5, 5, 5]}
SCALE = "document.querySelector('.lesionlab-scale > div').scale"


@pytest.fixture(scope="module")
def crops(noise: Any) -> dict[str, Crop]:
    return {i: noise(i, n_readers=4) for i in SAID}


@pytest.fixture(scope="module")
def scales(crops: Any) -> list[str]:
    rows = [(i, v) for i, values in SAID.items() for v in values]
    made = []
    for name in ("margin", "texture"):
        given = pd.DataFrame(rows, columns=["lesion_id", name])
        examples, coverage = atlas.examples(given, name), atlas.coverage(given, name)
        made.append(explorer.atlas(name, examples, coverage, crops).to_html())
    return made


@pytest.fixture
def page(show: Any, scales: list[str]) -> Any:
    with show(*scales) as opened:
        yield opened


def totals(page: Any) -> list[int]:
    """The sum of HU of each volume that is unpacked, told from the others by that."""
    return page.evaluate(  # type: ignore[no-any-return]
        f"{SCALE}.viewer ? {SCALE}.viewer.ready.then(() => {SCALE}.viewer.volumes"
        ".map(v => v.hu.reduce((a, b) => a + b, 0))) : []"
    )


def test_each_step_shows_its_examples(page: Any, crops: Any) -> None:
    group = page.get_by_role("group", name="Margin")
    expected = {"1 Poorly defined": "ab", "2 Near poorly defined": "cb", "3 Medium": "c",
                "4 Near sharp": "", "5 Sharp": "db"}  # fmt: skip
    for words, ids in expected.items():
        group.get_by_role("radio", name=words).check()
        assert totals(page) == [crops[i].hu.sum(dtype=int) for i in ids], words
        titles = page.locator(".lesionlab-scale").first.locator(".panel .title:visible")
        assert [t[-1] for t in titles.all_inner_texts()] == list(ids)
    group.get_by_role("radio", name="4 Near sharp").check()
    assert page.get_by_text("Nobody gave this step.").is_visible()
    assert page.get_by_text("reader 1: 1 Non-solid (ground glass) · reader 2").first.is_visible(), (
        "the other scale stands where it stood"
    )


def test_the_keyboard_goes_along_the_scale_and_keeps_the_focus(page: Any) -> None:
    page.keyboard.press("Tab")
    for step in (2, 3, 4, 5):
        page.keyboard.press("ArrowRight")
        assert page.evaluate(f"{SCALE}.model.get('step')") == step
    assert page.locator(".said").first.get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_is_wider_than_a_phone(
    theme: str, show: Any, scales: list[str], accessible: Any
) -> None:
    with show(*scales, theme=theme, width=390) as page:
        page.evaluate(f"{SCALE}.viewer.settled()")
        accessible(page, ".lesionlab-scale")
