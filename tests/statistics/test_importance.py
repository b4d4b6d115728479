import numpy as np
import pandas as pd
import pytest
from sklearn.feature_selection import RFE
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import MinMaxScaler

from lesionlab.statistics.importance import eliminate, recursive_feature_elimination


def lesions(n=400, seed=0):
    """Five ratings, of which `strong` and `weak` make the label, two to a patient."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(
        rng.integers(1, 6, (n, 5)), columns=["noise", "strong", "other", "weak", "more"]
    ).astype(float)
    logit = 1.5 * (X["strong"] - 3) - 0.7 * (X["weak"] - 3)
    y = pd.Series(rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int)
    return X, y, np.repeat(np.arange(n // 2), 2)


def test_the_nested_formula_by_hand():
    X, y, _ = lesions()
    run = eliminate(X, y)
    r = run["share"].tolist()
    left = 1.0
    for share, importance in zip(r, run["importance"], strict=True):
        assert importance == pytest.approx(share * left)
        left -= importance
    assert left == pytest.approx(0)
    assert r[-1] == 1
    assert run["step"].tolist() == [1, 2, 3, 4, 5]
    # the first step is the full model
    w = LogisticRegression(max_iter=1000).fit(MinMaxScaler().fit_transform(X), y).coef_[0]
    shares = pd.Series(np.abs(w) / np.abs(w).sum(), index=X.columns)
    assert run["feature"][0] == shares.idxmin()
    assert r[0] == pytest.approx(shares.min())
    flat = eliminate(pd.DataFrame({"a": [1.0] * 10, "b": [2.0] * 10}), [0, 1] * 5)
    assert flat["importance"].tolist() == pytest.approx([0.5, 0.5]), "constants share alike"


@pytest.mark.parametrize("seed", range(4))
def test_the_order_is_that_of_scikit_learns_rfe(seed):
    X, y, _ = lesions(seed=seed)
    rfe = RFE(LogisticRegression(max_iter=1000), n_features_to_select=1)
    rfe.fit(MinMaxScaler().fit_transform(X), y)
    order = X.columns[np.argsort(-rfe.ranking_)]
    assert eliminate(X, y)["feature"].tolist() == order.tolist()


def test_what_makes_the_label_comes_first():
    X, y, groups = lesions()
    table = recursive_feature_elimination(X, y, groups=groups, n_splits=3, seed=1)
    assert table.index[:2].tolist() == ["strong", "weak"]
    assert table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert table["importance"].is_monotonic_decreasing
    assert table["importance"].sum() == pytest.approx(1)
    assert table.loc["strong", "coefficient"] > 0 > table.loc["weak", "coefficient"]
    assert table.loc["strong", "step"] == 5
    # mean and SD are over the training parts of the folds
    split = StratifiedGroupKFold(3, shuffle=True, random_state=1).split(X, y, groups)
    each = [eliminate(X.iloc[at], y[at]).set_index("feature")["importance"] for at, _ in split]
    runs = pd.concat(each, axis=1)
    expected = {"importance": runs.mean(axis=1), "importance_sd": runs.std(axis=1)}
    pd.testing.assert_frame_equal(table[[*expected]], pd.DataFrame(expected).loc[table.index])


def test_bad_arguments():
    X, y, groups = lesions(40)
    for change, message in (
        ({"X": X.mask(X == 1)}, "contains NaN"),
        ({"y": y[:-1]}, "inconsistent numbers of samples"),
        ({"y": np.arange(40) % 3}, r"y must have two classes, got \[0, 1, 2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            recursive_feature_elimination(**({"X": X, "y": y, "groups": groups} | change))
