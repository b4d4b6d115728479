"""The book builds without a warning from executed copies, and does not build from anything else."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from bs4 import BeautifulSoup

from lesionlab import __version__
from lesionlab._files import write_json
from lesionlab.chapters import notebooks

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "book" / "results"
CHAPTERS = notebooks.available(ROOT / "notebooks")


def parsed(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def alt_faults(page: BeautifulSoup) -> list[str]:
    """Images whose alternative text is missing or is what Sphinx falls back to."""
    images = ((image["src"], image.get("alt", "").strip()) for image in page("img"))
    return [url for url, alt in images if not alt or alt.startswith(("../_images", "_images"))]


def outside(page: BeautifulSoup) -> list[str]:
    """What a browser would fetch from elsewhere: links are for the reader to follow, not these."""
    loaded = page("link", rel=lambda kind: kind not in ("canonical", "author", "license"))
    loaded += page(["script", "img", "iframe", "source", "video"])
    urls = [tag.get("src", tag.get("href", "")) for tag in loaded]
    return [url for url in urls if re.match(r"(https?:)?//", url)]


# -- the book itself -------------------------------------------------------------------


@pytest.mark.slow
def test_the_book_builds_without_a_warning(built_book):
    assert built_book.status == 0, built_book.log
    assert (built_book.html / "book" / "intro.html").is_file()
    assert "WARNING" not in built_book.log


@pytest.mark.slow
def test_every_image_is_described_and_nothing_comes_from_elsewhere(built_book):
    for path in built_book.pages:
        page = parsed(path)
        assert alt_faults(page) == [], f"{path.name}: a cell needs an alt text (mystnb.image.alt)"
        assert outside(page) == [], path.name


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapters_page_shows_its_outputs(name, built_book, smoke):
    page = parsed(built_book.html / "notebooks" / f"{name}.html")
    executed = json.loads(smoke(name).path.read_text(encoding="utf-8"))
    shown = [o.get("data", {}) for cell in executed["cells"] for o in cell.get("outputs", ())]
    html = ["".join(data["text/html"]) for data in shown if "text/html" in data]
    # HTML comes first where an output has both
    images = sum("image/png" in data and "text/html" not in data for data in shown)
    assert images + len(html) > 0
    assert len(page("img")) == images + "".join(html).count("<img")
    assert len(page("table")) >= "".join(html).count("<table")


@pytest.mark.slow
def test_every_page_says_its_version(built_book):
    pages = [page for page in built_book.pages if parsed(page).select_one(".bd-article")]
    for path in pages:
        (said,) = parsed(path).select(".lesionlab-version")
        assert re.match(rf"lesionlab {__version__}.*, built on \d{{4}}-\d\d-\d\d$", said.text), path
    assert len(pages) > len(CHAPTERS)


@pytest.mark.slow
def test_linked_predictions_are_in_the_book(built_book):
    pages = {path: parsed(path).select(".lesionlab-downloads a") for path in built_book.pages}
    links = [path.parent / link["href"] for path, found in pages.items() for link in found]
    assert {link.name for link in links} >= {file.name for file in RESULTS.rglob("*.csv*")}
    assert all(link.is_file() for link in links)


def test_the_table_of_contents_names_all_chapters_and_prose():
    toc = (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8")
    entries = set(re.findall(r"(?m)^[ -]*(?:file|root): +(\S+) *$", toc))
    # only_build_toc_files would leave out the rest without a word
    pages = (*(ROOT / "book").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb"))
    assert {page.relative_to(ROOT).with_suffix("").as_posix() for page in pages} == entries


# -- a small book of everything that is hard to lay out --------------------------------


@pytest.mark.slow
def test_executed_outputs_are_in_the_page(hard_book):
    assert hard_book.status == 0, hard_book.log
    page = parsed(hard_book.html / "notebooks" / "hard.html")
    assert outside(page) == []
    assert alt_faults(page) == []
    assert [image["alt"] for image in page("img")] == ["The cubes rise."]
    assert "Cubes of the first numbers, row by row" in page.text
    assert "970299" in page.text, "99 cubed, the last number of the plain table"
    assert "24502500" in page.text, "the solution: (99 · 100 / 2)²"
    assert "x" * 400 in page.text
    assert page.text.count("shown without a kernel") == 2, "once in the code, once below it"


@pytest.mark.slow
def test_a_page_says_how_long_it_takes(hard_book):
    text = parsed(hard_book.html / "notebooks" / "hard.html").text
    assert re.search(r"About \d+ minutes to read, \d+ seconds to run", text)


@pytest.mark.slow
def test_the_download_is_the_stored_notebook(hard_book, hard_project):
    stored = hard_project.folder / "hard.ipynb"
    download = hard_book.html / "_sources" / "notebooks" / "hard.ipynb"
    assert download.read_bytes() == stored.read_bytes()
    page = parsed(hard_book.html / "notebooks" / "hard.html")
    assert any(link.get("href") == "../_sources/notebooks/hard.ipynb" for link in page("a"))


@pytest.mark.slow
def test_mathjax_is_in_the_book_and_small(hard_book):
    page = parsed(hard_book.html / "notebooks" / "hard.html")
    (source,) = (s["src"] for s in page("script") if "mathjax" in s.get("src", ""))
    assert (hard_book.html / "notebooks" / source).is_file()
    folder = hard_book.html / "_static" / "mathjax"
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 3_000_000


# -- the extension, without Sphinx -----------------------------------------------------


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    return importlib.import_module("executed")


@pytest.fixture
def swap(extension: ModuleType, project: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Read one source: gives what Sphinx would parse, the warnings, and the dependencies."""
    warnings: list[str] = []
    logger = SimpleNamespace(warning=lambda text, *a, **_: warnings.append(text % a))
    monkeypatch.setattr(extension, "logger", logger)
    monkeypatch.setattr(notebooks, "library_sha256", lambda: "1")
    monkeypatch.delenv("LESIONLAB_EXECUTED", raising=False)
    monkeypatch.delenv("LESIONLAB_BOOK_SET", raising=False)

    def read(path: Path) -> tuple[str, list[str], list[str]]:
        warnings.clear()
        depends: list[str] = []
        env = SimpleNamespace(doc2path=lambda name: str(path), note_dependency=depends.append)
        source = ["stored"]
        extension.swap(SimpleNamespace(env=env, srcdir=str(project.root)), "page", source)
        return source[0], list(warnings), depends

    return read


def fake_copy(path: Path, folder: Path, **changes: str) -> Path:
    copy = folder / path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
    facts: dict[str, Any] = {"notebook": path.stem, "set": "book", "parameters": {}}
    facts |= {"data": [], "results": {}, **notebooks.checksums(path), **changes}
    write_json(copy.with_suffix(".json"), facts)
    return copy


def test_only_a_copy_that_is_valid_takes_the_notebooks_place_and_shows_solutions(
    project, swap, tmp_path, monkeypatch
):
    path = project.write("one", "%%solution\n1 + 1")
    copy = fake_copy(path, tmp_path / "elsewhere")
    assert "it has not been executed" in swap(path)[1][0]
    monkeypatch.setenv("LESIONLAB_EXECUTED", str(copy.parent))
    source, warnings, depends = swap(path)
    assert (warnings, depends) == ([], [str(copy)])
    # without the line that only the notebook needs
    assert json.loads(source)["cells"][-1]["source"] == ["1 + 1"]
    assert swap(path.with_suffix(".md")) == ("stored", [], [])
    fake_copy(path, copy.parent, set="smoke")
    assert "the set smoke" in swap(path)[1][0]
    monkeypatch.setenv("LESIONLAB_BOOK_SET", "smoke")
    assert swap(path)[1] == []
    fake_copy(path, copy.parent, library_sha256="2")
    assert "the library changed" in swap(path)[1][0]


@pytest.mark.parametrize("url", ["", "https://example.org/lesionlab"])
def test_buttons_lead_to_a_repository_that_there_is(extension, url):
    config = SimpleNamespace(html_theme_options={"repository_url": url}, myst_substitutions={})
    extension.show_repository(None, config)
    buttons = {name for name, value in config.html_theme_options.items() if value is True}
    services = set(config.html_theme_options["launch_buttons"]) - {"notebook_interface"}
    assert bool(buttons) is bool(services) is bool(url)
    assert ("git clone" in config.myst_substitutions["get_it"]) is bool(url)


# -- the reference ---------------------------------------------------------------------


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    return importlib.import_module("api")


def test_the_reference_has_every_public_module(api):
    asked = [
        module
        for page in (ROOT / "book" / "api").glob("*.md")
        for package in api.ASKED.findall(page.read_text(encoding="utf-8"))
        for module in api.modules(package)
    ]
    assert len(asked) == len(set(asked))
    assert set(asked) | {"lesionlab"} == set(api.modules("lesionlab"))


def test_a_docstring_becomes_restructuredtext(api):
    lines = ["A `size`³ of *all*, by `a_b_`.", "", "    run(x_)", "", "Args:", "    x_: `y`."]
    api.as_rst(None, "function", "f", None, {}, lines)
    assert lines == [
        r"A \ ``size``\ ³ of \*all\*, by \ ``a_b_``\ .", "", "::", "", "    run(x_)", "",
        "Args:", r"    x\_: \ ``y``\ .",
    ]  # fmt: skip


def test_names_in_code_lead_to_their_entries(api, tmp_path):
    cells = [
        "%matplotlib inline\nfrom lesionlab.training import studies as s",
        "import numpy as np",
    ]
    cells += ["from lesionlab.tables import show"]
    made = [{"cell_type": "code", "source": source} for source in cells]
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": made}), encoding="utf-8")
    objects = api.imported(tmp_path / "one.ipynb")
    assert sorted(objects) == ["s", "show"]

    def spans(text: str) -> str:
        return re.sub(r"\w+", r'<span class="n">\g<0></span>', text).replace(
            ".", '<span class="o">.</span>'
        )

    def page(text: str) -> str:
        found = api.linked(spans(text), objects, lambda name: f"#{name}")
        return re.sub("</?span[^>]*>", "", found)

    to = '<a class="api" href="#lesionlab.{}">{}</a>'.format
    assert page("s.Plan.run") == to("training.studies.Plan", "s.Plan") + ".run"
    assert page("show x.show") == to("tables.show", "show") + " x.show"
    assert page("np.sum s other") == "np.sum s other"
    assert api.linked(spans("show"), objects, lambda name: None) == spans("show")
    equals = spans("show") + '<span class="o">=</span>'
    assert api.linked(equals, objects, lambda name: "#") == equals


@pytest.mark.slow
def test_the_reference_shows_names_with_their_docstrings(built_book):
    page = parsed(built_book.html / "book" / "api" / "papers.html")
    (head,) = page.select('[id="lesionlab.papers.li2021.model.SoftAttention"]')
    assert "A mask over places from a deeper layer" in head.find_next("dd").text
    chapter = parsed(built_book.html / "notebooks" / "wang2021.html")
    links = {link.text: link["href"] for link in chapter.select(".cell_input a.api")}
    entry = "../book/api/papers.html#lesionlab.papers.wang2021.model.dice_loss"
    assert links["wang2021.dice_loss"] == entry
