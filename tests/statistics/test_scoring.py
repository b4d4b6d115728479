"""Scores beside scikit-learn's, by hand, and AUCs within folds."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from lesionlab.statistics.scoring import (
    confusion,
    over_folds,
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


def test_regression_metrics_are_scikit_learns():
    frame = regression()
    scores = score_regression(frame, n_resamples=200)
    truth, prediction = frame["truth"], frame["prediction"]
    assert scores["mae"].value == pytest.approx(metrics.mean_absolute_error(truth, prediction))
    assert scores["rmse"].value == pytest.approx(metrics.root_mean_squared_error(truth, prediction))
    for estimate in scores.values():
        assert estimate.low < estimate.value < estimate.high
        assert (estimate.n, estimate.n_groups) == (200, frame["patient"].nunique())


def test_a_constant_that_is_never_or_seldom_wrong():
    assert (skill(0.5, 2.0), skill(3.0, 2.0)) == (0.75, -0.5)
    never = regression().assign(truth=3.0)
    assert np.isnan(score_regression(never, n_resamples=50)["skill"].value)
    seldom = never.assign(truth=[2.0] + [3.0] * 199)
    rare = score_regression(seldom, n_resamples=200)["skill"]
    assert np.isfinite(rare.value)
    assert np.isnan([rare.low, rare.high]).all()
    assert rare.method.endswith("undefined")


def test_two_classes_by_hand():
    frame = pd.DataFrame(
        {"patient": list("abcde"), "truth": [1, 1, 0, 0, 0], "score": [0.9, 0.4, 0.4, 0.1, 0.5]}
    )
    # pairs in order: 0.9 above all three; 0.4 ties with 0.4, above 0.1, below 0.5
    expected = {"auc": (3 + 0.5 + 1) / 6, "accuracy": 3 / 5, "sensitivity": 1 / 2}
    expected |= {"specificity": 2 / 3, "precision": 1 / 2, "f1": 1 / 2}
    assert values(score_binary(frame, n_resamples=10)) == pytest.approx(expected)


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
    as_words = score_binary(frame.assign(truth=truth == 1), threshold=threshold, n_resamples=100)
    assert as_words == scores


def test_auc_laws():
    frame = binary()
    auc = score_binary(frame, n_resamples=5)["auc"].value
    for score, expected in (
        (-frame["score"], 1 - auc),
        (np.exp(5 * frame["score"]), auc),
        (0.3, 0.5),
    ):
        found = score_binary(frame.assign(score=score), n_resamples=5)["auc"].value
        assert found == pytest.approx(expected)


def test_a_weighted_auc_is_scikit_learns():
    frame, rng = binary(), np.random.default_rng(1)
    weights = rng.integers(0, 4, (5, len(frame))).astype(float)
    truth, score = frame["truth"].to_numpy() == 1, frame["score"].to_numpy()
    expected = [metrics.roc_auc_score(truth, score, sample_weight=w) for w in weights]
    np.testing.assert_allclose(weighted_auc(score, truth)(weights), expected)


def test_an_auc_over_folds_is_the_mean_of_the_folds():
    """Three networks that rank alike, at different levels: one ranking of all would be worse."""
    fold = np.repeat([0, 1, 2], [100, 60, 40])
    frame = binary().assign(fold=fold)
    shifted = frame.assign(score=frame["score"] + fold)
    each = [metrics.roc_auc_score(f["truth"], f["score"]) for _, f in frame.groupby("fold")]
    found = [score_binary(f, n_resamples=50)["auc"] for f in (frame, shifted)]
    assert found[0] == found[1]
    assert found[0].value == pytest.approx(np.mean(each))
    assert found[0].method.endswith("mean of the AUCs within 3 folds")
    assert score_binary(shifted.drop(columns="fold"), n_resamples=5)["auc"].value < np.mean(each)
    assert (
        score_binary(frame.assign(fold=0), n_resamples=50)["auc"]
        == (score_binary(frame.drop(columns="fold"), n_resamples=50)["auc"])
    )


def test_a_fold_without_a_class_is_left_out_of_the_auc_and_said():
    frame = binary().assign(fold=np.repeat([0, 1], 100))
    alone = frame[frame["truth"] == 0].assign(fold=2, score=5.0)
    found = score_binary(pd.concat([frame, alone]), n_resamples=50)["auc"]
    assert found.value == score_binary(frame, n_resamples=50)["auc"].value
    assert "within 3 folds, 1 of 3 left out for want of a class" in found.method
    # nothing is left of a single such fold
    none = frame.assign(fold=frame["truth"])
    assert np.isnan(score_binary(none, n_resamples=50)["auc"].value)


def test_a_class_of_one_patient_leaves_no_interval_for_what_needs_it():
    frame = pd.DataFrame({"patient": range(20), "truth": [1] + [0] * 19, "score": 0.2})
    scores = score_binary(frame, n_resamples=200)
    assert scores["auc"].value == 0.5
    assert np.isnan([scores["auc"].low, scores["sensitivity"].high]).all()
    assert np.isnan(scores["precision"].value)  # nothing was called
    assert (scores["specificity"].low, scores["specificity"].high) == (1, 1)
    assert 0.8 < scores["accuracy"].low < scores["accuracy"].high == 1


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
        "auc": metrics.roc_auc_score(
            truth, frame[sorted(CLASSES)], multi_class="ovr", average="macro"
        ),
    }
    for name, score in (
        ("recall", metrics.recall_score),
        ("precision", metrics.precision_score),
        ("f1", metrics.f1_score),
    ):
        expected[f"macro_{name}"] = score(truth, called, average="macro")
        each = score(truth, called, average=None, labels=CLASSES)
        expected |= {f"{name}_{label}": v for label, v in zip(CLASSES, each, strict=True)}
    for label in CLASSES:  # of one class against the rest, the rest's recall and precision
        rest = (truth != label, called != label)
        expected[f"specificity_{label}"] = metrics.recall_score(*rest)
        expected[f"npv_{label}"] = metrics.precision_score(*rest)
    for name in ("specificity", "npv"):
        expected[f"macro_{name}"] = np.mean([expected[f"{name}_{c}"] for c in CLASSES])
    assert values(scores) == pytest.approx(expected, abs=1e-12)
    assert all(e.low < e.value < e.high for e in scores.values())
    np.testing.assert_array_equal(
        confusion(frame, CLASSES), metrics.confusion_matrix(truth, called, labels=CLASSES)
    )
    # the called classes alone give all but the AUC
    given = frame[["patient", "truth"]].assign(prediction=called)
    del scores["auc"]
    assert score_multiclass(given, CLASSES, n_resamples=100) == scores


def test_two_of_several_classes_are_the_scores_of_two_classes():
    frame = binary().assign(fold=np.repeat([0, 1], 100))
    two = frame.assign(**{"0": 1 - frame["score"], "1": frame["score"] + 1e-9})
    two["truth"] = two["truth"].astype(str)
    several, plain = (
        score_multiclass(two, ["0", "1"], n_resamples=50),
        score_binary(frame, n_resamples=50),
    )
    names = {"recall_1": "sensitivity", "recall_0": "specificity", "precision_1": "precision"}
    for name, other in (names | {"f1_1": "f1", "auc": "auc", "accuracy": "accuracy"}).items():
        ours, theirs = several[name], plain[other]
        assert (ours.value, ours.low, ours.high) == pytest.approx(
            (theirs.value, theirs.low, theirs.high)
        )


def test_classes_that_nobody_has_or_calls():
    frame = multiclass()[["patient", "truth"]].assign(prediction="none")
    scores = score_multiclass(frame, [*CLASSES, "never"], n_resamples=50)
    assert scores["mcc"].value == 0
    assert scores["accuracy"].value == (frame["truth"] == "none").mean()
    assert np.isnan([scores["recall_never"].value, scores["precision_long"].value]).all()
    assert scores["macro_recall"].value == pytest.approx(1 / 3)  # of the classes that are there
    assert confusion(frame, [*CLASSES, "never"]).loc["long", "none"] > 0


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


def test_mean_and_sd_over_folds_and_seeds():
    rows = [("margin", fold, seed, fold + seed / 10) for fold in range(3) for seed in range(2)]
    frame = pd.DataFrame(rows, columns=["target", "fold", "seed", "value"])
    found = over_folds(frame, by=["target"]).loc["margin"]
    assert found["mean"] == pytest.approx(frame["value"].mean())
    assert found["sd"] == pytest.approx(np.std(frame["value"], ddof=1))
    assert found["n"] == 6
    by_seed = over_folds(frame, by=["target", "seed"])
    assert by_seed.loc["margin", 1].tolist() == pytest.approx([1.1, 1.0, 3])


@pytest.mark.parametrize(
    ("score", "frame", "error", "message"),
    [
        (score_regression, regression().drop(columns="prediction"), KeyError, "'prediction'"),
        (score_regression, regression().assign(truth=np.nan), ValueError, "'truth' has 200 gaps"),
        (score_binary, binary().assign(truth=0), ValueError, r"both of them, got \[0\]"),
        (score_binary, binary().assign(truth=2), ValueError, r"both of them, got \[2\]"),
        (score_binary, binary().assign(fold=np.nan), ValueError, "'fold' has 200 gaps"),
        (
            lambda frame: score_multiclass(frame, CLASSES),
            multiclass().assign(truth="some"),
            ValueError,
            "truth must be one of .* got 'some'",
        ),
        (lambda f: score_multiclass(f, ["a", "a"]), multiclass(), KeyError, "'prediction'"),
        (
            lambda f: score_multiclass(f, ["long", "long"]),
            multiclass(),
            ValueError,
            "two or more, each once",
        ),
    ],
)
def test_bad_tables(score, frame, error, message):
    with pytest.raises(error, match=message):
        score(frame)
