"""Scores beside scikit-learn's, by hand, and AUCs within folds."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from lesionlab.statistics.scoring import (
    confusion,
    score_binary,
    score_dice,
    score_multiclass,
    score_regression,
    skill,
    weighted_auc,
)

CLASSES = ["none", "long", "short"]


def regression(n=200, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(4, 21, n) / 4
    return pd.DataFrame(
        {
            "patient": rng.integers(0, n // 3, n),
            "truth": truth,
            "prediction": truth + rng.normal(0.1, 0.5, n),
            "constant": 3.0,
        }
    )


def binary(n=200, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    score = np.round(np.clip(0.3 + 0.3 * truth + 0.25 * rng.normal(size=n), 0, 1), 1)  # many ties
    return pd.DataFrame({"patient": rng.integers(0, n // 3, n), "truth": truth, "score": score})


def multiclass(n=300, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    logits = rng.normal(size=(n, 3)) + 1.2 * np.eye(3)[truth]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    frame = pd.DataFrame(shares, columns=CLASSES)
    return frame.assign(patient=rng.integers(0, n // 3, n), truth=np.array(CLASSES)[truth])


def values(scores):
    return {name: estimate.value for name, estimate in scores.items()}


def test_regression_by_hand():
    frame = pd.DataFrame(
        {"patient": ["a", "b", "c"], "truth": [1, 2, 5], "prediction": [2, 2, 2], "constant": 1}
    )
    expected = {"mae": 4 / 3, "rmse": np.sqrt(10 / 3), "bias": -2 / 3}
    assert values(score_regression(frame.drop(columns="constant"), n_resamples=5)) == pytest.approx(
        expected
    )
    expected |= {"mae_constant": 5 / 3, "skill": 1 - 4 / 5}
    assert values(score_regression(frame, n_resamples=5)) == pytest.approx(expected)


def test_a_constant_that_is_never_or_seldom_wrong():
    assert (skill(0.5, 2.0), skill(3.0, 2.0)) == (0.75, -0.5)
    never = regression().assign(truth=3.0)
    assert np.isnan(score_regression(never, n_resamples=50)["skill"].value)
    seldom = never.assign(truth=[2.0] + [3.0] * 199)
    rare = score_regression(seldom, n_resamples=200)["skill"]
    assert np.isfinite(rare.value)
    assert np.isnan([rare.low, rare.high]).all()
    assert rare.method.endswith("undefined")


def test_an_auc_by_hand():
    frame = pd.DataFrame(
        {"patient": list("abcde"), "truth": [1, 1, 0, 0, 0], "score": [0.9, 0.4, 0.4, 0.1, 0.5]}
    )
    # pairs in order: 0.9 above all three; 0.4 ties with 0.4, above 0.1, below 0.5
    assert score_binary(frame, n_resamples=10)["auc"].value == (3 + 0.5 + 1) / 6


@pytest.mark.parametrize(("threshold", "seed"), [(0.5, 0), (0.35, 1)])
def test_scores_of_two_classes_are_scikit_learns(threshold, seed):
    frame = binary(seed=seed)
    scores = score_binary(frame, threshold=threshold, n_resamples=100)
    truth, called = frame["truth"], frame["score"] >= threshold
    expected = {
        "auc": metrics.roc_auc_score(truth, frame["score"]),
        "accuracy": metrics.accuracy_score(truth, called),
        "sensitivity": metrics.recall_score(truth, called),
        "specificity": metrics.recall_score(truth, called, pos_label=0),
        "precision": metrics.precision_score(truth, called),
        "f1": metrics.f1_score(truth, called),
    }
    assert values(scores) == pytest.approx(expected, abs=1e-12)
    assert all(e.low < e.value < e.high for e in scores.values())
    as_bool = score_binary(frame.assign(truth=truth == 1), threshold=threshold, n_resamples=100)
    assert as_bool == scores


def test_a_weighted_auc_is_scikit_learns():
    frame, rng = binary(), np.random.default_rng(1)
    weights = rng.integers(0, 4, (5, len(frame))).astype(float)
    truth, score = frame["truth"].to_numpy() == 1, frame["score"].to_numpy()
    expected = [metrics.roc_auc_score(truth, score, sample_weight=w) for w in weights]
    np.testing.assert_allclose(weighted_auc(score, truth, weights, np.zeros(200)), expected)


def test_an_auc_over_folds_is_the_mean_of_the_folds():
    """Three networks that rank alike, at different levels: one ranking of all would be worse."""
    fold = np.repeat([0, 1, 2], [100, 60, 40])
    frame = binary().assign(fold=fold)
    shifted = frame.assign(score=frame["score"] + fold)
    each = [metrics.roc_auc_score(f["truth"], f["score"]) for _, f in frame.groupby("fold")]
    found = [score_binary(f, n_resamples=50)["auc"] for f in (frame, shifted)]
    assert found[0] == found[1]
    assert found[0].value == pytest.approx(np.mean(each))
    assert score_binary(shifted.drop(columns="fold"), n_resamples=5)["auc"].value < np.mean(each)
    # a fold without a class is left out, and nothing is left of a single such fold
    alone = frame[frame["truth"] == 0].assign(fold=3, score=5.0)
    more = score_binary(pd.concat([frame, alone]), n_resamples=50)["auc"]
    assert more.value == found[0].value
    none = frame.assign(fold=frame["truth"])
    assert np.isnan(score_binary(none, n_resamples=50)["auc"].value)


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_of_several_classes_are_scikit_learns(seed):
    frame = multiclass(seed=seed)
    scores = score_multiclass(frame, CLASSES, n_resamples=100)
    truth = frame["truth"]
    called = frame[CLASSES].idxmax(axis=1)
    expected = {
        "accuracy": metrics.accuracy_score(truth, called),
        "mcc": metrics.matthews_corrcoef(truth, called),
        "weighted_f1": metrics.f1_score(truth, called, average="weighted"),
        "auc": metrics.roc_auc_score(truth, frame[sorted(CLASSES)], multi_class="ovr"),
    }
    for name in ("recall", "precision", "f1"):
        score = getattr(metrics, f"{name}_score")
        expected[f"macro_{name}"] = score(truth, called, average="macro")
        each = score(truth, called, average=None, labels=CLASSES)
        expected |= {f"{name}_{label}": v for label, v in zip(CLASSES, each, strict=True)}
    for label in CLASSES:  # of one class against the rest, the rest's recall and precision
        rest = (truth != label, called != label)
        expected[f"specificity_{label}"] = metrics.recall_score(*rest)
        expected[f"npv_{label}"] = metrics.precision_score(*rest)
        expected[f"accuracy_{label}"] = metrics.accuracy_score(*rest)
    for name in ("specificity", "npv", "accuracy"):
        expected[f"macro_{name}"] = np.mean([expected[f"{name}_{c}"] for c in CLASSES])
    assert values(scores) == pytest.approx(expected, abs=1e-12)
    assert all(e.low < e.value < e.high for e in scores.values())


def test_classes_that_nobody_has_or_calls():
    frame = multiclass().assign(none=1, never=0)
    scores = score_multiclass(frame, [*CLASSES, "never"], n_resamples=50)
    assert scores["mcc"].value == 0
    assert scores["accuracy"].value == (frame["truth"] == "none").mean()
    assert np.isnan([scores["recall_never"].value, scores["precision_long"].value]).all()
    assert scores["macro_recall"].value == pytest.approx(1 / 3)  # of the classes that are there


def test_dice_by_hand():
    frame = pd.DataFrame(
        {
            "patient": ["a", "a", "b", "c"],
            "truth": [10, 4, 3, 0],
            "prediction": [10, 8, 0, 0],
            "intersection": [10, 3, 0, 0],
        }
    )
    found = score_dice(frame, n_resamples=200)["dice"]
    assert found.value == pytest.approx((1 + 6 / 12 + 0 + 1) / 4)
    assert (found.n, found.n_groups) == (4, 3)
    masks = np.random.default_rng(0).random((2, 50)) < 0.4
    row = [masks[0].sum(), masks[1].sum(), (masks[0] & masks[1]).sum()]
    one = pd.DataFrame([[*row, "a"], [*row, "b"]], columns=[*frame.columns[1:], "patient"])
    assert score_dice(one, n_resamples=5)["dice"].value == pytest.approx(metrics.f1_score(*masks))
    with pytest.raises(ValueError, match="smaller of truth and prediction"):
        score_dice(frame.assign(intersection=11), n_resamples=5)


@pytest.mark.parametrize(("score", "frame", "error", "message"), [
    (score_regression, regression().drop(columns="prediction"), KeyError, "'prediction'"),
    (score_regression, regression().assign(truth=np.nan), ValueError, "'truth' has 200 gaps"),
    (score_binary, binary().assign(truth=2), ValueError, r"both of them, got \[2\]"),
    (lambda frame: score_multiclass(frame, CLASSES), multiclass().assign(truth="some"), ValueError,
     "truth must be one of .* got 'some'"),
    (lambda f: score_multiclass(f, ["long"] * 2), multiclass(), ValueError, "each once"),
])  # fmt: skip
def test_bad_tables(score, frame, error, message):
    with pytest.raises(error, match=message):
        score(frame)


def test_confusion_by_hand():
    frame = pd.DataFrame({"truth": [1, 1, 2, 2, 3], 1: [0.9, 0.2, 0.1, 0.4, 0.0]})
    frame[2], frame[3] = [0.1, 0.8, 0.8, 0.4, 0.0], [0.0, 0.0, 0.1, 0.2, 1.0]
    assert confusion(frame, [1, 2, 3]).to_numpy().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
