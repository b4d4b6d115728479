"""Reference pages from docstrings, by Sphinx's own autodoc and napoleon.

A page of `book/api` names packages; what is public in them follows, module by module. Docstrings
are in Google's style with Markdown's backticks: Sphinx is given reStructuredText.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
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


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("source-read", expand)
    app.connect("autodoc-process-docstring", as_rst, priority=100)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
