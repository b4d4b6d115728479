import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from lesionlab.statistics.scoring import score_classification, score_regression, skill


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


def classification(n=200, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    score = np.round(np.clip(0.3 + 0.3 * truth + 0.25 * rng.normal(size=n), 0, 1), 1)  # many ties
    return pd.DataFrame({"patient": rng.integers(0, n // 3, n), "truth": truth, "score": score})


def test_regression_by_hand():
    frame = pd.DataFrame(
        {"patient": ["a", "b", "c"], "truth": [1, 2, 5], "prediction": [2, 2, 2], "constant": 1}
    )
    scores = score_regression(frame, n_resamples=10)
    assert list(scores) == ["mae", "rmse", "bias", "mae_constant", "skill"]
    values = {name: estimate.value for name, estimate in scores.items()}
    assert values == pytest.approx(
        {
            "mae": 4 / 3,
            "rmse": np.sqrt(10 / 3),
            "bias": -2 / 3,
            "mae_constant": 5 / 3,
            "skill": 1 - 4 / 5,
        }
    )


def test_regression_metrics_are_scikit_learns():
    frame = regression()
    scores = score_regression(frame, n_resamples=200)
    truth, prediction = frame["truth"], frame["prediction"]
    assert scores["mae"].value == pytest.approx(metrics.mean_absolute_error(truth, prediction))
    assert scores["rmse"].value == pytest.approx(metrics.root_mean_squared_error(truth, prediction))
    assert scores["skill"].value == pytest.approx(
        1 - scores["mae"].value / metrics.mean_absolute_error(truth, frame["constant"])
    )
    for estimate in scores.values():
        assert estimate.low < estimate.value < estimate.high
        assert estimate.n == 200
        assert estimate.n_groups == frame["patient"].nunique()


def test_skill_needs_the_constant():
    frame = regression()
    assert list(score_regression(frame.drop(columns="constant"), n_resamples=5)) == [
        "mae",
        "rmse",
        "bias",
    ]
    as_its_own = score_regression(frame.assign(prediction=3.0), n_resamples=50)["skill"]
    assert (as_its_own.value, as_its_own.low, as_its_own.high) == (0, 0, 0)


def test_a_constant_that_is_never_or_seldom_wrong():
    never = regression().assign(truth=3.0)
    scores = score_regression(never, n_resamples=50)
    assert np.isnan(scores["skill"].value)
    assert scores["mae"].low > 0
    seldom = never.assign(truth=[2.0] + [3.0] * 199)
    rare = score_regression(seldom, n_resamples=200)["skill"]
    assert np.isfinite(rare.value)
    assert np.isnan([rare.low, rare.high]).all()
    assert rare.method.endswith("undefined")


def test_classification_by_hand():
    frame = pd.DataFrame(
        {
            "patient": list("abcde"),
            "truth": [1, 1, 0, 0, 0],
            "score": [0.9, 0.4, 0.4, 0.1, 0.5],
        }
    )
    scores = score_classification(frame, n_resamples=10)
    # pairs in order: 0.9 above all three; 0.4 ties with 0.4, above 0.1, below 0.5
    values = {name: estimate.value for name, estimate in scores.items()}
    assert values == pytest.approx(
        {"auc": (3 + 0.5 + 1) / 6, "accuracy": 3 / 5, "sensitivity": 1 / 2, "specificity": 2 / 3}
    )


@pytest.mark.parametrize("threshold", [0.5, 0.35])
@pytest.mark.parametrize("seed", [0, 1])
def test_classification_metrics_are_scikit_learns(threshold, seed):
    frame = classification(seed=seed)
    scores = score_classification(frame, threshold=threshold, n_resamples=100)
    truth, called = frame["truth"], frame["score"] >= threshold
    expected = {
        "auc": metrics.roc_auc_score(truth, frame["score"]),
        "accuracy": metrics.accuracy_score(truth, called),
        "sensitivity": metrics.recall_score(truth, called),
        "specificity": metrics.recall_score(truth, called, pos_label=0),
    }
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value, abs=1e-12)
        assert scores[name].low < value < scores[name].high


def test_names_of_columns_can_be_others_and_booleans_are_labels():
    frame = classification()
    renamed = frame.rename(columns={"truth": "y", "score": "p", "patient": "who"})
    renamed["y"] = renamed["y"].astype(bool)
    found = score_classification(renamed, truth="y", score="p", group="who", n_resamples=20)
    expected = score_classification(frame, n_resamples=20)
    assert {k: (e.value, e.low, e.high) for k, e in found.items()} == {
        k: (e.value, e.low, e.high) for k, e in expected.items()
    }


def test_auc_laws():
    frame = classification()
    auc = score_classification(frame, n_resamples=5)["auc"].value
    turned = frame.assign(score=-frame["score"])
    assert score_classification(turned, n_resamples=5)["auc"].value == pytest.approx(1 - auc)
    stretched = frame.assign(score=np.exp(5 * frame["score"]))
    assert score_classification(stretched, n_resamples=5)["auc"].value == pytest.approx(auc)
    flat = score_classification(frame.assign(score=0.3), n_resamples=20)["auc"]
    assert (flat.value, flat.low, flat.high) == (0.5, 0.5, 0.5)


def test_a_class_of_one_patient_leaves_no_interval_for_what_needs_it():
    frame = pd.DataFrame({"patient": range(20), "truth": [1] + [0] * 19, "score": 0.2})
    scores = score_classification(frame, n_resamples=200)
    assert scores["auc"].value == 0.5
    assert np.isnan(scores["auc"].low)
    assert np.isnan(scores["sensitivity"].high)
    assert (scores["specificity"].low, scores["specificity"].high) == (1, 1)
    assert 0.8 < scores["accuracy"].low < scores["accuracy"].high == 1


def test_skill_by_hand():
    assert skill(0.5, 2.0) == 0.75
    assert skill(3.0, 2.0) == -0.5
    assert np.isnan(skill(0.1, 0.0))
    with pytest.raises(ValueError, match=r"mae must not be negative, got -0\.1"):
        skill(-0.1, 1)
    with pytest.raises(ValueError, match="mae_constant must not be negative, got -1"):
        skill(0.1, -1)


def test_bad_tables():
    with pytest.raises(KeyError, match=r"no column \['prediction'\]"):
        score_regression(regression().drop(columns="prediction"))
    with pytest.raises(ValueError, match="column 'truth' has 1 gaps"):
        score_regression(regression().replace({"truth": {2.0: np.nan}}).iloc[:0:-1].pipe(one_gap))
    with pytest.raises(ValueError, match="labels must be 0 and 1, both of them, got \\[0\\]"):
        score_classification(classification().assign(truth=0))
    with pytest.raises(ValueError, match=r"both of them, got \[1, 2\]"):
        score_classification(classification().assign(truth=lambda f: f["truth"] + 1))
    with pytest.raises(ValueError, match="column 'score' has 200 gaps"):
        score_classification(classification().assign(score=np.nan))


def one_gap(frame):
    frame = frame.dropna().copy()
    frame.iloc[0, frame.columns.get_loc("truth")] = np.nan
    return frame
