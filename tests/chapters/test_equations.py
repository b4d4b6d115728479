"""Equations beside the lines that compute them: which lines, and what is refused."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from lesionlab.chapters.equations import equations
from lesionlab.papers import fu2021

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def scaled(x: float) -> float:
    """Eq. 9 of nobody."""
    y = max(
        x,
        0,  # eq. 1
    )
    z = y + 1  # eq. z_m of 5.2
    return 2 * z  # mean of all, eq. 2–3, 5


def test_each_equation_stands_beside_the_statement_that_names_it() -> None:
    shown = str(equations({1: "y = x < 1", 3: "2y", 5: "z"}, scaled).data)
    assert r"\[y = x &lt; 1 \tag{1}\]" in shown
    first, third, fifth = shown.split(r"\tag")[1:]
    assert "max" in first
    assert "return" not in first
    assert all("return" in part and "max" not in part for part in (third, fifth))
    assert r"\tag{2}" not in shown


def test_an_equation_without_a_number_is_named_after_what_it_defines() -> None:
    shown = str(equations({"z_m of 5.2": "z_m", 5: "z"}, scaled).data)
    named, fifth = shown.split(r"\tag")[1:]
    assert named.startswith("{5.2}")
    assert "return" not in named
    assert "return" in fifth


def test_the_lines_are_those_of_the_model() -> None:
    shown = str(equations({2: r"\alpha_i"}, fu2021.model.SliceAttention).data)
    assert "segment_softmax" in shown
    assert "SliceAttention" in shown


def test_an_equation_that_nothing_computes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no statement of scaled says .* it is eq\. 9"):
        equations({9: "x"}, scaled)


METHODS = {
    "li2021": {"x̂ of 5.2.1", "x̂ of 5.2.2", "w_c of 6", "L_t of 6", "L of 6"},  # without numbers
    "fu2021": {*range(1, 9)},
    "liu2020": {*range(1, 7)},
    "wang2021": {*range(1, 6)},
    "lei2020": {*range(1, 14)},
}
"""The equations of each paper's models, maps and losses; those after them are of measures."""


@pytest.mark.parametrize("paper", METHODS)
def test_every_equation_of_a_papers_methods_stands_beside_code(paper: str) -> None:
    shown: set[int | str] = set()
    for notebook in NOTEBOOKS.glob(f"{paper}*.ipynb"):
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code" and "equations(" in (code := "".join(cell["source"])):
                made = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Dict)]
                keys = [key for one in made for key in one.keys if isinstance(key, ast.Constant)]
                shown |= {key.value for key in keys}
    assert METHODS[paper] - shown == set()
