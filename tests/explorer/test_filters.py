"""Which lesions fulfil what; nothing that is typed is ever evaluated."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lesionlab.explorer.bench import errors, lesion_table, matching
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
        ([("margin", "at least", " 2,5 ")], "bcd"),  # as typed
        ([("tier", "equal to", " x ")], "de"),
    ],
)
def test_filters_by_hand(rows: pd.DataFrame, filters: Any, found: str) -> None:
    for order in (filters, filters[::-1], filters * 2):
        assert "".join(matching(rows, order).index) == found


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (("margin", "equal to", "two"), "margin: expected a number, got 'two'"),
        (("margin", "at least", "__import__('os')"), "margin: expected a number"),
        (("margin", ">", 1), "'>': expected one of at least, at most"),
        (("x", "at least", 1), "column='x'"),
    ],
)
def test_filters_that_do_not_go(rows: pd.DataFrame, one: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        matching(rows, [one])


def test_the_table_has_ratings_ranges_and_sizes() -> None:
    nodules = lidc.nodules()
    ids = list(nodules.index[:40])
    table = lesion_table([*ids, "unknown"], nodules)
    assert list(table.index) == [*ids, "unknown"]
    assert table.loc[ids[0], "malignancy"] == nodules.loc[ids[0], "malignancy"]
    assert table.loc[ids[0], "diameter"] == nodules.loc[ids[0], "diameter"]
    assert table.loc["unknown"].isna().all()
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
        "margin, error": 1.0, "texture, error": 0.0, "error": 0.5,
    }  # fmt: skip
    assert errors(rows, ["margin"]).to_dict() == {"error": {"a": 1.0, "b": 0.5}}
    with pytest.raises(ValueError, match="predictions: no column x, x_truth"):
        errors(rows, ["x"])
