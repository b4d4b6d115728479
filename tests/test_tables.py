"""Tables for readers."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from lesionlab.tables import beside, show


def test_beside_keeps_the_papers_rows_and_subtracts() -> None:
    table = beside({"margin": 0.85, "texture": 0.46}, {"texture": 0.5, "margin": 0.8, "x": 1})
    assert table.index.tolist() == ["margin", "texture"]
    assert table.columns.tolist() == ["paper", "lesionlab", "difference"]
    assert table["difference"].tolist() == pytest.approx([-0.05, 0.04])


def test_beside_names_what_is_missing() -> None:
    with pytest.raises(LookupError, match=r"no value for \['texture'\]"):
        beside({"texture": 1.0}, {"margin": 1.0})


def test_show_formats_and_names() -> None:
    table = pd.DataFrame(
        {"n": [1234, 5], "value": [0.123, float("nan")], "difference": [0.1, -0.1],
         "all": [True, False]},
        index=["internal_structure", "mean"],
    )  # fmt: skip
    page = show(table, caption="A caption.").to_html()
    for text in ("Internal structure", "1,234", "0.12", "–", "+0.10", "-0.10", "A caption.", "yes"):
        assert text in page


def test_show_takes_decimals_by_column() -> None:
    page = show(
        pd.DataFrame({"a": [0.123], "b": [0.123]}), caption="c", decimals={"a": 1}
    ).to_html()
    assert ">0.1<" in page
    assert ">0.12<" in page


def test_words_read_from_the_left_also_with_rows_of_one_name() -> None:
    table = pd.DataFrame({"n": [1, 2], "words": ["a b", "c d"]}, index=["x", "x"])
    page = show(table, caption="c").to_html()
    assert re.search(r"td\.col1[^}]*text-align: left", page)
    assert "td.col0" not in page


def test_show_escapes() -> None:
    page = show(pd.DataFrame({"<b>": ["<script>"]}, index=["<i>"]), caption="c").to_html()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<i>" not in page
