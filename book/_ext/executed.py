"""Build the book from executed notebooks, and without the network.

Notebooks are stored without outputs. When Sphinx reads one, the copy that
``lesionlab notebooks run`` left in ``_build/executed`` takes its place, and a
copy that is missing, stale or of the set `smoke` is a warning, which
``-W`` makes an error. The download button still gives the stored notebook.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from datetime import date
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from lesionlab.chapters import SOLUTION
from lesionlab.chapters.notebooks import checksums, outdated, recorded
from lesionlab.chapters.verdicts import claims, verdicts
from lesionlab.results import provenance

if TYPE_CHECKING:
    from sphinx.application import Sphinx

logger = logging.getLogger(__name__)


def swap(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the executed copy in place of a notebook's source."""
    notebook = Path(app.env.doc2path(docname))
    if notebook.suffix != ".ipynb":
        return
    copy = executed(app.srcdir) / notebook.name
    # even if it is not there yet: when it comes, the page is read again
    app.env.note_dependency(str(copy))
    reason, told = outdated(copy, checksums(notebook)), recorded(copy)
    if copy.exists():
        # the first line of a solution means nothing to somebody who copies it from the page
        first_line = json.dumps(f"{SOLUTION}\n") + ","
        page = json.loads(copy.read_text(encoding="utf-8").replace(first_line, ""))
        tell_times(page["cells"], told.get("seconds"))
        source[0] = json.dumps(page, ensure_ascii=False)
        chosen = told.get("set")
        if reason is None and chosen == "smoke" != os.environ.get("LESIONLAB_BOOK_SET"):
            reason = "it was executed with the set smoke, which is for tests"
    if reason:
        logger.warning(
            "executed copy of %s: %s; run `lesionlab notebooks run %s`",
            notebook.name,
            reason,
            notebook.stem,
            location=docname,
            type="executed",
        )


def tell_times(cells: list[dict[str, Any]], seconds: float | None) -> None:
    """Say below the title how long a page takes to read, and took to run."""
    prose = [cell for cell in cells if cell["cell_type"] == "markdown"]
    if not prose:
        return
    texts = ["".join(cell["source"]) for cell in prose]
    minutes = max(1, round(len(" ".join(texts).split()) / WORDS_A_MINUTE))
    run = (
        ""
        if seconds is None
        else f", {max(1, round(seconds))} seconds to run where this page was made"
    )
    title, _, rest = texts[0].partition("\n")
    prose[0]["source"] = f"{title}\n\n*About {minutes} minutes to read{run}.*\n{rest}"


WORDS_A_MINUTE = 150  # of English with numbers in it


def executed(srcdir: str | Path) -> Path:
    """The folder of executed copies."""
    return Path(os.environ.get("LESIONLAB_EXECUTED") or Path(srcdir, "_build", "executed"))


class Verdicts(SphinxDirective):
    """The table of all claims, from what the executed chapters recorded."""

    def run(self) -> list[nodes.Node]:
        """One table; each claim that a chapter settles is a link to the cell."""
        found: dict[str, Any] = {}
        for copy in sorted(executed(self.env.srcdir).glob("*.ipynb")):
            self.env.note_dependency(str(copy))
            found |= recorded(copy).get("results", {})
        table = verdicts(found)
        cells = ["".join(f"<th>{head}</th>" for head in ("Paper", *map(str.capitalize, table)))]
        for name, row in table.iterrows():
            paper = str(name).partition(".")[0]
            page = f"../notebooks/{paper}.html#{claims()[str(name)].anchor}"
            told = [escape(str(value)) for value in row]
            if f"claim.{name}" in found:
                told[1] = f'<a href="{page}">{told[1]}</a>'
            told.insert(0, f"{paper[:-4].capitalize()} {paper[-4:]}")
            cells.append("".join(f"<td>{text}</td>" for text in told))
        rows = "".join(f"<tr>{row}</tr>" for row in cells)
        whole = f'<table class="docutils align-default lesionlab-verdicts">{rows}</table>'
        return [
            nodes.raw(
                "", f'<div class="pst-scrollable-table-container">{whole}</div>', format="html"
            )
        ]


def silence_thebe(app: Sphinx, config: Any) -> None:
    """Unhook sphinx-thebe, which jupyter-book always loads.

    It declares its constants twice, an error on every page, and serves live code
    from elsewhere, which this book does not have.
    """
    for event, listeners in app.events.listeners.items():
        if event != "builder-inited":  # there it only adds its style sheet
            listeners[:] = [x for x in listeners if "sphinx_thebe" not in x.handler.__module__]


def show_repository(app: Sphinx, config: Any) -> None:
    """Show buttons that need the repository's address only where _config.yml names it."""
    options = config.html_theme_options
    url = options.get("repository_url") or ""
    for button in ("use_repository_button", "use_issues_button", "use_source_button"):
        options[button] = bool(url)
    binder, colab = "https://mybinder.org", "https://colab.research.google.com"
    services = {"binderhub_url": binder, "colab_url": colab} if url else {}
    options["launch_buttons"] = {"notebook_interface": "jupyterlab", **services}
    clone = f"Get the repository with `git clone {url}`. In its folder:" if url else ""
    get_it = clone or "In the folder of the repository:"
    config.myst_substitutions = {**config.myst_substitutions, "get_it": get_it}


def show_version(app: Sphinx, config: Any) -> None:
    """Say below every page which version, which commit and which day it is of."""
    told = provenance(app.srcdir)
    commit = f", commit {told['commit'][:8]}" if told["commit"] else ""
    said = f"lesionlab {told['versions']['lesionlab']}{commit}, built on {date.today()}"
    config.html_theme_options["extra_footer"] = f'<p class="lesionlab-version">{said}</p>'


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Serve MathJax from the book: of the package's 24 MB, the file and the fonts that are used."""
    if error is None and app.builder.format == "html":
        package = importlib.util.find_spec("sphinx-mathjax-offline")
        if package is None or package.origin is None:
            raise RuntimeError(
                "the book needs sphinx-mathjax-offline: pip install 'lesionlab[book]'"
            )
        origin = Path(package.origin).parent / "static" / "mathjax"
        target = Path(app.outdir, "_static", "mathjax")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(origin / MATHJAX, target)
        fonts = Path("output", "chtml", "fonts", "woff-v2")
        shutil.copytree(origin / fonts, target / fonts, dirs_exist_ok=True)


def copy_predictions(app: Sphinx, error: Exception | None) -> None:
    """Put the kept predictions where the pages' links lead (`chapters.Chapter.downloads`)."""
    results = Path("book", "results")
    if error is None and app.builder.format == "html":
        for file in Path(app.srcdir, results).rglob("*.csv*"):
            target = Path(app.outdir, file.relative_to(app.srcdir))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


MATHJAX = "tex-chtml-full.js"


def wake_models(app: Sphinx, error: Exception | None) -> None:
    """Serve live models to pages that have some; where they cannot be made, these say why."""
    copies = executed(app.srcdir).glob("*.ipynb")
    if error or app.builder.format != "html":
        return
    if any("lesionlab-live" in copy.read_text(encoding="utf-8") for copy in copies):
        from lesionlab import live  # with torch

        site, cache = Path(app.outdir, "_static", "live"), Path(app.srcdir, "_build", "live")
        if reason := live.build(site, cache=cache):
            logger.info("the book has no live models: %s", reason)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.config.mathjax_path = f"mathjax/{MATHJAX}"
    app.add_directive("verdicts", Verdicts)
    app.connect("source-read", swap, priority=100)
    app.connect("config-inited", silence_thebe)
    app.connect("config-inited", show_repository)
    app.connect("config-inited", show_version)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", copy_predictions)
    app.connect("build-finished", wake_models)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
