"""Every page in Chromium: no error, no request to elsewhere, nothing wider than the screen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PHONE, DESK = 390, 1280

# what sticks out of the screen without a box of its own to scroll in
TOO_WIDE = """() => {
  const inside = e => {
    const edge = e.getBoundingClientRect();
    return edge.left >= -1 && edge.right <= innerWidth + 1;
  };
  const boxed = e => {
    for (let box = e; box && box !== document.body; box = box.parentElement)
      if (getComputedStyle(box).overflowX !== 'visible' && inside(box)) return true;
    return false;
  };
  // in the article: the theme keeps its menus beside a narrow screen until they are called
  return [...document.querySelectorAll('article *')]
    .filter(e => e.getClientRects().length && !inside(e) && !boxed(e))
    .map(e => e.outerHTML.slice(0, 120));
}"""

AT_REST = "Promise.allSettled(document.getAnimations().map(a => a.finished)).then(() => null)"

# tables that are cut off where nobody can scroll to the rest
CUT_OFF = """() => [...document.querySelectorAll('article table')].filter(table => {
  if (!table.getClientRects().length) return false;
  const right = table.getBoundingClientRect().right;
  for (let box = table.parentElement; box; box = box.parentElement) {
    const kind = getComputedStyle(box).overflowX;
    if (['auto', 'scroll'].includes(kind) && table.scrollWidth > box.clientWidth + 1) return false;
    if (kind === 'hidden' && right > box.getBoundingClientRect().right + 1) return true;
  }
  return right > innerWidth + 1;
}).map(table => table.outerHTML.slice(0, 120))"""


@pytest.fixture
def visit(browser: Any, listen: Any) -> Callable[..., contextlib.AbstractContextManager[Any]]:
    """Open a page of the book: `with visit(address, path) as page`, with what is `page.wrong`."""

    @contextlib.contextmanager
    def opened(address: str, path: str, until: str = "load", **options: Any) -> Iterator[Any]:
        context = browser.new_context(**options)
        page = context.new_page()
        page.wrong = listen(page, f"{address}/", "warning")
        try:
            page.goto(f"{address}/{path}", wait_until=until)
            yield page
        finally:
            context.close()

    return opened


def size(width: int) -> dict[str, Any]:
    return {"viewport": {"width": width, "height": 900}}


def wait_for_mathjax(page: Any) -> None:
    if page.locator("script[src*=mathjax]").count():
        page.wait_for_function("window.MathJax?.startup?.promise")
        page.evaluate("MathJax.startup.promise.then(() => null)")


@pytest.fixture
def faults(visit: Any) -> Callable[[str, str], list[str]]:
    """What is wrong with one page, on a phone and on a desk."""

    def find(address: str, path: str) -> list[str]:
        with visit(address, path, "networkidle", **size(PHONE)) as page:
            wait_for_mathjax(page)
            found = list(page.wrong)
            for width in (PHONE, DESK):
                page.set_viewport_size({"width": width, "height": 900})
                # the theme's menu slides in and out of sight
                page.evaluate(AT_REST)
                if page.evaluate("document.scrollingElement.scrollWidth > innerWidth"):
                    found.append(f"{width}: the page scrolls sideways")
                found += [f"{width}: too wide: {html}" for html in page.evaluate(TOO_WIDE)]
                found += [f"{width}: cut off: {html}" for html in page.evaluate(CUT_OFF)]
            return found

    return find


@pytest.mark.parametrize("book", ["built_book", "hard_book"])
def test_no_page_has_faults(book, faults, serve, request):
    built = request.getfixturevalue(book)
    assert built.pages
    address = serve(built.html)
    names = [page.relative_to(built.html).as_posix() for page in built.pages]
    assert {name: wrong for name in names if (wrong := faults(address, name))} == {}


BAD_PAGE = """<!doctype html><title>bad</title><link rel="icon" href="data:,">
<script>undefinedFunction()</script>
<script src="https://cdn.example.org/x.js"></script><img src="missing.png" alt="">
<article><div style="overflow: hidden"><table><tr><td>{wide}</td></tr></table></div>
<canvas width=3000></canvas></article>"""


def test_faults_are_found(faults, serve, tmp_path):
    (tmp_path / "bad.html").write_text(BAD_PAGE.format(wide="x" * 2000), encoding="utf-8")
    found = "\n".join(faults(serve(tmp_path), "bad.html"))
    for fault in ("undefinedFunction is not defined", "404", "asks https://cdn.example.org/x.js",
                  "390: the page scrolls sideways", "390: too wide: <canvas",
                  "1280: cut off: <table>"):  # fmt: skip
        assert fault in found


# -- the page of everything that is hard to lay out ------------------------------------


@pytest.fixture
def hard(visit: Any, serve: Callable[[Path], str], hard_book: Any) -> Callable[..., Any]:
    """Open the page on a desk."""
    return lambda **options: visit(
        serve(hard_book.html), "notebooks/hard.html", **size(DESK), **options
    )


def test_formulas_are_set_without_the_network(hard):
    with hard() as page:
        wait_for_mathjax(page)
        assert page.locator("mjx-container").count() == 2
        assert page.locator("mjx-merror").count() == 0
        assert page.evaluate(
            "document.fonts.ready.then(() => [...document.fonts]"
            ".some(f => f.family.startsWith('MJX') && f.status === 'loaded'))"
        )
        assert page.wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tables_and_figures_can_be_read_in_both_modes(scheme, hard):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with hard(color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        for selector in (".cell_output table", "table.table"):
            # WCAG 2.2, 1.4.3: 4.5 for text
            found = axe.run(page, selector, {"runOnly": ["color-contrast"]}).response
            assert (found["violations"], len(found["passes"])) == ([], 1), selector
        figure = page.locator(".cell_output img")  # keeps its grey values
        assert figure.evaluate("e => getComputedStyle(e).filter") == "none"
        ground = figure.evaluate("e => getComputedStyle(e).backgroundColor")
        assert ground == ("rgb(255, 255, 255)" if scheme == "dark" else "rgba(0, 0, 0, 0)")


MEANING = "What two masks have in common."


def test_a_name_is_explained_by_mouse_and_keyboard(hard):
    with hard() as page:
        (link,), box = page.locator("a.term").all(), page.locator("#term-box")
        assert (link.inner_text(), box.is_visible()) == ("Dice coefficient", False)
        link.hover()
        assert box.inner_text() == MEANING
        page.mouse.move(0, 0)
        assert not box.is_visible()
        page.evaluate("document.querySelector('a.term').focus({focusVisible: true})")
        assert box.inner_text() == MEANING
        assert link.get_attribute("aria-describedby") == box.get_attribute("id")
        page.keyboard.press("Escape")
        assert not box.is_visible()
        page.keyboard.press("Enter")
        page.wait_for_url("**/notation.html#dice")
        assert page.wrong == []


def test_a_name_is_explained_at_the_first_tap(visit, serve, hard_book):
    how = {"viewport": {"width": PHONE, "height": 900}, "has_touch": True}
    with visit(serve(hard_book.html), "notebooks/hard.html", **how) as page:
        link, box = page.locator("a.term"), page.locator("#term-box")
        link.tap()
        assert box.inner_text() == MEANING
        edges = box.evaluate(
            "e => [e.getBoundingClientRect().left, e.getBoundingClientRect().right]"
        )
        assert edges[0] >= 0
        assert edges[1] <= PHONE
        page.locator("article h1").tap()
        assert not box.is_visible()
        link.tap()
        link.tap()
        page.wait_for_url("**/notation.html#dice")


def test_a_solution_opens(hard):
    with hard() as page:
        output = page.locator(".cell.tag_solution .output")
        assert not output.is_visible()
        page.locator(".cell.tag_solution summary").click()
        assert output.is_visible()
        assert "24502500" in output.inner_text()


def test_search_finds_a_word_without_the_network(visit, serve, hard_book):
    with visit(serve(hard_book.html), "search.html?q=Add", **size(DESK)) as page:
        link = page.locator("#search-results a").first
        link.wait_for()
        assert "hard.html" in link.get_attribute("href")
        assert page.wrong == []
