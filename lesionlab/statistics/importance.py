"""Which ratings carry the malignancy decision: recursive feature elimination after Liu 2020.

Liu 2020 (section III.D.1 and Table IV) fits a logistic regression of malignancy on the
eight other ratings, removes the least important one, and repeats. At each step it keeps
the coefficient and the "important ratio" of the removed feature, and combines them at the
end "in a nested manner"; it gives no formula. The one here is a reading of it under which
the importances sum to 1, as the printed ones do but for rounding (they sum to 0.99):

    r_s = |w of the feature removed at step s| / (sum of |w| of the features still in)
    importance of that feature = r_s * product over earlier steps t of (1 - r_t)

The feature removed first takes its share of the whole, the next its share of what is
left, and the last one all that remains.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import MinMaxScaler


def eliminate(X: pd.DataFrame, y: ArrayLike) -> pd.DataFrame:
    """Remove one feature after another and keep what each was worth when it went.

    Each feature is rescaled to [0, 1] first, as Liu 2020 does with the ratings. Coefficients are
    only comparable on a common scale, and a rarely used end of a scale makes one large.

    `X` has one row per lesion and one column per feature, without gaps; `y` is of two classes.

    Returns:
        One row per step, in order: step (from 1), feature, coefficient (with sign), share (r_s),
        importance.
    """
    labels = np.asarray(y)
    if len(classes := np.unique(labels)) != 2:
        raise ValueError(f"y must have two classes, got {classes.tolist()[:5]}")
    values = pd.DataFrame(MinMaxScaler().fit_transform(X), columns=X.columns)
    left = 1.0
    rows: list[tuple[Any, ...]] = []
    while len(values.columns):
        weights = LogisticRegression(max_iter=1000).fit(values.to_numpy(), labels).coef_[0]
        # where only constant features are left, none is worth more than another
        total = np.abs(weights).sum()
        shares = np.abs(weights) / total if total > 0 else np.full(len(weights), 1 / len(weights))
        worst = int(np.argmin(shares))
        feature, share = values.columns[worst], shares[worst]
        rows.append((len(rows) + 1, feature, weights[worst], share, share * left))
        left *= 1 - share
        values = values.drop(columns=feature)
    return pd.DataFrame(rows, columns=["step", "feature", "coefficient", "share", "importance"])


def recursive_feature_elimination(
    X: pd.DataFrame, y: ArrayLike, *, groups: ArrayLike, n_splits: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Importance of each feature, mean and SD over folds (Liu 2020, Table IV).

    Each fold is left out once and the elimination is run on the other rows, so that the SD says
    how far the importances move with the sample. It is not a standard error: any two training
    parts share most of their rows.

    Departs from the paper: the nested formula is a reading (see the module), and folds keep the
    nodules of a patient together.

    `X` and `y` are as in `eliminate`; each training part rescales the features anew. `groups` are
    the patients of the rows. The folds are stratified by `y` and drawn by `seed`.

    Returns:
        Index feature, most important first; columns importance, importance_sd, rank (1 is the
        most important), coefficient (mean of the signed one at removal), step (mean step of
        removal). The importances sum to 1.
    """
    labels = np.asarray(y)
    folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    parts = folds.split(X, labels, groups)
    runs = [eliminate(X.iloc[train], labels[train]) for train, _ in parts]
    by_feature = pd.concat(runs).groupby("feature")
    table = by_feature[["importance", "coefficient", "step"]].mean()
    table.insert(1, "importance_sd", by_feature["importance"].std())
    table.insert(2, "rank", table["importance"].rank(ascending=False, method="first").astype(int))
    return table.sort_values("rank")
