from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score, precision_score, roc_auc_score

from lesionlab import cohorts, published
from lesionlab.attention import activation_map, randomisation_test
from lesionlab.chapters import shipped
from lesionlab.crops.sampling import locate
from lesionlab.papers import lei2020
from lesionlab.papers.lei2020 import TABLES, VARIANTS, Lei2020, Network, analyses, maps, prepare
from lesionlab.sources import lidc
from lesionlab.statistics.baselines import ratings_classifier
from lesionlab.training import outcomes
from lesionlab.training.outcomes import Outcome
from lesionlab.training.studies import Trained

QUICK = {"n_resamples": 50}


class Small(Lei2020):
    """An experiment whose network is small; everything else is the variant's."""

    def model(self, seed):
        design = self.design
        if design.trunk != "unet":
            return super().model(seed)
        outputs = 32 if design.outputs == 256 else 8
        return Network(replace(design, width=4, outputs=outputs), size=self.size)


def folds_of(samples, variant="hesam"):
    experiment = Small(variant)
    torch.manual_seed(0)
    return Trained(
        fold=0,
        experiment=experiment,
        weights=experiment.model(0).state_dict(),
        samples=samples,
        labels=(torch.arange(len(samples.lesion_ids)) % 2)[:, None].float(),
        table=pd.DataFrame(index=pd.Index(samples.lesion_ids, name="lesion_id")),
    )


def run(malignancy, truth=None):
    n = len(malignancy)
    truth = np.arange(n) % 2 if truth is None else truth
    frame = pd.DataFrame({"lesion_id": [f"n{i:02}" for i in range(n)], "fold": 0})
    frame["patient"] = [f"p{i}" for i in range(n)]
    frame["malignancy"] = np.asarray(malignancy, dtype=float)
    return frame.assign(malignancy_truth=np.asarray(truth, dtype=float))


@pytest.fixture(scope="module")
def samples(some_crops):
    return prepare(some_crops)


@pytest.fixture(scope="module")
def drawn(some_crops):
    return lei2020.outlines(some_crops)


def test_outlines_lie_where_the_voxels_do(make_crop):
    """An image that is bright in the first reader's mask and nowhere else, off the middle."""
    crop = make_crop(shape=(15, 64, 60), centre=(7.0, 25.3, 36.8), radii=(6, 7, 4))
    hu = np.where(crop.masks[0], 400, -1024).astype(np.int16)
    image = prepare([replace(crop, hu=hu)], channels=1).images[0, 0].numpy()
    found = lei2020.outlines([crop])
    clear = np.abs(image - 0.5) > 1e-3  # both are interpolated, and round on their own
    assert clear.mean() > 0.99
    outline = found[crop.lesion_id]
    np.testing.assert_array_equal(outline.masks[0][clear], image[clear] >= 0.5)
    assert outline.pixel == pytest.approx(2 * locate(crop).equivalent_diameter / 32)


def test_lidc_crops_have_the_masks_of_a_data_set():
    lesion = lidc.nodules().index[7]
    (crop,) = lei2020.lidc_crops([lesion])
    found = lidc.masks(lesion)
    assert crop.masks.sum() == found.readers.sum()
    assert locate(crop).area.sum() == found.consensus.sum()
    assert crop.spacing == found.spacing


@pytest.mark.parametrize(
    ("variant", "names"),
    [
        ("hesam", ["HESAM", "HESAM, exact", "HE-Grad-CAM"]),
        ("cam", ["CAM", "Grad-CAM"]),
        ("hecam", ["HE-CAM", "HE-Grad-CAM"]),
        ("hesam_max_max", ["HESAM", "HE-Grad-CAM"]),
        ("fully_connected", ["Grad-CAM"]),
        ("sam_ratings", ["SAM", "SAM, exact", "Grad-CAM"]),
        ("hesam_3d", ["HESAM", "HESAM, exact", "HE-Grad-CAM"]),
    ],
)
def test_all_maps_of_a_variant(samples, variant, names):
    fold = folds_of(samples, variant)
    found = maps.explain(fold.experiment, fold.model(), samples)
    assert list(found.maps) == names == list(fold.experiment.maps())
    assert {tuple(heat.shape) for heat in found.maps.values()} == {(7, 32, 32)}
    column = -1 if fold.experiment.design.ratings else 0
    torch.testing.assert_close(found.malignancy, fold.predict(device="cpu")[:, column])


def test_shares_of_made_up_maps(drawn):
    ids, n = list(drawn), len(drawn)
    one = torch.arange(n)[:, None, None] == 0
    heat = {
        "uniform": torch.ones(n, 32, 32),
        "lesion": torch.from_numpy(np.stack([o.masks.all(0) for o in drawn.values()])).float(),
        "some": torch.ones(n, 32, 32) - 2.0 * one,  # no positive value in the first lesion
        "one": torch.ones(n, 32, 32) * one,  # Grad-CAM of a network without places is like this
    }
    table = maps.lesion_shares(heat, ids, drawn, band=1.0)
    patients = pd.Series([f"p{i}" for i in range(n)], index=ids)
    found = maps.mean_shares(table, patients, **QUICK)
    np.testing.assert_allclose(found.loc["uniform", "times"], 1)
    assert found.loc[("lesion", "inside"), "times"] > 2
    assert found.loc[("lesion", "outside"), "value"] == 0
    np.testing.assert_allclose(found.groupby("method")[["value", "uniform"]].sum(), 1)
    assert found["n"].groupby("method").first().to_dict() == {
        "uniform": n, "lesion": n, "some": n - 1, "one": 1
    }  # fmt: skip
    assert found.loc["one", ["low", "high", "times_low", "times_high"]].isna().all(axis=None)
    with pytest.raises(ValueError, match="patients: none for"):
        maps.mean_shares(table, patients[:1], **QUICK)
    with pytest.raises(ValueError, match="none of 1 lesions"):
        maps.lesion_shares(heat, ["other"], drawn)


def test_areas_by_hand(monkeypatch):
    """A score that is the brightness of one pixel: the map that marks it is the best there is."""
    images = torch.rand((3, 1, 16, 16), generator=torch.Generator().manual_seed(0)) * 0.1
    images[:, :, 3, 4] = 1.0
    heat = torch.zeros(3, 16, 16)
    heat[:, 3, 4] = 1.0

    def score(x):
        return x[:, 0, 3, 4]

    ids = ["a", "b", "c"]
    monkeypatch.setattr(maps, "LUNG", 0.0)
    table = maps.faithfulness(score, images, {"best": heat, "worst": -heat}, ids, steps=4)
    # scores 1, 0, 0, 0, 0 at 0, 1/4, …: a trapezium of 1/8
    np.testing.assert_allclose(table.loc["best", "deletion"], 1 / 8, atol=1e-6)
    np.testing.assert_allclose(table.loc["best", "insertion"], 7 / 8, atol=1e-6)
    np.testing.assert_allclose(table.loc["worst", "deletion"], 7 / 8, atol=1e-6)
    patients = pd.Series({"a": "p", "b": "q", "c": "r"})
    found = maps.against_random(table, patients, **QUICK)
    gap = table.loc["best", "deletion"].mean() - table.loc[maps.RANDOM, "deletion"].mean()
    assert found.loc[("best", "deletion"), "difference"] == pytest.approx(gap)


def test_a_pasted_map_lies_on_its_lesion(make_crop):
    """The mask as the network gets it, put back, is the mask of the slice."""
    crop = make_crop(shape=(15, 90, 80), spacing=(2.0, 0.6, 0.7), radii=(6, 8, 5),
                     centre=(7, 40.4, 37.2), readers=1)  # fmt: skip
    square = lei2020.outlines([crop])[crop.lesion_id].masks[0].astype(float)
    found = lei2020.pasted(square, crop)
    inside = np.isfinite(found.values)
    assert found.values.shape == found.hu.shape == (90, 80)
    mask = crop.masks[0, 7]
    assert inside[mask].all()
    assert not inside.all()
    near = np.nan_to_num(found.values) >= 0.5
    assert 2 * (near & mask).sum() / (near.sum() + mask.sum()) > 0.93
    side = 2 * locate(crop).equivalent_diameter
    assert inside.any(1).sum() * 0.6 == pytest.approx(side, abs=0.8)
    assert inside.any(0).sum() * 0.7 == pytest.approx(side, abs=0.9)


def test_classification_by_hand():
    # malignant: .9 .8 .3, benign: .6 .2 .1 .1
    frame = run([0.9, 0.8, 0.3, 0.6, 0.2, 0.1, 0.1], [1, 1, 1, 0, 0, 0, 0])
    found = analyses.classification(frame, **QUICK)["value"]
    expected = {"accuracy": 5 / 7, "sensitivity": 2 / 3, "specificity": 3 / 4, "auc": 11 / 12}
    assert found[list(expected)].to_dict() == pytest.approx(expected)
    called, truth = frame["malignancy"] >= 0.5, frame["malignancy_truth"]
    assert found["precision"] == pytest.approx(precision_score(truth, called))
    assert found["f1"] == pytest.approx(f1_score(truth, called))
    for lacking, asked in (("fold", analyses.within_folds), ("patient", analyses.classification)):
        with pytest.raises(KeyError, match=f"no column .'{lacking}'"):
            asked(frame.drop(columns=lacking), **QUICK)


def test_the_papers_test_is_blind_to_the_truth():
    """The same order and the same calls, all probabilities a little higher: p is tiny."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.45, 40) + 0.5 * rng.integers(0, 2, 40)
    frames = {"hesam": run(p), "cam": run(p + 0.01)}
    found = analyses.compare(frames, **QUICK).loc["cam"]
    assert found["p_probability"] < 1e-6
    assert found["p_probability"] == pytest.approx(stats.wilcoxon(p, p + 0.01).pvalue)
    assert found["only_reference"] == found["only_other"] == 0
    assert found["p_mcnemar"] == 1
    assert found["auc_difference"] == 0


def test_a_better_model_is_found():
    truth = np.arange(40) % 2
    good, bad = np.where(truth, 0.9, 0.1), np.where(np.arange(40) < 20, 0.9, 0.1)
    jitter = np.linspace(0, 0.05, 40)
    found = analyses.compare({"hesam": run(good + jitter), "a": run(bad), "b": run(good)}, **QUICK)
    row = found.loc["a"]
    assert (row["only_reference"], row["only_other"]) == (20, 0)
    assert row["p_mcnemar"] == pytest.approx(2 / 2**20)
    assert row["p_mcnemar_holm"] == pytest.approx(2 * row["p_mcnemar"])
    assert row["low"] > 0
    assert row["auc_difference"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="reference='x'"):
        analyses.compare({"hesam": run(good)}, reference="x")
    with pytest.raises(ValueError, match="other lesions"):
        analyses.compare({"hesam": run(good), "a": run(bad[:-2])})


def in_two_folds(*scores):
    """Eight lesions, six times over: four of each fold, two of them malignant.

    By default each network ranks its own lesions rightly; the second says higher numbers of all.
    """
    scores = scores or (0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9)
    frame = run(np.tile(scores, 6), np.tile([0, 0, 1, 1], 12))
    return frame.assign(fold=np.tile([0, 0, 0, 0, 1, 1, 1, 1], 6))


def test_differences_of_aucs_together_and_within_folds():
    frame = in_two_folds()
    level = in_two_folds(0.1, 0.2, 0.8, 0.9, 0.1, 0.2, 0.8, 0.9)
    found = analyses.compare({"hesam": level, "cam": frame}, **QUICK).loc["cam"]
    assert found["auc_difference"] == 4 / 16
    assert found[["within_difference", "within_low", "within_high"]].tolist() == [0, 0, 0]
    other = frame.assign(fold=frame["fold"].to_numpy()[::-1])
    with pytest.raises(ValueError, match="another patient or fold"):
        analyses.compare({"hesam": frame, "cam": other}, **QUICK)


def kept(predictions):
    """A run as `outcomes.kept` gives it."""
    return Outcome(predictions=predictions, scores=pd.DataFrame(), about={}, path=Path("run.json"))


@pytest.mark.parametrize("by", ["patient", "nodule"])
def test_scores_that_are_kept_are_those_of_the_kept_predictions(by):
    """Points only; an interval may differ in its last digits on another machine."""
    runs = outcomes.kept(shipped("book", "results", "lei2020"), data="slices", by=by)
    for variant, run in runs.items():
        found = analyses.classification(run.predictions, n_resamples=1)["value"]
        kept = run.scores.query("predictor == 'model'").set_index("metric")["value"]
        both = [name for name in kept.index if name in found and name != "auc"]
        assert {"accuracy", "sensitivity", "specificity"} <= set(both), variant
        np.testing.assert_allclose(found[both], kept[both], atol=1e-6, err_msg=variant)
        classes = run.table("classes")["value"]
        np.testing.assert_allclose(found[classes.index], classes, atol=1e-6, err_msg=variant)


def test_heads_on_folds_by_hand():
    runs = {"cam": kept(in_two_folds()), "hesam_d1c": kept(in_two_folds()), "resnet18": None}
    found = analyses.heads_on_folds(runs, **QUICK)
    assert found.index.tolist() == ["CAM, D11C", "HESAM, D1C"]
    row = found.loc["CAM, D11C"]
    assert row["AUC within folds"].tolist() == [1, 1, 1]
    assert row["AUC, together", "value"] == 0.75  # 4 of the 16 pairs are of two folds, and wrong
    assert row["called malignant"].tolist() == [0, 1]  # none of the first fold, all of the second
    assert row["accuracy (%)"].tolist() == pytest.approx([96.51, 50, 50 - 96.51])
    assert found.loc["HESAM, D1C", ("accuracy (%)", "Lei 2020")] == 83.41


@pytest.fixture(scope="module")
def of_diameter():
    """The cohort; and by patient and by nodule a "network" that says the diameter."""
    cohort = cohorts.lei2020(lidc.nodules())
    nodules = cohort.table
    frame = pd.DataFrame(
        {
            "lesion_id": nodules.index,
            "patient": nodules["patient"].to_numpy(),
            "malignancy": (nodules["diameter"] / 100).to_numpy(),
            "malignancy_truth": cohorts.malignancy_label(nodules).astype(float).to_numpy(),
        }
    )
    folds = (cohort.folds(by=by).loc[nodules.index].to_numpy() for by in ("patient", "nodule"))
    return cohort, *(frame.assign(fold=fold) for fold in folds)


def test_a_model_is_held_against_the_diameter_on_its_own_lesions(of_diameter):
    """A "model" that says the diameter cannot be told from the diameter by its ranking."""
    cohort, frame, _ = of_diameter
    own = frame[frame["fold"] == 0]
    found = analyses.baseline_predictions(own, cohort)
    row = analyses.compare({"hesam": own, **found}, **QUICK).loc["diameter"]
    assert row["auc_difference"] == row["low"] == row["high"] == 0
    nodules, labels = cohort.table.rename_axis("lesion_id"), cohorts.malignancy_label(cohort.table)
    ratings = ratings_classifier(nodules, labels, folds=cohort.folds()).set_index("lesion_id")
    np.testing.assert_array_equal(
        found["ratings"]["malignancy"], ratings.loc[own["lesion_id"], "score"]
    )
    with pytest.raises(ValueError, match="'n0' is not in the cohort"):
        analyses.baseline_predictions(own.assign(lesion_id="n0"), cohort)


def test_heads_against_each_other_and_the_diameter(of_diameter):
    cohort, frame, _ = of_diameter
    worse = frame.assign(malignancy=1 - frame["malignancy"])
    sets = ("", "_d1c", "_d3c", "_d21c")
    runs = {f"{head}{images}": kept(frame) for head in ("hesam", "sam") for images in sets}
    runs |= {f"cam{images}": kept(worse) for images in sets}
    found = analyses.head_differences(runs, cohort, n_resamples=5)
    assert len(found) == 12
    own = analyses.within_folds(frame, n_resamples=2).value
    for name in ("SAM − CAM, D11C", "HESAM − CAM, D3C"):
        change = found.loc[name, ("within folds", "difference")]
        assert change == pytest.approx(2 * own - 1)
    # one fold's regression of the diameter ranks as the diameter does
    alone = found.loc["HESAM − diameter, D1C"]
    assert alone["within folds"].abs().max() < 1e-12


def test_splits_are_compared_fold_by_fold(of_diameter):
    cohort, by_patient, by_nodule = of_diameter
    patients = {"hesam": kept(by_patient), "sam": kept(by_patient)}
    nodules = {"hesam": kept(by_nodule[by_nodule["fold"] == 0])}
    found = analyses.by_split(patients, nodules, cohort, n_resamples=5)
    assert found.index.tolist() == ["HESAM, D11C", "diameter alone"]
    np.testing.assert_allclose(found.loc["HESAM, D11C"], found.loc["diameter alone"], atol=1e-12)
    for by, frame in (("by patient", by_patient), ("by nodule", by_nodule)):
        first = frame[frame["fold"] == 0]
        auc = roc_auc_score(first["malignancy_truth"], first["malignancy"])
        assert found.loc["HESAM, D11C", (by, "value")] == pytest.approx(auc)
        scores = analyses.on_fold({"model": frame}, 0, n_resamples=5).set_index("metric")
        called = (first["malignancy"] >= 0.5) == (first["malignancy_truth"] == 1)
        assert scores.loc["accuracy", "value"] == pytest.approx(called.mean())
    with pytest.raises(ValueError, match="fold=0: 'model' has the folds"):
        analyses.on_fold({"model": by_patient.query("fold == 3")}, 0)


READINGS = pd.DataFrame(
    {
        "lesion_id": ["a"] * 4 + ["b"] * 3 + ["c"] * 3,
        "malignancy": [5, 4, 2, 3, 1, 2, 4, 3, 4, 5],
    }
)


@pytest.mark.parametrize(
    ("truth", "counts", "doctor", "errors"),
    [
        # a: mean 3.5, malignant. b: mean 7/3, benign. c: mean 4, malignant. A 3 does not count.
        ("all", [2, 3, 3, 0, 8], [100, 100, 100 / 3, np.nan], [1, 1]),
        # Dr. 3 of b says 4, the others 1 and 2; of a 2, the others 5, 4, 3; of c 5, and 3, 4.
        # To Dr. 1, the others of a and of b have a mean of 3; and of c Dr. 1 says 3.
        ("others", [0, 3, 3, 0, 6], [np.nan, 100, 100 / 3, np.nan], [1, 1]),
    ],
)
def test_doctors_by_hand(truth, counts, doctor, errors):
    found = analyses.reader_accuracy(READINGS, ["a", "b", "c"], truth=truth)
    assert found.index.tolist() == ["Dr. 1", "Dr. 2", "Dr. 3", "Dr. 4", "all"]
    assert found["n"].tolist() == counts
    np.testing.assert_allclose(found["accuracy"].iloc[:4], doctor)
    assert found.loc["Dr. 3", ["false_positives", "false_negatives"]].tolist() == errors


def test_columns_are_not_persons():
    whole = analyses.reader_accuracy(READINGS, ["a", "b", "c"])
    other = analyses.reader_accuracy(READINGS, ["a", "b", "c"], shuffle=3)
    pd.testing.assert_series_equal(whole.loc["all"], other.loc["all"])
    assert not whole.drop(index="all").equals(other.drop(index="all"))
    with pytest.raises(ValueError, match="none of lesion 'z'"):
        analyses.reader_accuracy(READINGS, ["z"])


def test_twenty_are_of_both_kinds_and_well_read():
    frame = run(np.full(30, 0.5))
    readings = pd.DataFrame({"lesion_id": np.repeat(frame["lesion_id"][:-2], 3), "malignancy": 2})
    found = analyses.draw_reader_study(frame, readings, each=5)
    assert len(set(found)) == 10
    truth = frame.set_index("lesion_id")["malignancy_truth"]
    assert truth[found].sum() == 5
    assert not set(found) & set(frame["lesion_id"][-2:])
    assert analyses.draw_reader_study(frame.iloc[::-1], readings, each=5) == found
    with pytest.raises(ValueError, match="only 14"):
        analyses.draw_reader_study(frame, readings, each=15)


def side(table, head):
    """All columns below one of the lower heads: the paper's, ours, or the differences."""
    return table.xs(head, axis=1, level=-1)


def scores(accuracy, *, n=229, sensitivity=0.9, specificity=0.95):
    values = {"accuracy": accuracy, "sensitivity": sensitivity, "specificity": specificity}
    rows = [
        {"target": "malignancy", "predictor": who, "metric": metric, "value": value - less,
         "low": 0, "high": 1, "n": n, "n_groups": 100}
        for who, less in (("model", 0), ("diameter", 0.1))
        for metric, value in (values | {"auc": 0.9}).items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_table_2_has_the_papers_rows_and_ours_apart():
    runs = {"hesam": scores(0.8), "hesam_d1c": scores(0.6), "resnet18_sam": scores(0.7)}
    found = analyses.paper_table(2, runs, tier="slices")
    printed = published.table("lei2020", 2).set_index("method")
    assert found.index[:18].tolist() == printed.index.tolist()
    np.testing.assert_array_equal(side(found, "Lei 2020").iloc[:18], printed)
    ours = side(found, "lesionlab (slices)")
    assert ours.loc["Ours-HESAM", ["d1c", "d11c"]].tolist() == pytest.approx([60, 80])
    assert ours.loc["Ours-HESAM", ["sensitivity", "specificity"]].tolist() == [0.9, 0.95]
    assert ours.loc["Diameter alone", "d11c"] == pytest.approx(60)  # of the first row that is run
    assert ours.loc["VGG16"].isna().all()


def test_tables_3_4_and_5():
    runs = {name: scores(0.7 + 0.01 * i) for i, name in enumerate(TABLES["4"].values())}
    four = side(analyses.paper_table(4, runs, tier="phantom"), "lesionlab (phantom)")
    assert four.loc[("accuracy", "U+GMP+RB+SAM"), "d11c"] == pytest.approx(73)
    assert four.loc[("specificity", "U+SAM (Baseline)"), "d11c"] == 0.95
    three = analyses.paper_table(3, {"hesam_max_max": scores(0.6)}, tier="phantom")
    ours = side(three, "lesionlab (phantom)")
    assert ours.loc["GMP / GMP", "accuracy"] == pytest.approx(60)
    assert ours.loc["GMP / GMP", "lesions"] == 229
    p = np.linspace(0.1, 0.9, 20)
    tests = analyses.compare({"hesam_d1c": run(p), "vgg16_d1c": run(p**2)},
                             reference="hesam_d1c", **QUICK)  # fmt: skip
    five = side(analyses.paper_table(5, {"D1C": tests}, tier="phantom"), "lesionlab (phantom)")
    assert five.loc["VGG16", "d1c_p"] == tests.loc["vgg16_d1c", "p_probability"]
    assert five.notna().to_numpy().sum() == 1


def test_tables_that_cannot_be():
    with pytest.raises(ValueError, match="not on the same lesions"):
        analyses.paper_table(2, {"hesam": scores(0.8), "sam": scores(0.8, n=3)}, tier="phantom")
    with pytest.raises(LookupError, match="expected one of the tables"):
        analyses.paper_table(1, {}, tier="phantom")
    with pytest.raises(ValueError, match="images='D2C': expected one of D1C"):
        lei2020.variant_on("hesam", "D2C")


def test_figure_4_is_the_mean_over_folds():
    def fold(k, *losses):
        history = [{"epoch": i + 1, "loss": x} for i, x in enumerate(losses)]
        return {"fold": k, "history": history, "best_epoch": k + 1}

    found = analyses.courses({"hesam": [fold(0, 3, 2), fold(2, 1, 0)], "hesam_d1c": [fold(0, 5)]})
    assert list(found) == ["D1C", "D11C"]
    assert found["D11C"]["loss"].tolist() == [2, 1]
    assert found["D11C"].attrs["best_epoch"] == 2
    with pytest.raises(ValueError, match="none of 'sam'"):
        analyses.courses({"hesam": [fold(0, 1)]}, variant="sam")


def test_the_figures_name_variants_and_maps_that_exist():
    for rows in maps.FIGURES.values():
        for variant, method in rows.values():
            assert method in Lei2020(variant).maps(), (variant, method)
            assert VARIANTS[variant].images == "D11C"


def test_gallery_shows_what_was_fed(samples):
    folds = {name: folds_of(samples, name) for name in ("cam", "hesam")}
    lesion = samples.lesion_ids[1]
    found = maps.gallery(7, folds, lesion, n=3)
    assert list(found) == ["CAM", "Grad-CAM", "HESAM"]
    assert [len(row) for row in found.values()] == [4, 4, 4]
    last = found["HESAM"][-1]
    seen = maps.explain(folds["hesam"].experiment, folds["hesam"].model(), samples)
    torch.testing.assert_close(last.map, seen.maps["HESAM"][1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(last.values, samples.images[1, 5])
    assert last.title == f"{seen.malignancy[1]:.2f}"
    assert last.wrong == (seen.malignancy[1] < 0.5)  # lesion 1 is malignant
    assert len(maps.gallery(8, folds, lesion, n=0)["GMP / GAP"]) == 1
    with pytest.raises(ValueError, match="did not test it"):
        maps.gallery(7, folds, "other")
    with pytest.raises(ValueError, match="no model for figure 5"):
        maps.gallery(5, folds, lesion)


def test_a_network_of_two_rows_is_run_once(samples, monkeypatch):
    folds, made, explain = {"cam": folds_of(samples, "cam")}, [], maps.explain
    monkeypatch.setattr(maps, "explain", lambda *of: made.append(of) or explain(*of))
    assert list(maps.gallery(7, folds, samples.lesion_ids[0])) == ["CAM", "Grad-CAM"]
    assert len(made) == 1


def test_overview_shows_readers_and_all_maps(samples, drawn):
    folds = {name: folds_of(samples, name) for name in ("hesam", "cam")}
    seen = {n: maps.explain(f.experiment, f.model(), samples) for n, f in folds.items()}
    two = dict(zip(samples.lesion_ids[2:4], (True, False), strict=True))
    found = maps.overview(seen, samples, drawn, two)
    kinds = ["HESAM", "HESAM, exact", "HE-Grad-CAM", "CAM", "Grad-CAM"]
    assert list(found) == ["readers", *kinds]
    assert [picture.title.split("\n")[0] for picture in found["readers"]] == ["malignant", "benign"]
    torch.testing.assert_close(found["readers"][1].values, samples.images[3, 5])
    torch.testing.assert_close(found["CAM"][0].map, seen["cam"].maps["CAM"][2])
    p = seen["cam"].malignancy[2:4]
    assert [picture.title for picture in found["CAM"]] == [f"{value:.2f}" for value in p]
    assert [picture.wrong for picture in found["CAM"]] == [bool(p[0] < 0.5), bool(p[1] >= 0.5)]


def test_examples_by_rule():
    frame = run([0.1, 0.9, 0.6, 0.2, 0.3, 0.7], [0, 1, 0, 1, 0, 1])
    found = analyses.example_lesions(frame, quantiles=(0, 1))
    assert found["malignant"].to_dict() == {"n02": False, "n00": False, "n03": True, "n01": True}
    with pytest.raises(ValueError, match="no lesion of class 1"):
        analyses.example_lesions(frame[frame["malignancy_truth"] == 0])


def test_maps_of_shuffled_weights_are_made_once_for_all_kinds(samples, monkeypatch):
    fold, made = folds_of(samples), []
    network, explain = fold.model(), maps.explain
    monkeypatch.setattr(maps, "explain", lambda *of: made.append(of) or explain(*of))
    found = maps.randomised(fold.experiment, network, samples)
    assert len(made) == 2

    def alone(model, images):
        return activation_map(model, images, "he-grad-cam", target=1).maps

    rho = randomisation_test(network, samples.images, alone, cascade=False).iloc[-1]
    expected = [rho.mean(), rho.abs().mean(), rho.count()]
    assert found.index.tolist() == ["HESAM", "HESAM, exact", "HE-Grad-CAM"]
    assert found.loc["HE-Grad-CAM"].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def real():
    """Six nodules with real outlines; their images are those outlines."""
    ids = lidc.nodules().index[[3, 7, 20, 33, 48, 60]].tolist()
    crops = [
        replace(c, hu=np.where(c.consensus(), 0, -850).astype(np.int16))
        for c in lei2020.lidc_crops(ids)
    ]
    return prepare(crops)


@pytest.mark.parametrize("variant", ["hesam", "sam_ratings"])
def test_summary(real, variant):
    fold = folds_of(real, variant)
    frame = run(fold.predict(device="cpu")[:, 0]).assign(lesion_id=list(real.lesion_ids))
    if VARIANTS[variant].ratings:
        frame["malignancy_truth"] = 2.5
    found = maps.analyse([fold], frame, n_lesions=5, n_curves=3, n_resamples=30)
    tables = {"classes", "regions", "regions_untrained", "curves", "randomised", "high_level"}
    without = {"classes", "high_level"} if variant == "sam_ratings" else set()
    assert set(found) == tables - without
    assert (found["regions"]["n"] <= 5).all()
    assert (found["curves"]["n"] == 3).all()
