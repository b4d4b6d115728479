"""Scales and the game in Chromium, without a kernel and with the network cut off."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lesionlab import atlas, explorer
from lesionlab.crops import Crop
from lesionlab.explorer import game as games

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NAMES = ["calcification", "margin", "texture", "malignancy"]
NASTY = "</script><img src=x onerror='window.hit = 1'>"
IDS = ["LIDC-IDRI-0001-S0001-N01", "LIDC-IDRI-0002-S0001-N01", "LIDC-IDRI-0003-S0001-N01", NASTY]


def readings() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = []
    for lesion_id, n in zip([*IDS, "elsewhere"], (4, 3, 1, 2, 4), strict=True):
        rows += [(lesion_id, *rng.integers(1, 6, 4)) for _ in range(n)]
    made = pd.DataFrame(rows, columns=["lesion_id", *NAMES])
    made[NAMES] = made[NAMES].astype(float)
    made.loc[1, "texture"] = np.nan
    return made


@pytest.fixture(scope="module")
def crops(noise: Any) -> list[Crop]:
    return [noise(lesion_id) for lesion_id in IDS]


@pytest.fixture(scope="module")
def html(crops: list[Crop]) -> str:
    options: Any = {"attributes": NAMES, "references": {"a paper": {"margin": 0.5}}}
    return str(explorer.be_the_reader(crops, readings(), **options).to_html())


@pytest.fixture
def page(show: Any, html: str) -> Any:
    with show(html) as opened:
        yield opened


GAME = "document.querySelector('.lesionlab-game > div').game"


def reload(page: Any) -> None:
    page.reload()
    page.wait_for_function("document.querySelector('.lesionlab-game > div')?.game")


def get(page: Any, key: str) -> Any:
    return page.evaluate(f"key => {GAME}.model.get(key)", key)


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def choose(page: Any, attribute: str, option: str) -> None:
    page.get_by_role("group", name=attribute).get_by_role("radio", name=option).check()


def same_as_python(page: Any, answers: Any) -> pd.DataFrame:
    """What the browser counts is what Python counts; gives Python's table."""
    table = games.score(answers, readings())
    rows = [r for r in page.evaluate(f"{GAME}.score()") if r["pairs"]]
    assert [r["attribute"]["name"] for r in rows] == [n for n in NAMES if n in table.index]
    for row in rows:
        mine = table.loc[row["attribute"]["name"]]
        assert (row["nodules"], row["pairs"]) == (mine["n_nodules"], mine["n_pairs"])
        assert row["attribute"]["constant"] == mine["answer"]
        for key in ("you", "readers", "constant"):
            shown = math.nan if row[key] is None else row[key]
            assert shown == pytest.approx(mine[key], abs=1e-12, nan_ok=True), key
    return table


# -- playing ---------------------------------------------------------------------------


def test_three_nodules_are_played_and_counted_as_python_does(page):
    given = readings()
    press(page, "Start")
    choose(page, "Margin", "4 Near sharp")
    choose(page, "Texture", "1 Non-solid (ground glass)")
    assert page.get_by_text("Readers:").count() == 0, "not before the answers stand"
    press(page, "Compare with the readers")
    said = [int(v) for v in given["margin"][:4]]
    shown = page.get_by_role("group", name="Margin").get_by_text("Readers:").inner_text()
    assert [int(w) for w in shown.replace("Readers: ", "").split() if w.isdigit()] == said
    assert f"(mean {np.mean(said):.2f})" in shown
    assert page.get_by_role("radio", name="4 Near sharp").is_disabled()
    # one of the four readers gave no texture
    texture = page.get_by_role("group", name="Texture").get_by_text("Readers:").inner_text()
    assert len(texture.split(", ")) == 3
    press(page, "Next nodule")

    press(page, "Skip this nodule")
    choose(page, "Malignancy", "5 Highly suspicious")
    choose(page, "Margin", "2 Near poorly defined")
    choose(page, "Margin", "no answer")
    press(page, "Compare with the readers")
    press(page, "Next nodule")
    choose(page, "Margin", "1 Poorly defined")
    choose(page, "Malignancy", "3 Indeterminate")
    assert page.get_by_text("3 of 4 nodules rated").is_visible()
    press(page, "Stop and see the result")

    answers = {
        IDS[0]: {"margin": 4, "texture": 1},
        IDS[2]: {"malignancy": 5},
        NASTY: {"margin": 1, "malignancy": 3},
    }
    assert get(page, "answers") == answers
    table = same_as_python(page, answers)
    lines = page.get_by_role("region", name="Your result, a table").locator("tbody tr")
    cells = [lines.nth(i).locator("th, td").all_inner_texts() for i in range(lines.count())]
    assert [row[0] for row in cells] == ["Margin", "Texture", "Malignancy", "mean"]
    everybody = games.pairwise_difference(readings(), NAMES)["value"]
    for row, name in zip(cells, ["margin", "texture", "malignancy"], strict=False):
        mine = table.loc[name]
        assert row[1:7] == [
            str(int(mine["n_nodules"])), f"{mine['you']:.2f}", f"{mine['readers']:.2f}",
            f"{mine['constant']:.2f}",
            str(int(mine["answer"])), f"{everybody[name]:.2f}",
        ]  # fmt: skip
    assert [row[7] for row in cells[:3]] == ["0.50", "–", "–"]
    headline = page.get_by_text("You differ from a reader by").inner_text()
    assert f"by {table['you'].mean():.2f} steps" in headline
    assert headline.endswith(f"same nodules by {table['readers'].mean():.2f}")
    page.get_by_text("Nodule by nodule").click()
    assert page.get_by_role("row", name=f"4 · {NASTY} Margin 1").count() == 1
    assert page.evaluate("window.hit") is None


def test_readers_wait_till_the_end_for_those_who_wish(page):
    page.get_by_role("radio", name="at the end").check()
    page.get_by_role("checkbox", name="Malignancy").uncheck()
    press(page, "Start")
    assert page.get_by_role("group", name="Malignancy").count() == 0
    choose(page, "Margin", "3 Medium")
    press(page, "Next nodule")
    assert page.get_by_text("Nodule 2 of 4").first.is_visible()
    press(page, "Back")
    assert page.get_by_role("radio", name="3 Medium").is_checked()
    choose(page, "Margin", "5 Sharp")
    assert get(page, "answers") == {IDS[0]: {"margin": 5}}
    assert page.get_by_text("Readers:").count() == 0


def test_each_nodule_is_shown_and_the_window_stays(page, crops):
    press(page, "Start")
    for crop in crops[:2]:
        hu = f"{GAME}.viewer.volumes[0].hu"
        total = page.evaluate(f"{GAME}.viewer.ready.then(() => {hu}.reduce((a, b) => a + b, 0))")
        assert total == crop.hu.sum(dtype=int)
        page.evaluate(f"{GAME}.viewer.model.set('window_width', 300)")
        press(page, "Skip this nodule")
    assert page.evaluate(f"{GAME}.viewer.model.get('window_width')") == 300
    assert page.locator("canvas.axial").count() == 2, "one viewer, whose second panel is hidden"
    assert page.get_by_text(IDS[2]).count() == 0, "a name could be looked up"


def test_outlines_come_with_the_readers_answers(show, html):
    with show(html, width=390, has_touch=True) as page:
        press(page, "Start")
        drawn = f"{GAME}.viewer.model.get('show_contours')"
        assert page.evaluate(drawn) is False
        page.get_by_role("button", name="Outlines", exact=True).tap()
        assert page.evaluate(drawn) is True
        choose(page, "Margin", "4 Near sharp")
        press(page, "Compare with the readers")
        assert page.evaluate(drawn) is True
        press(page, "Next nodule")
        assert page.evaluate(drawn) is False
        # controls that a phone has no room for
        window = page.get_by_label("Centre (HU)")
        assert not window.is_visible()
        page.get_by_role("button", name="More", exact=True).tap()
        assert window.is_visible()


MANY = [f"nodule {k}" for k in range(8)]


def many() -> pd.DataFrame:
    """Eight nodules with four readers, some of whom left something out."""
    rng = np.random.default_rng(4)
    made = pd.DataFrame(rng.integers(1, 6, (32, 4)).astype(float), columns=NAMES)
    made.loc[[3, 9, 10], "texture"] = np.nan
    return made.assign(lesion_id=np.repeat(MANY, 4))


def band(names: dict[str, list[str]], games: int = 4000) -> list[float]:
    """5 % and 95 % of what one drawn reader of each nodule gets against its others."""
    rng, means = np.random.default_rng(0), []
    said = {i: rows[NAMES].to_numpy() for i, rows in many().groupby("lesion_id")}
    for _ in range(games):
        off: dict[str, list[float]] = {}
        for lesion_id, rated in names.items():
            player = int(rng.integers(4))
            for name in rated:
                values = said[lesion_id][:, NAMES.index(name)]
                apart = np.abs(np.delete(values, player) - values[player])
                off.setdefault(name, []).extend(apart[np.isfinite(apart)])
        means.append(np.mean([np.mean(values) for values in off.values() if values]))
    return np.quantile(means, [0.05, 0.95]).tolist()  # type: ignore[no-any-return]


def test_the_band_of_radiologists_is_told_with_the_result(show, crops):
    rated = {i: ["margin", "texture"][: 1 + k % 2] for k, i in enumerate(MANY)}
    expected = pytest.approx(band(rated), abs=0.05)
    # nobody is nearer to all readers than their median, or farther than an end
    median = many().groupby("lesion_id").quantile(interpolation="lower").astype(int)
    near = {i: {n: int(median.loc[i, n]) for n in names} for i, names in rated.items()}
    far = {i: {n: 1 + 4 * (code < 3) for n, code in own.items()} for i, own in near.items()}
    more = [replace(crops[0], lesion_id=i) for i in MANY]
    with show(explorer.be_the_reader(more, many(), attributes=NAMES).to_html()) as page:
        for answers, words in ((near, "You are below that"), (far, "You are above that")):
            page.evaluate(f"a => {GAME}.model.set('answers', a)", answers)
            assert page.evaluate(f"{GAME}.band()") == expected
            page.evaluate(f"{GAME}.model.set('phase', 'result')")
            assert words in page.get_by_text("Radiologists differ, too.").inner_text()
            page.evaluate(f"{GAME}.model.set('phase', 'rate')")
        few = {i: {"margin": 3} for i in MANY[:4]}
        page.evaluate(f"a => {GAME}.model.set('answers', a)", few)
        assert page.evaluate(f"{GAME}.band()") is None, "of so few there is none"
        page.evaluate(f"{GAME}.model.set('phase', 'result')")
        page.get_by_text("You differ from a reader by").wait_for()
        assert page.get_by_text("Radiologists differ").count() == 0


def test_a_reload_loses_nothing_and_starting_again_loses_all(page):
    press(page, "Start")
    choose(page, "Margin", "4 Near sharp")
    press(page, "Compare with the readers")
    press(page, "Next nodule")
    reload(page)
    assert page.get_by_text("Nodule 2 of 4").first.is_visible()
    assert get(page, "answers") == {IDS[0]: {"margin": 4}}
    assert get(page, "seen") == [IDS[0]]
    press(page, "Stop and see the result")
    press(page, "Start again")
    assert get(page, "answers") == {}
    reload(page)
    assert get(page, "phase") == "start"


# -- keyboard, screen readers, themes, phones -------------------------------------------


def test_everything_works_with_the_keyboard(page):
    focus = (
        "(() => { let e = document.activeElement;"
        "while (e.shadowRoot?.activeElement) e = e.shadowRoot.activeElement; "
        "return e.textContent.trim() || e.closest('label')?.textContent.trim(); })()"
    )

    def tab_to(text: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(focus) == text:
                return
        raise AssertionError(f"no way to {text!r}")

    tab_to("Margin")
    page.keyboard.press("Space")
    page.keyboard.press("Space")
    assert "margin" in get(page, "chosen")
    tab_to("Start")
    page.keyboard.press("Enter")
    assert page.evaluate(focus) == "Nodule 1 of 4", "the heading has the focus"
    tab_to("no answer")
    page.keyboard.press("ArrowUp")
    assert get(page, "answers") == {IDS[0]: {"margin": 5}}
    page.keyboard.press("ArrowUp")
    assert get(page, "answers") == {IDS[0]: {"margin": 4}}
    assert page.evaluate(focus) == "4 Near sharp", "nothing takes the focus away"
    tab_to("Compare with the readers")
    page.keyboard.press("Enter")
    assert page.get_by_text("Readers:").count() == 3
    tab_to("Stop and see the result")
    page.keyboard.press("Enter")
    assert page.evaluate(focus).startswith("You differ from a reader by")


def test_from_disk_without_storage_it_is_played_all_the_same(show, html):
    script = "Object.defineProperty(window, 'sessionStorage', { get() { throw new Error('no'); } })"
    with show(html, served=False, script=script) as page:
        press(page, "Start")
        choose(page, "Margin", "4 Near sharp")
        press(page, "Stop and see the result")
        same_as_python(page, {IDS[0]: {"margin": 4}})
    with show(html, served=False, ready=False, java_script_enabled=False) as page:
        assert page.get_by_text("is shown here in a browser that runs JavaScript").is_visible()
        assert page.get_by_text("the end").is_visible()


# -- scales ------------------------------------------------------------------------------

SAID = {"a": [1, 1, 1, 1], "b": [1, 2, 5, 5], "c": [2, 2, 2, 3], "d": [5, 5, 5, 5]}
SCALE = "document.querySelector('.lesionlab-scale > div').scale"


@pytest.fixture(scope="module")
def scales(noise: Any) -> list[str]:
    rows = [(i, v) for i, values in SAID.items() for v in values]
    made = []
    for name in ("margin", "texture"):
        given = pd.DataFrame(rows, columns=["lesion_id", name])
        examples, coverage = atlas.examples(given, name), atlas.coverage(given, name)
        made.append(explorer.atlas(name, examples, coverage, {i: noise(i) for i in SAID}).to_html())
    return made


# the sum of HU of each volume that is unpacked, told from the others by that
TOTALS = (
    f"{SCALE}.viewer ? {SCALE}.viewer.ready.then(() => {SCALE}.viewer.volumes"
    ".map(v => v.hu.reduce((a, b) => a + b, 0))) : []"
)


def test_each_step_shows_its_examples_and_the_keyboard_goes_along_the_scale(show, scales, noise):
    expected = {"1 Poorly defined": "ab", "2 Near poorly defined": "cb", "3 Medium": "c",
                "4 Near sharp": "", "5 Sharp": "db"}  # fmt: skip
    with show(*scales) as page:
        page.keyboard.press("Tab")
        for step in (2, 3, 4, 5):
            page.keyboard.press("ArrowRight")
            assert page.evaluate(f"{SCALE}.model.get('step')") == step
        assert page.locator(".said").first.get_attribute("aria-live") == "polite"
        group = page.get_by_role("group", name="Margin")
        for words, ids in expected.items():
            group.get_by_role("radio", name=words).check()
            assert page.evaluate(TOTALS) == [noise(i).hu.sum(dtype=int) for i in ids], words
            titles = page.locator(".lesionlab-scale").first.locator(".panel .title:visible")
            assert [t[-1] for t in titles.all_inner_texts()] == list(ids)
        group.get_by_role("radio", name="4 Near sharp").check()
        assert page.get_by_text("Nobody gave this step.").is_visible()
        other = page.get_by_text("reader 1: 1 Non-solid (ground glass) · reader 2").first
        assert other.is_visible(), "the other scale stands where it stood"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_is_wider_than_a_phone(theme, show, html, scales, accessible):
    with show(html, theme=theme, width=390) as page:
        assert page.evaluate("[document.activeElement.tagName, scrollY]") == ["BODY", 0]
        accessible(page, ".lesionlab-game")
        press(page, "Start")
        page.evaluate(f"{GAME}.viewer.settled()")
        choose(page, "Margin", "4 Near sharp")
        for button in ("Compare with the readers", "Stop and see the result"):
            accessible(page, ".lesionlab-game")
            press(page, button)
        page.get_by_text("Nodule by nodule").click()
        accessible(page, ".lesionlab-game")
        table = page.get_by_role("region", name="Your result, a table")
        assert table.evaluate("e => e.scrollWidth > e.clientWidth"), "it scrolls in its own box"
    with show(*scales, theme=theme, width=390) as page:
        page.evaluate(f"{SCALE}.viewer.settled()")
        accessible(page, ".lesionlab-scale")
