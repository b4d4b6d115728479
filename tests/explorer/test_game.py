"""The game without a browser: the measure, what goes into the page, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lesionlab import explorer
from lesionlab.attributes import RATING_NAMES
from lesionlab.explorer import game as games
from lesionlab.sources import lidc
from lesionlab.statistics.agreement import pairwise_difference

NAMES = ["calcification", "margin", "texture"]


def readings() -> pd.DataFrame:
    rows = [
        ("a", 6, 1, 5), ("a", 6, 2, 5), ("a", 3, 4, 5),
        ("b", 6, 5, 3), ("b", 6, 5, np.nan),
        ("c", 6, 4, 1),
        ("z", 6, 4, 5), ("z", 3, 4, 5),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["lesion_id", *NAMES])


@pytest.fixture
def game(noise: Any) -> Any:
    def make(ids: str = "abc", **options: Any) -> Any:
        options = {"attributes": NAMES} | options
        return explorer.be_the_reader([noise(i) for i in ids], readings(), **options)

    return make


def test_the_score_by_hand():
    table = games.score({"a": {"margin": 3, "texture": 4}, "b": {"margin": 4}}, readings())
    assert table.index.tolist() == ["margin", "texture"]
    margin = table.loc["margin"]
    # |3-1| + |3-2| + |3-4| and |4-5| twice
    assert margin["you"] == 6 / 5
    assert (margin["n_nodules"], margin["n_pairs"]) == (2, 5)
    # |1-2| + |1-4| + |2-4| and |5-5|
    assert margin["readers"] == 6 / 4
    # the median of 1 2 4 5 5 4 4 4 is 4: 3 + 2 + 0 and 1 + 1
    assert (margin["answer"], margin["constant"]) == (4, 7 / 5)
    assert table.loc["texture", ["you", "readers", "n_pairs"]].tolist() == [1, 0, 3]
    assert games.score({}, readings()).empty
    assert games.score({"a": {}}, readings()).empty
    # a gap makes no pair, and one reader alone no difference
    table = games.score({"b": {"texture": 5}, "c": {"margin": 1}}, readings())
    assert table.loc["texture", ["you", "n_pairs"]].tolist() == [2, 1]
    assert table.loc["margin", "you"] == 3
    assert np.isnan(table.loc["margin", "readers"])


def test_names_have_a_commonest_answer_and_no_median():
    given = pd.DataFrame({"lesion_id": list("abcde"), "calcification": [3, 3, 4, 6, 6]})
    given = pd.concat([given, given.assign(calcification=[3, 5, 5, 5, 6])])
    table = games.score({"a": {"calcification": 3}}, given)
    assert table.loc["calcification", "answer"] == 3, "3, 5 and 6 came three times: the first"
    assert given["calcification"].median() == 5


def test_who_plays_as_a_reader_would_is_a_reader():
    """One reader's ratings, played against the others: what the pairs with that reader give."""
    table = lidc.readings()
    ids = lidc.nodules().query("n_readers == 4").index[:40]
    own = table[table["lesion_id"].isin(ids)]
    first = own.drop_duplicates("lesion_id")
    others = own.drop(index=first.index)
    answers = {
        row["lesion_id"]: {name: int(row[name]) for name in RATING_NAMES if row[name] == row[name]}
        for row in first.to_dict("records")
    }
    found = games.score(answers, others)
    for name in RATING_NAMES:
        three = pairwise_difference(others, [name]).loc[name]
        four = pairwise_difference(own, [name]).loc[name]
        pairs = four["n_pairs"] - three["n_pairs"]
        expected = (four["value"] * four["n_pairs"] - three["value"] * three["n_pairs"]) / pairs
        assert found.loc[name, "you"] == pytest.approx(expected)
        assert found.loc[name, "n_pairs"] == pairs
        assert found.loc[name, "readers"] == three["value"]


@pytest.mark.parametrize(
    ("answers", "error", "message"),
    [
        ({"q": {"margin": 1}}, ValueError, "there is no nodule 'q' here"),
        ({"a": {"margin": 6}}, ValueError, "margin of a: expected 1 to 5, got 6"),
        ({"a": {"margins": 1}}, LookupError, "did you mean 'margin'"),
        ({"a": {"margin": None}}, ValueError, "expected 1 to 5, got None"),
    ],
)
def test_answers_off_the_scale_are_refused(answers, error, message):
    with pytest.raises(error, match=message):
        games.score(answers, readings())


def test_the_page_carries_nodules_words_and_readings(game, noise, payload):
    shown = game(references={"a paper": {"margin": 0.5}})
    data = payload(shown)["data"]
    assert [n["id"] for n in data["nodules"]] == ["a", "b", "c"]
    assert data["nodules"][1]["readings"] == {
        "calcification": [6, 6], "margin": [5, 5], "texture": [3, None],
    }  # fmt: skip
    assert data["references"] == ["one reader against another, all nodules", "a paper"]
    margin = next(a for a in data["attributes"] if a["name"] == "margin")
    assert margin["words"][4] == [5, "Sharp"]
    # over all nodules, also those that are not played: a 6, b 0, z 0 over five pairs
    assert margin["references"] == [6 / 5, 0.5]
    assert data["attributes"][0]["references"] == [pytest.approx(9 / 5), None]
    assert [a["constant"] for a in data["attributes"]] == [6, 4, 5]
    assert "phantom: rendered voxels, not a scan" in data["intro"]
    keys = {payload(g)["data"]["key"] for g in (game(), game(), game("ab"), game("bac"))}
    assert len(keys) == 3, "another game keeps its answers elsewhere"
    given = readings().assign(malignancy=3)
    other = explorer.be_the_reader([noise("a")], given, attributes=["margin", "malignancy"])
    margin, malignancy = payload(other)["data"]["attributes"]
    assert "Not rendered in phantoms" in malignancy["meaning"]
    assert "rendered" not in margin["meaning"]
    pytest.importorskip("anywidget")
    shown.answers = {"a": {"margin": 3}}
    expected = games.score(shown.answers, readings()).loc["margin", "you"]
    assert shown.score().loc["margin", ["you", "a paper"]].tolist() == [expected, 0.5]


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ("aa", {}, "crops: expected one or more, each nodule once"),
        ("q", {}, "crops: q has no row in readings"),
        ("a", {"attributes": ["margin", "Mar"]}, "expected one or more, each once"),
    ],
)
def test_what_does_not_fit_is_refused(game, ids, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        game(ids, **options)
