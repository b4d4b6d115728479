"""Wang 2021: masks between floor and readers, before and after, ROC, SVM; tables beside ours."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from lesionlab import published
from lesionlab.crops import datasets
from lesionlab.papers import wang2021
from lesionlab.papers.wang2021 import Wang2021, analyses, tables
from lesionlab.sources import lidc
from lesionlab.sources.phantom import wang2021 as phantoms
from lesionlab.training.folds import Dataset
from lesionlab.training.outcomes import Outcome
from lesionlab.training.studies import Trained
from lesionlab.training.targets import to_frame

QUICK = {"n_resamples": 40}


@pytest.fixture(scope="module")
def samples(some_crops):
    return wang2021.prepare(some_crops)


def fold(variant, samples, seed=0, **more):
    """An untrained model, as if these were its test lesions; they alternate between classes."""
    torch.manual_seed(seed)
    experiment, n = Wang2021(variant), len(samples.lesion_ids)
    columns = [torch.arange(n) % 2.0] * bool(experiment.design.task)
    columns += [torch.ones(n)] * experiment.design.segments
    return Trained(
        fold=0,
        experiment=experiment,
        weights=experiment.model(seed).state_dict(),
        samples=samples,
        labels=torch.stack(columns, dim=1),
        table=pd.DataFrame({"patient": [f"p{i}" for i in range(n)], **more}, samples.lesion_ids),
    )


def predicted(task, n=120, *, right=0.6, seed=0, folds=1):
    """Predictions that are right so often, of two lesions a patient; one has no class."""
    drawn, target = np.random.default_rng(seed), Wang2021(f"raw_{task}").targets[0]
    truth = np.random.default_rng(99).integers(0, len(target.codes), n)
    said = drawn.random((n, len(target.codes)))
    hit = drawn.random(n) < right
    said[hit, truth[hit]] += 0.6
    labels = torch.from_numpy(truth).float()[:, None]
    labels[0] = torch.nan
    ids = [f"n{i:03d}" for i in range(n)]
    rows = {"lesion_id": ids, "patient": [f"p{i // 2}" for i in range(n)]}
    frame = pd.DataFrame(rows).assign(fold=np.arange(n) % folds)
    said /= said.sum(1, keepdims=True)
    return to_frame([target], frame, torch.from_numpy(said), labels)


# segmentations


def test_nodules_are_learned_by_heart(samples):
    few = samples.select([0, 1])
    course = analyses.overfitted(few, epochs=6, progress=False)
    assert list(course.columns) == ["loss", "dice"]
    assert course.index.tolist() == [1, 2, 3, 4, 5, 6]
    assert course["loss"].iloc[-1] < course["loss"].iloc[0] - 0.1


@pytest.mark.slow
def test_sixteen_real_nodules_are_learned_by_heart(real_volumes):
    ids = wang2021.cohort(lidc.nodules(), "segmentation").table.index[:100]
    store = datasets.crops("volumes", list(ids), progress=False)
    some = [name for name in ids if name in store][:16]
    course = analyses.overfitted(wang2021.prepare(store.crops(some)), progress=False)
    assert course["dice"].iloc[0] < 0.7
    assert course["dice"].max() > 0.9


def test_dice_by_hand():
    a, b = np.array([[1, 1, 0, 0], [0, 0, 0, 0]]), np.array([[1, 0, 1, 1], [0, 0, 0, 0]])
    assert analyses.dice(a, b).tolist() == [2 / 5, 1]


def test_segmentations_are_what_the_model_says(samples):
    of = fold("segmentation_narrow", samples, seed=3, subsolid=[True, False] * 3 + [True])
    found = analyses.segmentations([of])
    both, said, truth = of.predict(device="cpu").unbind(1)
    assert found["dice"].tolist() == pytest.approx((2 * both / (said + truth)).tolist())
    assert found["subsolid"].tolist() == of.table["subsolid"].tolist()
    # in the largest slice alone, by hand
    with torch.no_grad():
        logits = of.experiment.forward(of.model(), samples).segmentation
    for i, lesion in enumerate(samples.lesion_ids):
        mask = samples.masks[i, 0].numpy()
        z = np.nansum(mask, axis=(1, 2)).argmax()
        a, b = (logits[i, 0, z].numpy() > 0) & np.isfinite(mask[z]), mask[z] == 1
        assert found.loc[lesion, "one_slice"] == pytest.approx(
            2 * (a & b).sum() / (a.sum() + b.sum())
        )
    with pytest.raises(ValueError, match="variant='raw_2': it has no segmentation"):
        analyses.segmentations([fold("raw_2", samples)])


def test_floors_of_an_ellipsoid(make_crop, monkeypatch):
    monkeypatch.setattr(analyses, "THRESHOLDS", np.array([-950.0, -400.0, 75.0]))
    crop = make_crop(spacing=(1.0, 0.7, 0.7), shape=(40, 64, 60), readers=1)
    found = analyses.floors(wang2021.prepare([crop]))
    # the lesion has 30 HU in lung of -850 HU and is an ellipsoid: both floors are nearly perfect
    row = found.loc["lesion"]
    assert row["box"] > 0.93
    assert row["threshold_-400"] > 0.93
    assert row["threshold_-950"] == pytest.approx(2 * np.pi / 6 / (1 + np.pi / 6), abs=0.06)
    assert row["threshold_75"] < 0.1


def test_pairs_of_readers_by_hand(make_crop):
    masks = np.zeros_like(make_crop(readers=3).masks)
    masks[0, 5, 10, 10:14] = masks[1, 5, 10, 10:12] = masks[2, 5, 10, 12:14] = True
    pairs = analyses.readers({"lesion": masks, "alone": masks[:1]})
    assert pairs["lesion"] == pytest.approx((4 / 6 + 4 / 6 + 0) / 3)
    assert np.isnan(pairs["alone"])


def test_the_network_between_its_floors_and_the_readers():
    cases = pd.DataFrame(
        {
            "patient": list("aabcd"), "fold": 0, "dice": [0.8, 0.6, 0.7, 0.9, 0.5],
            "one_slice": 0.75, "box": 0.5, "subsolid": [True, True, False, False, False],
            "threshold_-600": [0.5, 0.4, 0.6, 0.7, 0.6],
            "threshold_-300": [0.7, 0.6, 0.1, 0.1, 0.1],
        },
        index=pd.Index([f"l{i}" for i in range(5)], name="lesion_id"),
    )  # fmt: skip
    pairs = pd.Series(0.75, cases.index)
    found = analyses.between(cases, pairs, **QUICK)
    value = found["value"]
    assert value["all", "dice"] == pytest.approx(0.7)
    assert value["all", "threshold"] == pytest.approx(0.56)
    assert value["all", "above_threshold"] == pytest.approx(0.14)
    assert value["sub-solid", "above_threshold"] == pytest.approx(0.25)
    assert value["sub-solid", "own_threshold"] == pytest.approx(0.65)
    assert value["sub-solid", "above_own_threshold"] == pytest.approx(0.05)
    assert value["solid", "above_own_threshold"] == value["solid", "above_threshold"]
    assert value["solid", "above_box"] == pytest.approx(0.2)
    assert found.loc[("all", "readers"), ["low", "high"]].tolist() == pytest.approx([0.75, 0.75])
    assert found.loc["solid"]["n"].unique().tolist() == [3]
    assert found.attrs["threshold"] == -600


# masks and classes


def test_before_and_after(samples):
    before, after = fold("cascade_2_narrow", samples), fold("joint_2_narrow", samples, seed=1)
    found = analyses.before_after([before], [after])
    said = after.predict(device="cpu")
    expected = said[torch.arange(7), torch.arange(7) % 2]
    assert found["score_after"].tolist() == pytest.approx(expected.tolist())
    dice = 2 * said[:, 2] / (said[:, 3] + said[:, 4])
    assert found["dice_after"].tolist() == pytest.approx(dice.tolist())
    same = analyses.before_after([before], [before])
    assert (same["dice_before"] == same["dice_after"]).all()
    with pytest.raises(ValueError, match="not on the same lesions"):
        analyses.before_after([before], [fold("joint_2_narrow", samples.select([0, 1]))])


def test_a_classifier_of_true_masks_is_given_predicted_ones(samples):
    classifier, segmenter = fold("masked_2_narrow", samples), fold("cascade_2_narrow", samples)
    found = analyses.on_predicted_masks([classifier], [segmenter])
    with torch.no_grad():
        said = segmenter.experiment.forward(segmenter.model(), samples)
        inside = said.segmentation.sigmoid() * samples.masks.isfinite()
        features, _ = classifier.model().encoder(samples.images * inside)
        expected = classifier.model().classifier(features).softmax(1)
    columns = ["pathology: AAH+AIS", "pathology: MIA+IAC"]
    np.testing.assert_allclose(found[columns], expected.numpy(), atol=1e-5)
    part = fold("cascade_2_narrow", samples.select([0, 1]))
    with pytest.raises(ValueError, match="has not tested"):
        analyses.on_predicted_masks([classifier], [part])


def test_a_roc_curve_is_scikit_learns():
    frame = predicted("2")
    found = analyses.roc(frame, "2", points=21, **QUICK)
    known = frame.dropna()
    false, true, _ = metrics.roc_curve(
        known["pathology_truth"], known["pathology: MIA+IAC"], drop_intermediate=False
    )
    np.testing.assert_allclose(found["value"], np.interp(found.index, false, true))
    assert (found["low"] <= found["value"]).all()
    assert (found["value"] <= found["high"]).all()
    assert found["n"].unique().tolist() == [119]
    # of two folds it is the mean of both curves
    two = predicted("2", folds=2)
    each = [analyses.roc(two[two["fold"] == k], "2", points=21, **QUICK) for k in (0, 1)]
    mean = (each[0]["value"] + each[1]["value"]) / 2
    np.testing.assert_allclose(analyses.roc(two, "2", points=21, **QUICK)["value"], mean)
    with pytest.raises(ValueError, match="a ROC curve needs two classes"):
        analyses.roc(predicted("1"), "1")


def test_calls_against_classes_are_scikit_learns():
    frame = predicted("1")
    known = frame.dropna()
    called = known.filter(like="pathology: ").to_numpy().argmax(1)
    found = analyses.confusion_of(frame, "1")
    expected = metrics.confusion_matrix(known["pathology_truth"], called)
    assert found.to_numpy().tolist() == expected.tolist()
    assert found.index.tolist() == found.columns.tolist() == ["AAH+AIS", "MIA", "IAC"]


def test_two_models_are_compared_on_the_same_nodules():
    one, two = predicted("2", right=1.0), predicted("2", right=0.1, seed=1)
    found = analyses.compare(one, two.iloc[::-1], "2", **QUICK)
    a, b = tables.measures(one, "2"), tables.measures(two, "2")
    factors = {"accuracy": 100, "mcc": 10, "auc": 10}
    for name, factor in factors.items():
        assert factor * found.loc[name, "value"] == pytest.approx(a[name] - b[name])
    assert found.loc["accuracy", "low"] > 0
    same = analyses.compare(one, one, "2", **QUICK)
    assert (same[["value", "low", "high"]] == 0).all(axis=None)
    with pytest.raises(ValueError, match="the same lesions and folds"):
        analyses.compare(one, predicted("2", folds=2), "2")


# hand-made features


def test_features_by_hand(make_crop):
    crop = make_crop(spacing=(1.0, 0.7, 0.7))
    half = np.where(np.arange(60) < 30, -1000, 300).astype(np.int16)
    mask = np.zeros_like(crop.masks[:1])
    mask[0, 4:8, 20:30, 25:35] = True
    crop = replace(crop, hu=np.broadcast_to(half, crop.hu.shape).copy(), masks=mask)
    row = analyses.features([crop]).loc["lesion"]
    assert row["volume"] == pytest.approx(400 * 0.49)
    assert (row["extent_z"], row["extent_y"]) == (4, pytest.approx(7))
    assert row["fill"] == pytest.approx(1)
    assert (row["hu_mean"], row["hu_sd"], row["share_solid"]) == (-350, 650, 0.5)
    # steps 0 and 14: in each of four slices 10 pairs along x, and 9 along both diagonals, differ
    pairs = 10 * 9 + 9 * 10 + 2 * 9 * 9
    assert row["contrast"] == pytest.approx((10 + 2 * 9) / pairs * 14**2)
    assert row["dissimilarity"] == pytest.approx((10 + 2 * 9) / pairs * 14)
    dot = replace(crop, masks=np.zeros_like(mask))
    dot.masks[0, 4, 20, 25] = True
    assert np.isfinite(analyses.features([dot]).to_numpy()).all()


def test_a_support_vector_machine_is_scikit_learns():
    frame, drawn = predicted("1", folds=2), np.random.default_rng(0)
    ids = frame["lesion_id"]
    labels = pd.Series(frame["pathology_truth"].to_numpy(), ids)
    code = labels.fillna(0).to_numpy()[:, None]
    measured = pd.DataFrame(code + drawn.normal(0, 0.8, (len(ids), 3)), ids)
    found = analyses.svm(measured, labels, frame, "1")
    assert len(found) == 119
    for k, rows in found.groupby("fold"):
        training = labels.drop(rows["lesion_id"]).dropna()
        model = make_pipeline(StandardScaler(), SVC(break_ties=True))
        model.fit(measured.loc[training.index], training)
        called = rows.filter(like="pathology: ").to_numpy().argmax(1)
        assert called.tolist() == model.predict(measured.loc[rows["lesion_id"]]).tolist(), k
    assert tables.measures(found, "1")["accuracy"] > 60
    two = analyses.svm(measured, (labels > 0).astype(float), predicted("2", folds=2), "2")
    assert set(two.filter(like="pathology: ")) == {"pathology: AAH+AIS", "pathology: MIA+IAC"}


# tables


@pytest.mark.parametrize("task", ["1", "2"])
def test_measures_are_scikit_learns(task):
    frame = predicted(task)
    known = frame.dropna()
    truth, said = known["pathology_truth"], known.filter(like="pathology: ").to_numpy()
    called = said.argmax(1)
    found = tables.measures(frame, task)
    assert found["accuracy"] == pytest.approx(100 * metrics.accuracy_score(truth, called))
    assert found["mcc"] == pytest.approx(10 * metrics.matthews_corrcoef(truth, called))
    for f1 in ("weighted", "macro"):
        expected = 100 * metrics.f1_score(truth, called, average=f1)
        assert tables.measures(frame, task, f1=f1)["f1"] == pytest.approx(expected)
    if task == "2":
        assert found["auc"] == pytest.approx(10 * metrics.roc_auc_score(truth, said[:, 1]))
    else:
        assert "auc" not in found  # the paper prints none of three classes


def test_means_and_deviations_over_runs_and_the_best():
    runs = [predicted("2", seed=k) for k in range(5)]
    each = pd.DataFrame([tables.measures(run, "2") for run in runs])
    found = tables.over_runs(runs, "2")
    assert found["mcc"] == pytest.approx(each["mcc"].mean())
    assert found["mcc_sd"] == pytest.approx(each["mcc"].std())
    best = tables.over_runs(runs, "2", best=True)
    assert best["accuracy"] == each["accuracy"].max() > found["accuracy"]
    assert best["auc"] == each.loc[each["accuracy"].idxmax(), "auc"]
    with pytest.raises(ValueError, match="not on the same lesions"):
        tables.over_runs([runs[0], runs[1].iloc[:-1]], "2")


def test_tables_2_to_6_beside_ours():
    runs = {
        f"{m}_{t}": [predicted(t, seed=k) for k in (0, 1)] for m in ("raw", "joint") for t in "12"
    }
    found = tables.classification(runs, tier="phantom")
    assert len(found) == 20
    ours = "lesionlab (phantom)"
    row = found.loc["d, task 2"]
    assert row["accuracy", "Wang 2021"] == 78.22
    expected = tables.over_runs(runs["joint_2"], "2")["accuracy"]
    assert row["accuracy", ours] == pytest.approx(expected)
    assert row["accuracy", "difference"] == pytest.approx(expected - 78.22)
    assert pd.isna(found.loc["e, task 2"]["accuracy", ours])
    second = tables.classification(runs, tier="phantom", split=2)
    assert second.loc["a, task 1"]["accuracy", "Wang 2021"] == 54.67
    other = runs | {"raw_2": [run.iloc[2:] for run in runs["raw_2"]]}
    with pytest.raises(ValueError, match="task 2: the models are not on the same lesions"):
        tables.classification(other, tier="phantom")
    fourth = tables.on_predicted({"2": runs["raw_2"]}, tier="phantom", split=2)
    assert fourth.loc["2"]["accuracy", "Wang 2021"] == 72.97
    runs["joint_2_lambda0.5"] = runs["raw_2"]
    fifth = tables.weights(runs, tier="phantom")
    assert fifth.loc[0.5]["accuracy", "Wang 2021"] == 78.09
    assert fifth[("accuracy", ours)].notna().tolist() == [True, False, True, False, False]
    sixth = tables.by_hand(runs, {"2": predicted("2", seed=5)}, tier="phantom")
    row = sixth.loc["AAH+AIS, MIA+IAC"]
    assert row["ours", ours] == pytest.approx(expected)
    assert row["svm", ours] == pytest.approx(
        tables.measures(predicted("2", seed=5), "2")["accuracy"]
    )


def test_figure_4_beside_ours(tmp_path):
    frame = predicted("1")
    run = Outcome(predictions=frame, scores=pd.DataFrame(), about={}, path=tmp_path)
    found = tables.confusions({"joint_1": run}, tier="phantom")
    assert found.loc[("a", "MIA")]["mia", "Wang 2021"] == 77
    ours = found.xs("lesionlab (phantom)", axis=1, level=1).loc["d"]
    assert ours.to_numpy().tolist() == analyses.confusion_of(frame, "1").to_numpy().tolist()


def test_table_1_is_reached_by_a_hold_out_of_the_printed_shares(samples):
    table = wang2021.cohort(phantoms.nodules(seed=0), "joint_1").table
    n = len(table)
    every = samples.select([0] * n)
    dataset = Dataset(
        samples=replace(every, lesion_ids=tuple(table.index)),
        labels=Wang2021.labels(table, "raw_1"),
        table=table,
        folds=None,
        holdout=wang2021.HOLDOUT,
    )
    found = tables.counts(dataset, tier="phantom")
    differences = found.xs("difference", axis=1, level=1)
    assert (differences["total"] == 0).all()
    assert differences.abs().to_numpy().max() <= 3
    assert dataset.split(0) != dataset.split(1), "there is a second split"
    assert len(dataset.split(0)["validation"]) == pytest.approx(0.14 * n, abs=3)
    with pytest.raises(LookupError, match="no table"):
        published.table("wang2021", 7)
