from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesionlab.statistics.agreement import one_against_rest, pairwise_difference, reader_pairs

# nodule a: 1, 2, 4; nodule b: 5, 5; nodule c: one reader; rows in no order
TINY = pd.DataFrame({"lesion_id": list("bacaba"), "margin": [5, 1, 3, 4, 5, 2]})


def test_pairs_of_readers_by_hand():
    pairs = reader_pairs(TINY, "margin")
    found = sorted((row.lesion_id, *sorted((row.first, row.second))) for row in pairs.itertuples())
    assert found == [("a", 1, 2), ("a", 1, 4), ("a", 2, 4), ("b", 5, 5)]
    row = pairwise_difference(TINY, ["margin"]).loc["margin"]
    assert row.tolist() == [1.5, 0.25, 0.5, 4, 2, 0]


@pytest.mark.parametrize("weighting", ["pooled", "nodule"])
def test_everything_equals_a_loop_over_nodules(readings, weighting):
    frame = readings.astype({"margin": float})
    frame.loc[[3, 11, 12], "margin"] = np.nan
    pairs, rest = {}, {}
    for name, group in frame.dropna(subset="margin").groupby("lesion_id"):
        values = group["margin"].tolist()
        if len(values) < 2:
            continue
        pairs[name] = [abs(a - b) for a, b in combinations(values, 2)]
        rest[name] = [abs(v - np.mean(values[:i] + values[i + 1 :])) for i, v in enumerate(values)]

    def reduced(by_nodule):
        if weighting == "pooled":
            return np.mean([d for distances in by_nodule.values() for d in distances])
        return np.mean([np.mean(v) for v in by_nodule.values()])

    found = pairwise_difference(frame, ["margin"], weighting=weighting).loc["margin"]
    assert found["value"] == pytest.approx(reduced(pairs))
    assert found["equal"] == pytest.approx(reduced({k: np.equal(v, 0) for k, v in pairs.items()}))
    assert (found["n_nodules"], found["n_missing"]) == (len(pairs), 3)
    against = one_against_rest(frame, ["margin"], weighting=weighting).loc["margin"]
    assert against["value"] == pytest.approx(reduced(rest))


@given(st.lists(st.lists(st.integers(1, 5), min_size=2, max_size=4), min_size=1, max_size=12))
def test_the_mean_of_the_others_is_no_farther_than_the_others_are(nodules):
    """|x - mean(others)| <= mean |x - other|, so one against the rest is below the pairs."""
    rows = [(i, v) for i, values in enumerate(nodules) for v in values]
    frame = pd.DataFrame(rows, columns=["lesion_id", "margin"])
    mirrored = frame.assign(margin=6 - frame["margin"])
    pairs, mirror, rest = (
        measure(f, ["margin"], weighting="nodule").loc["margin", "value"]
        for measure, f in (
            (pairwise_difference, frame),
            (pairwise_difference, mirrored),
            (one_against_rest, frame),
        )
    )
    assert rest <= pairs + 1e-12
    assert mirror == pytest.approx(pairs)


@pytest.mark.parametrize(("frame", "attributes", "error", "message"), [
    (TINY, ["texture"], KeyError, r"no column \['texture'\]"),
    (TINY, "margin", ValueError, "must be a sequence of names, got the string 'margin'"),
    (TINY.assign(margin="sharp"), ["margin"], ValueError, "ratings of 'margin' must be num"),
    (TINY.assign(lesion_id=[None, *"abcab"]), ["margin"], ValueError, "'lesion_id' has 1 gaps"),
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
