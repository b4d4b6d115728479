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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.util import logging

from lesionlab.chapters import SOLUTION
from lesionlab.chapters.notebooks import checksums, outdated, recorded

if TYPE_CHECKING:
    from sphinx.application import Sphinx

logger = logging.getLogger(__name__)


def swap(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the executed copy in place of a notebook's source."""
    notebook = Path(app.env.doc2path(docname))
    if notebook.suffix != ".ipynb":
        return
    folder = Path(os.environ.get("LESIONLAB_EXECUTED") or Path(app.srcdir, "_build", "executed"))
    copy = folder / notebook.name
    # even if it is not there yet: when it comes, the page is read again
    app.env.note_dependency(str(copy))
    reason = outdated(copy, checksums(notebook))
    if copy.exists():
        # the first line of a solution means nothing to somebody who copies it from the page
        first_line = json.dumps(f"{SOLUTION}\n") + ","
        source[0] = copy.read_text(encoding="utf-8").replace(first_line, "")
        chosen = recorded(copy).get("set")
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


MATHJAX = "tex-chtml-full.js"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.config.mathjax_path = f"mathjax/{MATHJAX}"
    app.connect("source-read", swap, priority=100)
    app.connect("config-inited", silence_thebe)
    app.connect("config-inited", show_repository)
    app.connect("build-finished", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
