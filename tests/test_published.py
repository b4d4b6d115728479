"""The papers' printed numbers: loaded as printed, found in the papers, and how far they agree.

Set LESIONLAB_PAPERS to a folder with `<paper>.txt` (the papers as text) to look for every number
there.
"""

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from lesionlab import published
from lesionlab.attributes import LI_CATEGORIES, RATING_NAMES
from lesionlab.published import PAPERS, as_printed, fact, facts, since, table, tables

FOLDER = Path(published.__file__).parent
EVERY = [pytest.param(r.paper, r.table, id=f"{r.paper}-{r.table}") for r in tables().itertuples()]
NINE = list(RATING_NAMES)


# --- the loader -------------------------------------------------------------------------------


def test_index_and_files_agree_one_to_one():
    on_disk = {str(p.relative_to(FOLDER).as_posix()) for p in FOLDER.rglob("*.csv")}
    listed = tables()["file"]
    assert listed.is_unique
    assert set(listed) == on_disk - {
        "papers.csv", "index.csv", "facts.csv", "outside.csv", "since.csv", "claims.csv"
    }  # fmt: skip
    assert set(tables()["paper"]) == set(facts()["paper"]) == set(PAPERS)
    assert all(slug == paper.slug for slug, paper in PAPERS.items())
    assert (tables()[["caption", "unit"]] != "").all(axis=None)


@pytest.mark.parametrize(("paper", "number"), EVERY)
def test_every_table_loads_and_says_what_it_is(paper, number):
    text, parsed = as_printed(paper, number), table(paper, number)
    assert text.shape == parsed.shape
    assert parsed.attrs == text.attrs
    assert (parsed.attrs["paper"], parsed.attrs["table"]) == (paper, number)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", column) for column in text)
    assert not text.duplicated().any()
    for column in text:
        assert (text[column] == text[column].str.strip()).all()
        assert (text[column] != "").any()
        # a column of numbers must come out as numbers: nothing may be left that only looks like one
        if text[column].str.match(r"[\d.,]*$").all():
            assert pd.api.types.is_numeric_dtype(parsed[column]), column
            assert (parsed[column].isna() == (text[column] == "")).all()


@pytest.mark.parametrize(("paper", "number", "cited"), [
    ("fu2021", "s1", "S1"), ("liu2020", "Tab. iv", "IV"), ("wang2021", "Fig4", "Fig. 4"),
])  # fmt: skip
def test_a_table_can_be_asked_for_as_it_is_cited(paper, number, cited):
    assert table(paper, number).attrs["table"] == cited


def test_digits_thousands_ticks_and_gaps():
    assert as_printed("fu2021", 4)["calcification"].tolist() == ["0.20", "0.33", "0.56", "0.14"]
    assert as_printed("li2021", 1)["lesions"].tolist()[0] == "1,186"
    assert table("li2021", 1)["lesions"].tolist() == [1186, 511, 166, 1946, 5113]
    assert table("li2021", 1)["multiple_categories"].tolist() == [True, False, False, False, True]
    assert table("li2021", 2)["category"].isin(["None"]).sum() == 2  # the word, not a gap
    assert np.isnan(table("fu2021", 4).set_index("method").loc["MTMR-Net", "malignancy"])
    assert fact("liu2020", "learning_rate_heads") == 3e-5
    assert facts("li2021").set_index("name").loc["n_lesions", "printed"] == "5,113"


def test_what_a_caller_changes_stays_with_the_caller():
    for load in (lambda: table("fu2021", 1), lambda: as_printed("fu2021", 1), tables, facts):
        first = load()
        first.iloc[0, 0] = "changed"
        first.attrs["note"] = "changed"
        assert load().iloc[0, 0] != "changed"
        assert load().attrs.get("note") != "changed"


def test_what_was_printed_since_then_names_its_source():
    later = since()
    assert later["year"].between(2021, 2026).all()
    assert later["printed"].between(0.5, 1).all()
    assert (later[["work", "asks", "measure", "split", "source"]] != "").all(axis=None)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: table("fu2020", 1), r"^there is no paper 'fu2020'; there are li2021, fu2021, "),
    (lambda: table("lei2020", "../fu2021/table_1"), r"^lei2020 has no table '\.\./fu2021"),
    (lambda: fact("lei2020", "n_nodules"), r"^lei2020 has no fact 'n_nodules'; .*n_benign, "),
])  # fmt: skip
def test_what_does_not_exist_is_named_beside_what_does(call, message):
    with pytest.raises(LookupError, match=message):
        call()


# --- how far the printed numbers agree with each other ------------------------------------------


@pytest.mark.parametrize("number", ["1", "2", "3", "S1", "S2", "4"])
def test_fu_mean_is_the_mean_of_its_attributes(number):
    content = table("fu2021", number)
    half = 0.005 if number == "4" else 0.0005  # half of the last printed digit
    assert (content[NINE].mean(axis=1) - content["mean"]).abs().max() <= half


def test_li_classes_are_the_vocabulary_and_sum_to_the_lesions():
    counts = table("li2021", 2)
    for category in LI_CATEGORIES:
        rows = counts[counts["attribute"] == category.name]
        assert tuple(rows["category"]) == tuple(category.words.values())
        if category.name == "vessel_convergence":  # one count is lost in the text
            assert rows["lesions"].isna().tolist() == [True, False]
        else:
            across_lobes = 436 if category.name == "lesion_location" else 0
            total = fact("li2021", "n_lesions_experiments") - across_lobes
            assert rows["lesions"].sum() == total
    assert fact("li2021", "n_classes") == len(counts)


@pytest.mark.parametrize(("number", "key"), [(3, "mode"), (4, "model")])
def test_li_averages_and_rates(number, key):
    content = table("li2021", number)
    metrics = ["accuracy", "sensitivity", "specificity"]
    printed = content[content["attribute"] == "average"].set_index(key)[metrics]
    classes = content[content["attribute"] != "average"]
    means = classes.groupby([key, "attribute"])[metrics].mean().groupby(key).mean()
    assert (means - printed).abs().max(axis=None) < 1.5e-4
    # of two classes, what is the sensitivity of one is the specificity of the other
    for _, pair in classes.groupby([key, "attribute"]):
        if len(pair) == 2:
            assert pair["sensitivity"].tolist() == pair["specificity"].tolist()[::-1]


def test_li_columns_are_recall_precision_and_negative_predictive_value():
    content = table("li2021", 3)
    printed = content[(content["attribute"] == "margin_clarity") & (content["mode"] == "2D")]
    # 88 clear and 75 unclear lesions, 76 and 59 of them found: 163 in all, the validation part
    assert fact("li2021", "n_validation") == 88 + 75
    expected = [
        [76 / 88, 76 / (76 + 16), 59 / (59 + 12)],
        [59 / 75, 59 / (59 + 12), 76 / (76 + 16)],
    ]
    np.testing.assert_allclose(printed.iloc[:, 3:].to_numpy(), expected, atol=5e-5)


def test_liu_counts_and_ranking():
    parts = fact("liu2020", "image_features") + fact("liu2020", "attribute_features")
    assert parts == fact("liu2020", "classifier_inputs")
    weights = table("liu2020", "IV")
    assert weights["attribute"].tolist() == NINE[:8]
    assert weights["relatedness"].sum() == pytest.approx(0.990)
    assert (weights["relatedness"].rank(ascending=False) == weights["ranking"]).all()
    above = weights["relatedness"] > weights["relatedness"].mean()
    assert (above == weights["above_average"]).all()


def test_wang_counts():
    counts = table("wang2021", 1).set_index("category")
    parts = counts.drop(index="Total")
    assert (parts.sum() == counts.loc["Total"]).all()
    assert (counts["training"] + counts["testing"] == counts["total"]).all()
    for name in parts.index:
        assert fact("wang2021", f"n_{name.lower()}") == parts.loc[name, "total"]
    matrices = table("wang2021", "Fig. 4").set_index(["model", "ground_truth"])
    for model in "abcde":
        assert matrices.loc[model].sum(axis=1).tolist() == [11 + 58, 101, 55]


def test_wang_average_f1_is_the_weighted_one():
    """Model e is the one whose matrix (Fig. 4) gives all three printed metrics (Table 2)."""
    printed = table("wang2021", 2).set_index(["task", "model"]).loc[1]
    matrices = table("wang2021", "Fig. 4").set_index("model").drop(columns="ground_truth")
    # gap between the printed metric and the matrix: accuracy, weighted F1 (points), MCC (×10⁻¹)
    gaps = {"a": (0.17, 0.94, 0.40), "b": (0.0, 0.04, 0.02), "c": (0.0, 0.96, 0.13)}
    gaps |= {"d": (0.0, 0.77, 0.0), "e": (0.0, 0.0, 0.0)}
    for model, expected in gaps.items():
        matrix = matrices.loc[model].to_numpy()
        truth = np.repeat([0, 0, 0, 1, 1, 1, 2, 2, 2], matrix.ravel())
        found = np.repeat([0, 1, 2] * 3, matrix.ravel())
        metrics = [
            100 * np.mean(truth == found),
            100 * f1_score(truth, found, average="weighted"),
            10 * matthews_corrcoef(truth, found),
        ]
        gap = printed.loc[model, ["accuracy", "f1", "mcc"]].to_numpy(dtype=float) - metrics
        np.testing.assert_allclose(gap, expected, atol=0.0055, err_msg=model)


# --- against the papers' text -------------------------------------------------------------------

NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:e-\d+)?")
ONCE = {("li2021", "1"): ["5.0"]}
"""Ranges whose ends are equal, which the paper prints once."""


def numbers_of(paper):
    """How often the paper's text has each number, as printed."""
    folder = os.environ.get("LESIONLAB_PAPERS")
    if not folder:
        pytest.skip("LESIONLAB_PAPERS names no folder with the papers as text")
    text = (Path(folder) / f"{paper}.txt").read_text(encoding="utf-8")
    text = re.sub(r"10\^\{(-\d+)\}", r"1e\1", re.sub(r"</?\w+>|\*\*|\$", "", text))
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    spelt = [str(words.index(w)) for w in re.findall(r"[a-z]+", text.lower()) if w in words]
    return Counter(NUMBER.findall(text) + spelt)


@pytest.mark.parametrize(("paper", "number"), EVERY)
def test_numbers_of_a_table_are_in_the_paper_as_often(paper, number):
    # the paper marks what is below 0.05 by an asterisk
    content = as_printed(paper, number).drop(columns="p_below", errors="ignore")
    counted = Counter(
        cell for cell in content.to_numpy().ravel() if re.fullmatch(r"\d+\.\d+", cell)
    )
    counted -= Counter(ONCE.get((paper, str(number))))
    assert counted - numbers_of(paper) == Counter()


@pytest.mark.parametrize("paper", PAPERS)
def test_facts_are_numbers_of_the_text(paper):
    numbers = {float(n.replace(",", "")) for n in numbers_of(paper)}
    known = facts(paper)
    assert known["name"][~known["value"].abs().isin(numbers)].tolist() == []
