import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from lesionlab import cohorts, published
from lesionlab.attention import activation_map
from lesionlab.papers import lei2020
from lesionlab.papers import lei2020_analyses as analyses
from lesionlab.papers._lei2020_measures import LUNG
from lesionlab.papers.lei2020 import N_CHANNELS, TABLES, VARIANTS, Lei2020
from lesionlab.sampling import Samples
from lesionlab.sources import lidc
from lesionlab.statistics.association import holm
from lesionlab.training import outcomes
from lesionlab.training.studies import Trained

QUICK = {"n_resamples": 100}
IDS = (
    "LIDC-IDRI-0078-S0001-N01",
    "LIDC-IDRI-0069-S0002-N01",
    "LIDC-IDRI-0078-S0001-N02",
    "LIDC-IDRI-0069-S0002-N02",
)


def samples(n=4, *, channels=11, side=16, seed=1, ids=None):
    images = torch.rand((n, channels, side, side), generator=torch.Generator().manual_seed(seed))
    return Samples(
        images=images,
        nodule=torch.arange(n),
        lesion_ids=tuple(ids or (f"n{i}" for i in range(n))),
        padded=torch.zeros(n),
        missing=torch.zeros(n, dtype=torch.int64),
        calibrated=torch.ones(n, dtype=torch.bool),
    )


def trained(variant="hesam", some=None, *, seed=0, size=16):
    """A fold whose network is as it starts."""
    experiment = Lei2020(variant, size=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = experiment.model(seed)
    some = (
        samples(channels=N_CHANNELS[experiment.design.images], side=size) if some is None else some
    )
    n = len(some.lesion_ids)
    return Trained(
        fold=0,
        experiment=experiment,
        weights={name: value.clone() for name, value in model.state_dict().items()},
        samples=some,
        targets=torch.arange(n).remainder(2).float()[:, None],
        table=pd.DataFrame({"patient": [f"p{i}" for i in range(n)]}, index=list(some.lesion_ids)),
    )


@pytest.fixture(scope="module")
def hesam():
    return trained()


@pytest.fixture(scope="module")
def seen(hesam):
    return analyses.look(hesam.experiment, hesam.model(), hesam.samples)


def probabilities(n=60, *, seed=0, skill=1.0, each=2):
    """Predictions of a classifier; patients have `each` lesions."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 2
    logit = skill * (2 * truth - 1) + rng.normal(0, 1.5, n)
    return pd.DataFrame(
        {
            "lesion_id": [f"n{i}" for i in range(n)],
            "patient": [f"p{i // each}" for i in range(n)],
            "fold": 0,
            "malignancy": 1 / (1 + np.exp(-logit)),
            "malignancy_truth": truth.astype(float),
        }
    )


def scored(n=60, **options):
    frame = probabilities(n, **options)
    index = pd.Index(frame["lesion_id"], name="lesion_id")
    truths = pd.DataFrame({"malignancy": frame["malignancy_truth"].to_numpy()}, index=index)
    diameter = np.random.default_rng(1).uniform(3, 20, n)
    table = truths.assign(patient=frame["patient"].to_numpy(), diameter=diameter)
    folds = pd.Series(np.arange(n) // 2 % 4, index=index)
    return outcomes.score(
        frame, table, truths, folds, {"malignancy": "classification"}, n_resamples=20
    )


# --- all maps of a network ------------------------------------------------------------------------


def test_each_variant_has_the_maps_of_its_head():
    names = {v: list(analyses.methods(Lei2020(v))) for v in VARIANTS}
    assert names["cam"] == ["CAM", "Grad-CAM"]
    assert names["sam"] == ["Grad-CAM", "SAM", "SAM, exact"]
    assert names["hesam"] == ["HE-Grad-CAM", "HESAM", "HESAM, exact"]
    assert names["hecam"] == ["HE-CAM", "HE-Grad-CAM"]
    # with the largest value in place of a mean there is no one place that a value came from
    assert names["hesam_max_max"] == ["HE-Grad-CAM", "HESAM"]
    assert names["resnet18"] == names["baseline"] == ["Grad-CAM"]
    for figure in analyses.FIGURES.values():
        for variant, method in figure.values():
            assert method in names[variant]


def test_maps_are_those_of_the_attention_module_and_make_up_the_logit(hesam, seen):
    model, images = hesam.model(), hesam.samples.images
    one = activation_map(model, images, "hesam", target=1, weights="exact")
    torch.testing.assert_close(seen.maps["HESAM, exact"], one.maps)
    small = activation_map(model, images, "hesam", target=1, weights="exact", upsample=False)
    with torch.no_grad():
        outputs = model(images)
    whole = small.maps.sum((1, 2)) + seen.high_level + seen.bias
    torch.testing.assert_close(whole, outputs.logits[:, 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.malignancy, outputs.logits.softmax(1)[:, 1])
    torch.testing.assert_close(seen.high_level, outputs.high_level[:, 1])


def test_batches_make_no_difference(hesam, seen):
    small = analyses.look(hesam.experiment, hesam.model(), hesam.samples, batch_size=3)
    for name, maps in seen.maps.items():
        torch.testing.assert_close(small.maps[name], maps, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(small.logit, seen.logit, atol=1e-5, rtol=1e-4)
    some = seen.of(["n2", "n0"])
    assert torch.equal(some["HESAM"], seen.maps["HESAM"][[2, 0]])


def test_the_other_class_has_another_map(hesam, seen):
    other = analyses.look(hesam.experiment, hesam.model(), hesam.samples, target=0)
    assert not torch.allclose(other.maps["HESAM"], seen.maps["HESAM"])
    torch.testing.assert_close(other.malignancy, seen.malignancy)  # of malignant all the same


def test_nine_ratings_are_looked_at_through_the_head_of_malignancy():
    fold = trained("sam_ratings")
    found = analyses.look(fold.experiment, fold.model(), fold.samples)
    head = lei2020.Lei2020("sam_ratings").tasks
    own = activation_map(
        fold.model(), fold.samples.images, "sam", head=list(head).index("malignancy")
    )
    torch.testing.assert_close(found.maps["SAM"], own.maps)
    assert ((found.malignancy >= 1) & (found.malignancy <= 5)).all()  # in rating steps


def test_in_three_axes_the_middle_slice_is_shown():
    fold = trained("cam_3d", samples(2, channels=11))
    found = analyses.look(fold.experiment, fold.model(), fold.samples)
    whole = activation_map(fold.model(), fold.samples.images, "cam", target=1).maps
    assert whole.ndim == 4
    torch.testing.assert_close(found.maps["CAM"], whole[:, whole.shape[1] // 2])


def test_looking_changes_nothing(hesam):
    model = hesam.model().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images, state = hesam.samples.images.clone(), torch.get_rng_state()
    analyses.look(hesam.experiment, model, hesam.samples)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(hesam.samples.images, images)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks for m in model.modules())


def test_no_lesions_are_refused(hesam):
    with pytest.raises(ValueError, match="at least one lesion, got none"):
        analyses.look(hesam.experiment, hesam.model(), hesam.samples.select([]))


# --- outlines, where maps lie ---------------------------------------------------------------------


def test_outlines_lie_where_the_voxels_do(make_crop):
    """A lesion of 30 HU in lung: what readers outlined is what is bright in the sample."""
    crop = make_crop(readers=1)
    drawn = analyses.outlines([crop])
    image = lei2020.prepare([crop], channels=1).images[0, 0]
    bright = image.numpy() > (-410 + 1024) / 1424  # half way between lung and lesion
    assert drawn.lesion_ids == ("lesion",)
    assert drawn.masks[0].shape == (1, 32, 32)
    assert (drawn.masks[0][0] != bright).mean() < 0.01
    # two equivalent diameters over 32 pixels, so the disc fills about a fifth of the square
    volume = crop.masks[0].sum() * np.prod(crop.spacing)
    diameter = (6 * volume / np.pi) ** (1 / 3)
    assert drawn.pixel[0] == pytest.approx(2 * diameter / 32, rel=1e-6)


def test_masks_of_all_slices_lie_where_the_voxels_do(make_crop):
    crop = make_crop(readers=2, spacing=(1.0, 0.7, 0.7))
    masks = analyses.masks_of(crop)
    image = lei2020.prepare([crop]).images[0].numpy()
    assert masks.shape == (2, 11, 32, 32)
    assert (masks[0] != (image > (-410 + 1024) / 1424)).mean() < 0.01
    drawn = analyses.outlines([crop])
    assert np.array_equal(masks[:, 5], drawn.masks[0])
    assert analyses.pixel_of(crop) == drawn.pixel[0]


def test_readers_who_left_the_middle_slice_out_do_not_count(make_crop):
    crop = make_crop()
    masks = crop.masks.copy()
    masks[2, len(crop.hu) // 2 - 1 : len(crop.hu) // 2 + 2] = False
    drawn = analyses.outlines([dataclasses.replace(crop, masks=masks)])
    assert len(drawn.masks[0]) == 3
    assert np.array_equal(drawn.consensus("lesion"), drawn.masks[0].mean(0) >= 0.5)
    with pytest.raises(ValueError, match="not in tuple"):
        drawn.consensus("other")


def test_outlines_of_the_database_are_those_of_a_crop():
    crops = list(analyses.lidc_crops(IDS[:2]))
    assert [crop.lesion_id for crop in crops] == list(IDS[:2])
    for crop in crops:
        found = lidc.masks(crop.lesion_id)
        assert crop.masks.sum() == found.readers.sum()
        assert crop.spacing == found.spacing
    with pytest.raises(LookupError, match="LIDC-IDRI-9999"):
        list(analyses.lidc_crops(["LIDC-IDRI-9999-S0001-N01"]))


@pytest.fixture(scope="module")
def drawn():
    return analyses.outlines(analyses.lidc_crops(IDS))


def test_a_map_of_the_outline_lies_inside_and_a_flat_one_nowhere_in_particular(drawn):
    inside = torch.from_numpy(
        np.stack([drawn.consensus(i) for i in drawn.lesion_ids]).astype(float)
    )
    maps = {"inside": inside, "flat": torch.ones_like(inside), "none": -torch.ones_like(inside)}
    table = analyses.where(maps, drawn.lesion_ids, drawn, band=0.5)
    patients = pd.Series({i: i[:14] for i in drawn.lesion_ids})
    found = analyses.shares(table, patients, **QUICK)
    assert set(found.index.get_level_values("method")) == {"inside", "flat"}  # "none" has no share
    np.testing.assert_allclose(found.loc["flat", "times"], 1, atol=1e-9)
    np.testing.assert_allclose(found.groupby(level="method")["value"].sum(), 1, atol=1e-9)
    assert found.loc[("inside", "inside"), "times"] > 1.5
    assert found.loc[("inside", "outside"), "value"] < 0.2
    assert (found["n"] == 4).all()
    assert (found["n_groups"] == 2).all()


def test_lesions_without_an_outline_are_left_out_of_where(drawn):
    maps = {"flat": torch.ones(5, 32, 32)}
    table = analyses.where(maps, ["other", *drawn.lesion_ids], drawn)
    assert list(table.loc["flat"].index) == list(drawn.lesion_ids)
    with pytest.raises(ValueError, match="none of 1 lesions has an outline"):
        analyses.where({"flat": torch.ones(1, 32, 32)}, ["other"], drawn)
    with pytest.raises(ValueError, match="no patient for"):
        analyses.shares(table, pd.Series({"other": "p"}), **QUICK)


def test_a_map_put_back_on_the_slice_lies_where_it_was(make_crop):
    crop = make_crop(readers=1)
    image = lei2020.prepare([crop], channels=1).images[0, 0]
    put = analyses.pasted(image, crop)
    there = np.isfinite(put.values)
    hu = put.values * 1424 - 1024  # from the samples' unit
    middle = len(crop.hu) // 2
    assert np.array_equal(put.hu, crop.hu[middle])
    # what was cut out, resized and put back is the slice again, but for what resizing loses
    assert np.corrcoef(hu[there], put.hu[there])[0, 1] > 0.97
    top, left, height, width = put.box
    assert height == pytest.approx(width)
    area = there.sum() * crop.spacing[1] * crop.spacing[2]
    assert area == pytest.approx(height * width, rel=0.15)
    assert (top, left) > (0, 0)
    with pytest.raises(ValueError, match="expected one map"):
        analyses.pasted(np.zeros((2, 32, 32)), crop)


# --- do the places matter -------------------------------------------------------------------------


def test_areas_by_hand():
    """A score that is the brightness of one pixel: the map that marks it is the best there is."""
    images = torch.rand((3, 1, 16, 16), generator=torch.Generator().manual_seed(0)) * 0.1
    images[:, :, 3, 4] = 1.0
    maps = torch.zeros(3, 16, 16)
    maps[:, 3, 4] = 1.0

    def score(x):
        return x[:, 0, 3, 4]

    ids = ["a", "b", "c"]
    table = analyses.faithfulness(
        score, images, {"best": maps, "worst": -maps}, ids, fill=0.0, steps=4
    )
    # scores 1, 0, 0, 0, 0 at 0, 1/4, …: a trapezium of 1/8
    np.testing.assert_allclose(table.loc["best", "deletion"], 1 / 8, atol=1e-6)
    np.testing.assert_allclose(table.loc["best", "insertion"], 7 / 8, atol=1e-6)
    np.testing.assert_allclose(table.loc["worst", "deletion"], 7 / 8, atol=1e-6)
    patients = pd.Series({"a": "p", "b": "q", "c": "r"})
    found = analyses.against_random(table, patients, **QUICK)
    gap = table.loc["best", "deletion"].mean() - table.loc[analyses.RANDOM, "deletion"].mean()
    assert found.loc[("best", "deletion"), "difference"] == pytest.approx(gap)
    assert found.loc[("best", "deletion"), "difference"] < 0
    assert found.loc[("best", "insertion"), "difference"] > 0
    with pytest.raises(KeyError, match=analyses.RANDOM):
        analyses.against_random(table.drop(index=analyses.RANDOM), patients, **QUICK)


def test_deleted_places_become_lung():
    low, high = -1024.0, 400.0
    assert low + LUNG * (high - low) == pytest.approx(-850)


def test_a_random_network_is_as_random_as_another(hesam):
    found = analyses.randomised(hesam.experiment, hesam.model(), hesam.samples)
    assert list(found.index) == list(analyses.methods(hesam.experiment))
    assert (found["similarity"].abs() <= found["magnitude"] + 1e-9).all()
    assert (found["magnitude"] <= 1).all()
    assert (found["n"] <= 4).all()


# --- tests of two models --------------------------------------------------------------------------


def test_measures_are_those_of_scikit_learn():
    frame = probabilities()
    found = analyses.classification(frame, **QUICK)["value"]
    truth, called = frame["malignancy_truth"] == 1, frame["malignancy"] >= 0.5
    assert found["accuracy"] == pytest.approx((truth == called).mean())
    assert found["sensitivity"] == pytest.approx(recall_score(truth, called))
    assert found["specificity"] == pytest.approx(recall_score(~truth, ~called))
    assert found["precision"] == pytest.approx(precision_score(truth, called))
    assert found["f1"] == pytest.approx(f1_score(truth, called))
    assert found["auc"] == pytest.approx(roc_auc_score(truth, frame["malignancy"]))


def test_intervals_hold_the_value_and_no_one_called_has_no_precision():
    found = analyses.classification(probabilities(), **QUICK)
    assert ((found["low"] <= found["value"]) & (found["value"] <= found["high"])).all()
    assert (found["n_groups"] == 30).all()
    none = probabilities().assign(malignancy=0.1)
    assert np.isnan(analyses.classification(none, **QUICK).loc["precision", "value"])


@pytest.mark.parametrize(
    ("a", "b", "p"), [(5, 0, 2 / 32), (0, 5, 2 / 32), (3, 3, 1.0), (0, 0, 1.0), (1, 0, 1.0)]
)
def test_mcnemar_by_hand(a, b, p):
    assert analyses.mcnemar(a, b) == pytest.approx(p)


def test_mcnemar_is_statsmodels_exact_test():
    from statsmodels.stats.contingency_tables import mcnemar

    expected = mcnemar([[10, 12], [4, 30]], exact=True).pvalue
    assert analyses.mcnemar(12, 4) == pytest.approx(expected)
    with pytest.raises(ValueError, match="counts from 0"):
        analyses.mcnemar(-1, 2)


def test_the_papers_test_sees_no_truth():
    """A thousandth less everywhere: significantly different, and in no way better or worse."""
    frame = probabilities()
    shifted = frame.assign(malignancy=frame["malignancy"] * 0.999)
    found = analyses.compare({"hesam": frame, "shifted": shifted}, **QUICK).loc["shifted"]
    assert found["p_probability"] < 1e-6
    assert found["auc_difference"] == found["low"] == found["high"] == 0
    assert found["p_mcnemar"] == 1
    assert analyses.signed_rank([0.1, 0.2], [0.1, 0.2]) == 1
    with pytest.raises(ValueError, match="expected as many"):
        analyses.signed_rank([0.1], [0.1, 0.2])


def test_comparisons_by_an_independent_way():
    good, bad = probabilities(seed=1, skill=2.0), probabilities(seed=2, skill=0.2)
    frames = {
        "hesam": good,
        "bad": bad.sample(frac=1, random_state=0),
        "third": probabilities(seed=3),
    }
    found = analyses.compare(frames, **QUICK)
    a, b = good["malignancy"].to_numpy(), bad["malignancy"].to_numpy()
    truth = good["malignancy_truth"].to_numpy() == 1
    row = found.loc["bad"]
    assert row["p_probability"] == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert row["auc_difference"] == pytest.approx(roc_auc_score(truth, a) - roc_auc_score(truth, b))
    right_a, right_b = (a >= 0.5) == truth, (b >= 0.5) == truth
    assert row["only_reference"] == (right_a & ~right_b).sum()
    assert row["only_other"] == (right_b & ~right_a).sum()
    assert row["low"] <= row["auc_difference"] <= row["high"]
    np.testing.assert_allclose(found["p_mcnemar_holm"], holm(found["p_mcnemar"]))


def test_a_model_is_held_against_the_diameter_on_its_own_lesions():
    cohort = cohorts.lei2020(lidc.nodules())
    label = cohorts.malignancy_label(cohort.table).astype(float)
    folds = cohort.folds()
    own = cohort.table[folds == 0]
    truth = label[own.index]
    # a "model" that says the diameter: it cannot be told from the diameter by its ranking
    frame = pd.DataFrame(
        {
            "lesion_id": own.index,
            "patient": own["patient"].to_numpy(),
            "fold": 0,
            "malignancy": (own["diameter"] / 100).to_numpy(),
            "malignancy_truth": truth.to_numpy(),
        }
    )
    found = analyses.without_images(frame, cohort)
    assert list(found) == ["diameter", "ratings"]
    for other in found.values():
        assert other.drop(columns="malignancy").equals(frame.drop(columns="malignancy"))
    size = found["diameter"]["malignancy"]
    assert np.array_equal(size.rank(), frame["malignancy"].rank())
    row = analyses.compare({"hesam": frame, **found}, **QUICK).loc["diameter"]
    assert row["auc_difference"] == row["low"] == row["high"] == 0
    expected = outcomes.score(
        frame, cohort.table, label.to_frame("malignancy"), folds,
        {"malignancy": "classification"}, n_resamples=2,
    ).set_index(["predictor", "metric"])["value"]  # fmt: skip
    auc = roc_auc_score(truth, found["ratings"]["malignancy"])
    assert auc == pytest.approx(expected["ratings", "auc"])
    with pytest.raises(ValueError, match="'n0' is not in the cohort"):
        analyses.without_images(frame.assign(lesion_id="n0"), cohort)


def test_models_on_other_lesions_are_not_compared():
    frame = probabilities()
    with pytest.raises(ValueError, match="n59"):
        analyses.compare({"hesam": frame, "cam": frame.iloc[:-1]}, **QUICK)
    with pytest.raises(ValueError, match="reference='hesam'"):
        analyses.compare({"cam": frame, "sam": frame}, **QUICK)


# --- readers --------------------------------------------------------------------------------------


READINGS = pd.DataFrame(
    [("n0", 1), ("n0", 2), ("n0", 4), ("n1", 5), ("n1", 3), ("n1", 5)],
    columns=["lesion_id", "malignancy"],
)


def test_doctors_by_hand():
    found = analyses.doctors(READINGS, ["n0", "n1"])
    # n0 is benign (7/3), n1 malignant (13/3); a rating of 3 does not count
    assert found["n"].tolist() == [2, 1, 2, 0, 5]
    assert found["accuracy"].tolist()[:3] == [100, 100, 50]
    assert found.loc["Dr. 3", "false_positives"] == 1
    assert found["false_negatives"].sum() == 0
    assert found.loc["all", "accuracy"] == 80


def test_against_the_others_a_reader_does_not_judge_its_own_work():
    found = analyses.doctors(READINGS, ["n0", "n1"], truth="others")
    # without its own 4, the mean of the others is 1.5; without 1 and 2 it is 3 and 2.5
    assert found["n"].tolist() == [1, 1, 2, 0, 4]
    assert found.loc["all", "false_positives"] == 1


def test_other_columns_make_other_doctors_of_the_same_readers():
    readings = lidc.readings()
    frame = pd.DataFrame({"lesion_id": readings["lesion_id"].unique()[:200]})
    means = readings.groupby("lesion_id")["malignancy"].mean()
    frame["malignancy_truth"] = (frame["lesion_id"].map(means) > 3).astype(float)
    chosen = analyses.twenty(frame, readings, each=5)
    assert len(chosen) == 10
    assert frame.set_index("lesion_id").loc[chosen, "malignancy_truth"].sum() == 5
    assert readings.groupby("lesion_id").size()[chosen].min() >= 3
    assert chosen == analyses.twenty(frame.iloc[::-1], readings, each=5)
    as_is = analyses.doctors(readings, chosen)
    other = analyses.doctors(readings, chosen, shuffle=1)
    pd.testing.assert_series_equal(as_is.loc["all"], other.loc["all"])
    assert not as_is.equals(other)
    with pytest.raises(ValueError, match="each=500: only"):
        analyses.twenty(frame, readings, each=500)
    with pytest.raises(ValueError, match="none of lesion 'nobody'"):
        analyses.doctors(readings, ["nobody"])


# --- tables and courses ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores():
    return scored()


def test_table_two_stands_beside_the_papers(scores):
    found = analyses.beside(2, {"hesam": scores, "hesam_d1c": scores}, tier="phantom")
    theirs, ours = found["Lei 2020"], found["lesionlab (phantom)"]
    assert list(found.index[:18]) == list(TABLES["2"])
    assert theirs.loc["Ours-HESAM", "d11c"] == 99.13
    own = scores.query("predictor == 'model'").set_index("metric")["value"]
    assert ours.loc["Ours-HESAM", "d11c"] == pytest.approx(100 * own["accuracy"])
    assert ours.loc["Ours-HESAM", "d1c"] == ours.loc["Ours-HESAM", "d11c"]
    assert ours.loc["Ours-HESAM", "sensitivity"] == pytest.approx(own["sensitivity"])
    assert ours.loc["Ours-HESAM", "lesions"] == 60
    assert ours.loc[["Ours-CAM", "ResNet18"]].isna().all(axis=None)
    size = scores.query("predictor == 'diameter'").set_index("metric")["value"]
    assert ours.loc["Diameter alone", "d11c"] == pytest.approx(100 * size["accuracy"])
    assert np.isnan(theirs.loc["Diameter alone", "d11c"])


@pytest.mark.parametrize(("number", "variant"), [(3, "hesam_max_max"), (4, "unet_sam_d21c")])
def test_tables_three_and_four(number, variant, scores):
    found = analyses.beside(number, {variant: scores}, tier="slices", baselines=False)
    theirs, ours = found["Lei 2020"], found["lesionlab (slices)"]
    assert theirs.notna().all(axis=None)
    own = scores.query("predictor == 'model'").set_index("metric")["value"]
    if number == 3:
        assert ours.loc["GMP / GMP", "accuracy"] == pytest.approx(100 * own["accuracy"])
        assert ours.notna().any(axis=1).sum() == 1
    else:
        assert ours.loc[("specificity", "U+SAM (Baseline)"), "d21c"] == pytest.approx(
            own["specificity"]
        )
        assert ours.notna().to_numpy().sum() == 3


def test_table_five_and_six():
    frames = {"hesam": probabilities(), "vgg16": probabilities(seed=4)}
    tests = analyses.compare(frames, **QUICK)
    five = analyses.beside(5, {"d11c": tests}, tier="phantom")
    p = five["lesionlab (phantom)"].loc["VGG16", "d11c_p"]
    assert p == pytest.approx(tests.loc["vgg16", "p_probability"])
    six = analyses.beside(6, {"ours": analyses.doctors(READINGS, ["n0", "n1"])}, tier="dicom")
    assert six["Lei 2020"].loc["Dr. 2", "accuracy"] == 82.35
    assert six["lesionlab (dicom)"].loc["Dr. 3", "accuracy"] == 50
    with pytest.raises(ValueError, match="one table of `doctors`"):
        analyses.beside(6, {}, tier="dicom")


def test_what_has_no_place_in_a_table_is_refused(scores):
    with pytest.raises(ValueError, match="tier='real'"):
        analyses.beside(2, {"hesam": scores}, tier="real")
    with pytest.raises(LookupError):
        analyses.beside(1, {}, tier="phantom")
    with pytest.raises(LookupError):
        analyses.beside(9, {}, tier="phantom")
    other = scored(40)
    with pytest.raises(ValueError, match="not on the same lesions"):
        analyses.beside(2, {"hesam": scores, "cam": other}, tier="phantom")
    # what the table has no row for does not matter
    analyses.beside(2, {"hesam": scores, "hesam_rolled": other}, tier="phantom")


def test_the_variants_of_the_image_sets_have_names():
    assert [analyses.on("sam", i) for i in N_CHANNELS] == ["sam_d1c", "sam_d3c", "sam", "sam_d21c"]
    with pytest.raises(ValueError, match="images='D5C'"):
        analyses.on("sam", "D5C")
    assert set(published.table("lei2020", 2)["method"]) == set(TABLES["2"])


def test_courses_are_means_over_folds():
    def fold(number, scale):
        rows = [
            {"epoch": e, "loss": scale / e, "lr": 1e-3, "validation_auc": 0.5 + 0.1 * scale}
            for e in (1, 2, 3)
        ]
        return {"fold": number, "history": rows, "best_epoch": number + 1}

    found = analyses.courses({"hesam": [fold(0, 1), fold(1, 3)], "cam_d1c": [fold(0, 1)]})
    assert list(found) == ["D11C"]
    np.testing.assert_allclose(found["D11C"]["loss"], [2, 1, 2 / 3])
    assert found["D11C"].attrs["best_epoch"] == 1
    with pytest.raises(ValueError, match="none of 'sam'"):
        analyses.courses({"hesam": [fold(0, 1)]}, variant="sam")


# --- pictures -------------------------------------------------------------------------------------


def test_examples_are_picked_by_rule():
    frame = probabilities()
    found = analyses.examples(frame, quantiles=(0, 1))
    malignant = frame[frame["malignancy_truth"] == 1].set_index("lesion_id")["malignancy"]
    assert found[found["malignant"]].index.tolist() == [malignant.idxmin(), malignant.idxmax()]
    assert found["malignant"].tolist() == [False, False, True, True]
    pd.testing.assert_frame_equal(found, analyses.examples(frame.iloc[::-1], quantiles=(0, 1)))
    with pytest.raises(ValueError, match="quantiles="):
        analyses.examples(frame, quantiles=(0.5, 1.5))
    with pytest.raises(ValueError, match="no lesion of class 1"):
        analyses.examples(frame[frame["malignancy_truth"] == 0])


def test_a_volume_of_one_slice_is_that_slice(hesam):
    one = hesam.samples.select([1])
    images, picked = analyses.duplicated(one, n=5)
    assert picked == [1, 3, 5, 7, 9]
    assert images.shape == (6, 11, 16, 16)
    for k, image in zip(picked, images, strict=False):
        assert torch.equal(image, one.images[0, k].expand(11, 16, 16))
    assert torch.equal(images[-1], one.images[0])
    with pytest.raises(ValueError, match="expected one lesion of 5 slices or more"):
        analyses.duplicated(hesam.samples)


def test_a_gallery_has_the_figures_rows(hesam):
    folds = {"hesam": hesam, "cam": trained("cam"), "sam": trained("sam")}
    rows = analyses.gallery(7, folds, "n1", n=3)
    assert list(rows) == ["CAM", "Grad-CAM", "SAM", "HESAM"]
    assert all(len(row) == 4 for row in rows.values())
    last = rows["HESAM"][-1]
    own = analyses.look(hesam.experiment, hesam.model(), hesam.samples)
    torch.testing.assert_close(last.map, own.maps["HESAM"][1], atol=1e-5, rtol=1e-4)
    assert last.malignancy == pytest.approx(float(own.malignancy[1]), abs=1e-5)
    assert last.wrong == (last.malignancy < 0.5)  # n1 is malignant
    assert torch.equal(last.image, hesam.samples.images[1, 5])
    assert list(analyses.gallery(8, folds, "n1", n=0)) == ["GMP / GAP"]
    with pytest.raises(ValueError, match="figure='9'"):
        analyses.gallery("9", folds, "n1")
    with pytest.raises(ValueError, match="no model for figure 5"):
        analyses.gallery(5, folds, "n1")
    with pytest.raises(ValueError, match="'cam' did not test it"):
        analyses.gallery(7, folds, "n9")


# --- what is kept of a run ------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["hesam", "baseline", "cam_ratings"])
def test_a_summary_has_what_the_figures_need(variant):
    some = samples(ids=IDS, side=32)
    fold = trained(variant, some, size=32)
    frame = probabilities(4, each=1).assign(lesion_id=list(IDS), patient=[i[:14] for i in IDS])
    if variant.endswith("ratings"):
        frame["malignancy_truth"] = [1.5, 2.0, 4.0, 5.0]
    how = {"n_curves": 2, "n_resamples": 50}
    state = torch.get_rng_state()
    found = analyses.summary([fold], frame, **how)
    assert torch.equal(torch.get_rng_state(), state)
    expected = {"regions", "regions_untrained", "curves", "randomised"}
    expected |= {"classes"} if variant != "cam_ratings" else set()
    expected |= {"high_level"} if variant == "hesam" else set()
    assert set(found) == expected
    methods = set(analyses.methods(fold.experiment))
    assert set(found["regions"].index.get_level_values("method")) <= methods
    assert set(found["curves"].index.get_level_values("method")) == methods
    assert (found["curves"]["n"] == 2).all()
    if variant == "hesam":
        assert found["high_level"]["share"].is_monotonic_increasing
    again = analyses.summary([fold], frame, **how)
    for name, table in found.items():
        pd.testing.assert_frame_equal(table, again[name])


def test_lesions_are_drawn_alike_whatever_the_order():
    ids = [f"n{i}" for i in range(30)]
    assert analyses.some(ids, 5) == analyses.some(ids[::-1], 5)
    assert analyses.some(ids, 5) != analyses.some(ids, 5, seed=1)
    assert analyses.some(ids[:3], 5) == ids[:3]
    with pytest.raises(ValueError, match="n=0"):
        analyses.some(ids, 0)
