from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from lesionlab.statistics.correlation import (
    correlation_matrix,
    correlation_table,
    matrix_agreement,
    spearman,
)


def symmetric(k=6, seed=0):
    half = np.triu(np.random.default_rng(seed).normal(size=(k, k)), 1)
    return half + half.T


def test_the_table_has_scipys_p_values_pairwise_over_gaps(ratings):
    table = correlation_table(ratings, list(ratings.columns))
    matrix = correlation_matrix(ratings, list(ratings.columns))
    assert len(table) == 6
    for row in table.itertuples():
        pair = ratings[[row.first, row.second]].dropna()
        test = stats.pearsonr(pair.iloc[:, 0], pair.iloc[:, 1])
        assert (row.r, row.p) == pytest.approx((test.statistic, test.pvalue))
        assert row.r == pytest.approx(matrix.loc[row.first, row.second])
        assert row.n == len(pair) < 300
    np.testing.assert_allclose(table["p_holm"], multipletests(table["p"], method="holm")[1])


def test_weighted_ranks_are_those_of_repeated_rows():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, 40), rng.normal(size=40).round(1)
    weights = rng.integers(0, 3, (5, 40))
    for row, found in zip(weights, spearman(first, second, weights), strict=True):
        expected = stats.spearmanr(np.repeat(first, row), np.repeat(second, row)).statistic
        assert found == pytest.approx(expected)
    assert np.isnan(spearman([1, 1], [1, 2], [[1, 1]]))[0]


def test_a_matrix_agrees_with_itself_and_with_its_scaling():
    a = symmetric(9)
    same = matrix_agreement(a, 3 + 2 * a, n_resamples=999)
    assert same == pytest.approx(
        {"pearson": 1, "pearson_p": 1e-3, "spearman": 1, "spearman_p": 1e-3, "n": 36}
    )
    monotone = matrix_agreement(a, np.exp(a), n_resamples=99)
    assert monotone["pearson"] < 0.999
    assert monotone["spearman"] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(4))
def test_mantels_p_equals_that_of_all_relabellings(seed):
    a = symmetric(5, seed)
    b = 0.5 * a + symmetric(5, seed + 100)
    above = np.triu_indices(5, 1)
    found = matrix_agreement(a, b, n_resamples=9_999, seed=seed)
    for name, correlate in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        moved = (b[np.ix_(order, order)] for order in permutations(range(5)))
        r = np.array([correlate(a[above], m[above]).statistic for m in moved])
        assert found[name] == pytest.approx(r[0])
        assert found[f"{name}_p"] == pytest.approx((r >= r[0] - 1e-12).mean(), abs=0.02)


def test_labels_match_rows_and_a_common_relabelling_changes_nothing():
    names = list("abcdef")
    a = pd.DataFrame(symmetric(seed=1), index=names, columns=names)
    b = pd.DataFrame(symmetric(seed=2), index=names, columns=names)
    order = list("fbdaec")
    turned = b.loc[order, order]
    found = matrix_agreement(a, b, n_resamples=99)
    assert matrix_agreement(a, turned, n_resamples=99) == found
    both = matrix_agreement(a.loc[order, order], turned, n_resamples=99)
    assert both["pearson"] == pytest.approx(found["pearson"])
    with pytest.raises(ValueError, match=r"a and b have other labels: \['f', 'g'\]"):
        matrix_agreement(a, b.rename(index={"f": "g"}, columns={"f": "g"}))
    # without labels the order is taken as it is
    assert matrix_agreement(a, turned.to_numpy())["pearson"] != pytest.approx(found["pearson"])


@pytest.mark.parametrize(("a", "message"), [
    (np.ones((2, 2)), r"a must be a square matrix of at least 3 x 3, got \(2, 2\)"),
    (np.arange(36.0).reshape(6, 6), "a must be finite and symmetric"),
    (np.where(np.eye(6)[::-1], np.nan, 1.0), "a must be finite and symmetric"),
    (symmetric(5), r"must have the same shape, got \(5, 5\) and \(6, 6\)"),
])  # fmt: skip
def test_matrix_agreement_refuses(a, message):
    with pytest.raises(ValueError, match=message):
        matrix_agreement(a, symmetric(6))
