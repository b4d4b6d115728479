"""Equations beside the lines that compute them: which lines, and what is refused."""

from __future__ import annotations

import pytest

from lesionlab.chapters.equations import equations
from lesionlab.papers import fu2021


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
