"""Questions on a chapter whose answers say at once whether they are right, and why.

Radio buttons and a style sheet do it, so the same HTML works in JupyterLab, in a built page and in
a file on a disk, without a kernel and without a script.
"""

from __future__ import annotations

import tomllib
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from lesionlab import _names

if TYPE_CHECKING:
    from IPython.display import HTML

_ABOUT = """<strong>Questions.</strong> Choose an answer to see whether it is right, and why.
Nothing is sent or kept."""
# on paper nobody can choose, so that all reasons are printed
_STYLE = """<style>
.lesionlab-quiz { max-width: 46rem; }
.lesionlab-quiz p { margin: 0 0 0.5rem; }
.lesionlab-quiz fieldset { align-items: start; border: 1px solid rgba(128, 128, 128, 0.5);
  border-radius: 6px; display: grid; gap: 0.3rem 0.6rem; grid-template-columns: auto 1fr;
  margin: 0 0 0.8rem; min-width: 0; padding: 0.5rem 0.8rem; }
.lesionlab-quiz legend { float: left; font-size: inherit; font-weight: 600; grid-column: 1 / -1;
  margin: 0; padding: 0; width: auto; }
.lesionlab-quiz input { margin: 0.45em 0 0; }
.lesionlab-quiz label { cursor: pointer; margin: 0; }
.lesionlab-quiz div { grid-column: 2; }
@media screen { .lesionlab-quiz input:not(:checked) + label + div > p { display: none; } }
@media print { .lesionlab-quiz fieldset { break-inside: avoid; } }
</style>"""


def questions(name: str) -> list[dict[str, Any]]:
    """The questions on a chapter.

    Each has the words that `ask`, the `answers` as pairs of an answer and its reason, and the
    number of the `right` one, counted from 1.

    Raises:
        ValueError: There are no questions on this chapter.
    """
    folder = resources.files("lesionlab.chapters").joinpath("questions")
    there = sorted(file.name.removesuffix(".toml") for file in folder.iterdir())
    _names.known("chapter with questions", name, there)
    text = folder.joinpath(f"{name}.toml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = tomllib.loads(text)["question"]
    return found


def quiz(name: str) -> HTML:
    """The questions on a chapter as HTML: radio buttons, and below a chosen one its reason."""
    from IPython.display import HTML

    fields = "".join(_field(f"quiz-{name}-{i}", i, q) for i, q in enumerate(questions(name), 1))
    return HTML(  # type: ignore[no-untyped-call]
        f'{_STYLE}<section class="lesionlab-quiz" aria-label="Questions">'
        f"<p>{_ABOUT}</p>{fields}</section>"
    )


def _field(key: str, number: int, question: dict[str, Any]) -> str:
    answers = ""
    for i, (says, why) in enumerate(question["answers"], 1):
        word = "Right." if i == question["right"] else "Not quite."
        answers += (
            # with the attribute, JupyterLab leaves the arrow keys to the button that has the focus
            f'<input type="radio" name="{key}" id="{key}-{i}" data-lm-suppress-shortcuts="true">'
            f'<label for="{key}-{i}">{escape(says)}</label>'
            f'<div aria-live="polite"><p><strong>{word}</strong> {escape(why)}</p></div>'
        )
    return f"<fieldset><legend>{number}. {escape(question['ask'])}</legend>{answers}</fieldset>"
