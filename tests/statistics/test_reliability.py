from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.anova import anova_lm

from lesionlab.statistics.agreement import one_against_rest, pairwise_difference
from lesionlab.statistics.reliability import icc, krippendorff_alpha, weighted_kappa

_ = np.nan
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability": 4 observers, 12 units
KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
# Shrout and Fleiss (1979), table 2: 6 targets, 4 judges
SHROUT_FLEISS = [
    [9, 6, 8, 7, 10, 6],
    [2, 1, 4, 1, 5, 2],
    [5, 3, 6, 2, 6, 4],
    [8, 2, 8, 6, 9, 7],
]


def long(table, name="margin"):
    """Readers by nodules to one row per reading; a gap stays a row without a rating."""
    return pd.DataFrame(table).melt(var_name="lesion_id", value_name=name)


def value(table):
    return table.loc["margin", "value"]


@pytest.mark.parametrize(("name", "level", "alpha"), [
    ("calcification", "nominal", 0.743), ("internal_structure", "nominal", 0.743),
    ("margin", "ordinal", 0.815),
])  # fmt: skip
def test_alpha_of_krippendorffs_own_example(name, level, alpha):
    row = krippendorff_alpha(long(KRIPPENDORFF, name), [name]).loc[name]
    assert row["level"] == level
    assert row["value"] == pytest.approx(alpha, abs=5e-4)
    # unit 12 has a single reading
    assert row[["n_readings", "n_nodules", "n_missing"]].tolist() == [40, 11, 7]


def test_icc_of_shrout_and_fleiss():
    row = icc(long(SHROUT_FLEISS), ["margin"]).loc["margin"]
    # Shrout and Fleiss print 0.17 for ICC(1,1); the interval is what the R package psych prints
    assert row["value"] == pytest.approx(0.17, abs=5e-3)
    assert row[["low", "high"]].tolist() == pytest.approx([-0.133, 0.723], abs=5e-4)
    assert row[["k0", "n_readings", "n_nodules"]].tolist() == [4, 24, 6]


def test_icc_of_unequal_numbers_of_readers_from_statsmodels_table(readings):
    frame = readings[readings.groupby("lesion_id")["margin"].transform("size") > 1]
    anova = anova_lm(smf.ols("margin ~ C(lesion_id)", frame).fit())
    between, within = anova["mean_sq"]
    k = frame.groupby("lesion_id").size()
    k0 = (k.sum() - (k**2).sum() / k.sum()) / (len(k) - 1)
    row = icc(frame, ["margin"]).loc["margin"]
    assert row["k0"] == pytest.approx(k0)
    assert row["value"] == pytest.approx((between - within) / (between + (k0 - 1) * within))
    assert row["low"] < row["value"] < row["high"]


def test_kappa_is_scikit_learns_on_the_pairs_in_both_orders(readings):
    first, second = [], []
    for _name, group in readings.groupby("lesion_id"):
        for a, b in combinations(group["margin"], 2):
            first += [a, b]
            second += [b, a]
    row = weighted_kappa(readings, ["margin"]).loc["margin"]
    assert row["value"] == pytest.approx(cohen_kappa_score(first, second, weights="linear"))
    assert row["n_pairs"] == len(first) / 2


def test_kappa_counts_steps_although_a_step_is_unused():
    frame = long([[1, 2, 4, 4, 1], [1, 4, 4, 2, 2]])  # nobody says 3
    pairs = np.array([[1, 1], [2, 4], [4, 4], [4, 2], [1, 2]], dtype=float)
    both = np.vstack([pairs, pairs[:, ::-1]])
    observed = np.abs(both[:, 0] - both[:, 1]).mean()
    expected = np.abs(both[:, 0][:, None] - both[:, 1]).mean()
    assert value(weighted_kappa(frame, ["margin"])) == pytest.approx(1 - observed / expected)


BEYOND_CHANCE = [icc, krippendorff_alpha, weighted_kappa]


@pytest.mark.parametrize("measure", BEYOND_CHANCE)
def test_full_agreement_is_1_and_chance_is_0(measure, readings):
    alike = readings.assign(margin=readings["lesion_id"] % 5 + 1)
    assert value(measure(alike, ["margin"])) == 1
    many = pd.DataFrame({"lesion_id": np.repeat(np.arange(3000), 3)})
    many["margin"] = np.random.default_rng(1).integers(1, 6, len(many))
    assert value(measure(many, ["margin"])) == pytest.approx(0, abs=0.04)
    constant = measure(readings.assign(margin=1), ["margin"]).loc["margin"]
    assert np.isnan(constant["value"])
    assert constant["n_nodules"] > 0


@pytest.mark.parametrize("measure", [*BEYOND_CHANCE, pairwise_difference, one_against_rest])
def test_order_single_readers_and_gaps_change_nothing(measure, readings):
    more = pd.DataFrame({"lesion_id": [-1, readings["lesion_id"][0]], "margin": [1, np.nan]})
    table = measure(readings, ["margin"]).drop(columns="n_missing")
    same = measure(pd.concat([readings, more]).sample(frac=1, random_state=2), ["margin"])
    assert same.pop("n_missing").item() == 1
    pd.testing.assert_frame_equal(table, same)
    nobody = measure(readings.drop_duplicates("lesion_id"), ["margin"]).loc["margin"]
    assert np.isnan(nobody["value"])
    assert nobody["n_nodules"] == 0


def test_kappa_refuses_what_is_between_the_steps(readings):
    with pytest.raises(ValueError, match="kappa of 'margin' needs whole numbers, got"):
        weighted_kappa(readings.assign(margin=readings["margin"] / 2), ["margin"])
