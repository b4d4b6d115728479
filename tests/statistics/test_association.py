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


def ratings(n=300, columns=4, seed=0):
    """Integer ratings with some association and some gaps."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            f"a{i}": np.clip(np.round(3 + common * (i % 3) + rng.normal(size=n)), 1, 5)
            for i in range(columns)
        }
    )
    return frame.mask(rng.random(frame.shape) < 0.05)


def test_equations_1_and_2_of_li_2021_are_the_same():
    table = np.array([[12, 7, 3], [2, 9, 14]])
    n = table.sum()
    fx, fy = table.sum(1, keepdims=True), table.sum(0, keepdims=True)
    eq1 = ((table - fx * fy / n) ** 2 / (fx * fy / n)).sum()
    eq2 = n * ((table**2 / (fx * fy)).sum() - 1)
    assert eq1 == pytest.approx(eq2)
    found = chi_square(*columns_of(table))
    assert found.statistic == pytest.approx(eq1)
    np.testing.assert_array_equal(found.observed, table)
    np.testing.assert_allclose(found.expected, fx * fy / n)


def test_a_table_by_hand():
    # 20 of 30 against 10 of 30: every expected count is 15, so 4 * 5^2 / 15
    test = chi_square(*columns_of([[20, 10], [10, 20]]))
    assert test.statistic == pytest.approx(100 / 15)
    assert (test.df, test.p_method, test.n_expected_below_5) == (1, "asymptotic", 0)
    # Bergsma: phi2 = 1/9 - 1/59, both sides 2 - 1/59
    assert test.cramers_v == pytest.approx(np.sqrt((1 / 9 - 1 / 59) / (1 - 1 / 59)))


def test_cramers_v_of_an_oblong_table_by_hand():
    table = [[14, 6, 10], [6, 14, 10]]  # every expected count is 10, so 4 * 16 / 10
    phi2 = 6.4 / 60 - 2 / 59
    v = np.sqrt(phi2 / (2 - 1 / 59 - 1))  # the shorter side counts
    assert chi_square(*columns_of(table)).cramers_v == pytest.approx(v)
    assert chi_square(*columns_of(np.transpose(table))).cramers_v == pytest.approx(v)


def test_fishers_tea():
    drawn = chi_square(*columns_of([[3, 1], [1, 3]]), n_resamples=20_000)
    assert (drawn.p_method, drawn.n_expected_below_5) == ("permutation", 4)
    assert drawn.p == pytest.approx(34 / 70, abs=0.015)  # (1 + 16 + 16 + 1) / 70, Fisher (1935)


def test_the_permutation_p_is_that_of_shuffling_a_column():
    x, y = columns_of([[6, 2, 1], [1, 3, 4]])
    rng = np.random.default_rng(0)
    observed = chi_square(x, y).statistic
    shuffled = [
        chi_square(x, pd.Series(rng.permutation(y)), p_value="asymptotic").statistic
        for _ in range(1000)
    ]
    by_shuffling = np.mean(np.array(shuffled) >= observed - 1e-9)
    assert chi_square(x, y, p_value="permutation").p == pytest.approx(by_shuffling, abs=0.04)


def test_a_permutation_p_is_never_zero_and_follows_its_seed():
    x, y = columns_of([[30, 0], [0, 30]])
    assert chi_square(x, y, p_value="permutation", n_resamples=99).p == 1 / 100
    weak = columns_of([[9, 5], [5, 7]])
    p = [chi_square(*weak, p_value="permutation", seed=s).p for s in (1, 1, 2)]
    assert p[0] == p[1] != p[2]


def test_auto_looks_at_the_expected_counts():
    assert chi_square(*columns_of([[5, 5], [5, 5]])).p_method == "asymptotic"
    assert chi_square(*columns_of([[5, 5], [5, 4]])).p_method == "permutation"
    # an observed 0 is no reason as long as it was expected to be more
    assert chi_square(*columns_of([[0, 20], [20, 0]])).p_method == "asymptotic"


def test_gaps_are_dropped_in_pairs_and_counted():
    x = pd.Series([1, 1, 2, 2, np.nan, 2, 1, 2] * 4)
    y = pd.Series(["a", "b", "b", "b", "a", None, "a", "b"] * 4)
    test = chi_square(x, y)
    whole = chi_square(*(s[x.notna() & y.notna()] for s in (x, y)))
    assert (test.n, test.n_dropped) == (24, 8)
    assert test.statistic == whole.statistic
    assert test.p == whole.p
    assert test.observed.index.tolist() == [1, 2]
    assert test.observed.columns.tolist() == ["a", "b"]


def test_a_single_category_leaves_nothing_to_test():
    test = chi_square(pd.Series([1, 1, 1, 1]), pd.Series([1, 2, 1, 2]))
    assert (test.statistic, test.df, test.p_method) == (0.0, 0, "undefined")
    assert np.isnan(test.p)
    assert np.isnan(test.cramers_v)


def test_cramers_v_is_1_when_one_follows_from_the_other_and_0_on_average_when_not():
    assert chi_square(*columns_of(np.diag([20, 30, 25]))).cramers_v == pytest.approx(1)
    assert chi_square(*columns_of([[8, 16], [4, 8]])).cramers_v == 0  # exactly independent
    rng = np.random.default_rng(0)
    corrected, plain = [], []
    for _ in range(100):
        x, y = (pd.Series(rng.integers(5, size=80)) for _ in range(2))
        test = chi_square(x, y, p_value="asymptotic")
        corrected.append(test.cramers_v)
        plain.append(stats.contingency.association(test.observed.to_numpy(), method="cramer"))
    assert np.mean(plain) > 0.2
    assert np.mean(corrected) < 0.08


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        ([1, 2], [1, 2], {"p_value": "exact"}, "p_value must be .* got 'exact'"),
        ([np.nan, 2], [1, np.nan], {}, "no row in which both are given"),
        ([1, 2], pd.Series([1, 2], index=[1, 0]), {}, "x and y must have the same index"),
        ([1, 2], [1, 2], {"n_resamples": 0}, "n_resamples must be at least 1, got 0"),
    ],
)
def test_chi_square_refuses(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        chi_square(pd.Series(x), pd.Series(y), **options)


def test_nine_attributes_make_36_rows_each_the_single_test():
    frame = ratings(columns=9)
    before = frame.copy()
    table = chi_square_matrix(frame, list(frame.columns), n_resamples=99, seed=5)
    assert len(table) == 36
    for row in table.sample(8, random_state=0).itertuples():
        single = chi_square(frame[row.first], frame[row.second], n_resamples=99, seed=5)
        for name in ("statistic", "p", "df", "p_method", "n", "n_expected_below_5", "cramers_v"):
            assert getattr(row, name) == getattr(single, name)
        assert row.n + row.n_dropped == len(frame)
    np.testing.assert_allclose(table["p_holm"], multipletests(table["p"], method="holm")[1])
    assert table["cramers_v"].between(0, 1).all()
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (["a0", "margin"], KeyError, r"no column \['margin'\]"),
        (["a0"], ValueError, "at least two different names"),
        (["a0", "a0"], ValueError, "at least two different names"),
    ],
)
@pytest.mark.parametrize("function", [chi_square_matrix, conditional_probability])
def test_bad_columns(function, columns, error, message):
    with pytest.raises(error, match=message):
        function(ratings(), columns)


def test_square_of_pairs():
    tidy = pd.DataFrame({"first": ["b", "a", "b"], "second": ["a", "c", "c"], "v": [0.1, 0.2, 0.3]})
    matrix = square(tidy, "v", diagonal=1.0)
    assert matrix.index.tolist() == matrix.columns.tolist() == ["b", "a", "c"]
    np.testing.assert_array_equal(matrix, [[1, 0.1, 0.3], [0.1, 1, 0.2], [0.3, 0.2, 1]])
    assert np.isnan(np.diag(square(tidy, "v"))).all()
    assert np.isnan(square(tidy.iloc[:2], "v").loc["b", "c"])
    with pytest.raises(ValueError, match="duplicate entries"):
        square(pd.concat([tidy, tidy]), "v")


def test_conditional_probability_by_hand():
    lesions = pd.DataFrame(
        {"spiculation": [1, 1, 1, 2, 2], "margin": ["clear", "clear", "blur", "blur", "blur"]}
    )
    p = conditional_probability(lesions, ["spiculation", "margin"])
    expected = pd.DataFrame(
        # given:  spic 1, spic 2, blur, clear
        [[1, 0, 1 / 3, 1], [0, 1, 2 / 3, 0], [1 / 3, 1, 1, 0], [2 / 3, 0, 0, 1]],
        index=p.index,
        columns=p.columns,
        dtype=float,
    )
    assert p.index.tolist() == [
        ("spiculation", 1),
        ("spiculation", 2),
        ("margin", "blur"),
        ("margin", "clear"),
    ]
    pd.testing.assert_frame_equal(p, expected)


def test_conditional_probability_agrees_with_crosstab_where_ratings_are_missing():
    frame = ratings()
    p = conditional_probability(frame, ["a0", "a1", "a2"])
    for given in ("a0", "a1", "a2"):
        for other in {"a0", "a1", "a2"} - {given}:
            table = pd.crosstab(frame[other], frame[given], normalize="columns")
            np.testing.assert_allclose(p.loc[other, given], table)


def test_laws_of_conditional_probability():
    frame = ratings().dropna()
    columns = list(frame.columns)
    p = conditional_probability(frame, columns)
    assert (np.diag(p) == 1).all()
    for name in columns:
        np.testing.assert_array_equal(p.loc[name, name], np.eye(len(p.loc[name])))
    np.testing.assert_allclose(p.groupby("attribute").sum(), 1)
    marginal = np.concatenate([frame[c].value_counts(normalize=True).sort_index() for c in columns])
    joint = p.to_numpy() * marginal  # Bayes: P(X|Y) P(Y) = P(Y|X) P(X)
    np.testing.assert_allclose(joint, joint.T)


def test_holm_by_hand():
    # sorted 0.01 * 3, 0.03 * 2, 0.04 * 1, and never falling
    p = pd.Series([0.01, np.nan, 0.04, 0.03], index=list("abcd"), name="p")
    expected = pd.Series([0.03, np.nan, 0.06, 0.06], index=list("abcd"), name="p")
    pd.testing.assert_series_equal(holm(p), expected)
    with pytest.raises(ValueError, match="p must be between 0 and 1"):
        holm(pd.Series([0.1, 1.2]))
