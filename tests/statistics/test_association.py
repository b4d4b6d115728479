from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from lesionlab.statistics.association import (
    chi_square,
    chi_square_matrix,
    conditional_probability,
    holm,
    square,
)


def columns_of(table):
    """Two categorical columns with the given table of counts."""
    table = np.asarray(table)
    x, y = np.indices(table.shape)
    return (
        pd.Series(np.repeat(x.ravel(), table.ravel()), name="x"),
        pd.Series(np.repeat(y.ravel(), table.ravel()), name="y"),
    )


def test_equations_1_and_2_of_li_2021_are_the_same():
    table = np.array([[12, 7, 3], [2, 9, 14]])
    n = table.sum()
    fx, fy = table.sum(1, keepdims=True), table.sum(0, keepdims=True)
    eq1 = ((table - fx * fy / n) ** 2 / (fx * fy / n)).sum()
    eq2 = n * ((table**2 / (fx * fy)).sum() - 1)
    assert eq1 == pytest.approx(eq2)
    assert chi_square(*columns_of(table))["statistic"] == pytest.approx(eq1)


def test_a_table_by_hand():
    # 20 of 30 against 10 of 30: every expected count is 15, so 4 * 5^2 / 15
    test = chi_square(*columns_of([[20, 10], [10, 20]]))
    assert test["statistic"] == pytest.approx(100 / 15)
    assert (test["df"], test["p_method"], test["n_expected_below_5"]) == (1, "asymptotic", 0)
    assert test["smallest_expected"] == 15
    # Bergsma: phi2 = 1/9 - 1/59, both sides 2 - 1/59
    assert test["cramers_v"] == pytest.approx(np.sqrt((1 / 9 - 1 / 59) / (1 - 1 / 59)))


def test_fishers_tea():
    tea = columns_of([[3, 1], [1, 3]])
    drawn = chi_square(*tea, n_resamples=20_000)
    assert (drawn["p_method"], drawn["n_expected_below_5"]) == ("permutation", 4)
    assert drawn["p"] == pytest.approx(34 / 70, abs=0.015)  # (1 + 16 + 16 + 1) / 70, Fisher (1935)
    p = [chi_square(*tea, n_resamples=99, seed=s)["p"] for s in (1, 1, 2)]
    assert p[0] == p[1] != p[2]


def test_the_method_follows_from_the_expected_counts():
    for table, method in (
        ([[5, 5], [5, 5]], "asymptotic"),
        ([[5, 5], [5, 4]], "permutation"),
        ([[0, 20], [20, 0]], "asymptotic"),  # an observed 0 that was expected to be more
    ):
        assert chi_square(*columns_of(table))["p_method"] == method
    never_zero = chi_square(*columns_of([[3, 0], [0, 90]]), n_resamples=99)
    assert never_zero["p"] == 1 / 100
    single = chi_square(*columns_of([[5, 5]]))  # one category leaves nothing to test
    assert (single["statistic"], single["df"], single["p_method"]) == (0.0, 0, "undefined")
    assert np.isnan([single["p"], single["cramers_v"]]).all()


def test_gaps_are_dropped_in_pairs_and_counted():
    x = pd.Series([1, 1, 2, 2, np.nan, 2, 1, 2] * 4)
    y = pd.Series(["a", "b", "b", "b", "a", None, "a", "b"] * 4)
    test = chi_square(x, y)
    whole = chi_square(*(s[x.notna() & y.notna()] for s in (x, y)))
    assert test == whole | {"n": 24, "n_dropped": 8}


def test_cramers_v_is_1_when_one_follows_from_the_other_and_0_on_average_when_not():
    assert chi_square(*columns_of(np.diag([20, 30, 25])))["cramers_v"] == pytest.approx(1)
    assert chi_square(*columns_of([[8, 16], [4, 8]]))["cramers_v"] == 0  # exactly independent
    rng = np.random.default_rng(0)
    drawn = [[pd.Series(rng.integers(5, size=80)) for _ in range(2)] for _ in range(100)]
    plain = [stats.contingency.association(pd.crosstab(*pair), method="cramer") for pair in drawn]
    assert np.mean(plain) > 0.2
    assert np.mean([chi_square(*pair, n_resamples=1)["cramers_v"] for pair in drawn]) < 0.08


def test_the_matrix_has_one_row_per_pair_and_each_is_the_single_test(ratings):
    frame = ratings
    table = chi_square_matrix(frame, list(frame.columns), n_resamples=99, seed=5)
    assert len(table) == 6
    for row in table.to_dict("records"):
        single = chi_square(frame[row["first"]], frame[row["second"]], n_resamples=99, seed=5)
        assert single.items() <= row.items()
        assert row["n"] + row["n_dropped"] == len(frame)
    np.testing.assert_allclose(table["p_holm"], multipletests(table["p"], method="holm")[1])


def test_what_is_refused(ratings):
    with pytest.raises(ValueError, match="no row in which both are given"):
        chi_square(pd.Series([np.nan, 2]), pd.Series([1, np.nan]))
    with pytest.raises(ValueError, match="x and y must have the same index"):
        chi_square(pd.Series([1, 2]), pd.Series([1, 2], index=[1, 0]))
    with pytest.raises(KeyError, match="no column"):
        chi_square_matrix(ratings, ["a0", "margin"])
    for columns in (["a0"], ["a0", "a0"]):
        with pytest.raises(ValueError, match="at least two different names"):
            conditional_probability(ratings, columns)


def test_square_of_pairs():
    tidy = pd.DataFrame({"first": ["b", "a", "b"], "second": ["a", "c", "c"], "v": [0.1, 0.2, 0.3]})
    matrix = square(tidy, "v")
    assert matrix.index.tolist() == matrix.columns.tolist() == ["b", "a", "c"]
    gap = np.nan
    np.testing.assert_array_equal(matrix, [[gap, 0.1, 0.3], [0.1, gap, 0.2], [0.3, 0.2, gap]])
    assert np.isnan(square(tidy.iloc[:2], "v").loc["b", "c"])


def test_laws_of_conditional_probability(ratings):
    columns = list(ratings.columns)
    p = conditional_probability(ratings, columns)
    for given, other in permutations(columns, 2):
        table = pd.crosstab(ratings[other], ratings[given], normalize="columns")
        np.testing.assert_allclose(p.loc[other, given], table)
    complete = ratings.dropna()
    p = conditional_probability(complete, columns)
    for name in columns:
        np.testing.assert_array_equal(p.loc[name, name], np.eye(len(p.loc[name])))
    shares = [complete[c].value_counts(normalize=True).sort_index() for c in columns]
    joint = p.to_numpy() * np.concatenate(shares)  # Bayes: P(X|Y) P(Y) = P(Y|X) P(X)
    np.testing.assert_allclose(joint, joint.T)


def test_holm_by_hand():
    # sorted 0.01 * 3, 0.03 * 2, 0.04 * 1, and never falling
    p = pd.Series([0.01, np.nan, 0.04, 0.03], index=list("abcd"), name="p")
    expected = pd.Series([0.03, np.nan, 0.06, 0.06], index=list("abcd"), name="p")
    pd.testing.assert_series_equal(holm(p), expected)
    with pytest.raises(ValueError, match="p must be between 0 and 1"):
        holm(pd.Series([0.1, 1.2]))
