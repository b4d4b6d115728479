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
    constant_regression,
    constant_within,
    diameter_classifier,
    diameter_multiclass,
    diameter_regression,
    majority_classifier,
    majority_multiclass,
    ratings_classifier,
)
from lesionlab.statistics.scoring import score_binary, score_multiclass, score_regression


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
    found = constant_regression(frame, "margin", folds=folds)
    # the other fold's median is 5 for a, b, c and 1 for d, e, f
    assert found["prediction"].tolist() == found["constant"].tolist() == [5, 5, 5, 1, 1, 1]
    assert score_regression(found, n_resamples=20)["skill"].value == 0


BASELINES = [
    lambda frame, folds: constant_regression(frame, "malignancy", folds=folds),
    lambda frame, folds: diameter_regression(frame, "malignancy", folds=folds),
    lambda frame, folds: majority_classifier(frame, labels_of(frame), folds=folds),
    lambda frame, folds: diameter_classifier(frame, labels_of(frame), folds=folds),
    lambda frame, folds: ratings_classifier(frame, labels_of(frame), folds=folds),
]


def predicted(table):
    return table.set_index("lesion_id")["score" if "score" in table else "prediction"]


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_fold_is_predicted_without_its_own_ratings_in_any_order(baseline):
    table = baseline(FRAME, FOLDS)
    honest = predicted(table)
    inside = FRAME["lesion_id"].map(FOLDS) == 2
    poisoned = FRAME.assign(malignancy=FRAME["malignancy"].where(~inside, 5.0))
    own = FOLDS[FOLDS == 2].index.intersection(honest.index)
    pd.testing.assert_series_equal(honest[own], predicted(baseline(poisoned, FOLDS))[own])
    shuffled = FRAME.sample(frac=1, random_state=0)
    turned = baseline(shuffled, FOLDS.map(lambda k: 10 - k).sample(frac=1, random_state=1))
    # the solver stops within a tolerance, so that order shows in far digits
    pd.testing.assert_series_equal(honest.sort_index(), predicted(turned).sort_index(), atol=1e-4)
    known = LABELS.index if "score" in table else FRAME["lesion_id"]
    assert sorted(table["lesion_id"]) == sorted(known)
    assert not table.isna().any(axis=None)
    assert (table["lesion_id"].map(FOLDS) == table["fold"]).all()


def test_the_classifiers_are_scikit_learns_logistic_regression():
    table = FRAME[FRAME["lesion_id"].isin(LABELS.index)].set_index("lesion_id")
    fold, label = table.index.map(FOLDS), LABELS[table.index]
    for function, X in (
        (diameter_classifier, np.log(table[["diameter"]])),
        (ratings_classifier, table[list(OTHER_RATINGS)]),
    ):
        found = function(FRAME, LABELS, folds=FOLDS)
        score = pd.Series(np.nan, index=table.index)
        aucs = []
        for k in range(5):
            test = fold == k
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            score[test] = model.fit(X[~test], label[~test]).predict_proba(X[test])[:, 1]
            aucs.append(roc_auc_score(label[test], score[test]))
        np.testing.assert_allclose(predicted(found)[table.index], score, atol=1e-9)
        auc = score_binary(found, n_resamples=5)["auc"].value
        assert auc == pytest.approx(np.mean(aucs))  # within folds


def test_the_majority_of_several_classes():
    classes = pd.Series(np.random.default_rng(0).choice([1, 2, 3, 0], 300, p=[0.5, 0.3, 0.1, 0.1]))
    classes.index = FRAME["lesion_id"]
    table = majority_multiclass(FRAME, classes, folds=FOLDS, classes=[1, 2, 3])
    assert len(table) == (classes != 0).sum()  # 0 is a code that is no class
    for fold, rows in table.groupby("fold"):
        others = table.loc[table["fold"] != fold, "truth"].value_counts(normalize=True)
        np.testing.assert_allclose(rows[[1, 2, 3]], np.tile(others[[1, 2, 3]], (len(rows), 1)))
    assert score_multiclass(table, [1, 2, 3], n_resamples=5)["auc"].value == 0.5


def test_the_diameter_tells_several_classes_as_scikit_learn_does():
    sizes = FRAME.set_index("lesion_id")["diameter"]
    classes = (1 + (sizes > sizes.median()) + (sizes > sizes.quantile(0.9))).astype(float)
    classes.iloc[0] = 4.0  # in one fold only, so that the model of this fold cannot call it
    table = diameter_multiclass(FRAME, classes, folds=FOLDS, classes=[1, 2, 3, 4, 5])
    X, fold = np.log(sizes.to_numpy()[:, None]), FOLDS.loc[sizes.index].to_numpy()
    for number, rows in table.groupby("fold"):
        there = fold != number
        model = make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced")
        ).fit(X[there], classes[there])
        expected = model.predict_proba(np.log(sizes[rows["lesion_id"]].to_numpy()[:, None]))
        np.testing.assert_allclose(rows[model.classes_.astype(int)], expected, atol=1e-9)
    assert (table[5] == 0).all()
    of_four = table["lesion_id"] == sizes.index[0]
    assert table.loc[of_four, 4].item() == 0
    alone = diameter_multiclass(FRAME, classes * 0 + 2, folds=FOLDS, classes=[1, 2])
    assert (alone[2] == 1).all()


def test_what_is_missing_is_left_out():
    frame = FRAME.copy()
    frame.loc[:4, "margin"] = np.nan
    assert len(constant_regression(frame, "margin", folds=FOLDS)) == 295
    complete = frame.loc[frame["margin"].notna(), "lesion_id"]
    found = ratings_classifier(frame, LABELS, folds=FOLDS)
    assert set(found["lesion_id"]) == set(complete) & set(LABELS.index)
    some = FOLDS[FOLDS.index.isin(LABELS.index)]  # a lesion without a truth needs no fold
    assert len(majority_classifier(FRAME, LABELS, folds=some)) == len(LABELS)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: constant_regression(FRAME, "hue", folds=FOLDS), KeyError, r"no column \['hue'\]"),
    (lambda: constant_regression(FRAME, "margin", folds=FOLDS.drop(index="n3")), ValueError,
     "no fold for 1 lesions, such as n3"),
    (lambda: constant_regression(FRAME, "margin", folds=FOLDS * 0), ValueError, "unique groups"),
    (lambda: diameter_regression(FRAME.assign(diameter=-1), "margin", folds=FOLDS), ValueError,
     r"diameter must be above 0 mm, got -1"),
    (lambda: ratings_classifier(FRAME, LABELS, folds=FOLDS, attributes=["malignancy"]), ValueError,
     "some ratings other than malignancy"),
    (lambda: diameter_classifier(FRAME, pd.concat([LABELS, LABELS]), folds=FOLDS),
     pd.errors.InvalidIndexError, "uniquely valued"),
    (lambda: diameter_classifier(FRAME, LABELS + 1, folds=FOLDS), ValueError, r"got \[1.0, 2.0\]"),
    (lambda: majority_classifier(FRAME, LABELS * 2, folds=FOLDS), ValueError, "must be 0 and 1"),
    (lambda: diameter_classifier(FRAME, LABELS, folds=LABELS), ValueError, "only one class"),
])  # fmt: skip
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_constant_that_is_near_most_values():
    values = np.array([1, 1, 2, 3.0, 3.01, 5, np.nan])
    assert constant_within(values) == (2, 4 / 6)  # 1, 1, 2 and 3 lie within 1 of 2
    assert constant_within(values, 0.1) == (1.1, 2 / 6)
    drawn = np.random.default_rng(0).integers(1, 6, 200) / 1.0
    best = max((abs(drawn - c) <= 1).mean() for c in np.linspace(0, 6, 601).round(2))
    assert constant_within(drawn)[1] == best
    with pytest.raises(ValueError, match="values: expected a finite one"):
        constant_within(np.array([np.nan]))
