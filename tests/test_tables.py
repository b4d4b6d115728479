"""Tables for readers: what stands beside what, and every character of what is printed."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pandas as pd
import pytest

from lesionlab.tables import WORDS, beside, choose, show, spell, tell


def printed(table: pd.DataFrame, **how: object) -> list[list[str]]:
    """The rows of what `show` prints, heads and names of rows included."""
    page = show(table, caption="c", **how).to_html()  # type: ignore[arg-type]
    return [
        [unescape(cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    ]


def cells(values: list[object], name: str = "x", **how: object) -> list[str]:
    """One column as it is printed."""
    return [row[1] for row in printed(pd.DataFrame({name: values}), **how)[1:]]


# --- beside ---------------------------------------------------------------------------------------


def test_beside_keeps_the_papers_rows_and_subtracts() -> None:
    table = beside({"margin": 0.85, "texture": 0.46}, {"texture": 0.5, "margin": 0.8, "x": 1})
    assert table.index.tolist() == ["margin", "texture", "x"]
    assert table.columns.tolist() == ["paper", "lesionlab", "difference"]
    assert table["difference"].tolist()[:2] == pytest.approx([-0.05, 0.04])
    assert table.loc["x"].isna().tolist() == [True, False, True]


PRINTED = pd.DataFrame(
    {"reference": ["[11]", ""], "margin": [0.7, 0.5], "texture": [0.4, 0.3]},
    index=pd.Index(["MTR", "Proposed"], name="method"),
)
OURS = pd.DataFrame({"texture": [0.35, 0.9], "n": [12, 12]}, index=["Proposed", "Constant"])


def test_tables_stand_beside_each_other_column_by_column() -> None:
    table = beside(PRINTED, OURS, paper="Fu 2021", here="here")
    assert table.columns.tolist() == [
        ("reference", "Fu 2021"), ("margin", "Fu 2021"),
        ("texture", "Fu 2021"), ("texture", "here"), ("texture", "difference"), ("n", "here"),
    ]  # fmt: skip
    assert table.index.tolist() == ["MTR", "Proposed", "Constant"]
    one = beside(PRINTED, OURS["texture"])
    assert one["texture"].columns.tolist() == ["paper", "lesionlab", "difference"]
    assert printed(table, decimals={"texture": 3})[2:] == [
        ["MTR", "[11]", "0.70", "0.400", "–", "–", "–"],
        ["Proposed", "", "0.50", "0.300", "0.350", "+0.050", "12.00"],
        ["Constant", "–", "–", "–", "0.900", "–", "12.00"],
    ]
    # truth values and bounds have no difference
    theirs = pd.DataFrame({"p": ["< 0.01"], "better": [True]}, index=["VGG16"])
    ours = pd.DataFrame({"p": [0.00004], "better": [False]}, index=["VGG16"])
    assert printed(beside(theirs, ours))[2] == ["VGG16", "< 0.01", "< 0.001", "yes", "no"]


def test_rows_of_two_levels_and_nothing_of_ours() -> None:
    theirs = pd.DataFrame(
        {"d1c": [82.5, 0.7]}, index=pd.MultiIndex.from_tuples([("acc", "U"), ("sens", "U")])
    )
    table = beside(theirs, theirs.iloc[1:] + 0.1)
    assert table.loc[("sens", "U"), ("d1c", "difference")] == pytest.approx(0.1)
    assert np.isnan(table.loc[("acc", "U"), ("d1c", "lesionlab")])
    empty = beside(theirs, pd.DataFrame(index=theirs.index[:0]))
    assert empty.columns.tolist() == [("d1c", "paper")]
    assert len(empty) == 2


def test_what_cannot_stand_beside_each_other() -> None:
    with pytest.raises(LookupError, match=r"rows \['margin'\], expected some of \['texture'\]"):
        beside({"texture": 1.0}, {"margin": 1.0})
    with pytest.raises(ValueError, match=r"ours: the rows \['Proposed'\] are there twice"):
        beside(PRINTED, pd.concat([OURS, OURS[:1]]))


# --- show: cells ----------------------------------------------------------------------------------


def test_show_formats_and_names() -> None:
    table = pd.DataFrame(
        {"n": [1234, 5], "value": [0.123, float("nan")], "difference": [0.1, -0.1],
         "all": [True, False]},
        index=["internal_structure", "mean"],
    )  # fmt: skip
    assert printed(table) == [
        ["", "n", "value", "difference", "all"],
        ["Internal structure", "1,234", "0.12", "+0.10", "yes"],
        ["mean", "5", "–", "−0.10", "no"],
    ]
    two = pd.DataFrame({"a": [0.123], "b": [0.123]})
    assert printed(two, decimals={"a": 1})[1] == ["0", "0.1", "0.12"]
    assert cells([0.123], decimals=0) == ["0"]


@pytest.mark.parametrize("name", ["p", "p_holm", "d11c_p"])
def test_p_values(name: str) -> None:
    assert cells([0.0, 0.00099, 0.001, 0.04, 1.0, np.nan], name) == [
        "< 0.001", "< 0.001", "0.001", "0.040", "1.000", "–",
    ]  # fmt: skip
    assert cells([0.00001, 0.5], name, decimals={name: 4}) == ["< 0.0001", "0.5000"]
    assert cells([0.05], "p_below") == ["< 0.05"]


def test_one_minus_and_no_negative_zero() -> None:
    assert cells([-0.0, -0.004, -1.5, 1.5]) == ["0.00", "0.00", "−1.50", "1.50"]
    assert cells([-9, 0, 9]) == ["−9", "0", "9"]
    for name in ("difference", "auc_difference"):
        assert cells([-0.0001, 0.0001, -1.5, 1.5], name) == ["0.00", "0.00", "−1.50", "+1.50"]
        assert cells([-1234, 0, 1234], name) == ["−1,234", "0", "+1,234"]
    assert cells([np.inf, -np.inf]) == ["inf", "−inf"]
    assert cells([0.2], "indifference") == ["0.20"]


def test_columns_of_mixed_types() -> None:
    mixed: list[object] = [1, -2.5, "a", None, pd.NA, np.True_, (1, 2), np.int64(1000)]
    assert cells(mixed) == ["1", "−2.50", "a", "–", "–", "yes", "(1, 2)", "1,000"]


def test_rows_and_columns_of_one_name() -> None:
    table = pd.DataFrame([[1, "a b"], [2, "c d"]], index=["x", "x"], columns=["n", "words"])
    assert printed(table)[1:] == [["x", "1", "a b"], ["x", "2", "c d"]]
    page = show(table, caption="c").to_html()
    assert re.search(r"td\.col1[^}]*text-align: left", page)
    assert "td.col0" not in page
    assert printed(table.set_axis(["n", "n"], axis=1))[0] == ["", "n", "n"]
    assert printed(pd.DataFrame({"mae": pd.Series(dtype=float)})) == [["", "MAE (steps)"]]
    assert "<table" in show(pd.DataFrame(), caption="c").to_html()


def test_show_escapes() -> None:
    hostile = pd.DataFrame(
        {"<b>": ["<script>", ["<u>"]]}, index=pd.Index(["<i>", "x"], name="<em>")
    )
    page = show(hostile, caption="<s>", names={"x": "<q>"}).to_html()
    both = show(beside(hostile, hostile, paper="<p1>", here="<p2>"), caption="c").to_html()
    levels = show(hostile[:1].set_index("<b>", append=True), caption="c").to_html()
    for tag in ("script", "u", "b", "i", "em", "s", "q", "p1", "p2"):
        assert f"<{tag}>" not in page + both + levels
    assert "&lt;script&gt;" in page
    assert "&lt;em&gt;" in page


# --- show: heads ----------------------------------------------------------------------------------


def test_heads_are_words() -> None:
    names = ["mae", "skill_low", "p_holm", "n_groups", "some_new_name", "LIDC_1", "margin", 3]
    heads = printed(pd.DataFrame([range(8)], columns=names, index=["slice_index"]))
    assert heads[0][1:] == [
        "MAE (steps)", "skill, lower", "p (Holm)", "patients", "some new name", "LIDC_1",
        "Margin", "3",
    ]  # fmt: skip
    assert heads[1][0] == "slice_index"  # a row may be a name in code
    assert all(words.strip() == words for words in WORDS.values())


@pytest.mark.parametrize(
    ("name", "corner"), [("variant", ""), ("index", ""), ("readers", "readers"), (None, "")]
)
def test_the_name_of_the_rows_takes_no_row_of_its_own(name: str | None, corner: str) -> None:
    table = pd.DataFrame({"a": [1]}, index=pd.Index(["x"], name=name)).rename_axis("k", axis=1)
    assert printed(table) == [[corner, "a"], ["x", "1"]]
    assert (table.index.name, table.columns.name) == (name, "k")  # the caller's is untouched


def test_first_moves_columns_to_the_left() -> None:
    table = pd.DataFrame([[1, 2, 3]], columns=["a", "b", "c"])
    assert printed(table, first=["c"])[0] == ["", "c", "a", "b"]
    assert printed(table, first=["b", "a"])[0] == ["", "b", "a", "c"]
    both = beside(PRINTED, PRINTED[["margin", "texture"]])
    heads = show(both, caption="c", first=["texture"]).to_html()
    assert heads.index(">Texture<") < heads.index(">reference<") < heads.index(">Margin<")
    with pytest.raises(LookupError, match=r"first: no column \['d'\], expected some of \['a', 'b'"):
        show(table, caption="c", first=["d"])


# --- choose ---------------------------------------------------------------------------------------

CHOICES = pd.MultiIndex.from_product([["mean", "<b>"], ["dropped", "kept"]], names=["rule", "a_3"])


def test_every_row_is_there_to_choose_and_its_buttons_are_named() -> None:
    page = choose(pd.DataFrame({"auc": [0.1, 0.2, 0.3, 0.4]}, CHOICES), caption="c", decimals=1)
    rows = re.findall(r"<th[^>]*row_heading[^>]*>(.*?)</th>", page.data)
    assert rows == ["mean · dropped", "mean · kept", "&lt;b&gt; · dropped", "&lt;b&gt; · kept"]
    assert re.findall(r"<legend>(.*?)</legend>", page.data) == ["rule", "a 3"]
    labels = re.findall(r'<input type="radio"[^>]*> (.*?)</label>', page.data)
    assert labels == ["mean", "&lt;b&gt;", "all", "dropped", "kept", "all"]
    assert page.data.count(" checked>") == 2
    names = set(re.findall(r'name="(.*?)"', page.data))
    other = choose(pd.DataFrame({"auc": [1]}, CHOICES[:1]), caption="c")
    assert len(names) == 2
    assert names.isdisjoint(re.findall(r'name="(.*?)"', other.data)), "two in a page are apart"


def test_a_number_and_its_interval_in_a_sentence():
    assert spell([0.9149, 0.8979, -0.00001], 3) == "0.915 [0.898, 0.000]"
    assert spell(pd.Series([-0.5, -1, 2])) == "−0.50 [−1.00, 2.00]"
    assert spell([0.25], 1) == "0.2"
    assert spell([float("nan"), 1, 2]) == "–"


def test_an_interval_says_which_is_better():
    ends = {"value": 0.02, "low": 0.01, "high": 0.0333}
    assert tell(ends, "It helps", "It harms") == "It helps: 0.020 [0.010, 0.033]"
    worse = pd.Series({name: -end for name, end in ends.items()}).rename(
        {"low": "high", "high": "low"}
    )
    assert tell(worse, "It helps", "It harms") == "It harms: −0.020 [−0.033, −0.010]"
    assert tell(ends | {"low": 0}, "It helps", "").startswith("No difference is shown: 0.02")
    assert tell(None, "It helps", "It harms") == "not run"
