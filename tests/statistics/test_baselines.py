import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lesionlab.statistics.baselines import (
    OTHER_RATINGS,
    constant_error,
    diameter_classifier,
    diameter_regression,
    majority_classifier,
    majority_multiclass,
    ratings_classifier,
)


def nodules(n=300, seed=0):
    """Nodules of which the larger ones are the more malignant and the more lobulated."""
    rng = np.random.default_rng(seed)
    size = rng.normal(2.1, 0.5, n)
    frame = pd.DataFrame({"lesion_id": [f"n{i}" for i in range(n)], "diameter": np.exp(size)})
    frame["patient"] = [f"p{i}" for i in rng.integers(0, n // 3, n)]
    for name in OTHER_RATINGS:
        frame[name] = np.clip(np.round(4 * (1 + size + rng.normal(0, 0.7, n))) / 4, 1, 5)
    frame["malignancy"] = np.clip(np.round(4 * (2 * size - 1 + rng.normal(0, 0.7, n))) / 4, 1, 5)
    return frame


def labels_of(frame):
    mean = frame.set_index("lesion_id")["malignancy"]
    return (mean[mean != 3] > 3).astype(int)


FRAME = nodules()
FOLDS = pd.Series(0, index=FRAME["lesion_id"])
for _fold, (_, _test) in enumerate(GroupKFold(5).split(FRAME, groups=FRAME["patient"])):
    FOLDS.iloc[_test] = _fold
LABELS = labels_of(FRAME)


def test_the_constant_by_hand():
    frame = pd.DataFrame(
        {"lesion_id": list("abcdef"), "patient": list("abcdef"), "margin": [1, 1, 4, 5, 5, 3]}
    )
    folds = pd.Series([0, 0, 0, 1, 1, 1], index=list("abcdef"))
    median = constant_error(frame, "margin", folds=folds, n_resamples=20)
    # the other fold's median is 5 for a, b, c and 1 for d, e, f
    assert median.predictions["prediction"].tolist() == [5, 5, 5, 1, 1, 1]
    assert median.scores["mae"].value == pytest.approx((4 + 4 + 1 + 4 + 4 + 2) / 6)
    assert median.scores["skill"].value == 0


BASELINES = [
    lambda frame, folds: constant_error(frame, "malignancy", folds=folds, n_resamples=20),
    lambda frame, folds: diameter_regression(frame, "malignancy", folds=folds, n_resamples=20),
    lambda frame, folds: majority_classifier(frame, labels_of(frame), folds=folds, n_resamples=20),
    lambda frame, folds: diameter_classifier(frame, labels_of(frame), folds=folds, n_resamples=20),
    lambda frame, folds: ratings_classifier(frame, labels_of(frame), folds=folds, n_resamples=20),
]


def predicted(baseline):
    column = "score" if "score" in baseline.predictions else "prediction"
    return baseline.predictions.set_index("lesion_id")[column]


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_fold_is_predicted_without_its_own_ratings_in_any_order(baseline):
    found = baseline(FRAME, FOLDS)
    honest = predicted(found)
    inside = FRAME["lesion_id"].map(FOLDS) == 2
    poisoned = FRAME.assign(malignancy=FRAME["malignancy"].where(~inside, 5.0))
    own = FOLDS[FOLDS == 2].index.intersection(honest.index)
    pd.testing.assert_series_equal(honest[own], predicted(baseline(poisoned, FOLDS))[own])
    shuffled = FRAME.sample(frac=1, random_state=0)
    turned = baseline(shuffled, FOLDS.map(lambda k: 10 - k).sample(frac=1, random_state=1))
    # the solver stops within a tolerance, so that order shows in far digits
    pd.testing.assert_series_equal(honest.sort_index(), predicted(turned).sort_index(), atol=1e-4)
    table = found.predictions
    known = LABELS.index if "score" in table else FRAME["lesion_id"]
    assert sorted(table["lesion_id"]) == sorted(known)
    assert not table.isna().any(axis=None)
    assert (table["lesion_id"].map(FOLDS) == table["fold"]).all()
    counts = {(e.n, e.n_groups) for e in found.scores.values()}
    assert counts == {(len(table), table["patient"].nunique())}


def test_the_classifiers_are_scikit_learns_logistic_regression():
    table = FRAME[FRAME["lesion_id"].isin(LABELS.index)].set_index("lesion_id")
    fold, label = table.index.map(FOLDS), LABELS[table.index]
    for function, X in (
        (diameter_classifier, np.log(table[["diameter"]])),
        (ratings_classifier, table[list(OTHER_RATINGS)]),
    ):
        found = function(FRAME, LABELS, folds=FOLDS, n_resamples=50)
        score = pd.Series(np.nan, index=table.index)
        aucs = []
        for k in range(5):
            test = fold == k
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            score[test] = model.fit(X[~test], label[~test]).predict_proba(X[test])[:, 1]
            aucs.append(roc_auc_score(label[test], score[test]))
        np.testing.assert_allclose(predicted(found)[table.index], score, atol=1e-9)
        assert found.scores["auc"].value == pytest.approx(np.mean(aucs))  # within folds
        assert found.scores["auc"].value > 0.8


def test_the_majority_of_several_classes():
    classes = pd.Series(np.random.default_rng(0).choice([1, 2, 3, 0], 300, p=[0.5, 0.3, 0.1, 0.1]))
    classes.index = FRAME["lesion_id"]
    options = {"folds": FOLDS, "classes": [1, 2, 3], "n_resamples": 50}
    found = majority_multiclass(FRAME, classes, **options)
    table = found.predictions
    assert len(table) == (classes != 0).sum()  # 0 is a code that is no class
    for fold, rows in table.groupby("fold"):
        others = table.loc[table["fold"] != fold, "truth"].value_counts(normalize=True)
        np.testing.assert_allclose(rows[[1, 2, 3]], np.tile(others[[1, 2, 3]], (len(rows), 1)))
    assert found.scores["accuracy"].value == pytest.approx((table["truth"] == 1).mean())
    assert found.scores["auc"].value == 0.5
    assert found.scores["macro_recall"].value == pytest.approx(1 / 3)


def test_what_is_missing_is_left_out():
    frame = FRAME.copy()
    frame.loc[:4, "margin"] = np.nan
    assert len(constant_error(frame, "margin", folds=FOLDS, n_resamples=20).predictions) == 295
    found = ratings_classifier(frame, LABELS, folds=FOLDS, n_resamples=20)
    complete = frame.loc[frame["margin"].notna(), "lesion_id"]
    assert set(found.predictions["lesion_id"]) == set(complete) & set(LABELS.index)
    # a lesion without a truth needs no fold
    some = FOLDS[FOLDS.index.isin(LABELS.index)]
    assert len(majority_classifier(FRAME, LABELS, folds=some, n_resamples=20).predictions) == len(
        LABELS
    )


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: constant_error(FRAME, "hue", folds=FOLDS), KeyError, r"no column \['hue'\]"),
    (lambda: constant_error(FRAME, "margin", folds=FOLDS.drop(index="n3")), ValueError,
     "no fold for 1 lesions, such as n3"),
    (lambda: constant_error(FRAME, "margin", folds=FOLDS * 0), ValueError, "unique groups"),
    (lambda: diameter_regression(FRAME.assign(diameter=-1), "margin", folds=FOLDS), ValueError,
     r"diameter must be above 0 mm, got -1"),
    (lambda: ratings_classifier(FRAME, LABELS, folds=FOLDS, attributes=["malignancy"]), ValueError,
     "some ratings other than malignancy"),
    (lambda: diameter_classifier(FRAME, pd.concat([LABELS, LABELS]), folds=FOLDS),
     pd.errors.InvalidIndexError, "uniquely valued"),
    (lambda: diameter_classifier(FRAME, LABELS, folds=LABELS), ValueError, "only one class"),
])  # fmt: skip
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
