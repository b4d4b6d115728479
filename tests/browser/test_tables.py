"""Wide tables: row names stay, more is hinted at, and paper holds all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lesionlab.tables import beside, choose, show

pytestmark = pytest.mark.browser

CSS = Path(__file__).parents[2] / "book" / "_static" / "lesionlab.css"
NAMES = ["subtlety", "internal_structure", "calcification", "sphericity", "margin", "mean"]
WIDE = beside(*[pd.DataFrame(0.123, index=["No Attention", "CAAM"], columns=NAMES)] * 2)

BOOK = """<html data-theme="light"><meta charset="utf-8"><style>
  :root {{ --pst-color-background: rgb(1, 2, 3) }} body {{ margin: 0; font: 16px sans-serif }}
  .text_html {{ overflow-x: auto; max-width: 100% }} {css}</style>
  <div class="bd-content"><div class="bd-article"><div class="cell_output">
  <div class="output text_html">{table}</div></div></div></div></html>"""
# as JupyterLab has it: none of our style sheet, but its own rules for tables
LAB = """<html><meta charset="utf-8"><style>
  :root {{ --jp-layout-color0: rgb(1, 2, 3) }} body {{ margin: 0; font: 13px sans-serif }}
  .lab {{ overflow: auto }}
  .lab table {{ border-collapse: collapse; table-layout: fixed; margin: 0 }}
  .lab :is(td, th, tr) {{ padding: 0.5em; white-space: normal; vertical-align: middle }}
  .lab tbody tr:nth-child(odd) {{ background: white }}</style>
  <div class="lab">{table}</div></html>"""


def rect(page: Any, selector: str) -> dict[str, float]:
    found: dict[str, float] = page.evaluate(
        f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()"
    )
    return found


@pytest.mark.parametrize("place", [BOOK, LAB], ids=["book", "lab"])
def test_row_names_stay_while_columns_scroll(browser: Any, place: str) -> None:
    table = show(WIDE, caption="A caption that is longer than the table is " * 5)
    page = browser.new_page(viewport={"width": 500, "height": 600})
    page.set_content(place.format(css=CSS.read_text("utf-8"), table=table._repr_html_()))
    before = [rect(page, s) for s in ("tbody th", "tbody td", "caption")]
    assert rect(page, "table")["width"] <= 500
    assert page.evaluate("document.documentElement.scrollWidth") <= 500
    page.evaluate("document.querySelector('table').scrollLeft = 200")
    after = [rect(page, s) for s in ("tbody th", "tbody td", "caption")]
    assert after[0]["left"] == before[0]["left"]
    assert after[1]["left"] == pytest.approx(before[1]["left"] - 200, abs=1)
    assert after[2]["left"] == before[2]["left"]
    # what scrolls passes beneath: the names have the page's own colour
    style = page.evaluate("getComputedStyle(document.querySelector('tbody th')).backgroundColor")
    assert style == "rgb(1, 2, 3)"
    # one line each: no word is broken
    assert before[0]["height"] < 40
    hint = page.evaluate("getComputedStyle(document.querySelector('table')).backgroundImage")
    assert hint.count("gradient") == 4
    page.close()


def test_paper_holds_all_columns(browser: Any) -> None:
    page = browser.new_page(viewport={"width": 680, "height": 900})  # 18 cm
    page.emulate_media(media="print")
    table = show(WIDE, caption="c")
    page.set_content(BOOK.format(css=CSS.read_text("utf-8"), table=table._repr_html_()))
    assert rect(page, "table")["width"] <= 680
    last = rect(page, "tbody tr:last-child td:last-child")
    assert last["right"] <= 681
    assert page.evaluate("getComputedStyle(document.querySelector('table')).display") == "table"
    page.close()


@pytest.mark.parametrize("place", [BOOK, LAB], ids=["book", "lab"])
def test_buttons_choose_the_rows_without_a_script(browser: Any, place: str) -> None:
    levels = {"rule": ["mean", "median"], "a 3 is": ["left out", "benign", "malignant"]}
    table = pd.DataFrame({"n": range(6)}, pd.MultiIndex.from_product(levels.values(), names=levels))
    context = browser.new_context(java_script_enabled=False, viewport={"width": 600, "height": 600})
    page = context.new_page()
    shown = choose(table, caption="Six rows.").data
    page.set_content(place.format(css=CSS.read_text("utf-8"), table=shown))
    rows = page.locator("tbody tr")

    def visible() -> list[str]:
        return [row.locator("td").inner_text() for row in rows.all() if row.is_visible()]

    assert visible() == ["0"]
    page.get_by_role("group", name="a 3 is").get_by_label("malignant").check()
    assert visible() == ["2"]
    page.get_by_role("group", name="rule").get_by_label("all").check()
    assert visible() == ["2", "5"]
    page.get_by_role("group", name="a 3 is").get_by_label("all").check()
    assert len(visible()) == 6
    page.get_by_role("group", name="rule").get_by_label("median").check()
    page.emulate_media(media="print")
    assert len(visible()) == 6, "paper has no buttons"
    context.close()
