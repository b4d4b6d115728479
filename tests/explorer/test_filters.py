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


def found(rows: pd.DataFrame, *filters: Filter) -> str:
    return "".join(matching(rows, filters).index)


def test_filters_by_hand(rows: pd.DataFrame) -> None:
    assert found(rows) == "abcde"
    assert found(rows, Filter("margin", "at least", 2.5)) == "bcd"
    assert found(rows, Filter("margin", "at most", 2.5)) == "abc"
    assert found(rows, Filter("margin", "equal to", 2.5)) == "bc"
    assert found(rows, Filter("margin", "not equal to", 2.5)) == "ad", "a gap fulfils nothing"
    assert found(rows, Filter("tier", "equal to", "x")) == "de"
    assert found(rows, Filter("tier", "not equal to", "x")) == "ab"
    assert found(rows, Filter("margin", "at least", 2.0), Filter("tier", "equal to", "x")) == "d"


def test_order_and_repetition_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.integers(0, 4, (60, 3)).astype(float), columns=list("uvw"))
    rows = rows.mask(rng.random(rows.shape) < 0.2)
    some = [Filter(c, r, float(v)) for c in "uvw" for r in RELATIONS for v in (1, 2)]
    for _ in range(20):
        two = [some[i] for i in rng.integers(0, len(some), 2)]
        both = matching(rows, two)
        assert both.equals(matching(rows, two[::-1]))
        assert both.equals(matching(matching(rows, two[:1]), [two[1], two[1]]))
    for column in "uvw":
        equal, other = (
            matching(rows, [Filter(column, r, 2.0)]) for r in ("equal to", "not equal to")
        )
        assert len(equal) + len(other) == rows[column].notna().sum()


def test_typed_text_becomes_a_number_or_a_word(rows: pd.DataFrame) -> None:
    assert parsed(rows, "margin", "at least", " 2,5 ") == Filter("margin", "at least", 2.5)
    assert parsed(rows, "tier", "equal to", " x ") == Filter("tier", "equal to", "x")
    assert str(parsed(rows, "margin", "at least", "2.50")) == "margin at least 2.5"
    assert relations(rows, "tier") == ("equal to", "not equal to")
    assert relations(rows, "margin") == tuple(RELATIONS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("margin", "at least", "two"), "margin: expected a number, got 'two'"),
        (("margin", "at least", "__import__('os')"), "margin: expected a number"),
        (("volume", "at least", "1"), "column='volume': expected one of margin, tier"),
        (("margin", ">", "1"), "relation='>': expected one of at least, at most"),
    ],
)
def test_what_was_typed_wrongly(rows: pd.DataFrame, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parsed(rows, *call)


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (Filter("margin", "equal to", "2"), "margin: expected a number, got '2'"),
        (Filter("tier", "equal to", 2.0), "tier: expected a word, got 2.0"),
        (Filter("tier", "at least", "x"), "tier: words have no order"),
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
