from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesionlab.statistics.agreement import (
    exact_agreement,
    one_against_rest,
    pairwise_difference,
    reader_pairs,
)

# nodule a: 1, 2, 4; nodule b: 5, 5; nodule c: one reader; rows in no order
TINY = pd.DataFrame(
    {
        "lesion_id": ["b", "a", "c", "a", "b", "a"],
        "patient": ["q", "p", "p", "p", "q", "p"],
        "margin": [5, 1, 3, 4, 5, 2],
    }
)


def readings(n=60, seed=0):
    """Nodules of one to four readers who roughly agree; every patient has two nodules."""
    rng = np.random.default_rng(seed)
    k = rng.integers(1, 5, n)
    truth = np.repeat(rng.uniform(1, 5, n), k)
    frame = pd.DataFrame({"lesion_id": np.repeat([f"n{i}" for i in range(n)], k)})
    frame["patient"] = np.repeat([f"p{i // 2}" for i in range(n)], k)
    for name in ("margin", "texture"):
        frame[name] = np.clip(np.round(truth + rng.normal(size=len(truth))), 1, 5).astype(int)
    return frame.sample(frac=1, random_state=seed, ignore_index=True)


def test_pairs_of_readers_by_hand():
    pairs = reader_pairs(TINY, "margin")
    found = sorted(
        (row.lesion_id, row.patient, *sorted((row.first, row.second))) for row in pairs.itertuples()
    )
    assert found == [("a", "p", 1, 2), ("a", "p", 1, 4), ("a", "p", 2, 4), ("b", "q", 5, 5)]
    assert "patient" not in reader_pairs(TINY.drop(columns="patient"), "margin")


@pytest.mark.parametrize("weighting", ["pooled", "nodule"])
def test_everything_equals_a_loop_over_nodules(weighting):
    frame = readings().astype({"margin": float})
    frame.loc[[3, 11, 12], "margin"] = np.nan
    pairs, rest, equal = {}, {}, []
    for name, group in frame.dropna(subset="margin").groupby("lesion_id"):
        values = group["margin"].tolist()
        if len(values) < 2:
            continue
        pairs[name] = [abs(a - b) for a, b in combinations(values, 2)]
        equal += [d == 0 for d in pairs[name]]
        rest[name] = [abs(v - np.mean(values[:i] + values[i + 1 :])) for i, v in enumerate(values)]

    def reduced(by_nodule):
        if weighting == "pooled":
            return np.mean([d for distances in by_nodule.values() for d in distances])
        return np.mean([np.mean(v) for v in by_nodule.values()])

    difference = pairwise_difference(frame, ["margin"], weighting=weighting).loc["margin"]
    assert difference["value"] == pytest.approx(reduced(pairs))
    assert difference["n_nodules"] == len(pairs)
    assert difference["n_missing"] == 3
    against = one_against_rest(frame, ["margin"], weighting=weighting).loc["margin"]
    assert against["value"] == pytest.approx(reduced(rest))
    assert exact_agreement(frame, ["margin"]).loc["margin", "equal"] == pytest.approx(
        np.mean(equal)
    )


MEASURES = [
    pairwise_difference,
    one_against_rest,
    exact_agreement,
    lambda r, a: pairwise_difference(r, a, weighting="nodule"),
    lambda r, a: one_against_rest(r, a, weighting="nodule"),
]


@pytest.mark.parametrize("measure", MEASURES)
def test_the_order_of_readers_and_nodules_does_not_matter(measure):
    frame = readings()
    shuffled = frame.sample(frac=1, random_state=1)
    names = ["margin", "texture"]
    pd.testing.assert_frame_equal(measure(frame, names), measure(shuffled, names))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_nodule_with_one_reader_and_a_gap_change_nothing(measure):
    frame = readings()
    more = pd.DataFrame({"lesion_id": ["new", frame["lesion_id"][0]], "margin": [1, np.nan]})
    a, b = measure(frame, ["margin"]), measure(pd.concat([frame, more]), ["margin"])
    assert b.pop("n_missing").item() == 1
    pd.testing.assert_frame_equal(a.drop(columns="n_missing"), b)


@given(st.lists(st.lists(st.integers(1, 5), min_size=2, max_size=4), min_size=1, max_size=12))
def test_the_mean_of_the_others_is_no_farther_than_the_others_are(nodules):
    """|x - mean(others)| <= mean |x - other|, so one against the rest is below the pairs."""
    frame = pd.DataFrame(
        [(i, v) for i, values in enumerate(nodules) for v in values],
        columns=["lesion_id", "margin"],
    )
    pairs = pairwise_difference(frame, ["margin"], weighting="nodule").loc["margin", "value"]
    rest = one_against_rest(frame, ["margin"], weighting="nodule").loc["margin", "value"]
    assert rest <= pairs + 1e-12
    mirrored = frame.assign(margin=6 - frame["margin"])
    assert pairwise_difference(mirrored, ["margin"], weighting="nodule").loc[
        "margin", "value"
    ] == pytest.approx(pairs)


def test_nobody_to_compare_with():
    alone = pd.DataFrame({"lesion_id": ["a", "b"], "margin": [1, 5]})
    for measure in MEASURES:
        row = measure(alone, ["margin"]).loc["margin"]
        assert np.isnan(row.iloc[0])
        assert row["n_nodules"] == 0
    assert reader_pairs(alone, "margin").empty


@pytest.mark.parametrize(("frame", "attributes", "error", "message"), [
    (TINY, ["texture"], KeyError, r"no column \['texture'\]"),
    (TINY, "margin", ValueError, "must be a sequence of names, got the string 'margin'"),
    (TINY.assign(margin="sharp"), ["margin"], ValueError, "ratings of 'margin' must be num"),
    (TINY.assign(lesion_id=[None, *"abcab"]), ["margin"], ValueError, "lesion_id has 1 gaps"),
])  # fmt: skip
def test_bad_readings(frame, attributes, error, message):
    with pytest.raises(error, match=message):
        pairwise_difference(frame, attributes)


def test_the_real_readers_differ_as_fu_2021_prints():
    """Table 4, row IB, in the order of the paper; `pooled` is what the printed row is made by."""
    from lesionlab.sources import lidc

    printed = [0.84, 0.02, 0.20, 0.85, 0.85, 0.79, 0.67, 0.46, 0.88]
    readings = lidc.readings()
    pooled = pairwise_difference(readings)["value"]
    assert pooled.tolist() == pytest.approx(printed, abs=0.0075)
    assert pooled.mean() == pytest.approx(0.62, abs=0.005)
    nodule = pairwise_difference(readings, weighting="nodule")["value"]
    assert nodule["subtlety"] > 0.9
