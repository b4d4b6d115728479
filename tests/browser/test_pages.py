"""Every page in Chromium: no error, no request to elsewhere, nothing wider than the screen."""

from __future__ import annotations

import contextlib
import dataclasses
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


@dataclasses.dataclass
class Visit:
    page: Any
    errors: list[str]
    elsewhere: list[str]


@contextlib.contextmanager
def visit(
    browser: Any, address: str, path: str, until: str = "load", **options: Any
) -> Iterator[Visit]:
    """Open a page with every request to elsewhere refused and noted."""
    context = browser.new_context(**options)
    seen = Visit(context.new_page(), [], [])

    def decide(route: Any) -> None:
        if route.request.url.startswith((f"{address}/", "data:", "blob:")):
            route.continue_()
        else:
            seen.elsewhere.append(route.request.url)
            route.abort()

    context.route("**/*", decide)
    seen.page.on(
        "console", lambda m: seen.errors.append(m.text) if m.type in ("error", "warning") else None
    )
    seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
    seen.page.on(
        "response",
        lambda r: seen.errors.append(f"{r.status} {r.url}") if r.status >= 400 else None,
    )
    try:
        seen.page.goto(f"{address}/{path}", wait_until=until)
        yield seen
    finally:
        context.close()


def size(width: int) -> dict[str, Any]:
    return {"viewport": {"width": width, "height": 900}}


def wait_for_mathjax(page: Any) -> None:
    if page.locator("script[src*=mathjax]").count():
        page.wait_for_function("window.MathJax?.startup?.promise")
        page.evaluate("MathJax.startup.promise.then(() => null)")


def faults(browser: Any, address: str, path: str) -> list[str]:
    """What is wrong with one page, on a phone and on a desk."""
    with visit(browser, address, path, "networkidle", **size(PHONE)) as seen:
        wait_for_mathjax(seen.page)
        found = [f"console: {text}" for text in seen.errors]
        found += [f"asks {url}" for url in seen.elsewhere]
        for width in (PHONE, DESK):
            seen.page.set_viewport_size({"width": width, "height": 900})
            # the theme's menu slides in and out of sight
            seen.page.evaluate(
                "Promise.allSettled(document.getAnimations().map(a => a.finished)).then(() => null)"
            )
            if seen.page.evaluate("document.scrollingElement.scrollWidth > innerWidth"):
                found.append(f"{width}: the page scrolls sideways")
            found += [f"{width}: too wide: {html}" for html in seen.page.evaluate(TOO_WIDE)]
            found += [f"{width}: cut off: {html}" for html in seen.page.evaluate(CUT_OFF)]
        return found


@pytest.mark.parametrize("book", ["built_book", "hard_book"])
def test_no_page_has_faults(
    book: str, browser: Any, serve: Callable[[Path], str], request: pytest.FixtureRequest
) -> None:
    built = request.getfixturevalue(book)
    assert built.pages
    address = serve(built.html)
    names = [page.relative_to(built.html).as_posix() for page in built.pages]
    assert {name: wrong for name in names if (wrong := faults(browser, address, name))} == {}


BAD_PAGE = """<!doctype html><title>bad</title><link rel="icon" href="data:,">
<script>undefinedFunction()</script>
<script src="https://cdn.example.org/x.js"></script><img src="missing.png" alt="">
<article><div style="overflow: hidden"><table><tr><td>{wide}</td></tr></table></div>
<div style="overflow: auto"><table><tr><td>{wide}</td></tr></table></div>
<canvas width=3000></canvas></article>"""


def test_faults_are_found(browser: Any, serve: Callable[[Path], str], tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(BAD_PAGE.format(wide="x" * 2000), encoding="utf-8")
    found = faults(browser, serve(tmp_path), "bad.html")
    text = "\n".join(found)
    assert "console: undefinedFunction is not defined" in text
    assert "404" in text
    assert "asks https://cdn.example.org/x.js" in found
    for width in (PHONE, DESK):
        assert f"{width}: the page scrolls sideways" in found
        assert f"{width}: too wide: <canvas" in text
        # one of the two scrolls
        assert text.count(f"{width}: cut off: <table>") == 1


# -- the page of everything that is hard to lay out ------------------------------------

HARD = "notebooks/hard.html"


@pytest.fixture
def hard(browser: Any, serve: Callable[[Path], str], hard_book: Any) -> Callable[..., Any]:
    """Open the page at one width."""
    return lambda width, **options: visit(
        browser, serve(hard_book.html), HARD, **size(width), **options
    )


def test_formulas_are_set_without_the_network(hard: Any) -> None:
    with hard(DESK) as seen:
        wait_for_mathjax(seen.page)
        assert seen.page.locator("mjx-container").count() == 2
        assert seen.page.locator("mjx-merror").count() == 0
        assert seen.page.evaluate(
            "document.fonts.ready.then(() => [...document.fonts]"
            ".some(f => f.family.startsWith('MJX') && f.status === 'loaded'))"
        )
        assert seen.elsewhere == []


CONTRAST = """element => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let box = element;
  while (rgb(getComputedStyle(box).backgroundColor)[3] === 0) box = box.parentElement;
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(box).backgroundColor]
    .map(text => light(rgb(text))).sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tables_and_figures_can_be_read_in_both_modes(scheme: str, hard: Any) -> None:
    with hard(DESK, color_scheme=scheme) as seen:
        assert seen.page.evaluate("document.documentElement.dataset.theme") == scheme
        for selector in ("caption", ".cell_output td", ".cell_output th", "table.table td"):
            for element in (seen.page.locator(selector).first, seen.page.locator(selector).last):
                # WCAG 2.2, 1.4.3: 4.5 for text
                assert element.evaluate(CONTRAST) >= 4.5, selector
        figure = seen.page.locator(".cell_output img")  # keeps its grey values
        assert figure.evaluate("e => getComputedStyle(e).filter") == "none"
        ground = figure.evaluate("e => getComputedStyle(e).backgroundColor")
        assert ground == ("rgb(255, 255, 255)" if scheme == "dark" else "rgba(0, 0, 0, 0)")


def test_a_solution_opens(hard: Any) -> None:
    with hard(DESK) as seen:
        output = seen.page.locator(".cell.tag_solution .output")
        assert not output.is_visible()
        seen.page.locator(".cell.tag_solution summary").click()
        assert output.is_visible()
        assert "24502500" in output.inner_text()


def test_search_finds_a_word_without_the_network(
    browser: Any, serve: Callable[[Path], str], hard_book: Any
) -> None:
    with visit(browser, serve(hard_book.html), "search.html?q=Add", **size(DESK)) as seen:
        link = seen.page.locator("#search-results a").first
        link.wait_for()
        assert "hard.html" in link.get_attribute("href")
        assert (seen.errors, seen.elsewhere) == ([], [])
