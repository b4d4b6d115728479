"""Which lesions fulfil what; nothing that is typed is ever evaluated."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lesionlab.explorer._filters import (
    RELATIONS,
    Filter,
    errors,
    lesion_table,
    matching,
    parsed,
    relations,
)
from lesionlab.sources import lidc


@pytest.fixture
def rows() -> pd.DataFrame:
    return pd.DataFrame(
        {"margin": [1.0, 2.5, 2.5, 4.0, np.nan], "tier": ["phantom", "dicom", None, "x", "x"]},
        index=list("abcde"),
    )


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([], "abcde"),
        ([("margin", "at least", 2.5)], "bcd"),
        ([("margin", "at most", 2.5)], "abc"),
        ([("margin", "equal to", 2.5)], "bc"),
        ([("margin", "not equal to", 2.5)], "ad"),  # a gap fulfils nothing
        ([("tier", "equal to", "x")], "de"),
        ([("tier", "not equal to", "x")], "ab"),
        ([("margin", "at least", 2.0), ("tier", "equal to", "x")], "d"),
    ],
)
def test_filters_by_hand(rows: pd.DataFrame, filters: Any, found: str) -> None:
    made = [Filter(*one) for one in filters]
    for order in (made, made[::-1], made * 2):
        assert "".join(matching(rows, order).index) == found


def test_typed_text_becomes_a_number_or_a_word(rows: pd.DataFrame) -> None:
    assert parsed(rows, "margin", "at least", " 2,5 ") == Filter("margin", "at least", 2.5)
    assert parsed(rows, "tier", "equal to", " x ") == Filter("tier", "equal to", "x")
    assert str(parsed(rows, "margin", "at least", "2.50")) == "margin at least 2.5"
    assert relations(rows, "tier") == ("equal to", "not equal to")
    assert relations(rows, "margin") == tuple(RELATIONS)
    for typed in ("two", "__import__('os')"):
        with pytest.raises(ValueError, match="margin: expected a number, got"):
            parsed(rows, "margin", "at least", typed)


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (Filter("margin", "equal to", "2"), "margin: expected a number, got '2'"),
        (Filter("tier", "equal to", 2.0), "tier: expected a word, got 2.0"),
        (Filter("tier", "at least", "x"), "tier, 'at least': expected one of equal to, not equal"),
        (Filter("margin", ">", 1), "margin, '>': expected one of at least"),
        (Filter("x", "at least", 1), "column='x'"),
    ],
)
def test_filters_that_do_not_go(rows: pd.DataFrame, one: Filter, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        matching(rows, [one])


def test_the_table_has_ratings_ranges_and_sizes() -> None:
    nodules = lidc.nodules()
    ids = list(nodules.index[:40])
    table = lesion_table([*ids, "unknown"], nodules, tier={ids[0]: "phantom"})
    assert list(table.index) == [*ids, "unknown"]
    assert table.loc[ids[0], "malignancy"] == nodules.loc[ids[0], "malignancy"]
    assert table.loc[ids[0], "diameter"] == nodules.loc[ids[0], "diameter"]
    assert table.loc["unknown"].isna().all()
    assert table["tier"].dropna().to_dict() == {ids[0]: "phantom"}
    readings = lidc.readings()
    for name in ids:  # a single reader disagrees with nobody
        given = readings.loc[readings["lesion_id"] == name, "texture"]
        value = table.loc[name, "texture, range"]
        assert (value == np.ptp(given)) if len(given) > 1 else np.isnan(value)


def test_errors_by_hand() -> None:
    rows = pd.DataFrame(
        {"lesion_id": ["a", "b"], "margin": [1.0, 3.0], "margin_truth": [2.0, 3.5],
         "texture": [5.0, 1.0], "texture_truth": [5.0, 4.0]}
    )  # fmt: skip
    table = errors(rows, ["margin", "texture"])
    assert table.loc["a"].to_dict() == {
        "error in margin": 1.0, "error in texture": 0.0, "error": 0.5,
    }  # fmt: skip
    assert errors(rows, ["margin"]).to_dict() == {"error": {"a": 1.0, "b": 0.5}}
    with pytest.raises(ValueError, match="predictions: no column x, x_truth"):
        errors(rows, ["x"])
