"""The papers' cohorts on the real database, and the filters by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from lesionlab import cohorts, published
from lesionlab.sources import lidc


@pytest.fixture(scope="module")
def nodules() -> pd.DataFrame:
    return lidc.nodules()


@pytest.fixture
def few() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "patient": ["a", "a", "b", "c"],
            "n_readers": [1, 4, 3, 6],
            "slice_thickness": [1.0, 2.5, 3.0, 5.0],
            "diameter": [2.9, 3.0, 30.0, 30.1],
            "malignancy": [2.9, 3.0, 3.1, 4.0],
            "malignancy_readings": [[3.0, 2.8], [2.0, 4.0], [1.0, 3.0, 5.3], [4.0]],
        },
        index=pd.Index(["L1", "L2", "L3", "L4"], name="lesion_id"),
    )


def test_fu_reaches_the_papers_count(nodules: pd.DataFrame) -> None:
    cohort = cohorts.fu2021(nodules)
    assert len(cohort.table) == published.fact("fu2021", "n_nodules") == 2622
    # 875 patients is the paper's number, and ours before any filter
    assert cohort.flow["patients"].iloc[0] == published.fact("fu2021", "n_patients")
    assert cohort.comparison().loc["patients", "difference"] == -9


def test_liu_and_lei_say_what_is_missing(nodules: pd.DataFrame) -> None:
    filters = [cohorts.diameter_between(3, 30), cohorts.malignancy_decided()]
    stated = cohorts.build(nodules, filters, name="as stated", rule="mean").counts
    near = cohorts.liu2020(nodules).comparison()["difference"]
    lei = cohorts.lei2020(nodules).comparison()["difference"]
    assert (stated["benign"] - 972, stated["malignant"] - 450) == (381, 128)
    assert near.to_dict() == {"benign": -2, "malignant": 39}
    assert lei.to_dict() == {"benign": 20, "malignant": 6}


def test_liu_nearest_is_what_the_search_finds_for_the_papers_rule(nodules: pd.DataFrame) -> None:
    table = cohorts.nearest(nodules, benign=972, malignant=450, top=192)
    assert table["off"].is_monotonic_increasing
    assert len(table) == 8 * 3 * 4 * 2  # every combination
    best = table[table["rule"] == "mean"].iloc[0]
    counts = cohorts.liu2020(nodules).counts
    assert (best["benign"], best["malignant"]) == (counts["benign"], counts["malignant"])


@pytest.mark.parametrize(
    "make", [cohorts.fu2021, cohorts.liu2020, cohorts.lei2020, cohorts.wang2021]
)
def test_flows_add_up(nodules: pd.DataFrame, make: object) -> None:
    cohort = make(nodules)  # type: ignore[operator]
    flow = cohort.flow
    assert flow["nodules"].iloc[0] == len(nodules)
    assert flow["nodules"].iloc[-1] == len(cohort.table) == cohort.counts["nodules"]
    assert (flow["nodules"].shift() - flow["nodules"])[1:].tolist() == flow["left_out"][1:].tolist()
    assert cohort.table.index.isin(nodules.index).all()
    if "label" in cohort.table:
        assert cohort.table["label"].notna().all()
        assert cohort.counts["benign"] + cohort.counts["malignant"] == len(cohort.table)


def test_wang_nearest_is_small_thin_and_not_solid(nodules: pd.DataFrame) -> None:
    found = cohorts.wang2021(nodules)
    assert found.comparison().loc["nodules"].to_dict() == {
        "paper": 740, "lesionlab": 157, "difference": -583,
    }  # fmt: skip
    table = found.table
    assert (table["diameter"].max() < 10, table["texture"].max() < 4) == (True, True)
    assert table["slice_thickness"].max() <= 1.25


def test_a_cohort_shows_every_count_and_escapes_words(
    nodules: pd.DataFrame, few: pd.DataFrame
) -> None:
    cohort = cohorts.lei2020(nodules)
    words = ("3 to 4 readers", "mean malignancy not 3", "printed in the paper", "difference")
    for text in (*words, "1378", "1273", "635", "655", "20"):
        assert text in str(cohort)
    page = cohort._repr_html_()
    for text in (*words, ">1,378<", ">1,273<", ">635<", ">655<", ">+20<"):
        assert text in page
    condition = cohorts.Filter("<b>x</b>", lambda t: t["n_readers"] > 0)
    page = cohorts.build(few, [condition], name="<script>", note="a & b")._repr_html_()
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
    assert "a &amp; b" in page
    assert page.count("<table") == 1  # of one's own cohort there is nothing to compare with


def test_filters_by_hand(few: pd.DataFrame) -> None:
    def kept(condition: cohorts.Filter) -> list[str]:
        return few.index[condition.keep(few)].tolist()

    assert kept(cohorts.readers_between(3)) == ["L2", "L3", "L4"]
    assert kept(cohorts.readers_between(1, 4)) == ["L1", "L2", "L3"]
    assert kept(cohorts.thickness_up_to(3)) == ["L1", "L2", "L3"]
    assert kept(cohorts.diameter_between(3, 30)) == ["L2", "L3"]  # both ends belong
    assert kept(cohorts.malignancy_decided()) == ["L1", "L3", "L4"]


def test_labels_by_mean_and_by_median(few: pd.DataFrame) -> None:
    assert cohorts.malignancy_label(few).tolist() == [0, pd.NA, 1, 1]
    assert cohorts.malignancy_label(few, rule="median").tolist() == [0, pd.NA, pd.NA, 1]
    with pytest.raises(ValueError, match="rule='mode': expected one of mean, median"):
        cohorts.malignancy_label(few, rule="mode")  # type: ignore[arg-type]
