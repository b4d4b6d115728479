"""Links to the page of names say on the spot what a name means.

A link such as ``[AUC](../book/notation.md#auc)`` gets the first paragraph of that entry as its
title, and the class ``term``. ``_static/terms.js`` shows it under the mouse, with the keyboard's
focus, and at the first tap. Without JavaScript it is the browser's own tooltip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PAGE = "book/notation"


def explain(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put what a name means on each link to it."""
    if PAGE not in app.env.found_docs or docname == PAGE:
        return
    names = meanings(app.env.get_doctree(PAGE))
    for link in doctree.findall(nodes.reference):
        page, _, name = link.get("refuri", "").partition("#")
        if page.endswith("notation.html") and name in names:
            link["reftitle"] = names[name]
            link["classes"].append("term")


def meanings(page: nodes.document) -> dict[str, str]:
    """The first paragraph of each section, by the section's ids."""
    found = {}
    for section in page.findall(nodes.section):
        first = next((part for part in section.children if isinstance(part, nodes.paragraph)), None)
        if first is not None:
            text = " ".join(first.astext().split())
            found |= dict.fromkeys([*section["ids"], section.get("slug", "")], text)
    return found


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", explain)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
