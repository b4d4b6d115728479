"""Liu 2020's tables beside ours, and its analyses, on predictions whose answers are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lesionlab import explorer, published
from lesionlab.crops.sampling import Samples
from lesionlab.papers.liu2020 import ATTRIBUTES, Liu2020, analyses, tables
from lesionlab.sources import lidc
from lesionlab.statistics.agreement import pairwise_difference
from lesionlab.training.outcomes import score
from lesionlab.training.studies import Trained
from lesionlab.training.targets import to_frame

QUICK = {"n_resamples": 50}


@pytest.fixture(scope="module")
def run():
    """40 nodules on two folds: a run's predictions, its labels and table; lobulation decides."""
    drawn, n = np.random.default_rng(0), 40
    rows = pd.DataFrame({"lesion_id": [f"n{i:02}" for i in range(n)]})
    rows["patient"] = [f"p{i // 2:02}" for i in range(n)]
    rows["fold"] = [0] * 20 + [1] * 20
    table = pd.DataFrame({name: drawn.uniform(1, 4, n) for name in ATTRIBUTES})
    table["malignancy"] = np.where(np.arange(n) % 2, 4.0, 1.5) + drawn.uniform(-0.4, 0.4, n)
    table["lobulation"] = table["malignancy"]
    table = table.set_axis(pd.Index(rows["lesion_id"])).assign(
        patient=rows["patient"].to_numpy(), diameter=drawn.uniform(4, 20, n)
    )
    experiment = Liu2020("features")
    labels = Liu2020.labels(table, "features")
    said = labels + 0.3 * torch.randn(labels.shape, generator=torch.Generator().manual_seed(0))
    said[:, 0] = (said[:, -1] - 1).clamp(0, 4) / 4
    predictions = to_frame(experiment.targets, rows, said, labels)
    return predictions, labels, table, score(
        predictions, table, labels, experiment.targets, n_resamples=20
    )  # fmt: skip


# --- tables -------------------------------------------------------------------------------------


def test_table_1_has_the_printed_rows_and_the_published_number_of_parameters():
    found = tables.layers(64)
    assert found["module"].tolist() == published.table("liu2020", "I")["module"].tolist()
    assert found["output"].tolist() == [
        "64 × 32²", "64 × 16²", "256 × 16²", "512 × 8²", "1024 × 4²", "2048 × 2²",
        "2048", "256", "8", "2",
    ]  # fmt: skip
    heads = 2048 * 256 + 256 + 256 * 8 + 8 + (2048 + 256) * 2 + 2
    assert found["parameters"].sum() == 25_557_032 - 2_049_000 + heads


def test_table_2_beside(run):
    scores = run[3]
    found = tables.classification(
        {"features": scores}, tier="phantom", rows={"MTMR-Net": "features"}
    )
    accuracy = scores.query("predictor == 'model' and metric == 'accuracy'")["value"].iloc[0]
    assert found.loc["MTMR-Net", ("accuracy", "lesionlab (phantom)")] == pytest.approx(
        100 * accuracy
    )
    assert found.loc["MTMR-Net", ("accuracy", "Liu 2020")] == 93.5
    assert found.loc["MTMR-Net (w L_reg)", ("auc", "Liu 2020")] == 0.974
    assert np.isnan(found.loc["MTMR-Net (w L_reg)", ("auc", "lesionlab (phantom)")])
    assert "Diameter alone" in found.index


def test_table_3_beside_with_readers_and_linear_models(run):
    predictions, _, table, scores = run
    features = pd.DataFrame(
        {"x": table["margin"], "noise": np.random.default_rng(1).normal(size=40)}, table.index
    )
    folds = predictions.set_index("lesion_id")["fold"]
    linear = tables.linear(features, table, predictions)
    assert set(linear) == {"LASSO", "EN"}
    for said in linear.values():
        gap = (said["margin"] - said["margin_truth"]).abs().mean()
        assert gap < 0.1, "its features hold this rating"
    # nothing of a fold was learned there: with other ratings in it, its predictions are the same
    changed = table.assign(margin=table["margin"].where(folds == 1, 0.0))
    again, first = tables.linear(features, changed, predictions), (folds == 0).to_numpy()
    for name, said in linear.items():
        pd.testing.assert_series_equal(again[name]["margin"][first], said["margin"][first])
    readings = lidc.readings().head(400)
    gaps = tables.mean_errors(linear)
    found = tables.errors(scores, tier="phantom", readings=readings, linear=gaps)
    ours = found.xs("lesionlab (phantom)", axis=1, level=1)
    ib = pairwise_difference(readings, ATTRIBUTES)["value"]
    np.testing.assert_allclose(ours.loc["IB", list(ATTRIBUTES)].astype(float), ib)
    assert found.loc["IB", ("texture", "Liu 2020")] == 0.054
    mae = scores.query("predictor == 'model' and metric == 'mae' and target == 'texture'")["value"]
    assert ours.loc["MTMR-Net", "texture"] == pytest.approx(mae.iloc[0])
    assert ours.loc["EN", "margin"] < 0.1
    assert tables.LIKE_FOR_LIKE in found.index


def test_table_4_of_predicted_scores_and_of_the_readers_own(run):
    predictions = run[0]
    flipped = predictions.assign(
        lobulation=predictions["texture"], texture=predictions["lobulation"]
    )
    by_readers = tables.importance(flipped, readers=True)
    predicted = tables.importance(flipped)
    assert (by_readers.index[0], predicted.index[0]) == ("lobulation", "texture")
    assert by_readers["importance"].sum() == pytest.approx(1)
    found = tables.relatedness(by_readers, tier="phantom")
    assert found.loc["lobulation", ("ranking", "lesionlab (phantom)")] == 1
    assert found.loc["subtlety", ("relatedness", "Liu 2020")] == 0.251


def test_image_features_of_a_known_ellipsoid(make_crop):
    crop = make_crop(radii=(8, 8, 8), readers=1)
    found = tables.image_features([crop, make_crop("flat", shape=(1, 64, 60), readers=1)])
    assert found.notna().all(axis=None)
    ball = found.loc["lesion"]
    assert np.exp(ball["log_volume"]) == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.05)
    assert ball["hu_mean"] == pytest.approx(30, abs=2)
    assert ball["contrast"] == pytest.approx(880, abs=5)
    assert ball["width"] == pytest.approx(16, abs=1.5)
    long = tables.image_features([make_crop(radii=(8, 8, 3), readers=1)]).iloc[0]
    assert long["elongation"] > 2 > ball["elongation"]
    assert long["compactness"] < ball["compactness"] < 1


# --- analyses -----------------------------------------------------------------------------------


def test_pairs_that_the_ranking_parts(run):
    predictions = run[0]
    plain = predictions.assign(malignancy=0.5)  # a tie is wrong
    found = analyses.ranked_pairs(predictions, plain, width=1.5, **QUICK)
    assert found.loc["all", "n"] == 40
    near = (predictions["malignancy_rating_truth"] - 3).abs() <= 1.5
    assert found.loc["marginal", "n"] == near.sum() < 40
    within = [part for _, part in predictions.groupby("fold")]
    right = total = 0
    for part in within:
        benign, malignant = (part.loc[part["malignancy_truth"] == k, "malignancy"] for k in (0, 1))
        wins = np.subtract.outer(malignant.to_numpy(), benign.to_numpy()) > 0
        right, total = right + wins.sum(), total + wins.size
    assert found.loc["all", "won"] == pytest.approx(right / total)
    assert found.loc["all", "lost"] == 0
    assert found.loc["all", "difference"] > 0.4
    back = analyses.ranked_pairs(plain, predictions, width=1.5, **QUICK)
    assert back.loc["all", "lost"] == found.loc["all", "won"]


def test_look_alikes_are_nearest_and_serve_once(run):
    predictions = run[0].copy()
    truths = [f"{name}_truth" for name in ATTRIBUTES]
    predictions.loc[7, truths] = predictions.loc[4, truths].to_numpy() + 0.01
    found = analyses.look_alikes(predictions, {"other": predictions.assign(malignancy=0.2)}, n=4)
    assert tuple(found.loc[0, ["benign", "malignant", "fold"]]) == ("n04", "n07", 0)
    assert found["distance"].is_monotonic_increasing
    assert not found[["benign", "malignant"]].stack().duplicated().any()
    said = predictions.set_index("lesion_id")["malignancy"]
    assert found.loc[0, "called"] == (said["n04"] < 0.5 <= said["n07"])
    assert not found["other: called"].any()


def test_pictures_of_the_nodules(run):
    found = analyses.embeddings(run[0])
    assert set(found["method"]) == {"t-SNE, seed 0", "t-SNE, seed 1", "PCA"}
    assert len(found) == 40 * 2 * 3
    assert np.isfinite(found[["x", "y"]]).all(axis=None)
    pca = found[(found["method"] == "PCA") & (found["attributes"] == "all eight")]
    scores = analyses.scores_of(run[0]).to_numpy()
    largest = np.linalg.eigvalsh(np.cov(scores.T))[-1]
    assert pca["x"].var() == pytest.approx(largest)
    assert scores.min() > -0.5
    assert scores.max() < 1.5


def trained(variant, n=12):
    experiment = Liu2020(variant)
    torch.manual_seed(0)
    table = pd.DataFrame(
        {"malignancy": np.where(np.arange(n) % 2, 4.0, 1.5)} | dict.fromkeys(ATTRIBUTES, 2.5),
        index=[f"n{i}" for i in range(n)],
    ).assign(patient=[f"p{i // 2}" for i in range(n)])
    zeros = torch.zeros(n)
    ids = tuple(table.index)
    samples = Samples(torch.rand(n, 1280), torch.arange(n), ids, zeros, zeros.long(), zeros)
    labels = Liu2020.labels(table, variant)
    weights = experiment.model(0).state_dict()
    return Trained(0, experiment, weights, samples, labels, table)


def test_interventions_are_told_by_attribute():
    fold = trained("features")
    found = analyses.interventions([fold], **QUICK)
    assert list(found.index) == [*ATTRIBUTES, "all eight"]
    assert (found["shift"] > 0).all()
    assert (found["changed"] == found["gained"] + found["lost"]).all()
    now = analyses.intervene(fold)
    before = analyses.intervene(fold, ())
    torch.testing.assert_close(before, fold.predict(device="cpu")[:, 0])
    assert found.loc["all eight", "shift"] == pytest.approx(float((now - before).abs().mean()))
    scores, log_odds = analyses.what_if(fold, fold.table.index[3])
    page = explorer.what_if(scores, log_odds, title="n03", tier="phantom")
    assert page.probability() == pytest.approx(float(before[3]), abs=1e-6)
    theirs = scores["readers"].to_dict()
    assert page.probability(**theirs) == pytest.approx(float(now[3]), abs=1e-6)
    one = analyses.intervene(fold, ("margin",))[3]
    assert page.probability(margin=theirs["margin"]) == pytest.approx(float(one), abs=1e-6)
    parallel = trained("features_parallel")
    assert (analyses.what_if(parallel, parallel.table.index[3])[0]["slope"] == 0).all()
    still = analyses.interventions([parallel], **QUICK)
    assert (still[["changed", "shift"]] == 0).all(axis=None)
    plain = trained("features_ce")
    with pytest.raises(ValueError, match="variant='features_ce': it has not learned the scores"):
        analyses.interventions([plain])
    assert analyses.summary([plain], plain.predictions()) == {}


def test_what_is_kept_of_a_run(run):
    found = analyses.summary([trained("features")], run[0])
    assert list(found) == ["importance", "importance_readers", "interventions"]
    assert found["interventions"].columns[0] == "attribute"
    assert found["importance"]["feature"].iloc[0] == "lobulation"


def test_linear_models_of_the_crops_are_kept(run, make_crop):
    predictions, _, table, _ = run

    def read(ids):
        radii = {lesion: 3 + 2 * table.loc[lesion, "margin"] for lesion in ids}
        return [make_crop(i, radii=(r, r, r), shape=(24, 32, 32)) for i, r in radii.items()]

    every, folds = trained("features", 40), []
    for k in range(2):
        part = range(20 * k, 20 * k + 20)
        some = {"samples": every.samples.select(part), "labels": every.labels[part]}
        folds.append(replace(every, fold=k, table=table.iloc[part], crops=read, **some))
    found = analyses.summary(folds, predictions)["linear"].set_index("attribute")
    assert list(found.columns) == ["LASSO", "EN"]
    assert (found.loc["margin"] < 0.2).all(), "the radius is the margin"
    assert (found.loc["texture"] > 0.4).all()


def test_a_linear_probe_learns_from_the_other_folds(run):
    first = trained("features")
    n, truth = len(first.table), first.labels[:, 0]
    images = first.samples.images.clone()
    images[:, 7] = truth + 0.1 * torch.rand(n)
    known = replace(first, samples=replace(first.samples, images=images), labels=first.labels)
    other = replace(known, fold=1, table=known.table.assign(patient=[f"q{i}" for i in range(n)]))
    found = tables.probe([known, other])
    assert found["fold"].value_counts().to_dict() == {0: n, 1: n}
    assert ((found["malignancy"] > 0.5) == (found["malignancy_truth"] == 1)).mean() > 0.9
    turned = replace(other, labels=1 - other.labels)
    again = tables.probe([known, turned])  # what fold 1 says of its own is not asked
    second = found["fold"] == 1
    assert np.allclose(again["malignancy"][second], found["malignancy"][second])
    kept = analyses.summary([known, other], run[0])
    assert kept["probe"]["malignancy"].tolist() == found["malignancy"].round(4).tolist()


def test_several_seeds_are_compared(run):
    predictions, _, table, scores = run
    parts = [
        predictions.assign(
            lesion=predictions["lesion_id"],
            lesion_id=predictions["lesion_id"] + f" seed {k}",
            fold=predictions["fold"] + 100 * k,
            seed=k,
        )
        for k in (0, 1)
    ]
    pooled = pd.concat(parts, ignore_index=True)
    every = {"model": pooled, "none": pooled.assign(malignancy=0.3)}
    every |= tables.opponents(pooled, table)
    found = tables.compared(every, **QUICK)
    told = scores[(scores["target"] == "malignancy") & (scores["metric"] == "auc")]
    for name, value in told.set_index("predictor")["value"].drop("majority").items():
        assert found.loc[name, "auc"] == pytest.approx(value), name
    assert found.loc["none", "auc"] == 0.5
    assert (found["n_groups"] == 20).all()
    curve = tables.roc(every["none"], **QUICK)["value"]
    np.testing.assert_allclose(curve, curve.index)
    area = np.trapezoid(tables.roc(pooled, points=1001, **QUICK)["value"], dx=1e-3)
    assert area == pytest.approx(found.loc["model", "auc"], abs=0.01)
    gap = tables.differences(every, [("model", "none")], **QUICK).loc["model − none"]
    assert gap["difference"] == pytest.approx(found.loc["model", "auc"] - 0.5)
    assert gap["low"] <= gap["difference"] <= gap["high"]
