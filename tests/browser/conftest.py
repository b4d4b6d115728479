"""Chromium, and the built pages served on this machine."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

THEMES = {
    "light": "color-scheme: light",
    "dark": "color-scheme: dark; --pst-color-background: #14181e; --pst-color-text-base: #ced6dd; "
    "background: #14181e; color: #ced6dd",
}

READY = """[...document.querySelectorAll('main > [class^=lesionlab-]')].every(
    ({ firstChild: e }) => e.viewer || e.scale || e.game || e.audit || e.live)"""

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One Chromium for all tests; Playwright's own is not downloaded."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(
            "no Chromium: apt-get install chromium (Debian, Ubuntu) or brew install chromium"
        )
    # root, the user of most containers, has no sandbox to offer
    flags = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=flags)
        yield launched
        launched.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], str]]:
    """Serve a folder over http on this machine; gives its address."""
    servers = []

    @functools.cache
    def start(folder: Path) -> str:
        handler = functools.partial(_Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _listen(page: Any, base: str, *levels: str) -> list[str]:
    wrong: list[str] = []

    def decide(route: Any) -> None:
        if route.request.url.startswith((base, "data:", "blob:")):
            route.continue_()
        else:
            wrong.append(f"asks {route.request.url}")
            route.abort()

    page.context.route("**/*", decide)
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", *levels) else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", lambda r: wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    return wrong


@pytest.fixture(scope="session")
def listen() -> Callable[..., list[str]]:
    """Collect what goes wrong on a page, which may ask for nothing but what begins with `base`."""
    return _listen


@pytest.fixture(scope="session")
def show(
    browser: Any, serve: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., contextlib.AbstractContextManager[Any]]:
    """Open a page of outputs' HTML; nothing may go wrong on it, or be asked for elsewhere.

    `site` is a folder of live models, `expected` are parts of what may go wrong.
    """
    folder = tmp_path_factory.mktemp("pages")

    @contextlib.contextmanager
    def opened(
        *parts: str, theme: str = "light", width: int = 1100, script: str = "",
        served: bool = True, ready: bool = True, site: Path | None = None,
        expected: tuple[str, ...] = (), **options: Any,
    ) -> Iterator[Any]:  # fmt: skip
        file = folder / f"{secrets.token_hex(6)}.html"
        root = ""
        if site is not None:
            (folder / file.stem / "_static").mkdir(parents=True)
            (folder / file.stem / "_static" / "live").symlink_to(site)
            root = f'data-content_root="{file.stem}/"'
        file.write_text(
            f'<!doctype html><html lang="en" {root} style="{THEMES[theme]}"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width"><title>A page</title>'
            '<link rel="icon" href="data:,"><main><h1>A page</h1>'
            f"{'<p>between</p>'.join(parts)}<p>the end</p></main></html>",
            encoding="utf-8",
        )
        base = serve(folder) if served else folder.as_uri()
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.add_init_script(script)
        page = context.new_page()
        wrong = _listen(page, base)
        try:
            page.goto(f"{base}/{file.name}")
            if ready:
                page.wait_for_function(READY)
            yield page
            assert [one for one in wrong if not any(part in one for part in expected)] == []
        finally:
            context.close()

    return opened


@pytest.fixture(scope="session")
def accessible() -> Callable[[Any, str], None]:
    """Assert that axe finds nothing in an element, and that no page is wider than a phone."""
    package = pytest.importorskip("axe_playwright_python.sync_playwright")

    def check(page: Any, selector: str) -> None:
        found = package.Axe().run(page, selector).response["violations"]
        assert [(v["id"], [n["html"][:90] for n in v["nodes"]]) for v in found] == []
        assert page.evaluate("document.scrollingElement.scrollWidth") == 390

    return check
