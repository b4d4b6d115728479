"""Intervals that hold what they promise: by hand, by simulation, and on patients unseen."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lesionlab import weights
from lesionlab.sources import lidc
from lesionlab.statistics import conformal
from lesionlab.weights import calibration


def test_by_hand():
    errors = [0.3, 0.1, 0.4, 0.2]
    # k = ceil(5 × level): the 3rd, the 4th, and the 5th of four
    assert [conformal.reach(errors, level) for level in (0.5, 0.8, 0.81)] == [0.3, 0.4, math.inf]
    for level in (0, 1, float("nan")):
        with pytest.raises(ValueError, match="a share between 0 and 1"):
            conformal.reach(errors, level)
    with pytest.raises(ValueError, match="got NaN"):
        conformal.reach([0.1, math.nan], 0.5)


def test_the_promise_is_kept_on_average_and_counts_are_beta_binomial():
    """Whatever the errors are: here they have no mean."""
    rng, n, tested = np.random.default_rng(0), 19, 30
    draws = np.abs(rng.standard_cauchy((4000, n + tested)))
    reach = np.array([conformal.reach(row[:n], 0.9) for row in draws])
    counts = (draws[:, n:] <= reach[:, None]).sum(axis=1)
    assert counts.mean() / tested == pytest.approx(18 / 20, abs=0.01)
    law = stats.betabinom(tested, 18, 2)
    observed = np.bincount(counts, minlength=tested + 1)
    expected = 4000 * law.pmf(np.arange(tested + 1))
    pooled = expected > 5
    found = [*observed[pooled], observed[~pooled].sum()]
    assert stats.chisquare(found, [*expected[pooled], expected[~pooled].sum()]).pvalue > 1e-3


def test_halves_are_of_patients():
    patients = pd.Series([f"P{k // 3}" for k in range(300)])
    first = conformal.halves(patients)
    assert set(patients[first]).isdisjoint(patients[~first])
    assert patients[first].nunique() == 50
    assert (first != conformal.halves(patients, seed=1)).any()
    shuffled = patients.sample(frac=1, random_state=0)
    assert set(shuffled[conformal.halves(shuffled)]) == set(patients[first])


@pytest.fixture(scope="module")
def kept() -> calibration.Calibration:
    found = calibration.read("fu2021/full", data="slices")
    assert found is not None
    return found


def test_coverage_on_patients_that_neither_model_nor_calibration_saw(kept):
    """Each rating lies within what 99.4 % of all draws give: of nine, 95 % have none outside."""
    rows = kept.intervals[kept.intervals["level"] == 0.9]
    assert len(rows) == 9
    for row in rows.itertuples():
        k = math.ceil(round(0.9 * (row.n_calibrated + 1), 9))
        law = stats.betabinom(row.n_tested, k, row.n_calibrated + 1 - k)
        low, high = law.ppf([0.0028, 0.9972]) / row.n_tested
        assert low <= row.covered <= high, row.target
        assert row.n_calibrated > 200
        assert row.n_tested > 200


def test_what_is_kept_follows_from_the_errors_on_unseen_patients(kept):
    """Which have the mean that the header of the weights has had since they were trained."""
    about = weights.about("fu2021/full", data="slices")
    scores = pd.DataFrame(about["scores"]).set_index(["predictor", "metric", "target"])["value"]
    np.testing.assert_allclose(
        kept.errors.mean(), scores["model", "mae"][kept.errors.columns], atol=0.01
    )
    patients = lidc.nodules().loc[kept.errors.index, "patient"]
    assert set(patients) <= set(about["patients"]["unseen"])
    first = conformal.halves(patients)
    for row in kept.intervals.itertuples():
        own, others = (kept.errors.loc[part, row.target].dropna() for part in (first, ~first))
        k = math.ceil(round(row.level * (len(own) + 1), 9))
        assert row.reach == pytest.approx(sorted(own)[k - 1], abs=1e-5)
        assert row.covered == pytest.approx((others <= row.reach + 1e-6).mean(), abs=0.005)
