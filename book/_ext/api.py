"""Reference pages from docstrings, by Sphinx's own autodoc and napoleon.

A page of `book/api` names packages; what is public in them follows, module by module. Docstrings
are in Google's style with Markdown's backticks: Sphinx is given reStructuredText. In the chapters'
code, names that were imported from the library are links to their entries.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable
from functools import reduce
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ASKED = re.compile(r"```\{api\} (\S+)\n```")
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
LITERAL = re.compile(r"(`[^`\n]+`)")


def modules(package: str) -> list[str]:
    """A package and all that is public in it, by name."""
    paths = getattr(importlib.import_module(package), "__path__", ())
    found = [package, *(m.name for m in pkgutil.walk_packages(paths, f"{package}."))]
    return sorted(name for name in found if not re.search(r"\._", name))


def expand(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the modules of a package where a page asks for them."""

    def block(match: re.Match[str]) -> str:
        parts = (f".. rubric:: {n}\n\n.. automodule:: {n}\n" for n in modules(match[1]))
        return "```{eval-rst}\n" + "\n".join(parts) + "```"

    source[0] = ASKED.sub(block, source[0])


def as_rst(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText, before napoleon reads its sections."""
    found: list[str] = []
    section = literal = False
    for line in lines:
        indented = line.startswith("    ")
        if line and not indented:
            section, literal = bool(SECTION.match(line)), False
        elif indented and not section and not literal and not (found and found[-1]):
            literal = True
            if not "".join(found[-2:]).endswith("::"):
                found += ["::", ""]
        found.append(line if literal else escaped(line))
    lines[:] = found


def escaped(line: str) -> str:
    """A line with literals in two backticks, and without other marks."""
    parts = LITERAL.split(line)
    # reStructuredText wants a space, if one that is not seen, where a word goes on: `size`³
    parts[1::2] = [f"\\ `{part}`\\ " for part in parts[1::2]]
    parts[::2] = [re.sub(r"([*|\\]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


# -- names in the chapters' code --------------------------------------------------------

NAME = r'<span class="n">(\w+)</span>'
DOT = r'<span class="o">\.</span>'
# not an attribute of something else, nor the name of an argument
CHAIN = re.compile(rf'(?<!{DOT}){NAME}(?:{DOT}{NAME})*(?!<span class="o">=<)')


def link_names(app: Sphinx, page: str, template: str, context: Any, doctree: Any) -> None:
    """Make the library's names in a chapter's code links to their entries."""
    source = Path(app.env.doc2path(page)) if doctree is not None else Path()
    if source.suffix == ".ipynb":
        entries = app.env.get_domain("py").objects

        def address(name: str) -> str | None:
            if (entry := entries.get(name)) is None:
                return None
            return f"{app.builder.get_relative_uri(page, entry.docname)}#{entry.node_id}"

        context["body"] = linked(context["body"], imported(source), address)


def imported(notebook: Path) -> dict[str, Any]:
    """What a notebook imports from the library: the object by its name there."""
    found: dict[str, Any] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        lines = "".join(cell["source"]).splitlines()
        if cell["cell_type"] == "code":
            code = "\n".join(line for line in lines if not line.startswith("%"))
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lesionlab"):
                    package = importlib.import_module(str(node.module))
                    for alias in node.names:
                        if not hasattr(package, alias.name):  # a module that nobody imported yet
                            importlib.import_module(f"{node.module}.{alias.name}")
                        found[alias.asname or alias.name] = getattr(package, alias.name)
    return found


def linked(html: str, objects: dict[str, Any], address: Callable[[str], str | None]) -> str:
    """A page with links from chains such as `studies.Plan` to what they name."""

    def link(match: re.Match[str]) -> str:
        parts = re.findall(NAME, match[0])
        if parts[0] not in objects:
            return match[0]
        for n in range(len(parts), 0, -1):
            named = reduce(lambda of, name: getattr(of, name, None), parts[1:n], objects[parts[0]])
            known = inspect.isroutine(named) or inspect.isclass(named)
            to = address(f"{named.__module__}.{named.__qualname__}") if known else None
            if to is not None:
                end = [found.end() for found in re.finditer(NAME, match[0])][n - 1]
                return f'<a class="api" href="{escape(to)}">{match[0][:end]}</a>{match[0][end:]}'
        return match[0]

    return CHAIN.sub(link, html)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("source-read", expand)
    app.connect("autodoc-process-docstring", as_rst, priority=100)
    app.connect("html-page-context", link_names)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
