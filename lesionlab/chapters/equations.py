r"""The equations of a paper beside the lines of source that compute them.

    equations({1: r"p_i = W_1 …", 2: r"\alpha_i = …"}, fu2021.SliceAttention)

The lines are those whose comment names the equation (`# eq. 1`), read from the source when the cell
runs. So a chapter cannot show a line that is not there. An equation that the paper does not number
is named after what it defines and its section: `# eq. x_m of 5.2.1`.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.display import HTML

_NAMED = re.compile(r"\beq\. (\d+(?:–\d+)?(?:,? (?:and )?\d+(?:–\d+)?)*)")
_WITHOUT_NUMBER = re.compile(r"\beq\. (\S+ of \d+(?:\.\d+)*)")
# a wide page has both beside each other, a phone one below the other
_STYLE = """<style>
.lesionlab-equations { display: grid; gap: 0.3rem 1rem; align-items: center;
  grid-template-columns: 1.3fr 1fr; }
@media (max-width: 700px) { .lesionlab-equations { grid-template-columns: 1fr; } }
.lesionlab-equations > div { overflow-x: auto; min-width: 0; }
.lesionlab-equations mjx-container { font-size: 90% !important; }
.lesionlab-equations pre { margin: 0; padding: 0.4rem; font-size: 80%;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.lesionlab-equations small { opacity: 0.75; }
</style>"""


def equations(formulas: Mapping[int | str, str], *sources: Any) -> HTML:
    """Show each equation as mathematics, and beside it the statements that name it.

    Args:
        formulas: By the number in the paper, or by the name in the comment: the equation in LaTeX.
            One without a number has its section in place of it.
        sources: Modules, classes and functions whose source computes them.

    Raises:
        ValueError: No statement of the sources names an equation.
    """
    from IPython.display import HTML
    from pygments import highlight  # type: ignore[import-untyped]
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
    from pygments.lexers import PythonLexer  # type: ignore[import-untyped]

    found: dict[int | str, list[tuple[str, str]]] = {}
    for source in sources:
        for number, lines in _statements(source):
            found.setdefault(number, []).append((_name(source), lines))
    pieces = []
    for number, formula in formulas.items():
        if number not in found:
            names = ", ".join(map(_name, sources))
            raise ValueError(f"no statement of {names} says in its comment that it is eq. {number}")
        code = "\n".join(lines for _, lines in found[number])
        where = ", ".join(dict.fromkeys(name for name, _ in found[number]))
        told = highlight(code, PythonLexer(), HtmlFormatter())  # the page has the colours
        tag = str(number).rpartition(" of ")[2]
        pieces.append(f"<div>\\[{escape(formula)} \\tag{{{tag}}}\\]</div>")
        pieces.append(f"<div><small>{escape(where)}</small>{told}</div>")
    whole = "".join(pieces)
    return HTML(  # type: ignore[no-untyped-call]
        f'{_STYLE}<div class="lesionlab-equations mathjax_process">{whole}</div>'
    )


def _name(source: Any) -> str:
    return str(getattr(source, "__qualname__", source.__name__))


def _statements(source: Any) -> list[tuple[int | str, str]]:
    """The equations that a class or function names, each with the statement it stands at."""
    text = textwrap.dedent(inspect.getsource(source))
    lines, found = text.splitlines(), []
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    for at, line in enumerate(lines, 1):
        if numbers := _named(line):
            inside = [s for s in statements if s.lineno <= at <= (s.end_lineno or s.lineno)]
            if not inside:  # a comment on a line of its own belongs to what follows it
                continue
            one = min(inside, key=lambda s: (s.end_lineno or s.lineno) - s.lineno)
            shown = textwrap.dedent("\n".join(lines[one.lineno - 1 : one.end_lineno]))
            found += [(number, shown) for number in numbers]
    return found


def _named(line: str) -> list[int | str]:
    """The equations that the comment of a line names: `# eq. 5–7, 12` names 5, 6, 7 and 12."""
    comment = line.partition("#")[2]
    every: list[int | str] = [*_WITHOUT_NUMBER.findall(comment)]
    for named in _NAMED.findall(comment):
        for first, last in re.findall(r"(\d+)(?:–(\d+))?", named):
            every += range(int(first), int(last or first) + 1)
    return every
